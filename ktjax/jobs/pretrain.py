"""Trains classifiers from labels: from scratch, or from a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tqdm

from ktjax import config as config_lib
from ktjax import data, evaluate, models, objectives, parallel, train
from ktjax.analysis import measures
from ktjax.data import pipeline
from ktjax.jobs import fitting
from ktjax.jobs import workdir as workdir_lib
from ktjax.models import weights
from ktjax.models.classifier import Classifier


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
    fitting.check(config)
    fitting.check_seeds([config.seed])
    config_lib.check_positive(config, "learning_rate")
    data.check(config.data)
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

    dataset = workdir_lib.load_data(config)
    splits = pipeline.read_splits(dataset, size=config.image_size, limit=config.max_examples)
    fitting.durations(config, examples=len(splits.train))
    students = [_start(name, dataset, seed=config.seed) for name in config.models]
    workdir_lib.claim(workdir, config)
    rows, facts = [], {}
    for student in tqdm.tqdm(students, desc="models", unit="model"):
        trained, row = _train(config, student, splits, workdir)
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
    config: ml_collections.ConfigDict, student: Classifier, splits: pipeline.Splits, workdir: Path
) -> tuple[Classifier, dict[str, Any]]:
    """The trained classifier, and its row of results.json."""
    predict = evaluate.make_predict(student, batch_size=config.eval_batch_size)
    recipe = fitting.make_recipe(
        config,
        student=student,
        teachers=(),
        objective=objectives.make_xe(label_smoothing=config.label_smoothing),
        teach=train.teach_nothing,
        learning_rate=config.learning_rate,
        slow=None,
        examples=len(splits.train),
        seed=config.seed,
    )
    run_name = Path(student.name).name

    def answer(variables: Any) -> np.ndarray:
        placed = parallel.place(dict(variables), config.parallel)
        return predict(placed, splits.validation)

    fitted = fitting.fit(
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
    row = fitting.row(
        fitted.history,
        run=run_name,
        student=student.name,
        teachers=(),
        objective="xe",
        seed=config.seed,
        measured=measures.of_transfer(
            before_NxC=answer(student.variables),
            after_NxC=answer(fitted.variables),
            teachers_KxNxC=np.empty((0,)),
            label_N=splits.validation.label_N,
        ),
    )
    origin = f"{student.architecture} trained on {config.data}, seed {config.seed}"
    return dataclasses.replace(student, variables=fitted.variables, origin=origin), row


def _start(name: str, dataset: data.Dataset, *, seed: int) -> Classifier:
    """A fresh model of the table, or a pretrained one that has the data set's classes."""
    if name in models.MODELS:
        return models.create(name, classes=dataset.classes, seed=seed)
    student = models.load(name)
    models.check_classes(student, dataset.classes, dataset.name)
    return student
