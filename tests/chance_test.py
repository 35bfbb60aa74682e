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
    with pytest.raises(ValueError, match="same things"):
        correlation([1, 2, 3], [1, 2])
