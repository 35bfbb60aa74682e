"""What chance alone would do: exact intervals and tests for shares of samples, and correlations.

All of them hold the models fixed: they say what another draw of the samples would change, not
another training.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special, stats


def binomial_interval(
    count: np.ndarray | int, size: int, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's interval for a share, 0 .. 1, when `count` of `size` were seen.

    It is exact: it covers the true share at least as often as `level` says.

    ValueError if a count is not in 0 .. size, or `level` not between 0 and 1.
    """
    count = np.asarray(count, np.float64)
    if size < 1 or np.any(count < 0) or np.any(count > size):
        raise ValueError(f"Counts must lie in 0 .. {size}, and there must be samples.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}.")
    tail = (1 - level) / 2
    # The quantiles are those of beta distributions, which do not exist at the two ends.
    low = special.betaincinv(np.maximum(count, 1), size - count + 1, tail)
    high = special.betaincinv(count + 1, np.maximum(size - count, 1), 1 - tail)
    return np.where(count == 0, 0.0, low), np.where(count == size, 1.0, high)


def mcnemar(positive: np.ndarray | int, negative: np.ndarray | int) -> np.ndarray:
    """p-values of McNemar's exact test that two models are equally accurate, two-sided.

    If they are, a coin decides which of the two gets a sample right that only one of them does;
    `positive` and `negative` count these. Without such samples: 1.
    """
    positive, negative = np.asarray(positive), np.asarray(negative)
    fewer, both = np.minimum(positive, negative), positive + negative
    return np.minimum(1.0, 2 * special.bdtr(fewer.astype(np.float64), both, 0.5))


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, -1 .. 1; ties share their mean rank. None where it is not defined."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Linear correlation, -1 .. 1; None with fewer than three points, or where one never varies."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"These must be about the same things: {x.shape} and {y.shape}.")
    # Two points always lie on a line.
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1].clip(-1, 1))
