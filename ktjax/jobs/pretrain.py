"""Trains classifiers from labels: from scratch, or from a checkpoint, of which all or the head."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tqdm

from ktjax import config as config_lib
from ktjax import data, evaluate, models, objectives, parallel, train
from ktjax.analysis import measures
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.experiment import inputs, training
from ktjax.experiment import workdir as workdir_lib
from ktjax.models.checkpoints import weights

TRAIN = ("all", "head")
HEADS = ("keep", *models.HEADS)


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Trains each of `config.models` and exports it to `workdir/models/<name>`.

    With `overwrite` what another experiment has left in the workdir is deleted.

    Returns:
      What results.json holds.

    Raises:
      ValueError: the config or the workdir is not usable; before any work is done.
    """
    workdir = Path(workdir)
    training.check(config)
    config_lib.check_seeds(config.seed)
    config_lib.check_positive(config, "learning_rate")
    objectives.check("xe", {"label_smoothing": config.label_smoothing})
    config_lib.check_choice("train", config.train, TRAIN)
    config_lib.check_choice("head", config.head, HEADS)
    inputs.check_training(config)
    if not config.models:
        raise ValueError("config.models is empty: there is nothing to train.")
    for name in config.models:
        if name not in models.MODELS:
            models.locate(name)
    names = [Path(name).name for name in config.models]
    if len(set(names)) < len(names):
        raise ValueError(f"config.models has two of the same name: {', '.join(names)}.")
    finished = workdir_lib.finished(workdir, config, overwrite=overwrite)
    if finished:
        return finished

    dataset = inputs.load(config)
    for name in data.SPLITS:
        if not getattr(dataset, name).labelled:
            raise ValueError(f"'{config.data}' has {name} images without labels.")
    students = [_start(name, dataset, config) for name in config.models]
    sets = inputs.robustness_sets(config, dataset)
    dataset, sets = inputs.without_bad(config, dataset, sets)
    training.durations(config, examples=len(dataset.train))
    robust = inputs.robust_splits(config, sets, students)
    splits = inputs.splits(config, dataset, students)
    workdir_lib.claim(workdir, config, dataset)
    rows, facts = [], {}
    for student in tqdm.tqdm(students, desc="models", unit="model"):
        trained, row = _train(config, student, splits, robust, workdir)
        folder = workdir / "models" / Path(student.name).name
        if parallel.is_first():
            weights.export(trained, folder, accuracy=row["accuracy_after"])
        rows.append(row)
        facts[folder.name] = {
            "accuracy": row["accuracy_after"],
            "parameters": trained.num_parameters(),
            "origin": trained.origin,
        }
    return workdir_lib.finish(
        workdir,
        config,
        dataset=dataset,
        label_N=splits.validation.label_N,
        runs=rows,
        models=facts,
    )


def _train(
    config: ml_collections.ConfigDict,
    student: Classifier,
    splits: pipeline.Splits,
    robust: inputs.RobustnessSets,
    workdir: Path,
) -> tuple[Classifier, dict[str, Any]]:
    """The trained classifier, and its row of results.json."""
    predict = evaluate.make_predict(student, batch_size=config.eval_batch_size)
    recipe = training.make_recipe(
        config,
        student=student,
        teachers=(),
        objective=objectives.make_xe(label_smoothing=config.label_smoothing),
        teach=train.teach_nothing,
        learning_rate=config.learning_rate,
        slow=None,
        examples=len(splits.train),
        seed=config.seed,
        trained=models.head_of(student)["params"] if config.train == "head" else None,
    )
    run_name = Path(student.name).name

    def ask(variables: Any) -> tuple[np.ndarray, dict[str, float]]:
        placed = parallel.place(dict(variables), config.parallel)
        by_set = inputs.robust_accuracy(lambda images: predict(placed, images), robust)
        return predict(placed, splits.validation), by_set

    fitted = training.fit(
        recipe,
        student=student,
        frozen=tuple,
        images=splits.train,
        tune=splits.tune,
        predict=predict,
        measure=lambda logits_NxC: {"accuracy": evaluate.accuracy(logits_NxC, splits.tune.label_N)},
        run=run_name,
        workdir=workdir,
    )
    before_NxC, robust_before = ask(student.variables)
    after_NxC, robust_after = ask(fitted.variables)
    row = training.row(
        fitted.history,
        run=run_name,
        student=student.name,
        teachers=(),
        objective="xe",
        seed=config.seed,
        measured=measures.of_transfer(
            before_NxC=before_NxC,
            after_NxC=after_NxC,
            teachers_KxNxC=np.empty((0,)),
            label_N=splits.validation.label_N,
        ),
    )
    row["robustness"] = inputs.robust_row(robust_before, robust_after)
    what = "" if config.train == "all" else f" ({config.train} alone)"
    origin = f"{student.name} trained{what} on {config.data}, seed {config.seed}"
    return dataclasses.replace(student, variables=fitted.variables, origin=origin), row


def _start(name: str, dataset: data.Dataset, config: ml_collections.ConfigDict) -> Classifier:
    """A fresh model of the table, or a pretrained one; with a new head if it has other classes."""
    if name in models.MODELS:
        return models.create(name, classes=dataset.classes, seed=config.seed)
    student = models.load(name)
    if config.head == "keep":
        models.check_classes(student, dataset.classes, dataset.name)
    if models.has_classes(student, dataset.classes):
        return student
    return models.replace_head(student, dataset.classes, head=config.head, seed=config.seed)
