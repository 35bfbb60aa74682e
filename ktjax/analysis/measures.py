"""The measures of one transfer (paper section 5.1): a row of results.json, from predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax.analysis import controls, expertise, flips
from ktjax.analysis.rows import Outcome, Run

OF_TEACHERS = (  # measures that need a teacher
    "rho_pos",
    "rho_neg",
    "rho_pos_after",
    "rho_neg_after",
    "transfer_rate",
    "transfer_rate_top",
    "ensemble_accuracy",
)
OF_PARTITION = ("taught_by", "taught_positive_flips", "taught_negative_flips")


def of_transfer(
    *,
    before_NxC: np.ndarray,
    after_NxC: np.ndarray,
    teachers_KxNxC: np.ndarray,
    label_N: np.ndarray,
    temperatures_S: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What a transfer changed, in percent of N, or percentage points.

    Args:
      before_NxC: logits of the student before the transfer.
      after_NxC: its logits after the transfer.
      teachers_KxNxC: logits of its teachers, none (K = 0) for a control. Several teachers count as
        one that answers each sample as the most confident of them does.
      label_N: the labels.
      temperatures_S: divide the logits of student and teachers before their confidence is compared;
        None: 1.

    Returns:
      `accuracy_before`, `accuracy_after`, `delta` with its standard error `delta_se`, knowledge
      `gain` and `loss`, `class_gain` and `class_loss` (samples per class); and, None without a
      teacher, `rho_pos` and `rho_neg`, the same after the transfer (`rho_pos_after`,
      `rho_neg_after`), `transfer_rate` and `transfer_rate_top`, the same within the smallest sets
      of classes that hold 2, 5, 20, 50 % of the teacher's positive flips, and `ensemble_accuracy`,
      the reference line: each sample answered by the most confident of student and teachers.
    """
    num_classes = before_NxC.shape[1]
    before_N = before_NxC.argmax(axis=1) == label_N
    after_N = after_NxC.argmax(axis=1) == label_N
    gained_N = flips.positive_flips(teacher_correct_N=after_N, student_correct_N=before_N)
    lost_N = flips.negative_flips(teacher_correct_N=after_N, student_correct_N=before_N)
    # From whole numbers: as many gained as lost is exactly no change.
    net = int(gained_N.sum()) - int(lost_N.sum())
    measures = {
        "accuracy_before": _percent(before_N.mean()),
        "accuracy_after": _percent(after_N.mean()),
        "delta": 100 * net / label_N.size,
        "delta_se": _percent(flips.delta_se(before_correct_N=before_N, after_correct_N=after_N)),
        "gain": _percent(gained_N.mean()),
        "loss": _percent(lost_N.mean()),
        "class_gain": _per_class(gained_N, label_N, num_classes),
        "class_loss": _per_class(lost_N, label_N, num_classes),
    }
    if not len(teachers_KxNxC):
        return measures | dict.fromkeys(OF_TEACHERS)
    logits_SxNxC = np.concatenate([before_NxC[None], teachers_KxNxC])
    confidence_SxN = flips.confidence(flips.calibrated(logits_SxNxC, temperatures_S))
    teacher_N = flips.most_confident_answer(teachers_KxNxC, confidence_SxN[1:]) == label_N
    rho_pos, rho_neg = flips.rho(teacher_correct_N=teacher_N, student_correct_N=before_N)
    rho_pos_after, rho_neg_after = flips.rho(teacher_correct_N=teacher_N, student_correct_N=after_N)
    flips_N = flips.positive_flips(teacher_correct_N=teacher_N, student_correct_N=before_N)
    counts_C = flips.flips_per_class(flips_N, label_N, num_classes=num_classes)
    ensemble_N = flips.most_confident_answer(logits_SxNxC, confidence_SxN)

    def rate(where_N: np.ndarray | None) -> float | None:
        share = flips.transfer_rate(
            teacher_correct_N=teacher_N,
            before_correct_N=before_N,
            after_correct_N=after_N,
            where_N=where_N,
        )
        return None if share is None else _percent(share)

    return measures | {
        "rho_pos": _percent(rho_pos),
        "rho_neg": _percent(rho_neg),
        "rho_pos_after": _percent(rho_pos_after),
        "rho_neg_after": _percent(rho_neg_after),
        "transfer_rate": rate(None),
        "transfer_rate_top": {
            str(p): rate(np.isin(label_N, expertise.top_classes(counts_C, p)))
            for p in expertise.PERCENTS
        },
        "ensemble_accuracy": _percent(np.mean(ensemble_N == label_N)),
    }


def of_partition(
    *,
    before_NxC: np.ndarray,
    teachers_KxNxC: np.ndarray,
    label_N: np.ndarray,
    supervised: bool | None,
    temperatures_S: Sequence[float] | None,
) -> dict[str, Any]:
    """Who teaches which samples, in the partition between a student and its teachers.

    Args:
      before_NxC: logits of the student before the transfer.
      teachers_KxNxC: logits of its teachers.
      label_N: the labels.
      supervised: which confidence the partition compares; None: there is no partition.
      temperatures_S: divide the logits of student and teachers; None: 1.

    Returns:
      `taught_by`, the share of samples given to each teacher, [K]; `taught_positive_flips` and
      `taught_negative_flips`, the share of these flips given to any teacher; in percent. None if
      there are no such flips, no teacher or no partition.
    """
    if not len(teachers_KxNxC) or supervised is None:
        return dict.fromkeys(OF_PARTITION)
    before_N = before_NxC.argmax(axis=1) == label_N
    teacher_N = flips.confidence_ensemble(teachers_KxNxC, _of_teachers(temperatures_S)) == label_N
    logits_SxNxC = np.concatenate([before_NxC[None], teachers_KxNxC])
    logits_SxNxC = flips.calibrated(logits_SxNxC, temperatures_S)
    source_N = flips.confidence(logits_SxNxC, label_N if supervised else None).argmax(axis=0)

    def share(flips_N: np.ndarray) -> float | None:
        given = flips.given_to_teacher(source_N, flips_N)
        return None if given is None else _percent(given)

    answers = {"teacher_correct_N": teacher_N, "student_correct_N": before_N}
    return {
        "taught_by": [_percent(np.mean(source_N == k)) for k in range(1, len(logits_SxNxC))],
        "taught_positive_flips": share(flips.positive_flips(**answers)),
        "taught_negative_flips": share(flips.negative_flips(**answers)),
    }


def of_pair(
    *,
    student_NxC: np.ndarray,
    teacher_NxC: np.ndarray,
    label_N: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    temperatures_S: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Complementary knowledge of an ordered pair (paper section 3).

    Args:
      student_NxC: the student's logits.
      teacher_NxC: the teacher's logits.
      label_N: the labels.
      classes: their names.
      groups: of each class.
      temperatures_S: divide the logits of student and teacher before their confidence is compared;
        None: 1.

    Returns:
      `rho_pos`, `rho_neg` and `ensemble_accuracy` (each sample answered by the more confident of
      the two; section 5.3) in percent; `class_flips`, positive flips per class; `flip_entropy`, as
      a share of the maximum; `top_classes`, the areas of expertise; and `top_classes_alike`, the
      share of pairs of those classes in the same group, and that share among all classes.
    """
    student_N = student_NxC.argmax(axis=1) == label_N
    teacher_N = teacher_NxC.argmax(axis=1) == label_N
    rho_pos, rho_neg = flips.rho(teacher_correct_N=teacher_N, student_correct_N=student_N)
    flips_N = flips.positive_flips(teacher_correct_N=teacher_N, student_correct_N=student_N)
    counts_C = flips.flips_per_class(flips_N, label_N, num_classes=len(classes))
    answer_N = flips.confidence_ensemble(np.stack([student_NxC, teacher_NxC]), temperatures_S)
    top = {str(p): expertise.top_classes(counts_C, p) for p in expertise.PERCENTS}
    similarity_CxC = expertise.group_similarity(groups)
    alike = {p: expertise.set_similarity(chosen, similarity_CxC) for p, chosen in top.items()}
    return {
        "rho_pos": _percent(rho_pos),
        "rho_neg": _percent(rho_neg),
        "ensemble_accuracy": _percent(np.mean(answer_N == label_N)),
        "class_flips": counts_C.tolist(),
        "flip_entropy": flips.flip_entropy(counts_C)[1],
        "top_classes": {p: [classes[c] for c in chosen] for p, chosen in top.items()},
        "top_classes_alike": {p: (a.mean, a.mean_all) for p, a in alike.items()},
    }


def of_history(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `of_transfer` kept in a history: everything except the counts per class."""
    return {k: v for k, v in measured.items() if not k.startswith("class_")}


def of_objectives(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """How often each objective improved a student, in percent, and by how much, in points (5.1).

    `success_rate` and `mean_delta`; and `net_success_rate` and `mean_net`, the same net of the
    control without a teacher, None if a run has none. The unit is the mean over seeds of a student
    with the same teachers.
    """
    found: dict[str, list[Outcome]] = {}
    for outcome in controls.outcomes(runs):
        found.setdefault(outcome.objective, []).append(outcome)
    summaries = {}
    for name, same in found.items():
        nets = [outcome.net for outcome in same if outcome.net is not None]
        known = len(nets) == len(same)
        summaries[name] = {
            "success_rate": _percent(np.mean([outcome.delta > 0 for outcome in same])),
            "mean_delta": float(np.mean([outcome.delta for outcome in same])),
            "net_success_rate": _percent(np.mean([net > 0 for net in nets])) if known else None,
            "mean_net": float(np.mean(nets)) if known else None,
        }
    return summaries


def _of_teachers(temperatures_S: Sequence[float] | None) -> Sequence[float] | None:
    return None if temperatures_S is None else temperatures_S[1:]


def _percent(share: float) -> float:
    return 100 * float(share)


def _per_class(flips_N: np.ndarray, label_N: np.ndarray, num_classes: int) -> list[int]:
    return flips.flips_per_class(flips_N, label_N, num_classes=num_classes).tolist()
