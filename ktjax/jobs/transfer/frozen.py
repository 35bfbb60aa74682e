"""Transfers from frozen teachers: one, several at once, one after another, or a soup of them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm

from ktjax import augment, evaluate, objectives, parallel, progress
from ktjax.analysis import pool
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation, recipes, rows, statistics, stores, training
from ktjax.experiment.evaluation import Evaluated
from ktjax.jobs.transfer import export, plan, setup
from ktjax.jobs.transfer.export import Exported
from ktjax.jobs.transfer.plan import STRATEGIES, Run, Teachers
from ktjax.jobs.transfer.setup import Done, Setup
from ktjax.targets import live
from ktjax.targets.store import Store

History = list[dict[str, Any]]


class _Shared(NamedTuple):
    """What the runs with one seed share; what takes long to make is made once."""

    frozen: Callable[[str], live.OfView]  # name -> what the steps take of a model
    refreshed: Callable[[Classifier], live.OfView]  # the same of a student between two teachers
    recipe: Callable[[str, Teachers], recipes.Recipe]


def runs(start: Setup) -> Iterator[Done]:
    """The transfers; and of each seed, after them, the controls."""
    settings = start.settings
    planned = plan.plan(settings, {name: start.accuracy(name) for name in settings.teachers})
    alone, controls = plan_controls(start)
    combines = STRATEGIES[settings.strategy].combine is not None
    total = len(planned) + len(controls)
    with progress.bar(total=total, desc="transfers", unit="run", shown=start.report) as bar:
        for seed in settings.seeds:
            shared = _share(start, seed)
            for label in settings.objectives:
                found = []
                for run in planned:
                    if (run.objective, run.seed) != (label, seed):
                        continue
                    row, after = _transfer(start, shared, run)
                    setup.export(start, after.model, row, bar)
                    bar.update()
                    found.append((row, after.model))
                    yield Done(row, after.validation_NxC)
                if combines and found[0][0].teachers:
                    row, after = _combined(start, label, seed, *zip(*found, strict=True))
                    setup.export(start, after.model, row, bar)
                    yield Done(row, after.validation_NxC)
            shared = shared._replace(recipe=_recipes(alone, seed))
            yield from _controls(alone, shared, [r for r in controls if r.seed == seed], bar)


def plan_controls(start: Setup, called: str = "") -> tuple[Setup, tuple[Run, ...]]:
    """What the controls of the student begin with, and their runs, which have `called` in them."""
    alone = setup.of_controls(start)
    return alone, plan.plan_controls(alone.settings, alone.settings.objectives, called)


def controls(alone: Setup, planned: Sequence[Run], bar: tqdm.tqdm) -> Iterator[Done]:
    """The controls of a student, as `plan_controls` plans them, where they are all that is run."""
    for seed in alone.settings.seeds:
        shared = _share(alone, seed)
        yield from _controls(alone, shared, [run for run in planned if run.seed == seed], bar)


def _controls(
    alone: Setup, shared: _Shared, planned: Sequence[Run], bar: tqdm.tqdm
) -> Iterator[Done]:
    for run in planned:
        row, after = _transfer(alone, shared, run)
        setup.export(alone, after.model, row, bar)
        bar.update()
        yield Done(row, after.validation_NxC, control=True)


def _share(start: Setup, seed: int) -> _Shared:
    settings, splits = start.settings, start.splits
    stored = settings.targets == "stored"

    def images() -> Any:
        models = setup.classifiers(start)
        return stores.described(settings, splits, models, seed, start.once)

    def freeze(model: Classifier | Store, measured: Evaluated | None = None) -> live.OfView:
        if isinstance(model, Store):
            return stores.replayed(settings, splits, model, alone=start.one_view)
        if stored:
            # A student between two teachers is of this run: nobody asks for its answers again.
            on_disk = settings.store is not None and measured is not None
            return stores.stored(
                *(settings, splits, model),
                seed=seed,
                images=images() if on_disk else None,
                measured=measured,
                alone=start.one_view,
            )
        variables = live.frozen_variables(
            model, dtype=jnp.dtype(settings.dtype), layout=settings.parallel
        )
        return lambda view: variables

    def frozen(name: str) -> live.OfView:
        return freeze(start.models[name].model, start.models[name])

    def once(name: str) -> live.OfView:
        form = stores.form_of(settings, len(start.models[start.student].model.classes))
        return start.once(("targets", name, seed, form, start.one_view), lambda: frozen(name))

    if not stored:  # weights are placed anew for every run: a device might not hold those of all
        return _Shared(frozen, freeze, _recipes(start, seed))
    # Nor might memory hold what all models of many transfers say: from disk each reads its own.
    kept = once if settings.store is None else functools.cache(frozen)
    return _Shared(kept, freeze, _recipes(start, seed))


def _recipes(start: Setup, seed: int) -> Callable[[str, Teachers], recipes.Recipe]:
    """The step is one per objective, and per set of teachers where these are asked in each step."""
    settings, student = start.settings, start.models[start.student].model
    stored = settings.targets == "stored"

    def make(label: str, asked: Teachers) -> recipes.Recipe:
        teachers = [start.models[name].model for name in asked]
        return setup.make_recipe(
            start,
            label,
            student=student,
            teachers=[model for model in teachers if isinstance(model, Classifier)],
            teach=live.replay if stored else live.make_ask(student, list(map(_asked, teachers))),
            seed=seed,
        )

    @functools.cache
    def recipe(label: str, asked: Teachers) -> recipes.Recipe:
        if asked:  # no other transfer has these teachers
            return make(label, asked)
        entry, slow = settings.objectives[label], settings.mcl.get(label)
        key = ("recipe", start.student, type(entry), entry, slow, start.one_view)
        return start.once(key, lambda: make(label, asked))._replace(seed=seed)

    return recipe


def _asked(model: Classifier | Store) -> Classifier | None:
    return None if isinstance(model, Store) else model


def _transfer(start: Setup, shared: _Shared, run: Run) -> tuple[rows.Run, Evaluated]:
    """Its row, and the student at its end. Each stage begins where the one before ended."""
    before = at = start.models[start.student]
    stages, histories = [], []
    for name, teachers in zip(run.stage_names, run.stages, strict=True):
        weights = _weights(start, run, teachers, at)
        history, after, exported = _stage(start, shared, run, name, teachers, at, weights)
        found = {"weights": weights, "exported": exported}
        stages.append(_row(start, run, name, teachers, at, after, history, **found))
        histories.append(history)
        at = after
    if len(stages) == 1:
        return stages[0], at
    history = _joined(histories)
    # No partition was between all teachers at once: each stage has its own.
    row = _row(
        start, run, run.name, run.teachers, before, at, history, stages=stages, partitions=False
    )
    return row, at


def _stage(
    start: Setup,
    shared: _Shared,
    run: Run,
    name: str,
    teachers: Teachers,
    before: Evaluated,
    weights: Sequence[float] | None,
) -> tuple[History, Evaluated, Exported]:
    """The history of one training, the student after it, and which weights these are."""
    settings, splits = start.settings, start.splits
    first = start.models[start.student]
    teachers_KxNxC = evaluation.known([start.models[teacher].tune_NxC for teacher in teachers])
    fitted = training.fit(
        shared.recipe(run.objective, teachers if settings.targets == "live" else ()),
        student=before.model,
        frozen=_frozen(start, shared, run, teachers, before, weights),
        images=splits.train,
        tune=splits.tune,
        predict=start.predict,
        measure=lambda logits_NxC: rows.on_tune(
            before.tune_NxC,
            logits_NxC,
            teachers_KxNxC,
            splits.tune.label_N,
            _temperatures(start, teachers, before),
        ),
        run=name,
        workdir=start.workdir,
        best=settings.export != "last",
    )
    origin = (
        f"{before.model.name if before.model is first.model else before.model.origin} after "
        f"{run.objective} from {' + '.join(teachers) or 'no teacher'}, seed {run.seed}"
    )
    after = dataclasses.replace(before.model, variables=fitted.variables, origin=origin)
    if settings.export == "no_regret":
        exported = export.no_regret(start, before, after, fitted, stages=len(run.stages))
        if exported.name == export.BEFORE:
            return fitted.history, before, exported
    elif settings.export == "best":
        exported = export.best(start, after, fitted)
    else:
        exported = export.last(after, fitted)
    evaluated = evaluation.evaluate(
        exported.model,
        start.predict,
        splits,
        layout=settings.parallel,
        calibrate=settings.calibrate,
        placed=exported.placed,
        tune=exported.tune_NxC,
    )
    return fitted.history, evaluated, exported


def _frozen(
    start: Setup,
    shared: _Shared,
    run: Run,
    teachers: Teachers,
    before: Evaluated,
    weights: Sequence[float] | None,
) -> Callable[[int], live.Frozen]:
    """What the steps of a stage take while they see a view; made when the first is asked for."""
    entry = objectives.OBJECTIVES[start.settings.objectives[run.objective].objective]

    @functools.cache
    def models() -> tuple[live.OfView | None, tuple[live.OfView, ...], Any, Any]:
        initial = None
        if entry.initial:
            fresh = before.model is start.models[start.student].model
            initial = shared.frozen(start.student) if fresh else shared.refreshed(before.model)
        numbers = [
            None if of_models is None else parallel.replicate(np.asarray(of_models, np.float32))
            for of_models in (_temperatures(start, teachers, before), weights)
        ]
        return initial, tuple(shared.frozen(teacher) for teacher in teachers), *numbers

    def of_view(view: int) -> live.Frozen:
        initial, others, temperatures_S, weights_S = models()
        first = None if initial is None else initial(view)
        return live.Frozen(first, tuple(other(view) for other in others), temperatures_S, weights_S)

    return of_view


def _weights(
    start: Setup, run: Run, teachers: Sequence[str], before: Evaluated
) -> list[float] | None:
    """The weights of the student before it and its teachers in a pool, fitted on tune."""
    if not objectives.OBJECTIVES[start.settings.objectives[run.objective].objective].pool:
        return None
    answers = [before.tune_NxC, *(start.models[name].tune_NxC for name in teachers)]
    return pool.weights(answers, start.splits.tune.label_N).tolist()


def _temperatures(start: Setup, teachers: Sequence[str], before: Evaluated) -> list[float] | None:
    """The temperatures of student and teachers before it; None where nothing is calibrated."""
    return evaluation.temperatures((before, *(start.models[name] for name in teachers)))


def _joined(histories: Sequence[History]) -> History:
    """One history of stages that follow each other: what counts up goes on counting."""
    joined: History = []
    for stage, history in enumerate(histories, 1):
        begin = {k: joined[-1][k] if joined else 0 for k in ("step", "epoch", "seconds")}
        joined += [
            entry | {k: begin[k] + entry[k] for k in begin} | {"stage": stage} for entry in history
        ]
    return joined


def _row(
    start: Setup,
    run: Run,
    name: str,
    teachers: Sequence[str],
    before: Evaluated,
    after: Evaluated,
    history: History,
    *,
    stages: Sequence[rows.Run] = (),
    partitions: bool = True,
    weights: Sequence[float] | None = None,
    exported: Exported | None = None,
) -> rows.Run:
    settings, label_N = start.settings, start.splits.tune.label_N
    tune_delta = evaluate.accuracy(after.tune_NxC, label_N) - evaluate.accuracy(
        before.tune_NxC, label_N
    )
    entry = objectives.OBJECTIVES[settings.objectives[run.objective].objective]
    return rows.of_run(
        run=name,
        student=start.student,
        objective=run.objective,
        seed=run.seed,
        before=before,
        after=after,
        teachers={teacher: start.models[teacher] for teacher in teachers},
        label_N=start.splits.validation.label_N,
        history=history,
        seconds=history[-1]["seconds"],
        taught=training.mean_taught(history),
        supervised=entry.supervised if partitions else None,
        temperatures_S=_temperatures(start, teachers, before) if partitions else None,
        weights_S=weights,
        tune_delta=tune_delta,
        abstained=all(s.abstained for s in stages)
        if exported is None
        else exported.name == export.BEFORE,
        exported=None if exported is None else exported.name,
        least_gain=None if exported is None else exported.least_gain,
        stages=stages,
        learning_rate=settings.objectives[run.objective].learning_rate,
    )


def _combined(
    start: Setup,
    label: str,
    seed: int,
    of_runs: Sequence[rows.Run],
    students: Sequence[Classifier],
) -> tuple[rows.Run, Evaluated]:
    """What becomes of students that each had a teacher of their own: their average, say."""
    settings = start.settings
    strategy = settings.strategy
    origin = f"{strategy} of: {'; '.join(student.origin for student in students)}"
    combine = STRATEGIES[strategy].combine
    assert combine is not None
    combined = combine(students)
    if settings.soup_batch_norm == "estimate":
        combined = statistics.estimated(
            combined,
            start.splits.train,
            augment=augment.make_augment(settings.augment, seed=seed),
            seed=seed,
            batch_size=settings.batch_size,
            layout=settings.parallel,
        )
    after = evaluation.evaluate(
        dataclasses.replace(combined, origin=origin),
        start.predict,
        start.splits,
        layout=settings.parallel,
        calibrate=settings.calibrate,
    )
    teachers = [teacher for row in of_runs for teacher in row.teachers]
    row = rows.of_run(
        run=plan.combined_name(settings, label, seed),
        student=start.student,
        objective=f"{label} {strategy}",
        seed=seed,
        before=start.models[start.student],
        after=after,
        teachers={teacher: start.models[teacher] for teacher in teachers},
        label_N=start.splits.validation.label_N,
        history=(),
        seconds=sum(row.seconds for row in of_runs),
    )
    return row, after
