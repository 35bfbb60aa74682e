"""Complementary knowledge and what a transfer did with it, counted on predictions.

The paper is Roth et al., "Fantastic Gains and Where to Find Them", ICLR 2024 (arXiv 2310.17653).
Shapes: N samples, C classes, M models. Every sample counts once, so shares are exact counts over N.
Correctness is a bool array (`correct_N`) made from labels, so padding and unlabeled samples
(label -1) must be removed before.
"""

from collections.abc import Sequence

import numpy as np


def positive_flips(*, teacher_correct_N: np.ndarray, student_correct_N: np.ndarray) -> np.ndarray:
    """Samples the teacher gets right and the student wrong: bool [N] (paper section 3).

    ValueError if an input is not bool [N], is empty, or the two differ in length.
    """
    teacher_N, student_N = _same_samples(teacher=teacher_correct_N, student=student_correct_N)
    return teacher_N & ~student_N


def negative_flips(*, teacher_correct_N: np.ndarray, student_correct_N: np.ndarray) -> np.ndarray:
    """Samples the teacher gets wrong and the student right: bool [N] (paper section 3).

    ValueError if an input is not bool [N], is empty, or the two differ in length.
    """
    return positive_flips(teacher_correct_N=student_correct_N, student_correct_N=teacher_correct_N)


def rho(*, teacher_correct_N: np.ndarray, student_correct_N: np.ndarray) -> tuple[float, float]:
    """Complementary knowledge (rho_pos, rho_neg), as fractions of N (paper section 3).

    rho_pos = positive flips / N and rho_neg = negative flips / N, hence always
    accuracy(teacher) - accuracy(student) = rho_pos - rho_neg. With the student after a transfer as
    `teacher` and before it as `student`, the two are the paper's knowledge gain and loss (5.1).

    ValueError if an input is not bool [N], is empty, or the two differ in length.
    """
    teacher_N, student_N = _same_samples(teacher=teacher_correct_N, student=student_correct_N)
    num_positive = np.count_nonzero(teacher_N & ~student_N)
    num_negative = np.count_nonzero(student_N & ~teacher_N)
    return num_positive / teacher_N.size, num_negative / teacher_N.size


def delta_se(*, before_correct_N: np.ndarray, after_correct_N: np.ndarray) -> float:
    """Standard error of the accuracy difference after - before, as a fraction.

    Both accuracies come from the same N samples, so only the samples whose correctness changed
    carry variance (as in McNemar's test): with gain g and loss l as fractions of N,
    sqrt((g + l - (g - l)^2) / N). It holds the two models fixed: it covers another validation
    set, not another training seed.

    ValueError if an input is not bool [N], is empty, or the two differ in length.
    """
    gain, loss = rho(teacher_correct_N=after_correct_N, student_correct_N=before_correct_N)
    # Rounding can leave -1e-17 where every sample changed the same way.
    return max(gain + loss - (gain - loss) ** 2, 0.0) ** 0.5 / len(before_correct_N) ** 0.5


def flips_per_class(flips_N: np.ndarray, label_N: np.ndarray, *, num_classes: int) -> np.ndarray:
    """How many of the flips fall into each class: int [C] (paper section 3).

    ValueError if `flips_N` is not bool [N], is empty, or if `label_N` is not an integer [N] with
    every label in 0 .. num_classes - 1.
    """
    (flips_N,) = _same_samples(flips=flips_N)
    label_N = labels(label_N, size=flips_N.size, num_classes=num_classes)
    return np.bincount(label_N[flips_N], minlength=num_classes)


def flip_entropy(counts_C: np.ndarray) -> tuple[float, float]:
    """Entropy of the flips over the classes, in nats, and its share of the maximum, log C.

    -sum_c q_c log q_c with q = counts / sum(counts) (paper section 3, figure 2). The share is 1
    for flips spread evenly over the classes and 0 for all in one. (0, 0) if there are no
    flips or only one class.

    ValueError if `counts_C` is not [C] with C > 0, or has a negative or infinite count.
    """
    counts_C = np.asarray(counts_C)
    if counts_C.ndim != 1 or counts_C.size == 0:
        raise ValueError(f"counts_C must have shape [C] with C > 0, not {list(counts_C.shape)}.")
    if not np.all(np.isfinite(counts_C)) or np.any(counts_C < 0):
        raise ValueError("counts_C must be finite and not negative.")
    counts = counts_C[counts_C > 0].astype(np.float64)
    if counts.size == 0 or counts_C.size == 1:
        return 0.0, 0.0
    share = counts / counts.sum()
    entropy = max(float(-np.sum(share * np.log(share))), 0.0)  # never -0.0
    return entropy, entropy / float(np.log(counts_C.size))


def confidence(logits_MxNxC: np.ndarray, label_N: np.ndarray | None = None) -> np.ndarray:
    """How confident each model is on each sample: float32 [M, N] (paper sections 4.2, 4.3).

    The log-odds, log p / (1 - p), of the label, or, without labels, of the most probable class.
    This is `partition.confidence` in NumPy: the same steps in the same precision, so that measures
    and training agree on who teaches which sample.

    ValueError if the logits are not [M, N, C], are empty or not finite, or if `label_N` is given
    and is not an integer [N] with every label in 0 .. C - 1.
    """
    logits_MxNxC = np.asarray(logits_MxNxC)
    if logits_MxNxC.ndim != 3 or logits_MxNxC.size == 0:
        shape = list(logits_MxNxC.shape)
        raise ValueError(f"logits_MxNxC must be non-empty, of shape [M, N, C], not {shape}.")
    num_models, num_samples, num_classes = logits_MxNxC.shape
    if label_N is not None:
        label_N = labels(label_N, size=num_samples, num_classes=num_classes)
    confidence_MxN = np.empty((num_models, num_samples), np.float32)
    for m in range(num_models):  # one model at a time: copies of all would be large
        z_NxC = logits_MxNxC[m].astype(np.float32)
        if not np.all(np.isfinite(z_NxC)):
            raise ValueError(f"logits_MxNxC[{m}] has values that are not finite.")
        class_N = z_NxC.argmax(axis=1) if label_N is None else label_N
        at = np.arange(num_samples), class_N
        z_N, z_NxC[at] = z_NxC[at], -np.inf
        confidence_MxN[m] = z_N - _logsumexp(z_NxC)
    return confidence_MxN


def calibrated(
    logits_MxNxC: np.ndarray, temperatures_M: Sequence[float] | np.ndarray | None
) -> np.ndarray:
    """Each model's logits divided by its temperature; unchanged if there are none.

    In float32, as in `partition.most_confident` during training.
    """
    if temperatures_M is None:
        return logits_MxNxC
    return logits_MxNxC / np.asarray(temperatures_M, np.float32)[:, None, None]


def confidence_ensemble(
    logits_MxNxC: np.ndarray, temperatures_M: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """Answer of the most confident model on each sample: int [N] (paper section 5.3).

    The reference line for several teachers: the most probable class of the model that is most
    confident in its own; ties go to the first model. Models are compared at `temperatures_M`;
    None: 1.

    ValueError if the logits are not [M, N, C], are empty or not finite.
    """
    confidence_MxN = confidence(calibrated(logits_MxNxC, temperatures_M))
    return most_confident_answer(logits_MxNxC, confidence_MxN)


def most_confident_answer(logits_MxNxC: np.ndarray, confidence_MxN: np.ndarray) -> np.ndarray:
    """`confidence_ensemble` of models whose `confidence` is known: int [N]."""
    model_N = confidence_MxN.argmax(axis=0)
    # Take the chosen model's logits first: argmax over all of them would do M times the work.
    return np.asarray(logits_MxNxC)[model_N, np.arange(model_N.size)].argmax(axis=-1)


def transfer_rate(
    *,
    teacher_correct_N: np.ndarray,
    before_correct_N: np.ndarray,
    after_correct_N: np.ndarray,
    where_N: np.ndarray | None = None,
) -> float | None:
    """Share of the teacher's positive flips that the student has learned, 0 .. 1 (section 5.1).

    |teacher right, before wrong, after right| / |teacher right, before wrong|. `where_N` (bool)
    restricts it to some samples, such as those of the top-p % classes of `expertise.top_classes`.
    None if there are no such flips.

    ValueError if an input is not bool [N], is empty, or the lengths differ.
    """
    teacher_N, before_N, after_N = _same_samples(
        teacher=teacher_correct_N, before=before_correct_N, after=after_correct_N
    )
    flips_N = teacher_N & ~before_N
    if where_N is not None:
        flips_N, where_N = _same_samples(flips=flips_N, where=where_N)
        flips_N = flips_N & where_N
    return _share(after_N, flips_N)


def given_to_teacher(source_N: np.ndarray, flips_N: np.ndarray) -> float | None:
    """Share of the flips whose target is a teacher's, 0 .. 1 (paper section 4.2).

    `source_N` says who teaches each sample: 0 the initial student, k > 0 the k-th teacher.
    Positive flips should be near 1, negative ones near 0. None if there are no flips.

    ValueError if `source_N` is not a non-negative integer [N], `flips_N` not bool [N], or empty.
    """
    (flips_N,) = _same_samples(flips=flips_N)
    source_N = np.asarray(source_N)
    if source_N.shape != flips_N.shape or source_N.dtype.kind not in "iu" or source_N.min() < 0:
        raise ValueError(
            f"source_N must be non-negative integers [{flips_N.size}], "
            f"not {source_N.dtype} {list(source_N.shape)}."
        )
    return _share(source_N > 0, flips_N)


def _logsumexp(z_NxC: np.ndarray) -> np.ndarray:
    """log sum exp over classes, some of which may be -inf; scipy's would compute in float64."""
    most_Nx1 = z_NxC.max(axis=1, keepdims=True)
    most_Nx1 = np.where(np.isfinite(most_Nx1), most_Nx1, 0)
    with np.errstate(divide="ignore"):  # log 0 where there is no other class
        return np.log(np.exp(z_NxC - most_Nx1).sum(axis=1)) + most_Nx1[:, 0]


def _share(hit_N: np.ndarray, of_N: np.ndarray) -> float | None:
    num = np.count_nonzero(of_N)
    return np.count_nonzero(hit_N & of_N) / num if num else None


def _same_samples(**arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays as NumPy, after checking that all are bool [N] for one N > 0."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        # ~ on integers 0 and 1 gives -1 and -2, both true: refuse instead of counting wrong.
        if array.dtype != bool or array.ndim != 1 or array.size == 0:
            raise ValueError(
                f"{name} must be a bool array of shape [N] with N > 0, "
                f"not {array.dtype} {list(array.shape)}."
            )
    if len({array.size for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} has {array.size}" for name, array in arrays.items())
        raise ValueError(f"All arrays must cover the same samples: {sizes}.")
    return list(arrays.values())


def labels(label_N: np.ndarray, *, size: int, num_classes: int) -> np.ndarray:
    """The labels as int64; ValueError if not integers [N], N = size, in 0 .. num_classes - 1."""
    label_N = np.asarray(label_N)
    if label_N.shape != (size,) or label_N.dtype.kind not in "iu":
        raise ValueError(
            f"label_N must be integers of shape [{size}], "
            f"not {label_N.dtype} {list(label_N.shape)}."
        )
    if label_N.min() < 0 or label_N.max() >= num_classes:
        raise ValueError(
            f"label_N must lie in 0 .. {num_classes - 1}, not {label_N.min()} .. {label_N.max()} "
            "(-1 marks a sample without a label: leave it out)."
        )
    return label_N.astype(np.int64)
