"""Statistics of chance: exact intervals and tests for shares of samples, and correlations.

These hold the models fixed: they cover another draw of the samples, not another training run.
`pooled_sd` and `clustered_interval` cover other seeds, students and teachers.
"""

import statistics
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from scipy import special


def binomial_interval(
    count: np.ndarray | int, size: int, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """The Clopper-Pearson interval for a share, 0 .. 1, after observing `count` of `size`.

    It is exact: it covers the true share at least as often as `level` says.

    ValueError if a count is not in 0 .. size, or `level` not between 0 and 1.
    """
    count = np.asarray(count, np.float64)
    if size < 1 or np.any(count < 0) or np.any(count > size):
        raise ValueError(f"Counts must lie in 0 .. {size}, and there must be samples.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}.")
    tail = (1 - level) / 2
    # These are quantiles of beta distributions, which are undefined at the two ends.
    low = special.betaincinv(np.maximum(count, 1), size - count + 1, tail)
    high = special.betaincinv(count + 1, np.maximum(size - count, 1), 1 - tail)
    return np.where(count == 0, 0.0, low), np.where(count == size, 1.0, high)


def mcnemar(positive: np.ndarray | int, negative: np.ndarray | int) -> np.ndarray:
    """p-values of McNemar's exact test that two models are equally accurate, two-sided.

    If they are, a fair coin decides which of the two gets a sample right that only one of them
    gets right; `positive` and `negative` count these samples. 1 if there are none.
    """
    positive, negative = np.asarray(positive), np.asarray(negative)
    fewer, both = np.minimum(positive, negative), positive + negative
    return np.minimum(1.0, 2 * special.bdtr(fewer.astype(np.float64), both, 0.5))


def holm(p_values: Sequence[float], *, level: float = 0.05) -> np.ndarray:
    """Which of many tests reject, at a family-wise error rate of at most `level`.

    Holm, "A simple sequentially rejective multiple test procedure" (Scandinavian Journal of
    Statistics 1979): the smallest p-value is compared with level / tests, the next with
    level / (tests - 1), up to the first that is larger. The tests may depend on each other.

    Args:
      p_values: one per test.
      level: the probability of rejecting any true hypothesis, over all tests.

    Returns:
      bool [T], one per test.
    """
    p_T = np.asarray(p_values, np.float64)
    order_T = np.argsort(p_T, kind="stable")
    small_T = p_T[order_T] <= level / np.arange(p_T.size, 0, -1)
    rejected_T = np.zeros(p_T.size, bool)
    rejected_T[order_T] = np.logical_and.accumulate(small_T)
    return rejected_T


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, -1 .. 1; ties share their mean rank. None if it is undefined."""
    from scipy import stats  # takes long to import, and most jobs have nothing to rank

    return pearson(stats.rankdata(x), stats.rankdata(y))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Linear correlation, -1 .. 1; None with fewer than three points, or if one is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must have the same shape [N], not {x.shape} and {y.shape}.")
    # Two points always lie on a line.
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1].clip(-1, 1))


def mean(values: Sequence[float]) -> float:
    """The mean, rounded to 1e-9, so that means of whole images compare exactly, also with 0."""
    return round(statistics.fmean(values), 9)


def mean_if_known(values: Sequence[float | None]) -> float | None:
    """The same; None if one of them is."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Pooled standard deviation within groups, in their unit: of runs over seeds, for example.

    The squared distances from each group's own mean, over sum(size - 1): three seeds alone say
    little about the spread over seeds, those of a whole table say more. Assumes the same spread in
    all groups. None if no group has two members.
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
    """A confidence interval for the mean over pairs, where pairs with a common model correlate.

    The variance of the mean is that clustered by student, plus that by teacher, minus that by pair
    (Cameron, Gelbach and Miller, "Robust Inference with Multiway Clustering", JBES 2011, eq. 2.13),
    each with the factor clusters / (clusters - 1), and at least as large as either alone. Where
    students also teach, it is at least that of pairs with a common model in whichever role
    (Aronow, Samii and Assenova, "Cluster-Robust Variance Estimation for Dyadic Data", Political
    Analysis 2015). The quantile is Student's t with one degree of freedom less than the smaller
    number of clusters. If a side has only one model, the interval holds for this model.

    Args:
      values: one per pair, for all its seeds; the interval has the same unit.
      students: one per pair.
      teachers: one per pair; equal to a student if it is the same model.
      level: coverage of the interval.

    Returns:
      (low, high); None if neither side has two models.

    ValueError if there are no values, or the lengths differ.
    """
    value_P = np.asarray(values, np.float64)
    if not value_P.size or not value_P.size == len(students) == len(teachers):
        raise ValueError("There must be at least one value, and a student and a teacher for each.")
    sides = [side for side in (students, teachers) if len(set(side)) > 1]
    if not sides:
        return None
    variances = [_clustered_variance(value_P, side) for side in sides]
    variance = variances[0]
    if len(sides) == 2:
        of_pairs = _clustered_variance(value_P, list(zip(*sides, strict=True)))
        of_models = _dyadic_variance(value_P, students, teachers)
        variance = max(*variances, sum(variances) - of_pairs, of_models)
    freedom = min(len(set(side)) for side in sides) - 1
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * variance**0.5
    return float(value_P.mean()) - half, float(value_P.mean()) + half


def resampled(
    students: Sequence[Hashable], teachers: Sequence[Hashable], *, draws: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Resamples the students and teachers of pairs: the pigeonhole bootstrap.

    Students and teachers are drawn independently, with replacement; the weight of a pair is the
    product of both counts. A side with one model stays as it is. (Owen, "The pigeonhole bootstrap",
    Annals of Applied Statistics 2007: its variance is slightly too large rather than too small.)

    Args:
      students: one per pair.
      teachers: one per pair.
      draws: the number of draws.
      seed: of the draws.

    Yields:
      How often each pair's student and its teacher were drawn: int [P] each. Draws that leave no
      pair are skipped.
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
    """Variance of the mean if the members of a cluster may correlate."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    number_P = [numbers[cluster] for cluster in clusters]
    sum_G = np.bincount(number_P, weights=value_P - value_P.mean())
    return float(np.sum(sum_G**2)) * sum_G.size / (sum_G.size - 1) / value_P.size**2


def _dyadic_variance(
    value_P: np.ndarray, students: Sequence[Hashable], teachers: Sequence[Hashable]
) -> float:
    """Variance of the mean if any two pairs with a common model may correlate."""
    models = {model: number for number, model in enumerate(dict.fromkeys((*students, *teachers)))}
    member_PxM = np.zeros((value_P.size, len(models)))
    for side in (students, teachers):
        member_PxM[np.arange(value_P.size), [models[model] for model in side]] = 1
    error_P = value_P - value_P.mean()
    share_PxP = member_PxM @ member_PxM.T > 0
    factor = len(models) / (len(models) - 1) / value_P.size**2
    return max(float(error_P @ share_PxP @ error_P), 0.0) * factor
