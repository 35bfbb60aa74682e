"""Patterns over many transfers: where they succeed, and whether that can be predicted.

Success is as in paper section 5.1, the properties of student and teacher as in section 5.2. A row
is a student, a teacher and an objective, averaged over seeds.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ktjax.analysis import chance
from ktjax.analysis.rows import Run, StudyPair

Rows = list[dict[str, Any]]
Key = tuple[str, str, str]  # student, teacher, objective

# Known about a pair before any training, so it could be used to choose a teacher.
FORESEEN = ("rho_pos", "partition_gain", "partition_gain_unsupervised", "accuracy_difference")
EXPORTED = ("delta", "gain", "loss")
OUTCOMES = (*EXPORTED, "last_delta")
PROPERTIES = ("parameters", "accuracy")
KINDS = ("family", "inductive_bias", "protocol")


def rows(runs: Sequence[Run], pairs: Sequence[Mapping[str, Any]]) -> Rows:
    """A row per student, teacher and objective: the outcome, and what was known before.

    `delta`, `gain`, `loss`, and `net`, delta net of the control without a teacher: None if a run
    has none; and `last_delta`, the change by the weights at the end of training.

    Args:
      runs: from transfers' results.json; those without a teacher or with several are left out.
      pairs: the rows of a complementarity job for each pair of student and teacher.

    Raises:
      KeyError: a pair is not among `pairs`.
    """
    known = {(pair["student"], pair["teacher"]): pair for pair in pairs}
    found: dict[Key, list[Run]] = {}
    for run in runs:
        if len(run.teachers) == 1:
            key = (run.student, run.teachers[0], run.objective)
            found.setdefault(key, []).append(run)
    return [
        {"objective": objective, "student": student, "teacher": teacher, "runs": len(same)}
        | {name: chance.mean([getattr(run, name) for run in same]) for name in EXPORTED}
        | {"net": chance.mean_if_known([run.net for run in same])}
        | {"last_delta": chance.mean([last_delta(run) for run in same])}
        | {name: known[student, teacher][name] for name in FORESEEN}
        for (student, teacher, objective), same in found.items()
    ]


def last_delta(run: Run) -> float:
    """The change in points by the weights at the end of training, whatever was exported."""
    return run.delta if run.last_delta is None else run.last_delta


def least_gain(one: Run | StudyPair) -> float | None:
    """The smallest gain in points that the decision about the export would have detected.

    Infinite if so few answers changed that it could not detect any: these abstain. None without a
    decision.
    """
    return math.inf if one.abstained and one.least_gain is None else one.least_gain


def success(rows: Rows, diverged: Collection[Key] = ()) -> dict[str, dict[str, Any]]:
    """How often each objective improved a student, and by how much.

    Per objective: `per_student`, the share of teachers that improved each, in percent; the `median`
    and `mean` over students; `mean_delta` over all pairs, in points, and its `interval`, 95 %,
    clustered by student and by teacher. `net` has the same net of the controls without a
    teacher, with `mean_net`; None if a pair has no control.

    Args:
      rows: the pairs.
      diverged: (student, teacher, objective) of pairs without a row, because their training
        diverged. They count as not improved; means are over the others, None without any.
    """
    by_objective = _by(rows, "objective")
    found = {}
    for objective in dict.fromkeys([*by_objective, *(of for _, _, of in sorted(diverged))]):
        same = by_objective.get(objective, [])
        lost = {(student, teacher) for student, teacher, of in diverged if of == objective}
        known = bool(same) and all(row["net"] is not None for row in same)
        found[objective] = _success(same, "delta", lost) | {
            "net": _success(same, "net", lost) if known else None
        }
    return found


def _success(same: Rows, key: str, diverged: Collection[tuple[str, str]]) -> dict[str, Any]:
    improved: dict[str, dict[str, bool]] = {}
    for row in same:
        improved.setdefault(row["student"], {})[row["teacher"]] = row[key] > 0
    for student, teacher in sorted(diverged):
        improved.setdefault(student, {})[teacher] = False
    per_student = {
        student: 100 * statistics.fmean(by_teacher.values())
        for student, by_teacher in improved.items()
    }
    values = [row[key] for row in same]
    students, teachers = ([row[side] for row in same] for side in ("student", "teacher"))
    return {
        "per_student": per_student,
        "median": statistics.median(per_student.values()),
        "mean": statistics.fmean(per_student.values()),
        f"mean_{key}": statistics.fmean(values) if values else None,
        "interval": chance.clustered_interval(values, students=students, teachers=teachers)
        if values
        else None,
    }


def foresight(rows: Rows) -> Rows:
    """Spearman correlation of each measure of FORESEEN with the change that followed.

    That is the change by the weights at the end of training: exports that abstain are all 0. A row
    per objective and student, over its teachers; and one with student None, over all pairs.
    None with fewer than three pairs, or if all are equal.
    """
    found = []
    for objective, same in _by(rows, "objective").items():
        for student, own in ((None, same), *_by(same, "student").items()):
            change = [row["last_delta"] for row in own]
            found.append(
                {"objective": objective, "student": student, "pairs": len(own)}
                | {n: chance.spearman([row[n] for row in own], change) for n in FORESEEN}
            )
    return found


def properties(rows: Rows, models: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Correlation of the OUTCOMES with properties of student and teacher (section 5.2).

    A row per objective, `side` (student, teacher), `property` and `outcome`, with `pearson` and
    `spearman` over the pairs; None if there are too few, or all are equal.
    """
    found = []
    for objective, same in _by(rows, "objective").items():
        for side in ("student", "teacher"):
            for name in PROPERTIES:
                values = [models[row[side]][name] for row in same]
                for outcome in OUTCOMES:
                    outcomes = [row[outcome] for row in same]
                    found.append(
                        {"objective": objective, "side": side, "property": name}
                        | {"outcome": outcome, "pairs": len(same)}
                        | {"pearson": chance.pearson(values, outcomes)}
                        | {"spearman": chance.spearman(values, outcomes)}
                    )
    return found


def groups(rows: Rows, models: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Means of the OUTCOMES by what kind of model is the student, or the teacher.

    A row per objective, `by` (one of KINDS), `side` and `kind`; models of which it is not known are
    left out.
    """
    found = []
    for objective, same in _by(rows, "objective").items():
        for by in KINDS:
            for side in ("student", "teacher"):
                known = [row | {"kind": models[row[side]][by]} for row in same]
                of_kind = _by([row for row in known if row["kind"] is not None], "kind")
                found += [
                    {"objective": objective, "by": by, "side": side, "kind": kind}
                    | {"pairs": len(own)}
                    | {name: statistics.fmean(row[name] for row in own) for name in OUTCOMES}
                    for kind, own in sorted(of_kind.items())
                ]
    return found


def _by(rows: Rows, key: str) -> dict[str, Rows]:
    """The rows grouped by their value of `key`, in order of appearance."""
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
