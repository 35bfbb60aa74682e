"""Areas of expertise: the classes in which a teacher knows more than the student (paper section 3).

The paper compares the names of those classes by CLIP text embeddings. Where the classes come in
known groups (scripts of characters, branches of WordNet), `group_similarity` answers the same
question without another model: are the classes of one area more alike than any two classes?
"""

from collections.abc import Sequence

import numpy as np

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
      ValueError: `counts_C` is not non-negative integers [C] with C > 0, or `percent` is outside.
    """
    counts_C = np.asarray(counts_C)
    if counts_C.ndim != 1 or counts_C.size == 0 or counts_C.dtype.kind not in "iu":
        raise ValueError(
            f"counts_C must be integers of shape [C] with C > 0, "
            f"not {counts_C.dtype} {list(counts_C.shape)}."
        )
    if counts_C.min() < 0:
        raise ValueError(f"counts_C must not be negative, and its smallest is {counts_C.min()}.")
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


def group_similarity(
    classes: Sequence[int] | np.ndarray, group_C: Sequence | np.ndarray
) -> tuple[float | None, float | None]:
    """How alike some classes are, against how alike all are: shares of pairs, 0 .. 1.

    Two classes have similarity 1 if they are in the same group, else 0.

    Args:
      classes: distinct class numbers, such as `top_classes` gives.
      group_C: the group of every class (numbers or names), [C].

    Returns:
      Mean similarity over the pairs of `classes`, and over all pairs of the C classes; None in
      place of a mean over no pairs (fewer than two classes).

    Raises:
      ValueError: `group_C` is not [C] with C > 0, or `classes` has repeated or unknown numbers.
    """
    group_C, classes = np.asarray(group_C), np.asarray(classes)
    if group_C.ndim != 1 or group_C.size == 0:
        raise ValueError(f"group_C must have shape [C] with C > 0, not {list(group_C.shape)}.")
    if classes.size == 0:
        return None, _same_group(group_C)
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError("classes must be class numbers, integers of shape [K].")
    if classes.min() < 0 or classes.max() >= group_C.size:
        raise ValueError(
            f"classes must lie in 0 .. {group_C.size - 1}, not {classes.min()} .. {classes.max()}."
        )
    if np.unique(classes).size < classes.size:
        raise ValueError("classes must not repeat: a class is always like itself.")
    return _same_group(group_C[classes]), _same_group(group_C)


def _same_group(group_K: np.ndarray) -> float | None:
    """Share of the pairs that are in one group."""
    if group_K.size < 2:
        return None
    sizes = [int(size) for size in np.unique(group_K, return_counts=True)[1]]
    return sum(n * (n - 1) for n in sizes) / (group_K.size * (group_K.size - 1))
