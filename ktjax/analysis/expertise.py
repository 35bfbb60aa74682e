"""Areas of expertise: the classes in which a teacher knows more than the student (paper section 3).

Are the classes of one area more alike than any two classes? `set_similarity` compares them by a
matrix of similarities: as in the paper, between CLIP's embeddings of their names (`clip_text`);
between their `prototypes` in a model's feature space; or, for classes that come in known groups
(scripts of characters, branches of WordNet), `group_similarity`. Only the first needs another
model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ktjax.analysis import flips

PERCENTS = (2, 5, 20, 50)


def top_classes(counts_C: np.ndarray, percent: float) -> np.ndarray:
    """Smallest set of classes that holds at least `percent` % of all positive flips.

    Args:
      counts_C: positive flips per class, integers [C].
      percent: above 0, at most 100.

    Returns:
      Class numbers, int [K], those with most flips first; ties by class number. Empty when there
      are no flips.

    Raises:
      ValueError: `counts_C` is not non-negative integers [C] with C > 0, or `percent` is out of
        range.
    """
    counts_C = np.asarray(counts_C)
    if counts_C.ndim != 1 or counts_C.size == 0 or counts_C.dtype.kind not in "iu":
        raise ValueError(
            f"counts_C must be integers of shape [C] with C > 0, "
            f"not {counts_C.dtype} {list(counts_C.shape)}."
        )
    if counts_C.min() < 0:
        raise ValueError(f"counts_C must not be negative, but its minimum is {counts_C.min()}.")
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, not {percent}.")
    counts_C = counts_C.astype(np.int64)  # unsigned counts cannot be negated
    order_C = np.argsort(-counts_C, kind="stable")
    held_C = np.cumsum(counts_C[order_C])
    if held_C[-1] == 0:
        return order_C[:0]
    # Whole numbers on the left, so 20 % of 10 flips is 2 and not 2.0000000000000004.
    size = int(np.argmax(100 * held_C >= percent * held_C[-1])) + 1
    return order_C[:size]


class SetSimilarity(NamedTuple):
    """Similarity of some classes, compared with all classes; None if there are no pairs."""

    mean: float | None  # over the pairs of the classes
    max: float | None  # the most similar pair of the classes
    mean_all: float | None  # over all pairs of distinct classes


def set_similarity(
    classes: Sequence[int] | np.ndarray, similarity_CxC: np.ndarray
) -> SetSimilarity:
    """Similarity of some classes, compared with all classes (paper section 3).

    Args:
      classes: distinct class numbers, such as `top_classes` gives.
      similarity_CxC: of each pair, in both orders; NaN if unknown. Such pairs and the diagonal are
        left out.

    Returns:
      Mean and maximum over the pairs of `classes`, and the mean over all pairs of the C classes.

    Raises:
      ValueError: `similarity_CxC` is not [C, C] with C > 0, or `classes` has repeated or unknown
        numbers.
    """
    similarity_CxC, classes = np.asarray(similarity_CxC), np.asarray(classes)
    shape = similarity_CxC.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"similarity_CxC must have shape [C, C] with C > 0, not {list(shape)}.")
    pairs_all = _pairs(similarity_CxC)
    if classes.size == 0:
        return SetSimilarity(None, None, _mean(pairs_all))
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError("classes must be class numbers, integers of shape [K].")
    if classes.min() < 0 or classes.max() >= shape[0]:
        raise ValueError(
            f"classes must lie in 0 .. {shape[0] - 1}, not {classes.min()} .. {classes.max()}."
        )
    if np.unique(classes).size < classes.size:
        raise ValueError("classes must not repeat: a class is always like itself.")
    pairs = _pairs(similarity_CxC[np.ix_(classes, classes)])
    largest = float(pairs.max()) if pairs.size else None
    return SetSimilarity(_mean(pairs), largest, _mean(pairs_all))


def group_similarity(group_C: Sequence | np.ndarray) -> np.ndarray:
    """1 for two classes of the same group, else 0: float64 [C, C]; means are shares of pairs.

    ValueError if `group_C`, numbers or names of groups, is not [C] with C > 0.
    """
    group_C = np.asarray(group_C)
    if group_C.ndim != 1 or group_C.size == 0:
        raise ValueError(f"group_C must have shape [C] with C > 0, not {list(group_C.shape)}.")
    number_C = np.unique(group_C, return_inverse=True)[1]  # comparing names is slow
    return (number_C[:, None] == number_C[None]).astype(np.float64)


def cosine_similarity(embedding_CxD: np.ndarray) -> np.ndarray:
    """Cosines between embeddings of classes: float64 [C, C], -1 .. 1.

    NaN for the pairs of a class whose embedding is 0 or NaN, which has no direction.

    ValueError if `embedding_CxD` is not [C, D], or is empty.
    """
    unit_CxD = _unit(_matrix(embedding_CxD, "embedding_CxD"))
    unit_CxD[~unit_CxD.any(axis=1)] = np.nan
    # Rounding can leave 1.0000000000000002.
    return np.clip(unit_CxD @ unit_CxD.T, -1, 1)


def prototypes(features_NxD: np.ndarray, label_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Class prototypes, the means of their samples' features at unit length: float64 [C, D].

    NaN for a class without samples. Features that are all 0 have no direction, and count as 0.

    ValueError if the features are not [N, D], are empty or not finite, or if `label_N` is not an
    integer [N] with every label in 0 .. C - 1.
    """
    features_NxD = _matrix(features_NxD, "features_NxD")
    if not np.all(np.isfinite(features_NxD)):
        raise ValueError("features_NxD has values that are not finite.")
    label_N = flips.labels(label_N, size=len(features_NxD), num_classes=num_classes)
    prototype_CxD = np.full((num_classes, features_NxD.shape[1]), np.nan)
    for c in np.unique(label_N):  # one class at a time: float64 copies of all would be large
        prototype_CxD[c] = _unit(features_NxD[label_N == c]).mean(axis=0)
    return prototype_CxD


def _pairs(similarity_KxK: np.ndarray) -> np.ndarray:
    """The known similarities of distinct classes."""
    known_KxK = ~np.isnan(similarity_KxK)
    np.fill_diagonal(known_KxK, False)
    return similarity_KxK[known_KxK]


def _mean(pairs: np.ndarray) -> float | None:
    return float(pairs.mean(dtype=np.float64)) if pairs.size else None


def _matrix(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0:
        shape = f"[{name[-3]}, {name[-1]}]"
        raise ValueError(f"{name} must be non-empty, of shape {shape}, not {list(array.shape)}.")
    return array


def _unit(rows_NxD: np.ndarray) -> np.ndarray:
    """The rows scaled to unit length, float64; rows of length 0 stay."""
    rows_NxD = rows_NxD.astype(np.float64)
    norm_Nx1 = np.linalg.norm(rows_NxD, axis=1, keepdims=True)
    return rows_NxD / np.where(norm_Nx1 == 0, 1, norm_Nx1)
