"""Complementary knowledge of every ordered pair of a zoo, from the answers of each model.

Shapes: M models, N samples, C classes. A matrix [M, M] has a row for each teacher and a column for
each student; `pairs[t, s]` is about what t could teach s. flips.py counts one pair, and this file
must agree with it.

This is the one file of analysis/ that uses the device: 466 models are 217,000 pairs of 50,000
samples each, 11 billion comparisons. They become matrix products and elementwise sums over blocks.
Every count is a whole number, exact, so no result depends on the device or on the size of a block.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ktjax.analysis.flips import labels

_LANES, _UNROLL = 16, 32  # samples that a step of `_count` compares; all models' fit into a cache
_CLASSES_AT_ONCE, _SAMPLES_AT_ONCE = 16, 64  # of `flips_per_class`
_LEAST, _LARGEST = -(2**31), 2**31 - 1  # of int32


def measure(
    *,
    correct_MxN: np.ndarray,
    answer_MxN: np.ndarray,
    label_log_odds_MxN: np.ndarray,
    max_log_odds_MxN: np.ndarray,
) -> dict[str, np.ndarray]:
    """Measures of all pairs before any training (paper sections 3, 4.2 and 5.3).

    Args:
      correct_MxN: which samples each model gets right, bool.
      answer_MxN: the predicted classes, integers.
      label_log_odds_MxN: log-odds of the label, float32 (`flips.confidence`).
      max_log_odds_MxN: log-odds of the answer, float32.

    Returns:
      Matrices [M, M], row teacher, column student, float64. In percent of N: `rho_pos`, `rho_neg`;
      `agreement`, the same answer, right or wrong; `oracle_accuracy`, at least one is right;
      `ensemble_accuracy`, each sample answered by the more confident model. `error_correlation` is
      the phi coefficient of being wrong, -1 .. 1, NaN if a model is always or never wrong. In
      points: `partition_gain` and `partition_gain_unsupervised`, the accuracy of the partitioned
      targets minus the student's. The target of a sample is the distribution of the model that is
      more confident in the label, or in its own answer. Ties go to the student.

    Raises:
      ValueError: a shape or dtype differs.
    """
    correct_MxN = _checked(correct_MxN)
    size = correct_MxN.shape[1]
    both_MxM = both_right(correct_MxN)
    right_M = np.diagonal(both_MxM)
    accuracy_1xM = 100 * right_M[None, :] / size
    surer_MxM = surer_right(correct_MxN, max_log_odds_MxN)
    partitioned_MxM = surer_right(correct_MxN, label_log_odds_MxN)
    return {
        "rho_pos": 100 * (right_M[:, None] - both_MxM) / size,
        "rho_neg": 100 * (right_M[None, :] - both_MxM) / size,
        "agreement": 100 * same_answer(answer_MxN) / size,
        "error_correlation": error_correlation(both_MxM, size=size),
        "oracle_accuracy": 100 * (right_M[:, None] + right_M[None, :] - both_MxM) / size,
        "ensemble_accuracy": 100 * surer_MxM / size,
        "partition_gain": 100 * partitioned_MxM / size - accuracy_1xM,
        "partition_gain_unsupervised": 100 * surer_MxM / size - accuracy_1xM,
    }


def both_right(correct_MxN: np.ndarray) -> np.ndarray:
    """Samples that both models of a pair get right: int64 [M, M], on the diagonal each model's own.

    All flips follow: positive ones are `own[t] - both[t, s]`, negative ones `own[s] - both[t, s]`.

    ValueError if `correct_MxN` is not bool [M, N], or N is 2^24 or more.
    """
    return np.asarray(_both_right(_checked(correct_MxN))).astype(np.int64)


def same_answer(answer_MxN: np.ndarray, *, block: int = 16) -> np.ndarray:
    """Samples on which both models of a pair give the same answer, right or wrong: int64 [M, M].

    ValueError if `answer_MxN` is not integers [M, N].
    """
    answer_MxN = np.asarray(answer_MxN)
    if answer_MxN.ndim != 2 or answer_MxN.size == 0 or answer_MxN.dtype.kind not in "iu":
        raise ValueError(
            f"answer_MxN must be non-empty integers of shape [M, N], "
            f"not {answer_MxN.dtype} {list(answer_MxN.shape)}."
        )
    return np.asarray(_same_answer(answer_MxN, block=block)).astype(np.int64)


def surer_right(
    correct_MxN: np.ndarray, confidence_MxN: np.ndarray, *, block: int = 16
) -> np.ndarray:
    """Samples that the more confident model of each pair gets right: int64 [M, M].

    Ties go to the student. `confidence_MxN` is float32, and only its order matters.

    ValueError if the inputs are not bool and float32 [M, N], or a confidence is NaN.
    """
    correct_MxN, confidence_MxN = _checked(correct_MxN), np.asarray(confidence_MxN)
    if confidence_MxN.shape != correct_MxN.shape or confidence_MxN.dtype != np.float32:
        raise ValueError(
            f"confidence_MxN must be float32 {list(correct_MxN.shape)}, "
            f"not {confidence_MxN.dtype} {list(confidence_MxN.shape)}."
        )
    if np.isnan(confidence_MxN).any():
        raise ValueError("confidence_MxN has NaN values.")
    return np.asarray(_surer_right(correct_MxN, confidence_MxN, block=block)).astype(np.int64)


def error_correlation(both_MxM: np.ndarray, *, size: int) -> np.ndarray:
    """Phi coefficient of being wrong, from `both_right` of `size` samples: float64 [M, M].

    It is the same for being right. NaN if a model is always or never right.
    """
    right_M = np.diagonal(both_MxM).astype(np.float64)
    spread_M = np.sqrt(right_M * (size - right_M))
    spread_MxM = spread_M[:, None] * spread_M[None, :]
    known_MxM = spread_MxM > 0
    above_MxM = size * both_MxM.astype(np.float64) - right_M[:, None] * right_M[None, :]
    phi_MxM = np.full(both_MxM.shape, np.nan)
    np.divide(above_MxM, spread_MxM, out=phi_MxM, where=known_MxM)
    return phi_MxM.clip(-1, 1)  # rounding can give 1.0000000000000002


def flips_per_class(
    correct_MxN: np.ndarray, label_N: np.ndarray, *, num_classes: int
) -> np.ndarray:
    """Positive flips of every pair in every class: unsigned integers [M, M, C] (paper section 3).

    The dtype is the smallest that holds the size of the largest class: all pairs of 466 models
    take 217 MB with the classes of ImageNet.

    ValueError if `correct_MxN` is not bool [M, N], or `label_N` not integers [N] in 0 .. C - 1.
    """
    correct_MxN = _checked(correct_MxN)
    num_models, size = correct_MxN.shape
    label_N = labels(label_N, size=size, num_classes=num_classes)
    size_C = np.bincount(label_N, minlength=num_classes)
    by_class, start_C = np.argsort(label_N, kind="stable"), np.cumsum(size_C) - size_C
    # One more sample, which no model gets right or wrong, pads the classes.
    blank_Mx1 = np.zeros((num_models, 1), np.float32)
    right = jnp.asarray(np.concatenate([correct_MxN, blank_Mx1], axis=1, dtype=np.float32))
    wrong = jnp.asarray(np.concatenate([~correct_MxN, blank_Mx1], axis=1, dtype=np.float32))
    flips = np.zeros((num_models, num_models, num_classes), np.min_scalar_type(size_C.max()))
    for c in range(0, num_classes, _CLASSES_AT_ONCE):
        start_K, size_K = (a[c : c + _CLASSES_AT_ONCE, None] for a in (start_C, size_C))
        for first in range(0, size_K.max(), _SAMPLES_AT_ONCE):
            at = np.arange(first, first + _SAMPLES_AT_ONCE)[None, :]
            index_KxS = np.where(at < size_K, by_class[np.minimum(start_K + at, size - 1)], size)
            counts = np.asarray(_flips_among(right, wrong, index_KxS.astype(np.int32)))
            flips[:, :, c : c + len(size_K)] += counts.astype(flips.dtype)
    return flips


def flip_entropy(flips_MxMxC: np.ndarray) -> np.ndarray:
    """Entropy of the flips over the classes as a share of its maximum, log C: float64 [M, M].

    The same as `flips.flip_entropy` of each pair; 0 where there are no flips, or a single class.
    """
    num_classes = flips_MxMxC.shape[2]
    if num_classes == 1:
        return np.zeros(flips_MxMxC.shape[:2])
    count = np.arange(int(flips_MxMxC.max()) + 1)
    count_log_count = count * np.log(np.maximum(count, 1))
    entropy_MxM = np.empty(flips_MxMxC.shape[:2])
    for t, flips_MxC in enumerate(flips_MxMxC):  # one teacher at a time: float64 takes memory
        total_M = np.maximum(flips_MxC.sum(axis=1, dtype=np.int64), 1)
        entropy_MxM[t] = np.log(total_M) - count_log_count[flips_MxC].sum(axis=1) / total_M
    return entropy_MxM.clip(0) / np.log(num_classes)


@jax.jit
def _both_right(correct_MxN):
    right_MxN = correct_MxN.astype(jnp.float32)
    # Sums of ones are exact in float32 below 2^24, unless a device uses lower precision.
    return jnp.matmul(right_MxN, right_MxN.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _flips_among(right_MxN, wrong_MxN, index_KxS):
    right, wrong = right_MxN[:, index_KxS], wrong_MxN[:, index_KxS]
    # Exact in any precision: sums of as many ones and zeros as a block has samples.
    return jnp.einsum("tks,uks->tuk", right, wrong, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="block")
def _same_answer(answer_MxN, *, block):
    answer_MxN = answer_MxN.astype(jnp.int32)
    # Padding is never equal.
    first, second = (_in_steps(answer_MxN, block, fill) for fill in (_LEAST, _LARGEST))
    count_MxM = _count((first,), (second,), test=jnp.equal, block=block)
    return count_MxM[: len(answer_MxN), : len(answer_MxN)]


@functools.partial(jax.jit, static_argnames="block")
def _surer_right(correct_MxN, confidence_MxN, *, block):
    sure_MxN = _ordered(confidence_MxN)
    # A wrong model never counts as more confident: _LEAST is below all confidences. Padding is
    # wrong, and more confident than any model.
    right = _in_steps(jnp.where(correct_MxN, sure_MxN, _LEAST), block, _LEAST)
    sure = _in_steps(sure_MxN, block, _LARGEST)

    def test(teacher_right, teacher_sure, student_right, student_sure):
        return (teacher_right > student_sure) | (student_right >= teacher_sure)

    count_MxM = _count((right, sure), (right, sure), test=test, block=block)
    return count_MxM[: len(correct_MxN), : len(correct_MxN)]


def _ordered(confidence):
    """float32 numbers as int32 in the same order; equal where they are equal, as 0.0 and -0.0.

    Integers, because devices may treat subnormal floats as 0 in comparisons. Infinities lie
    strictly between _LEAST and _LARGEST.
    """
    bits = jax.lax.bitcast_convert_type(confidence, jnp.int32)
    # The bits of negative numbers grow with their magnitude.
    return jnp.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _count(teachers, students, *, test: Callable, block: int):
    """How many samples pass `test`, for all pairs: int32 [M', M'], a row for each teacher.

    `teachers` and `students` are tuples of arrays as `_in_steps` gives them; `test` compares the
    teachers' with the students'. `block` teachers are compared at once.
    """

    def step(count_MxM, both):
        teachers, students = both

        def rows(some_teachers):
            # On CPUs XLA vectorizes a sum of comparisons that is written term by term; a reduction
            # over the samples compares one by one and takes four times as long.
            held_KxMxL = sum(
                test(
                    *(of_KxUxL[:, None, u] for of_KxUxL in some_teachers),
                    *(of_MxUxL[None, :, u] for of_MxUxL in students),
                ).astype(jnp.int16)
                for u in range(_UNROLL)
            )
            return held_KxMxL.sum(axis=2, dtype=jnp.int32)

        in_blocks = [of_MxUxL.reshape(-1, block, _UNROLL, _LANES) for of_MxUxL in teachers]
        return count_MxM + jax.lax.map(rows, in_blocks).reshape(count_MxM.shape), None

    zero_MxM = jnp.zeros((teachers[0].shape[1],) * 2, jnp.int32)
    return jax.lax.scan(step, zero_MxM, (teachers, students))[0]


def _in_steps(a_MxN, block, fill):
    """[M, N] -> [steps, M', _UNROLL, _LANES], padded; M' is a multiple of `block`."""
    rows, columns = (-a_MxN.shape[0] % block, -a_MxN.shape[1] % (_UNROLL * _LANES))
    a_MxN = jnp.pad(a_MxN, ((0, rows), (0, columns)), constant_values=fill)
    return jnp.swapaxes(a_MxN.reshape(a_MxN.shape[0], -1, _UNROLL * _LANES), 0, 1).reshape(
        -1, a_MxN.shape[0], _UNROLL, _LANES
    )


def _checked(correct_MxN: np.ndarray) -> np.ndarray:
    correct_MxN = np.asarray(correct_MxN)
    if correct_MxN.dtype != bool or correct_MxN.ndim != 2 or correct_MxN.size == 0:
        raise ValueError(
            f"correct_MxN must be non-empty, bool of shape [M, N], "
            f"not {correct_MxN.dtype} {list(correct_MxN.shape)}."
        )
    if correct_MxN.shape[1] >= 2**24:
        raise ValueError(f"{correct_MxN.shape[1]:,} samples are more than float32 counts exactly.")
    return correct_MxN
