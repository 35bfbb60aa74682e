"""What chance alone would do: exact intervals and tests for shares of samples, and correlations.

These hold the models fixed: they say what another draw of the samples would change, not another
training. What other seeds, students and teachers would change is said by `pooled_sd` and
`clustered_interval`.
"""

import statistics
from collections.abc import Hashable, Iterator, Sequence

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


def holm(p_values: Sequence[float], *, level: float = 0.05) -> np.ndarray:
    """Which of many tests reject, so that one that should not is among them in `level` at most.

    Holm, "A simple sequentially rejective multiple test procedure" (Scandinavian Journal of
    Statistics 1979): the smallest p-value is held against level / tests, the next against
    level / (tests - 1), up to the first that is larger. The tests may depend on each other.

    Args:
      p_values: of each test.
      level: how often a true hypothesis may be rejected, in all tests together.

    Returns:
      bool, for each test.
    """
    p_T = np.asarray(p_values, np.float64)
    order_T = np.argsort(p_T, kind="stable")
    small_T = p_T[order_T] <= level / np.arange(p_T.size, 0, -1)
    rejected_T = np.zeros(p_T.size, bool)
    rejected_T[order_T] = np.logical_and.accumulate(small_T)
    return rejected_T


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


def mean(values: Sequence[float]) -> float:
    """The mean, to a billionth: what is nothing, or equal, in whole images is so here, too."""
    return round(statistics.fmean(values), 9)


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups, in their unit: of one run over seeds, say.

    The squared distances from each group's own mean, over sum(size - 1): three seeds alone tell
    little of how seeds spread, those of a whole table do. It takes the spread to be the same in all
    groups. None where no group has two members.
    """
    squares = sum(float(np.sum((np.asarray(g) - np.mean(g)) ** 2)) for g in groups if len(g) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return (squares / freedom) ** 0.5 if freedom else None


def clustered_interval(
    values: Sequence[float],
    *,
    students: Sequence[Hashable],
    teachers: Sequence[Hashable],
    level: float = 0.95,
) -> tuple[float, float] | None:
    """An interval for the mean over pairs, of which those of one model are alike.

    The variance of the mean is that clustered by student, plus that by teacher, less that of pairs
    (Cameron, Gelbach and Miller, "Robust Inference with Multiway Clustering", JBES 2011, eq. 2.13),
    each with the factor clusters / (clusters - 1), and never less than either alone. The quantile
    is Student's t of one degree less than the fewer clusters. Of a side with one model nothing is
    said: the interval is for this model.

    Args:
      values: of each pair, one for all its seeds; in any unit, which is that of the interval.
      students: of each pair.
      teachers: of each pair.
      level: how often the interval is to hold the mean.

    Returns:
      (low, high); None where neither side has two models.

    ValueError if there are no values, or these are not about the same pairs.
    """
    value_P = np.asarray(values, np.float64)
    if not value_P.size or not value_P.size == len(students) == len(teachers):
        raise ValueError("There must be values, with a student and a teacher each.")
    sides = [side for side in (students, teachers) if len(set(side)) > 1]
    if not sides:
        return None
    variances = [_clustered_variance(value_P, side) for side in sides]
    variance = variances[0]
    if len(sides) == 2:
        of_pairs = _clustered_variance(value_P, list(zip(*sides, strict=True)))
        variance = max(*variances, sum(variances) - of_pairs)
    freedom = min(len(set(side)) for side in sides) - 1
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * variance**0.5
    return float(value_P.mean()) - half, float(value_P.mean()) + half


def resampled(
    students: Sequence[Hashable], teachers: Sequence[Hashable], *, draws: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs as other students and teachers would give them: the pigeonhole bootstrap.

    Students are drawn with replacement, and so are teachers, each on their own; a pair is there as
    often as both were drawn. A side with one model stays as it is. (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 2007: its variance is somewhat too large rather than
    too small.)

    Args:
      students: of each pair.
      teachers: of each pair.
      draws: how often.
      seed: of the draws.

    Yields:
      How often the student, and how often the teacher of each pair was drawn: int [P] each. Draws
      that leave no pair are left out.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    sides = []
    for names in (students, teachers):
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        sides.append((len(numbers), np.asarray([numbers[name] for name in names])))
    for _ in range(draws):
        of_student_P, of_teacher_P = (
            np.bincount(generator.integers(0, size, size), minlength=size)[number_P]
            for size, number_P in sides
        )
        if np.any(of_student_P * of_teacher_P):
            yield of_student_P, of_teacher_P


def _clustered_variance(value_P: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """Variance of the mean where the members of a cluster may be alike."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    number_P = [numbers[cluster] for cluster in clusters]
    sum_G = np.bincount(number_P, weights=value_P - value_P.mean())
    return float(np.sum(sum_G**2)) * sum_G.size / (sum_G.size - 1) / value_P.size**2
