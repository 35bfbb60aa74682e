"""One transfer from frozen teachers: a sequence of trainings, its stages."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ktjax import evaluate, objectives, parallel
from ktjax.analysis import pool
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation, recipes, rows, stores, training
from ktjax.experiment.evaluation import Evaluated
from ktjax.jobs.transfer import export, plan
from ktjax.jobs.transfer.export import Exported
from ktjax.jobs.transfer.plan import Run, Teachers
from ktjax.jobs.transfer.setup import Setup
from ktjax.models.checkpoints import card
from ktjax.targets import live

_LOG = logging.getLogger(__name__)
History = list[dict[str, Any]]


class Common(NamedTuple):
    """What the runs with one seed share; what is expensive is made once."""

    frozen: Callable[[str], live.OfView]  # name -> what the steps take from a model
    refreshed: Callable[[Classifier], live.OfView]  # the same of a student between two teachers
    recipe: Callable[[str, Teachers, float], recipes.Recipe]  # of an objective, at a learning rate


def transfer(start: Setup, common: Common, run: Run) -> tuple[rows.Run, Evaluated]:
    """Executes a transfer; returns its row and the student at its end, at the best learning rate.

    The best is the one whose pick by config.export is best on tune, before any decision on the
    accept split. Every rate is trained to the end, unless it diverges; FloatingPointError if all
    diverge.
    """
    rates = plan.rates(start.settings, run.objective)
    if len(rates) == 1:
        return _at(start, common, run._replace(learning_rate=rates[0]))[:2]
    found, diverged = None, None
    costs: list[rows.Run] = []
    gains: dict[str, float | None] = {}
    for rate in rates:
        try:
            tried = _at(start, common, plan.at_rate(run, rate))
        except FloatingPointError as error:
            _LOG.info("%s: at %g: %s", run.name, rate, error)
            # Without its traceback, whose frames would keep the run's arrays on the devices.
            gains[f"{rate:g}"], diverged = None, error.with_traceback(None)
            continue
        gains[f"{rate:g}"] = tried.accuracy - start.accuracy(start.student)
        costs.append(tried.row)
        if found is None or tried.accuracy > found.accuracy:
            found = tried
    if found is None:
        assert diverged is not None  # there is at least one rate
        raise diverged
    row = dataclasses.replace(
        found.row,
        run=run.name,
        rates=gains,
        seconds=sum(row.seconds for row in costs),
        steps=sum(row.steps or 0 for row in costs),
        passes=_passes_of_all(start, run, costs),
    )
    return row, found.student


def count_passes(start: Setup, objective: str, teachers: Teachers, steps: int) -> int:
    """How many images the frozen models of a training answer: its teachers and initial student.

    In every step, or each view once if answers are stored, even if other runs use these, too. A
    teacher that is only a store answers none.
    """
    settings = start.settings
    entry = objectives.OBJECTIVES[settings.objectives[objective].objective]
    models = sum(isinstance(start.models[name].model, Classifier) for name in teachers)
    models += entry.initial
    if settings.targets == "live":
        return models * steps * settings.batch_size
    images = len(start.splits.train)
    return models * images * stores.count_views(settings, images)


def _passes_of_all(start: Setup, run: Run, at_rates: Sequence[rows.Run]) -> int:
    """The passes of a run at several learning rates."""
    if start.settings.targets == "live":
        return sum(row.passes or 0 for row in at_rates)
    # Stored answers serve all rates, but for those of students between two teachers.
    again = (len(run.stages) - 1) * count_passes(start, run.objective, (), steps=0)
    return (at_rates[0].passes or 0) + (len(at_rates) - 1) * again


class _Ended(NamedTuple):
    row: rows.Run
    student: Evaluated
    accuracy: float  # of what its last stage would export, on tune, in percent


def _at(start: Setup, common: Common, run: Run) -> _Ended:
    """The same at the run's learning rate. Each stage starts where the previous one ended."""
    before = at = start.models[start.student]
    stages, histories, accuracies = [], [], []
    for name, teachers in zip(run.stage_names, run.stages, strict=True):
        weights = _weights(start, run, teachers, at)
        history, after, exported = _stage(start, common, run, name, teachers, at, weights)
        found = {"weights": weights, "exported": exported}
        stages.append(_row(start, run, name, teachers, at, after, history, **found))
        histories.append(history)
        accuracies.append(exported.accuracy)
        at = after
    if len(stages) == 1:
        return _Ended(stages[0], at, accuracies[0])
    history = _joined(histories)
    # There is no partition between all teachers at once: each stage has its own.
    row = _row(
        start, run, run.name, run.teachers, before, at, history, stages=stages, partitions=False
    )
    return _Ended(dataclasses.replace(row, last_delta=last_delta(stages)), at, accuracies[-1])


def last_delta(stages: Sequence[rows.Run]) -> float | None:
    """The change by the weights at the end of the last stage; None if these are exported."""
    last = stages[-1].last_delta
    return None if last is None else sum(stage.delta for stage in stages[:-1]) + last


def _stage(
    start: Setup,
    common: Common,
    run: Run,
    name: str,
    teachers: Teachers,
    before: Evaluated,
    weights: Sequence[float] | None,
) -> tuple[History, Evaluated, Exported]:
    """The history of one training, the student after it, and what was exported."""
    settings, splits = start.settings, start.splits
    assert run.learning_rate is not None
    first = start.models[start.student]
    teachers_KxNxC = evaluation.known([start.models[teacher].tune_NxC for teacher in teachers])
    fitted = training.fit(
        common.recipe(
            run.objective, teachers if settings.targets == "live" else (), run.learning_rate
        ),
        student=before.model,
        frozen=_frozen(start, common, run, teachers, before, weights),
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
        f"{card.told(first.model.name) if before.model is first.model else before.model.origin} "
        f"after {run.objective} from {' + '.join(map(card.told, teachers)) or 'no teacher'}, "
        f"seed {run.seed}"
    )
    after = dataclasses.replace(before.model, variables=fitted.variables, origin=origin)
    if settings.export == "no_regret":
        exported = export.no_regret(start, before, after, fitted, decisions=run.decisions)
    elif settings.export == "best":
        exported = export.best(start, after, fitted)
    else:
        exported = export.last(start, after, fitted)
    exported = exported._replace(
        checkpoint=fitted.checkpoint,
        last_delta=export.last_delta(start, before, fitted, exported),
    )
    if exported.name == export.BEFORE:
        return fitted.history, before, exported
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
    common: Common,
    run: Run,
    teachers: Teachers,
    before: Evaluated,
    weights: Sequence[float] | None,
) -> Callable[[int], live.Frozen]:
    """The frozen inputs to the steps of a stage, by view; made when the first is requested."""
    entry = objectives.OBJECTIVES[start.settings.objectives[run.objective].objective]

    @functools.cache
    def models() -> tuple[live.OfView | None, tuple[live.OfView, ...], Any, Any]:
        initial = None
        if entry.initial:
            fresh = before.model is start.models[start.student].model
            initial = common.frozen(start.student) if fresh else common.refreshed(before.model)
        numbers = [
            None if of_models is None else parallel.replicate(np.asarray(of_models, np.float32))
            for of_models in (_temperatures(start, teachers, before), weights)
        ]
        return initial, tuple(common.frozen(teacher) for teacher in teachers), *numbers

    def of_view(view: int) -> live.Frozen:
        initial, others, temperatures_S, weights_S = models()
        first = None if initial is None else initial(view)
        return live.Frozen(first, tuple(other(view) for other in others), temperatures_S, weights_S)

    return of_view


def _weights(
    start: Setup, run: Run, teachers: Sequence[str], before: Evaluated
) -> list[float] | None:
    """The weights in a pool of the student before it and its teachers, fitted on tune."""
    if not objectives.OBJECTIVES[start.settings.objectives[run.objective].objective].pool:
        return None
    answers = [before.tune_NxC, *(start.models[name].tune_NxC for name in teachers)]
    return pool.weights(answers, start.splits.tune.label_N).tolist()


def _temperatures(start: Setup, teachers: Sequence[str], before: Evaluated) -> list[float] | None:
    """The temperatures of the student before it and its teachers; None if not calibrated."""
    return evaluation.temperatures((before, *(start.models[name] for name in teachers)))


def _joined(histories: Sequence[History]) -> History:
    """One history of consecutive stages: counters continue."""
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
    settings = start.settings
    entry = objectives.OBJECTIVES[settings.objectives[run.objective].objective]
    abstained, of_export = all(stage.abstained for stage in stages), {}
    if stages:
        passes = sum(stage.passes or 0 for stage in stages)
    else:
        passes = count_passes(start, run.objective, tuple(teachers), history[-1]["step"])
    if exported is not None:
        abstained = exported.name == export.BEFORE
        of_export = {
            "exported": exported.name,
            "least_gain": exported.least_gain,
            "last_delta": exported.last_delta,
            "checkpoint": exported.checkpoint,
        }
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
        tune_delta=evaluate.change(before.tune_NxC, after.tune_NxC, start.splits.tune.label_N),
        abstained=abstained,
        stages=stages,
        learning_rate=run.learning_rate,
        passes=passes,
        **of_export,
    )
