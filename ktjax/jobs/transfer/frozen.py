"""Transfers from frozen teachers: one, several at once, one after another, or a soup of them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from ktjax import augment, evaluate, parallel, progress
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation, recipes, rows, statistics, stores
from ktjax.experiment.evaluation import Evaluated
from ktjax.jobs.transfer import export, plan, setup, stages
from ktjax.jobs.transfer.plan import STRATEGIES, Run, Teachers
from ktjax.jobs.transfer.setup import Done, Setup
from ktjax.report import names
from ktjax.targets import live
from ktjax.targets.store import Store

_FEW = 100  # steps


def runs(start: Setup) -> Iterator[Done]:
    """For each seed, the transfers and then the controls."""
    settings = start.settings
    planned = plan.plan(settings, {name: start.accuracy(name) for name in settings.teachers})
    alone, controls = plan_controls(start)
    recipe, of_controls = _recipes(start), _recipes(alone)
    combines = STRATEGIES[settings.strategy].combine is not None
    total = len(planned) + len(controls)
    with progress.bar(total=total, desc="transfers", unit="run", shown=start.report) as bar:
        if start.report and parallel.is_first():
            bar.write(_announced(start, planned, controls))
        for seed in settings.seeds:
            common = _share(start, seed, recipe)
            for label in settings.objectives:
                found = []
                for run in planned:
                    if (run.objective, run.seed) != (label, seed):
                        continue
                    row, after = stages.transfer(start, common, run)
                    setup.export(start, after.model, row, bar)
                    bar.update()
                    found.append((row, after.model))
                    yield Done(row, after.validation_NxC)
                if combines and found[0][0].teachers:
                    row, after = _combined(start, label, seed, *zip(*found, strict=True))
                    setup.export(start, after.model, row, bar)
                    yield Done(row, after.validation_NxC)
            common = common._replace(recipe=functools.partial(of_controls, seed))
            yield from _controls(alone, common, [r for r in controls if r.seed == seed], bar)


def _announced(start: Setup, planned: Sequence[Run], controls: Sequence[Run]) -> str:
    """One line about the runs to come."""
    settings, count = start.settings, len(start.splits.train)
    steps = settings.durations(count).total
    rates = max(len(plan.rates(settings, run.objective)) for run in planned)
    each = f", at up to {rates} learning rates" if rates > 1 else ""
    stages = {len(run.stages) for run in (*planned, *controls)}
    times = f"{'up to ' if len(stages) > 1 else ''}{max(stages)} x " if max(stages) > 1 else ""
    device = jax.devices()[0].device_kind
    text = (
        f"{len(start.models)} models, {count:,} images, {jax.device_count()} x {device}: "
        f"{names.counted(len(planned), 'transfer')} and {names.counted(len(controls), 'control')} "
        f"of {times}{steps:,} steps each{each}. "
        "The first steps wait for compilation."
    )
    if steps < _FEW:
        name = "total_epochs" if settings.total_steps is None else "total_steps"
        text += f" So few steps change little: raise config.{name}."
    return text


def plan_controls(start: Setup, called: str = "") -> tuple[Setup, tuple[Run, ...]]:
    """The setup of the student's controls, and their runs, with `called` in their names."""
    alone, tried = setup.of_controls(start), plan.most_tried(start.settings)
    return alone, plan.plan_controls(alone.settings, alone.settings.objectives, called, tried=tried)


def controls(alone: Setup, planned: Sequence[Run], bar: tqdm.tqdm) -> Iterator[Done]:
    """Only the controls of a student, as planned by `plan_controls`."""
    recipe = _recipes(alone)
    for seed in alone.settings.seeds:
        common = _share(alone, seed, recipe)
        yield from _controls(alone, common, [run for run in planned if run.seed == seed], bar)


def _controls(
    alone: Setup, common: stages.Common, planned: Sequence[Run], bar: tqdm.tqdm
) -> Iterator[Done]:
    """Skips controls that diverge: a transfer may not at that learning rate, and has others."""
    for run in planned:
        try:
            row, after = stages.transfer(alone, common, run)
        except FloatingPointError as error:
            if alone.report and parallel.is_first():
                bar.write(f"{run.name} is left out: {error}")
            bar.update()
            continue
        setup.export(alone, after.model, row, bar)
        bar.update()
        yield Done(row, after.validation_NxC, control=True)


def _share(start: Setup, seed: int, recipe: Callable[..., recipes.Recipe]) -> stages.Common:
    settings, splits = start.settings, start.splits
    stored = settings.targets == "stored"

    def images() -> Any:
        models = setup.classifiers(start)
        return stores.described(settings, splits, models, seed, start.once)

    def freeze(model: Classifier | Store, measured: Evaluated | None = None) -> live.OfView:
        if isinstance(model, Store):
            return stores.replayed(settings, splits, model, alone=start.one_view)
        if stored:
            # A student between two teachers belongs to this run: its answers are not reused.
            on_disk = settings.store is not None and measured is not None
            return stores.stored(
                settings,
                splits,
                model,
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

    if not stored:  # weights are placed again for every run: a device might not hold those of all
        return stages.Common(frozen, freeze, functools.partial(recipe, seed))
    # Kept for the runs of this seed only: nor might memory hold the answers of all seeds.
    return stages.Common(functools.cache(frozen), freeze, functools.partial(recipe, seed))


def _recipes(start: Setup) -> Callable[[int, str, Teachers, float], recipes.Recipe]:
    """Recipes by seed, objective, the teachers that run in each step, and learning rate.

    One step serves all seeds and learning rates.
    """
    settings, student = start.settings, start.models[start.student].model
    stored = settings.targets == "stored"

    def make(label: str, asked: Teachers) -> recipes.Recipe:
        teachers = [start.models[name].model for name in asked]
        return setup.make_recipe(
            start,
            label,
            student=student,
            teachers=[model for model in teachers if isinstance(model, Classifier)],
            learning_rate=plan.rates(settings, label)[0],
            seed=settings.seeds[0],
            teach=live.replay if stored else live.make_ask(student, list(map(_asked, teachers))),
        )

    @functools.cache
    def of_objective(label: str, asked: Teachers) -> recipes.Recipe:
        if asked:  # kept for this transfer only: hardly any other has these teachers
            return make(label, asked)
        entry, slow = settings.objectives[label], settings.mcl.get(label)
        entry = entry.model_copy(update={"learning_rate": None})
        key = ("recipe", start.student, type(entry), entry, slow, start.one_view)
        return start.once(key, lambda: make(label, asked), of=start.student)

    def recipe(seed: int, label: str, asked: Teachers, rate: float) -> recipes.Recipe:
        return of_objective(label, asked).at(learning_rate=rate, seed=seed)

    return recipe


def _asked(model: Classifier | Store) -> Classifier | None:
    return None if isinstance(model, Store) else model


def _combined(
    start: Setup,
    label: str,
    seed: int,
    of_runs: Sequence[rows.Run],
    students: Sequence[Classifier],
) -> tuple[rows.Run, Evaluated]:
    """Combines students that each had their own teacher, by averaging them, for example."""
    settings, before = start.settings, start.models[start.student]
    combine = STRATEGIES[settings.strategy].combine
    assert combine is not None
    made = combine(students)
    if settings.soup_batch_norm == "estimate":
        made = statistics.estimated(
            made,
            start.splits.train,
            augment=augment.make_augment(settings.augment, seed=seed),
            seed=seed,
            batch_size=settings.batch_size,
            layout=settings.parallel,
        )
    origin = f"{settings.strategy} of: {'; '.join(student.origin for student in students)}"
    made = dataclasses.replace(made, origin=origin)
    combined = evaluation.evaluate(
        made, start.predict, start.splits, layout=settings.parallel, calibrate=settings.calibrate
    )
    exported = export.combined(start, combined, decisions=len(students) + 1)
    abstained = exported.name == export.BEFORE
    after = before if abstained else combined
    label_N = start.splits.validation.label_N
    would = evaluate.change(before.validation_NxC, combined.validation_NxC, label_N)
    teachers = [teacher for row in of_runs for teacher in row.teachers]
    row = rows.of_run(
        run=plan.combined_name(settings, label, seed),
        student=start.student,
        objective=f"{label} {settings.strategy}",
        seed=seed,
        before=before,
        after=after,
        teachers={teacher: start.models[teacher] for teacher in teachers},
        label_N=label_N,
        history=(),
        seconds=sum(row.seconds for row in of_runs),
        tune_delta=evaluate.change(before.tune_NxC, after.tune_NxC, start.splits.tune.label_N),
        abstained=abstained,
        exported=exported.name,
        least_gain=exported.least_gain,
        last_delta=would if abstained else None,
    )
    return row, after
