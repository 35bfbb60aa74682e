"""Trains classifiers on labels: from scratch, or all or only the head of a checkpoint."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from ktjax import data, evaluate, files, models, optim, parallel, paths, progress
from ktjax.analysis.records import to_json
from ktjax.analysis.rows import Model, Results
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation, exports, inputs, recipes, rows, supervised
from ktjax.experiment import workdir as workdir_lib
from ktjax.models.checkpoints import card
from ktjax.models.classes import is_nameless
from ktjax.settings.pretrain import Pretrain

_LOG = logging.getLogger(__name__)


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Trains the models of the config, as `execute` does; returns the contents of results.json."""
    settings = Pretrain.read(config)
    with contextlib.ExitStack() as held:
        return to_json(execute(settings, workdir, overwrite=overwrite, held=held))


def check(settings: Pretrain) -> None:
    """Raises ValueError unless the settings go together; nothing is loaded, compiled or written."""
    inputs.check(settings)
    recipes.check(settings)
    for name in settings.models:
        if name not in models.MODELS:
            models.locate(name)
        elif settings.train == "head":
            raise ValueError(
                f"config.train=head keeps all other weights as they are, and '{name}' is an "
                "architecture, whose weights are random: name a checkpoint, such as timm/NAME."
            )
    names = [files.last_part(name) for name in settings.models]
    if len(set(names)) < len(names):
        raise ValueError(f"config.models has two models of the same name: {', '.join(names)}.")


def execute(
    settings: Pretrain,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    held: contextlib.ExitStack,
) -> Results:
    """Trains each of the models and exports it to `workdir/models/<name>`.

    With `overwrite`, what another experiment left in the workdir is deleted. No other process may
    write to it until `held` is closed.

    Returns:
      The contents of results.json, as a record.

    Raises:
      ValueError: a model, the data set or the workdir is not usable; before any work is done.
    """
    workdir = paths.of(workdir)
    check(settings)
    trained = [name for name in settings.models if name not in models.MODELS]
    inputs.check_apart(settings, workdir, trained)
    finished = workdir_lib.finished(workdir, settings, overwrite=overwrite)
    if finished:
        return finished

    loaded = inputs.load(settings, also=settings.robustness)
    inputs.check_labels(loaded)
    students = [_start(name, loaded.dataset, settings) for name in settings.models]
    dataset, splits = inputs.prepare(
        settings,
        loaded,
        students,
        workdir,
        overwrite=overwrite,
        loaded_weights=[
            student
            for name, student in zip(settings.models, students, strict=True)
            if name in trained  # others are random
        ],
        held=held,
    )
    found, facts = [], {}
    for student in progress.bar(students, desc="models", unit="model"):
        trained, row = _train(settings, student, splits, workdir)
        folder = workdir / files.MODELS / row.run
        if parallel.is_first():
            exports.write(trained, folder, row, data=settings.data, validation=splits.validation)
        found.append(row)
        facts[row.run] = Model(
            accuracy=row.accuracy_after,
            parameters=trained.num_parameters(),
            origin=trained.origin,
        )
    return workdir_lib.finish(
        workdir,
        settings,
        dataset=dataset,
        label_N=splits.validation.label_N,
        runs=found,
        models=facts,
    )


def _train(
    settings: Pretrain, student: Classifier, splits: inputs.Splits, workdir: Path
) -> tuple[Classifier, rows.Run]:
    """The trained classifier, and its row of results.json."""
    predict = evaluate.make_predict(student, batch_size=settings.eval_batch_size)
    name = files.last_part(student.name)
    recipe = supervised.make_recipe(
        settings,
        student,
        splits,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        wrap=_only_the_head(student) if settings.train == "head" else None,
    )
    fitted = supervised.fit(recipe, student, splits, predict, run=name, workdir=workdir)
    what = "" if settings.train == "all" else f" ({settings.train} alone)"
    name, on = card.told(student.name), card.told(settings.data)
    origin = f"{name} trained{what} on {on}, seed {settings.seed}"
    trained = dataclasses.replace(student, variables=fitted.variables, origin=origin)
    layout = settings.parallel
    row = rows.of_run(
        run=name,
        student=student.name,
        objective="xe",
        seed=settings.seed,
        before=evaluation.evaluate(student, predict, splits, layout=layout),
        after=evaluation.evaluate(
            trained, predict, splits, layout=layout, placed=fitted.placed, tune=fitted.tune_NxC
        ),
        teachers={},
        label_N=splits.validation.label_N,
        history=fitted.history,
        seconds=fitted.history[-1]["seconds"],
        checkpoint=fitted.checkpoint,
    )
    return trained, row


def _only_the_head(student: Classifier) -> Callable[[recipes.Optimizer], recipes.Optimizer]:
    return functools.partial(optim.only, chosen=models.head_of(student)["params"])


def _start(name: str, dataset: data.Dataset, settings: Pretrain) -> Classifier:
    """A new model of the table, or a pretrained one, with a new head if its classes differ."""
    if name in models.MODELS:
        return models.create(name, classes=dataset.classes, seed=settings.seed)
    if settings.head != "keep" and not models.locate(name).config["num_classes"]:
        return models.load(name, classes=dataset.classes, head=settings.head, seed=settings.seed)
    student = models.load(name, templates=settings.templates)
    known_C = models.places(student.classes, dataset.classes)
    same = len(student.classes) == len(dataset.classes) and bool((known_C >= 0).all())
    position = settings.classes == "position"
    nameless = is_nameless(student.classes) and len(student.classes) == len(dataset.classes)
    named = same or models.has_classes(student, dataset.classes)
    if settings.head == "keep" or named or (position and nameless):
        return models.fitted(
            student, dataset.classes, dataset.name, trained=True, by_position=position
        )
    if parallel.is_first():
        why = f"{name} and {dataset.name} have different classes"
        if nameless:
            why = f"{name} does not name its {len(dataset.classes)} classes"
        keep = ". config.classes=position keeps its last layer" if nameless else ""
        _LOG.warning("%s: a new last layer is trained%s.", why, keep)
    return models.replace_head(student, dataset.classes, head=settings.head, seed=settings.seed)
