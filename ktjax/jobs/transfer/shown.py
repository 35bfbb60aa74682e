"""Results of a transfer besides its runs, for results.json and report: models, pairs, pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax import data, evaluate
from ktjax.analysis import flips, measures
from ktjax.analysis.rows import Run, TransferModel
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.experiment import evaluation, rows
from ktjax.jobs.transfer.setup import Setup

_EXAMPLES = 12  # pictures in the report


def models(start: Setup, dataset: data.Dataset, how: pipeline.Reading) -> dict[str, TransferModel]:
    """Student and teachers before any run; `how` says how all of them read the images."""
    settings, found = start.settings, {}
    for name, known in start.models.items():
        row = rows.of_model(known, start.splits.validation.label_N)
        own = None
        if settings.own_transform and isinstance(known.model, Classifier):
            predict = evaluate.make_predict(known.model, batch_size=settings.eval_batch_size)
            own = evaluation.own_accuracy(
                known.model, predict, dataset.validation, how, shared=row.accuracy
            )
        found[name] = dataclasses.replace(row, own_accuracy=own)
    return found


def pairs(start: Setup, dataset: data.Dataset) -> list[dict[str, Any]]:
    """What each teacher knows beyond the student; teachers without answers have no row."""
    return [
        _pair(start, teacher, dataset)
        for teacher in start.settings.teachers
        if start.models[teacher].validation_NxC is not None
    ]


def _pair(start: Setup, teacher: str, dataset: data.Dataset) -> dict[str, Any]:
    student = start.settings.student
    return {"teacher": teacher, "student": student} | measures.of_pair(
        student_NxC=start.models[student].validation_NxC,
        teacher_NxC=start.models[teacher].validation_NxC,
        label_N=start.splits.validation.label_N,
        classes=dataset.classes,
        groups=dataset.groups,
        temperatures_S=evaluation.temperatures((start.models[student], start.models[teacher])),
    )


def examples(
    start: Setup,
    dataset: data.Dataset,
    found: Sequence[Run],
    answers: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Positive flips of the run that improved most, those that the student learned come first."""
    taught = [row for row in found if row.ensemble_accuracy is not None]
    if not taught:
        return []
    best = max(taught, key=lambda row: row.delta)
    validation = start.splits.validation
    after_N = answers[best.run]
    before_N = start.models[best.student].validation_NxC.argmax(axis=1)
    teachers = [start.models[name] for name in best.teachers]
    teachers_KxNxC = np.asarray([teacher.validation_NxC for teacher in teachers])
    teacher_N = flips.confidence_ensemble(teachers_KxNxC, evaluation.temperatures(teachers))
    label_N = validation.label_N
    flipped = np.flatnonzero((teacher_N == label_N) & (before_N != label_N))
    learned_first = np.argsort(after_N[flipped] != label_N[flipped], kind="stable")
    return [
        {
            "image": validation.take(np.array([i]))[0],
            "label": dataset.classes[label_N[i]],
            "teacher": " + ".join(best.teachers),
            "teacher_says": dataset.classes[teacher_N[i]],
            "student_says": dataset.classes[before_N[i]],
            "after_says": dataset.classes[after_N[i]],
        }
        for i in flipped[learned_first][:_EXAMPLES]
    ]
