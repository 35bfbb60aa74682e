"""A table over many pairs of models: how often transfers help, and by how much.

A row of `pairs.csv` is a run; a pair under one objective, the unit of success, is the mean over its
seeds. Runs without a teacher have rows of their own; `net` is relative to them (`controls.py`).
"""

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from ktjax.analysis import chance, controls, transfers
from ktjax.analysis.rows import Run, StudyPair, StudyRow, TransferModel

_DRAWS = 2000  # of the bootstrap
DONE, ABSTAINED, FAILED = "done", "abstained", "failed"


def row(run: Run) -> StudyRow:
    """The row of a finished run."""
    return StudyRow(
        student=run.student,
        teacher=run.teachers[0] if run.teachers else None,
        objective=run.objective,
        seed=run.seed,
        status=ABSTAINED if run.abstained else DONE,
        before=run.accuracy_before,
        after=run.accuracy_after,
        delta=run.delta,
        se=run.delta_se,
        control=run.control,
        net=run.net,
        net_se=run.net_se,
        gain=run.gain,
        loss=run.loss,
        taught=run.taught,
        ensemble=run.ensemble_accuracy,
        headroom_share=headroom_share(run.delta, run.accuracy_before, run.ensemble_accuracy),
        last_delta=transfers.last_delta(run),
        seconds=run.seconds,
        steps=run.steps,
        passes=run.passes,
        least_gain=run.least_gain,
        learning_rate=run.learning_rate,
        tune_delta=run.tune_delta,
        exported=run.exported,
    )


def failed(*, student: str, teacher: str | None, objective: str, seed: int, error: str) -> StudyRow:
    """The row of a failed run."""
    return StudyRow(
        student=student,
        teacher=teacher,
        objective=objective,
        seed=seed,
        status=FAILED,
        error=error,
    )


def headroom_share(delta: float, before: float, ensemble: float | None) -> float | None:
    """The transfer's gain as a share of the ensemble's gain over the student, in percent.

    None if the ensemble gains nothing or there is no teacher.
    """
    if ensemble is None or ensemble <= before:
        return None
    return 100 * delta / (ensemble - before)


def pairs(runs: Sequence[Run], models: Mapping[str, TransferModel]) -> list[StudyPair]:
    """The mean over seeds of each pair under each objective, in order of appearance.

    Args:
      runs: those with one teacher count; with `net` if there are controls.
      models: their students and teachers, as they were before.
    """
    taught = [run for run in runs if len(run.teachers) == 1]
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in taught:
        groups.setdefault((run.student, run.teachers[0], run.objective), []).append(run)
    outcomes = {(o.student, *o.teachers, o.objective): o for o in controls.outcomes(taught)}
    found = []
    for (student, teacher, objective), same in groups.items():
        outcome = outcomes[student, teacher, objective]
        before, ensemble = same[0].accuracy_before, same[0].ensemble_accuracy
        found.append(
            StudyPair(
                student=student,
                teacher=teacher,
                objective=objective,
                runs=outcome.runs,
                delta=outcome.delta,
                delta_se=outcome.delta_se,
                control=outcome.control,
                net=outcome.net,
                net_se=outcome.net_se,
                gain=statistics.fmean(run.gain for run in same),
                loss=statistics.fmean(run.loss for run in same),
                before=before,
                ensemble=ensemble,
                headroom_share=headroom_share(outcome.delta, before, ensemble),
                accuracy_difference=_difference(models[teacher], models[student]),
                abstained=sum(run.abstained for run in same),
                last_delta=chance.mean([transfers.last_delta(run) for run in same]),
                steps=chance.mean_if_known([run.steps for run in same]),
                passes=chance.mean_if_known([run.passes for run in same]),
                least_gain=chance.mean_if_known([run.least_gain for run in same]),
                ensemble_on_tune=same[0].history[0].tune["ensemble_accuracy"],
            )
        )
    return found


def _difference(teacher: TransferModel, student: TransferModel) -> float | None:
    if teacher.accuracy is None or student.accuracy is None:
        return None
    return teacher.accuracy - student.accuracy


def success(
    found: Sequence[StudyPair], diverged: Collection[transfers.Key] = ()
) -> dict[str, dict[str, Any]]:
    """How often each objective improved a student, and by how much: the lines of a table.

    To `transfers.success` it adds, per objective: `pairs`, and how many of them are `done`,
    `improved` and `diverged`. Of those that are done: `best` and `worst` (by delta), mean `gain`
    and `loss`, `headroom_share`, the mean delta over the mean gain of ensembles over students, in
    percent (None if they gain nothing or are unknown); `steps` and `passes` per run, its cost as in
    `analysis.rows.Run`; `bootstrap`, 95 % intervals of the `median`, `mean` and `mean_delta`, from
    resampling students and teachers; `surely_better` and `surely_worse`, the number of pairs by
    one-sided tests, at a family-wise 0.05 per objective (`chance.holm`); `abstained`, how many left
    their student unchanged with every seed; and `last`, the results of the weights at the end of
    training: `improved`, `mean_delta` and `worst`. It differs if other weights are exported.
    `least_gain`: what the decision about an export would have detected, the median over pairs;
    None if it could detect nothing for half of them or more.
    `by_teacher`: see `_by_teacher`; `ranking`: see `_ranking`.

    Args:
      found: the pairs, without those that diverged.
      diverged: those whose training diverged, with some seed at least. They count as not improved.
    """
    rates = transfers.success([vars(pair) for pair in found], diverged)
    return {
        objective: rates[objective]
        | _more(
            [pair for pair in found if pair.objective == objective],
            {key for key in diverged if key[2] == objective},
        )
        for objective in rates
    }


def key(pair: StudyPair) -> transfers.Key:
    """What tells a pair from others."""
    return pair.student, pair.teacher, pair.objective


def _more(same: Sequence[StudyPair], diverged: Collection[transfers.Key]) -> dict[str, Any]:
    counts = {
        "pairs": len(same) + len(diverged),
        "done": len(same),
        "improved": sum(pair.delta > 0 for pair in same),
        "diverged": len(diverged),
    }
    if not same:
        return counts
    best, worst = (pick(same, key=lambda pair: pair.delta) for pick in (max, min))
    return counts | {
        "best": {"student": best.student, "teacher": best.teacher, "delta": best.delta},
        "worst": {"student": worst.student, "teacher": worst.teacher, "delta": worst.delta},
        "gain": statistics.fmean(pair.gain for pair in same),
        "loss": statistics.fmean(pair.loss for pair in same),
        "headroom_share": _share_of_all(same),
        "steps": chance.mean_if_known([pair.steps for pair in same]),
        "passes": chance.mean_if_known([pair.passes for pair in same]),
        "bootstrap": _bootstrap(same, diverged),
        "surely_better": _surely(same, better=True),
        "surely_worse": _surely(same, better=False),
        "abstained": sum(pair.abstained == pair.runs for pair in same),
        "last": {
            "improved": sum(pair.last_delta > 0 for pair in same),
            "mean_delta": statistics.fmean(pair.last_delta for pair in same),
            "worst": min(pair.last_delta for pair in same),
        },
        "least_gain": _least_gain(same),
        "by_teacher": _by_teacher(same),
        "ranking": _ranking(same),
    }


def _least_gain(same: Sequence[StudyPair]) -> float | None:
    known = [gain for pair in same if (gain := transfers.least_gain(pair)) is not None]
    median = statistics.median(known) if known else math.inf
    return median if math.isfinite(median) else None


def _median(values: Sequence[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _by_teacher(same: Sequence[StudyPair]) -> dict[str, dict[str, Any]]:
    """What `weaker` and `stronger` teachers give, as far as there are some.

    `pairs`, how many of them `improved`, `mean_delta`, and the median `headroom_share` of pairs
    whose ensemble is better than the student. `mean_net`, and for how many pairs net is positive,
    `net_improved`; None if one of the pairs has no net.
    """
    found = {}
    for kind, sign in (("weaker", -1), ("stronger", 1)):
        own = [pair for pair in same if (pair.accuracy_difference or 0) * sign > 0]
        if not own:
            continue
        net = chance.mean_if_known([pair.net for pair in own])
        positive = sum(pair.net is not None and pair.net > 0 for pair in own)
        found[kind] = {
            "pairs": len(own),
            "improved": sum(pair.delta > 0 for pair in own),
            "mean_delta": statistics.fmean(pair.delta for pair in own),
            "headroom_share": _median([pair.headroom_share for pair in own]),
            "mean_net": net,
            "net_improved": None if net is None else positive,
        }
    return found


def _ranking(same: Sequence[StudyPair]) -> dict[str, float | None]:
    """Whether a student's best teachers could be known in advance: a number for each student.

    It is the rank correlation, over its teachers, of the accuracy of the confidence ensemble on
    tune with the change by the weights at the end of training, which an export that abstains does
    not hide. None with fewer than three teachers.
    """
    known: dict[str, list[tuple[float, float]]] = {}
    for pair in same:
        of_student = known.setdefault(pair.student, [])
        if pair.ensemble_on_tune is not None:
            of_student.append((pair.ensemble_on_tune, pair.last_delta))
    return {
        student: chance.spearman(*zip(*of_student, strict=True)) if of_student else None
        for student, of_student in known.items()
    }


def _share_of_all(same: Sequence[StudyPair]) -> float | None:
    """The gain of pairs with an ensemble as a share of the ensembles' gain, in percent."""
    known = [(p.delta, p.ensemble - p.before) for p in same if p.ensemble is not None]
    delta, headroom = (sum(column) for column in zip(*known, strict=True)) if known else (0, 0)
    return 100 * delta / headroom if headroom > 0 else None


def _surely(same: Sequence[StudyPair], *, better: bool) -> int:
    """How many pairs changed that way significantly, corrected for all these tests."""
    moved = [(pair.delta if better else -pair.delta, pair.delta_se) for pair in same]
    p_values = [float(special.ndtr(-by / se)) if by > 0 and se > 0 else 1.0 for by, se in moved]
    return int(chance.holm(p_values).sum())


def _bootstrap(
    same: Sequence[StudyPair], diverged: Collection[transfers.Key]
) -> dict[str, tuple[float, float]] | None:
    """None if neither side has two models."""
    # The delta of a pair whose training always diverged is unknown.
    delta = {key(pair): pair.delta for pair in same}
    delta |= dict.fromkeys(sorted(diverged), np.nan)
    students, teachers, _ = zip(*delta, strict=True)
    if len(set(students)) == len(set(teachers)) == 1:
        return None
    delta_P = np.asarray([*delta.values()])
    known_P = ~np.isnan(delta_P)
    better_P = delta_P > 0
    numbers = {student: number for number, student in enumerate(dict.fromkeys(students))}
    student_P = np.asarray([numbers[student] for student in students])
    drawn = []
    for of_student_P, of_teacher_P in chance.resampled(students, teachers, draws=_DRAWS):
        pairs_S = np.bincount(student_P, weights=of_teacher_P * (of_student_P > 0))
        better_S = np.bincount(student_P, weights=of_teacher_P * better_P)
        times_S = np.zeros(len(numbers), int)
        times_S[student_P] = of_student_P
        there_S = pairs_S > 0
        rates = np.repeat(100 * better_S[there_S] / pairs_S[there_S], times_S[there_S])
        times_P = (of_student_P * of_teacher_P)[known_P]
        # A draw of pairs that all diverged has a success rate, but no delta.
        mean_delta = np.average(delta_P[known_P], weights=times_P) if times_P.any() else np.nan
        drawn.append((np.median(rates), rates.mean(), mean_delta))
    low_3, high_3 = np.nanpercentile(drawn, [2.5, 97.5], axis=0).tolist()
    return dict(zip(("median", "mean", "mean_delta"), zip(low_3, high_3, strict=True), strict=True))


def compared(found: Sequence[StudyPair]) -> list[dict[str, Any]]:
    """Compares every two objectives, over the pairs that both have.

    A row has `one`, `other`, `pairs`, the mean `difference` of their deltas in points, and its
    `interval`, 95 %, clustered by student and by teacher; None if no side has two models.
    """
    deltas: dict[str, dict[tuple[str, str], float]] = {}
    for pair in found:
        deltas.setdefault(pair.objective, {})[pair.student, pair.teacher] = pair.delta
    rows = []
    for one, other in itertools.combinations(deltas, 2):
        common = [key for key in deltas[one] if key in deltas[other]]
        if not common:
            continue
        values = [deltas[one][key] - deltas[other][key] for key in common]
        students, teachers = zip(*common, strict=True)
        interval = chance.clustered_interval(values, students=students, teachers=teachers)
        rows.append(
            {"one": one, "other": other, "pairs": len(common)}
            | {"difference": statistics.fmean(values), "interval": interval}
        )
    return rows


def seconds_left(done: Sequence[tuple[str, float]], left: Sequence[str]) -> float:
    """How long the remaining runs will take: each the mean of its student's runs, or of all.

    Args:
      done: student and seconds of each finished run.
      left: the student of each remaining run.
    """
    if not done:
        return 0.0
    of_all = statistics.fmean(seconds for _, seconds in done)
    taken: dict[str, list[float]] = {}
    for student, seconds in done:
        taken.setdefault(student, []).append(seconds)
    return sum(statistics.fmean(taken.get(student, [of_all])) for student in left)
