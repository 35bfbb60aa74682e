"""Transfers from frozen teachers: one, several at once, one after another, or a soup of them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm

from ktjax import augment, objectives, parallel
from ktjax.analysis import measures
from ktjax.classifier import Classifier, average
from ktjax.experiment import inputs, training
from ktjax.jobs.transfer import plan
from ktjax.jobs.transfer import setup as scene_lib
from ktjax.jobs.transfer.plan import Run
from ktjax.jobs.transfer.setup import Scene, Standing
from ktjax.targets import live


class _Shared(NamedTuple):
    """What the runs with one seed share; what takes long to make is made once."""

    frozen: Callable[[str], Any]  # name -> what the steps take of a model
    refreshed: Callable[[Classifier], Any]  # the same of a student between two teachers
    recipe: Callable[[str, tuple[str, ...]], training.Recipe]


def runs_of_seed(
    scene: Scene, planned: Sequence[Run], seed: int, bar: tqdm.tqdm
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each run's row of results.json, and the student's logits after it on validation, [N, C]."""
    shared = _share(scene, seed)
    for label in scene.config.objectives:
        rows, students = [], []
        for run in (run for run in planned if (run.objective, run.seed) == (label, seed)):
            row, after = _transfer(scene, shared, run)
            scene_lib.export(scene, after.model, row, bar)
            bar.update()
            rows.append(row)
            students.append(after.model)
            yield row, after.validation_NxC
        if scene.config.strategy == "soup" and rows[0]["teachers"]:
            row, after = _soup(scene, rows, students)
            scene_lib.export(scene, after.model, row, bar)
            yield row, after.validation_NxC


def _share(scene: Scene, seed: int) -> _Shared:
    """The step is one per objective, and per set of teachers where these are asked in each step."""
    config, splits = scene.config, scene.splits
    student = scene.models[config.student].model
    examples = len(splits.train)

    def freeze(model: Classifier) -> Any:
        if config.targets == "live":
            return live.frozen_variables(
                model, dtype=jnp.dtype(config.dtype), layout=config.parallel
            )
        steps_per_epoch, total, _ = training.durations(config, examples=examples)
        return live.store(
            model,
            splits.train,
            augment=augment.make_augment(config.augment, seed=seed),
            seed=seed,
            views=-(-total // steps_per_epoch),
            batch_size=config.eval_batch_size,
            dtype=jnp.dtype(config.dtype),
            layout=config.parallel,
        )

    @functools.cache
    def recipe(label: str, asked_of: tuple[str, ...]) -> training.Recipe:
        teachers = [scene.models[name].model for name in asked_of]
        asked = live.make_ask(student, teachers)
        return scene_lib.make_recipe(
            scene,
            label,
            student=student,
            teachers=teachers,
            teach=live.replay if config.targets == "stored" else asked,
            seed=seed,
        )

    def frozen(name: str) -> Any:
        return freeze(scene.models[name].model)

    # Weights are placed anew for every run: those of all teachers might not fit on a device.
    stored = config.targets == "stored"
    return _Shared(functools.cache(frozen) if stored else frozen, freeze, recipe)


def _transfer(scene: Scene, shared: _Shared, run: Run) -> tuple[dict[str, Any], Standing]:
    """Its row, and the student at its end. Of several stages each is the next one's beginning."""
    at, rows = scene.models[scene.config.student], []
    for name, teachers in zip(run.stage_names, run.stages, strict=True):
        history, after = _stage(scene, shared, run, name, teachers, at)
        rows.append(_row(scene, run, name, teachers, at, after, history))
        at = after
    if len(rows) == 1:
        return rows[0] | {"stages": []}, at
    before = scene.models[scene.config.student]
    history = _joined([row["history"] for row in rows])
    # No partition was between all of them at once: the stages have theirs.
    row = _row(scene, run, run.name, run.teachers, before, at, history, partitions=False)
    return row | {"stages": rows}, at


def _stage(
    scene: Scene,
    shared: _Shared,
    run: Run,
    name: str,
    teachers: tuple[str, ...],
    before: Standing,
) -> tuple[list[dict[str, Any]], Standing]:
    """The history of one training, and the student after it."""
    config, splits = scene.config, scene.splits
    entry = objectives.OBJECTIVES[config.objectives[run.objective].objective]
    first = scene.models[config.student]
    temperatures = _temperatures(scene, teachers, before)
    if temperatures is not None:
        temperatures = np.asarray(temperatures, np.float32)

    def frozen() -> live.Frozen:
        initial = None
        if entry.initial:
            fresh = before.model is first.model
            initial = shared.frozen(config.student) if fresh else shared.refreshed(before.model)
        return live.Frozen(
            initial=initial,
            teachers=tuple(shared.frozen(teacher) for teacher in teachers),
            temperatures_S=None if temperatures is None else parallel.replicate(temperatures),
        )

    fitted = training.fit(
        shared.recipe(run.objective, teachers if config.targets == "live" else ()),
        student=before.model,
        frozen=frozen,
        images=splits.train,
        tune=splits.tune,
        predict=scene.predict,
        measure=lambda logits_NxC: scene_lib.measure_tune(
            before.tune_NxC,
            logits_NxC,
            np.asarray([scene.models[teacher].tune_NxC for teacher in teachers]),
            splits.tune.label_N,
        ),
        run=name,
        workdir=scene.workdir,
    )
    origin = (
        f"{before.model.name if before.model is first.model else before.model.origin} after "
        f"{run.objective} from {' + '.join(teachers) or 'no teacher'}, seed {run.seed}"
    )
    after = dataclasses.replace(before.model, variables=fitted.variables, origin=origin)
    return fitted.history, scene_lib.stand(after, scene.predict, splits, config, scene.robustness)


def _temperatures(scene: Scene, teachers: Sequence[str], before: Standing) -> list[float] | None:
    """Of the student before a transfer and its teachers; None where nothing is calibrated."""
    if not scene.config.calibrate:
        return None
    standings = (before, *(scene.models[teacher] for teacher in teachers))
    return [standing.temperature for standing in standings]


def _joined(histories: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One history of stages that follow each other: what counts up goes on counting."""
    joined = []
    for stage, history in enumerate(histories, 1):
        start = {k: joined[-1][k] if joined else 0 for k in ("step", "epoch", "seconds")}
        joined += [
            entry | {k: start[k] + entry[k] for k in start} | {"stage": stage} for entry in history
        ]
    return joined


def _row(
    scene: Scene,
    run: Run,
    name: str,
    teachers: Sequence[str],
    before: Standing,
    after: Standing,
    history: Sequence[dict[str, Any]],
    *,
    partitions: bool = True,
) -> dict[str, Any]:
    config = scene.config
    entry = objectives.OBJECTIVES[config.objectives[run.objective].objective]
    models = {
        "before_NxC": before.validation_NxC,
        "teachers_KxNxC": np.asarray([scene.models[t].validation_NxC for t in teachers]),
        "label_N": scene.splits.validation.label_N,
    }
    measured = measures.of_transfer(**models, after_NxC=after.validation_NxC)
    temperatures = _temperatures(scene, teachers, before) if partitions else None
    measured |= measures.of_partition(
        **models,
        supervised=entry.supervised if partitions else None,
        temperatures_S=temperatures,
    )
    measured["temperatures"] = temperatures
    measured["robustness"] = inputs.robust_row(before.robustness, after.robustness)
    return training.row(
        history,
        run=name,
        student=config.student,
        teachers=teachers,
        objective=run.objective,
        seed=run.seed,
        measured=measured,
    )


def _soup(
    scene: Scene, rows: Sequence[dict[str, Any]], students: Sequence[Classifier]
) -> tuple[dict[str, Any], Standing]:
    """The average of students that each had a teacher of their own."""
    config, first = scene.config, scene.models[scene.config.student]
    origin = f"soup of: {'; '.join(student.origin for student in students)}"
    soup = dataclasses.replace(average(students), origin=origin)
    after = scene_lib.stand(soup, scene.predict, scene.splits, config, scene.robustness)
    teachers = [teacher for row in rows for teacher in row["teachers"]]
    measured = measures.of_transfer(
        before_NxC=first.validation_NxC,
        after_NxC=after.validation_NxC,
        teachers_KxNxC=np.asarray([scene.models[t].validation_NxC for t in teachers]),
        label_N=scene.splits.validation.label_N,
    )
    label, seed = rows[0]["objective"], rows[0]["seed"]
    return {
        "run": plan.soup_name(label, seed),
        "student": config.student,
        "teachers": teachers,
        "objective": f"{label} soup",
        "seed": seed,
        **measured,
        **dict.fromkeys(measures.OF_PARTITION),
        "temperatures": None,
        "robustness": inputs.robust_row(first.robustness, after.robustness),
        "taught": None,
        "seconds": sum(row["seconds"] for row in rows),
        "history": [],
        "stages": [],
    }, after
