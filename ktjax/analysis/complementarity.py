"""The pairs of a zoo in results.json: a row per pair, areas of expertise, controls.

Models are given by their answers, `predictions.Predictions`, in the order of the matrices of
pairs.py. Everything is in percent of the samples, or in percentage points.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax import progress
from ktjax.analysis import chance, expertise, pairs
from ktjax.analysis.predictions import Predictions

Rows = list[dict[str, Any]]

# The measures by which the teachers of a student are ranked before any training.
RANKED = ("rho_pos", "partition_gain", "partition_gain_unsupervised")


def pair_rows(
    answers: Mapping[str, Predictions],
    flips_MxMxC: np.ndarray,
    *,
    similarity_CxC: np.ndarray | None,
) -> Rows:
    """A row for each ordered pair, grouped by student.

    Args:
      answers: the answers of each model, by name.
      flips_MxMxC: their positive flips, from `pairs.flips_per_class`.
      similarity_CxC: similarities of classes; None if unknown.

    Returns:
      Rows of `teacher`, `student`, and the measures of `pairs.measure`, with `rho_pos_low` and
      `rho_pos_high` (exact 95 % interval), `rho_pos_independent` (what it would be if the two
      models' errors were independent), `accuracy_difference` (teacher minus student), `mcnemar_p`
      (exact test that they are equally accurate), `flip_entropy` (share of the maximum), `rank_*`
      (the teacher's rank among this student's teachers by each of RANKED, 1 is best), and
      `top_classes_similarity` (mean and largest similarity among the classes that hold 2, 5, 20,
      50 % of the positive flips).
    """
    names = list(answers)
    zoo = Predictions(*(np.stack(field) for field in zip(*answers.values(), strict=True)))
    measured = pairs.measure(
        correct_MxN=zoo.correct_N,
        answer_MxN=zoo.top_NxK[..., 0],
        label_log_odds_MxN=zoo.label_log_odds_N,
        max_log_odds_MxN=zoo.max_log_odds_N,
    )
    positive_MxM = flips_MxMxC.sum(axis=2, dtype=np.int64)
    low_MxM, high_MxM = chance.binomial_interval(positive_MxM, zoo.correct_N.shape[1])
    right_M = zoo.correct_N.mean(axis=1)
    matrices = measured | {
        "rho_pos_low": 100 * low_MxM,
        "rho_pos_high": 100 * high_MxM,
        "rho_pos_independent": 100 * right_M[:, None] * (1 - right_M[None, :]),
        "accuracy_difference": measured["rho_pos"] - measured["rho_neg"],
        "mcnemar_p": chance.mcnemar(positive_MxM, positive_MxM.T),
        "flip_entropy": pairs.flip_entropy(flips_MxMxC),
    }
    ranks = {f"rank_{name}": _ranks(measured[name]) for name in RANKED}
    rows = []
    for s, student in enumerate(progress.bar(names, desc="pairs", unit="student", leave=False)):
        for t, teacher in enumerate(names):
            if t != s:
                row = {"teacher": teacher, "student": student}
                row |= {name: _number(matrix[t, s]) for name, matrix in matrices.items()}
                row |= {name: int(rank[t, s]) for name, rank in ranks.items()}
                alike = _top_similarity(flips_MxMxC[t, s], similarity_CxC)
                rows.append(row | {"top_classes_similarity": alike})
    return rows


def showcase(rows: Rows, models: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The (teacher, student) to show pictures of: the most accurate model is the student, and its
    teacher is the model with the most positive flips."""
    student = max(models, key=lambda name: models[name]["accuracy"])
    own = [row for row in rows if row["student"] == student]
    return max(own, key=lambda row: row["rho_pos"])["teacher"], student


def areas(
    flips_C: np.ndarray,
    *,
    classes: Sequence[str],
    groups: Sequence[str],
    images_C: np.ndarray,
    most: int = 20,
) -> Rows:
    """The classes that hold half of a pair's positive flips, largest first.

    `among_top` is the smallest of 2, 5, 20, 50 whose set of top classes includes the class.
    """
    tops = {percent: expertise.top_classes(flips_C, percent) for percent in expertise.PERCENTS}
    return [
        {
            "class": classes[c],
            "group": groups[c],
            "flips": int(flips_C[c]),
            "images": int(images_C[c]),
            "among_top": min(percent for percent, top in tops.items() if c in top),
        }
        for c in tops[max(tops)][:most]
    ]


def similarity_of_all(similarity_CxC: np.ndarray | None) -> float | None:
    """The mean over all pairs of classes; None if unknown."""
    return None if similarity_CxC is None else expertise.set_similarity((), similarity_CxC).mean_all


def random_students(
    correct_MxN: np.ndarray, random: Mapping[str, np.ndarray], *, teachers: Sequence[str]
) -> Rows:
    """Control: for untrained students, rho_pos is about the teacher's accuracy.

    `random` says which samples each of them gets right, bool [N], by name.
    """
    return [
        {
            "student": student,
            "student_accuracy": 100 * float(student_N.mean()),
            "teacher": teacher,
            "teacher_accuracy": 100 * float(teacher_N.mean()),
            "rho_pos": 100 * float((teacher_N & ~student_N).mean()),
        }
        for student, student_N in random.items()
        for teacher, teacher_N in zip(teachers, correct_MxN, strict=True)
    ]


def shuffled(correct_MxN: np.ndarray, *, seed: int) -> dict[str, float]:
    """Control: rho_pos after shuffling every model's samples independently.

    Errors are then independent, and rho_pos is acc(teacher) * (1 - acc(student)), apart from
    chance. Correctness is shuffled, not the labels, so every model keeps its accuracy.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    both_MxM = pairs.both_right(generator.permuted(correct_MxN, axis=1))
    right_M = np.diagonal(both_MxM) / correct_MxN.shape[1]
    rho_MxM = right_M[:, None] - both_MxM / correct_MxN.shape[1]
    expected_MxM = right_M[:, None] * (1 - right_M[None, :])
    others_MxM = ~np.eye(len(right_M), dtype=bool)
    return {
        "rho_pos_mean": 100 * float(rho_MxM[others_MxM].mean()),
        "expected_mean": 100 * float(expected_MxM[others_MxM].mean()),
        "largest_difference": 100 * float(np.abs(rho_MxM - expected_MxM)[others_MxM].max()),
    }


def _ranks(gain_MxM: np.ndarray) -> np.ndarray:
    """The rank of each teacher among those of its student, 1 for the largest gain: [M, M]."""
    from scipy import stats  # takes long to import

    others_MxM = np.where(np.eye(len(gain_MxM), dtype=bool), -np.inf, gain_MxM)
    return stats.rankdata(-others_MxM, method="min", axis=0).astype(int)


def _top_similarity(
    flips_C: np.ndarray, similarity_CxC: np.ndarray | None
) -> dict[str, tuple[float | None, float | None]] | None:
    if similarity_CxC is None:
        return None
    found = {}
    for percent in expertise.PERCENTS:
        top = expertise.top_classes(flips_C, percent)
        mean = largest = None
        if len(top) > 1:
            # Only among these classes: the mean over all is slow, and always the same.
            among = expertise.set_similarity(range(len(top)), similarity_CxC[np.ix_(top, top)])
            mean, largest = among.mean, among.max
        found[str(percent)] = (mean, largest)
    return found


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
