"""What the report of a transfer shows beside its runs: pairs of models, and images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax import data
from ktjax.analysis import flips, measures
from ktjax.analysis.rows import Run
from ktjax.experiment import evaluation
from ktjax.jobs.transfer.setup import Setup

_EXAMPLES = 12  # pictures in the report


def pair(start: Setup, teacher: str, dataset: data.Dataset) -> dict[str, Any]:
    """What a teacher knows beside the student before any run, for results.json."""
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
    """Positive flips of the run that improved most, first those that the student has learned."""
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
