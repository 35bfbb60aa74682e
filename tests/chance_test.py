"""chance.py against SciPy's tests, which take one count at a time, and against paper."""

import numpy as np
import pytest
from scipy import stats

from ktjax.analysis import chance


@pytest.mark.parametrize("size", [1, 7, 16000])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_interval_is_clopper_and_pearsons(size, level):
    counts = sorted({0, 1, size // 3, size - 1, size})
    low, high = chance.binomial_interval(np.array(counts), size, level=level)
    for count, *found in zip(counts, low, high, strict=True):
        exact = stats.binomtest(count, size).proportion_ci(level, method="exact")
        assert found == pytest.approx([exact.low, exact.high], rel=1e-6)
    assert low[0] == 0 and high[-1] == 1


@pytest.mark.parametrize(("count", "size"), [(-1, 5), (6, 5), (0, 0)])
def test_interval_refuses_other_counts(count, size):
    with pytest.raises(ValueError, match=rf"0 \.\. {size}"):
        chance.binomial_interval(count, size)
    with pytest.raises(ValueError, match="between 0 and 1, not 95"):
        chance.binomial_interval(0, 5, level=95)


def test_mcnemar_is_the_test_of_a_fair_coin():
    positive = np.array([0, 0, 1, 5, 10, 700, 3, 40])
    negative = np.array([0, 6, 0, 5, 2, 620, 900, 40])
    found = chance.mcnemar(positive, negative)
    assert found[0] == 1  # nothing was tossed
    for p, a, b in zip(found[1:], positive[1:], negative[1:], strict=True):
        assert p == pytest.approx(stats.binomtest(int(a), int(a + b)).pvalue, rel=1e-6)
    assert (found == chance.mcnemar(negative, positive)).all()


def test_spearman_on_paper():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15).
    assert chance.spearman([1, 5, 6, 90], [-2, -3, 8, 7]) == pytest.approx(0.6)
    assert chance.spearman([1, 2, 3], [1, 10, 1000]) == pytest.approx(1)
    assert chance.spearman([1, 2, 3], [1, 0, -5]) == pytest.approx(-1)


def test_correlations_with_ties_are_scipys():
    x, y = [1, 1, 2, 3, 3, 3], [4, 1, 1, 7, 2, 7]
    assert chance.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert chance.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


@pytest.mark.parametrize("correlation", [chance.pearson, chance.spearman])
def test_correlation_that_is_not_defined_is_none(correlation):
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 2, 3], [4, 4, 4]) is None
    assert correlation([1, 2], [3, 4]) is None
    assert correlation([], []) is None
    with pytest.raises(ValueError, match="must have the same shape"):
        correlation([1, 2, 3], [1, 2])


def test_the_variance_of_seeds_is_pooled():
    # Squares about 2: 1 + 0 + 1, with 2 degrees; about 5: 1 + 1, with 1; a single run says nothing.
    assert chance.pooled_sd([[1, 2, 3], [4, 6], [100]]) == pytest.approx((4 / 3) ** 0.5)
    assert chance.pooled_sd([[1, 3], [7, 9]]) == pytest.approx(2**0.5)  # each about its own mean
    assert chance.pooled_sd([[1], [2]]) is None and chance.pooled_sd([]) is None


def test_of_many_tests_few_reject():
    # 0.05 / 4 = 0.0125, then / 3 = 0.0167, / 2 = 0.025, / 1 = 0.05: the third is too large.
    assert chance.holm([0.04, 0.01, 0.03, 0.015]).tolist() == [False, True, False, True]
    assert chance.holm([0.0125, 0.0126]).tolist() == [True, True]
    assert chance.holm([0.026, 0.04]).tolist() == [False, False]  # 0.04 alone would reject
    assert chance.holm([0.026, 0.04], level=0.1).tolist() == [True, True]
    assert chance.holm([]).tolist() == []


def clustered(values, students, teachers, **level):
    return chance.clustered_interval(values, students=students, teachers=teachers, **level)


def test_the_interval_over_pairs_counts_students_and_teachers():
    # Sums: a 2, b -2, x 2, y -2. Each side 2 * 8 / 16 = 1, pairs 4 / 3 * 8 / 16 = 2 / 3.
    low, high = clustered([2, 0, 0, -2], "aabb", "xyxy")
    t = 12.7062047  # of one degree
    assert (low, high) == pytest.approx((-t * (4 / 3) ** 0.5, t * (4 / 3) ** 0.5))
    # About 3: a -3, b 3, x -2, y 2. 2 * 18 / 16 and 1, pairs 14 / 12: the students' alone is more.
    low, high = clustered([1, 2, 3, 6], "aabb", "xyxy")
    assert (low, high) == pytest.approx((3 - t * 1.5, 3 + t * 1.5))
    low, high = clustered([1, 2, 3, 6], "aabb", "xyxy", level=0.5)
    assert (low, high) == pytest.approx((3 - 1.5, 3 + 1.5))  # t of one degree and 50 % is 1


def test_the_interval_over_pairs_counts_models_in_both_roles():
    """Each pair changes by 1 for a and b in it, and by -1 for c and d, whoever teaches."""
    pairs = [(s, t) for s in "abcd" for t in "abcd" if s != t]
    change = dict(a=1, b=1, c=-1, d=-1)
    values = [change[s] + change[t] for s, t in pairs]
    students, teachers = zip(*pairs, strict=True)
    # ab and ba share a model with ten pairs, of which the two with a change of 2, as they have, do
    # not add up to 0; so do cd and dc: 4 * 2 * 4 = 32. As many models of other names: two-way.
    _, high = clustered(values, students, teachers)
    assert high == pytest.approx(3.18244631 * (4 / 3 * 32 / 144) ** 0.5)
    _, high = clustered(values, students, [t.upper() for t in teachers])
    assert high == pytest.approx(3.18244631 * (2 * 4 / 3 * 16 / 144 - 12 / 11 * 16 / 144) ** 0.5)


def test_the_interval_of_one_student_is_over_its_teachers():
    # 3 / 2 * (1 + 1) / 9 = 1 / 3, two degrees.
    expected = (2 - 4.30265273 / 3**0.5, 2 + 4.30265273 / 3**0.5)
    assert clustered([1, 2, 3], "aaa", "xyz") == pytest.approx(expected)
    assert clustered([1, 2, 3], "abc", "xxx") == pytest.approx(expected)
    assert clustered([1], "a", "x") is None
    with pytest.raises(ValueError, match="a student and a teacher for each"):
        clustered([1, 2], "ab", "x")
