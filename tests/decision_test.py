"""Is a student better than before? By hand, and as often as promised."""

import numpy as np
import pytest

from ktjax.analysis import chance, decision


def test_p_values_by_hand():
    assert decision.p_value(0, 0) == 1
    assert decision.p_value(5, 0) == pytest.approx(1 / 32)
    assert decision.p_value(0, 5) == 1
    assert decision.p_value(4, 1) == pytest.approx(6 / 32)  # 4 or 5 of 5 throws


@pytest.mark.parametrize(("gained", "lost"), [(9, 3), (40, 25), (7, 1)])
def test_half_of_the_two_sided_test(gained, lost):
    two_sided = float(chance.mcnemar(gained, lost))
    assert 2 * decision.p_value(gained, lost) == pytest.approx(two_sided)


def answers(gained, lost, size):
    """What is said before and after of `size` images of class 1."""
    before_N, after_N = np.ones(size, int), np.ones(size, int)
    before_N[:gained] = 0
    after_N[gained : gained + lost] = 0
    return before_N, after_N, np.ones(size, int)


def test_decisions():
    assert decision.is_better(*answers(5, 0, 20))  # p = 0.031
    assert not decision.is_better(*answers(5, 0, 20), decisions=2)
    assert decision.is_better(*answers(6, 0, 20), decisions=2)  # p = 0.016
    assert not decision.is_better(*answers(0, 5, 20))
    assert not decision.is_better(*answers(0, 0, 20))


def test_the_fewest_images_are_as_few_as_decide():
    for decisions, fewest in ((1, 5), (2, 6), (3, 6), (12, 8)):
        assert decision.fewest(decisions=decisions) == fewest
        assert decision.is_better(*answers(fewest, 0, fewest), decisions=decisions)
        assert not decision.is_better(*answers(fewest - 1, 0, fewest), decisions=decisions)


def test_another_wrong_answer_is_no_gain():
    before_N, label_N = np.zeros(50, int), np.ones(50, int)
    assert not decision.is_better(before_N, np.full(50, 2), label_N)


@pytest.mark.parametrize(("points", "least", "most"), [(0.0, 0.0, 0.06), (None, 0.87, 0.93)])
def test_as_often_as_promised(points, least, most):
    """Of students that are no better 5 % at most are taken, of those of `least_gain` 90 %."""
    size, churn = 20_000, 4.0
    gain = decision.least_gain(800, size) if points is None else points
    generator = np.random.default_rng(0)
    moved = generator.binomial(size, churn / 100, 4000)
    gained = generator.binomial(moved, (1 + gain / churn) / 2)
    taken = [
        decision.p_value(g, m - g) <= decision.LEVEL for g, m in zip(gained, moved, strict=True)
    ]
    assert least <= np.mean(taken) <= most


def test_more_images_see_less():
    few, many = decision.least_gain(800, 20_000), decision.least_gain(3200, 80_000)
    assert few == pytest.approx(0.415, abs=0.001) and many == pytest.approx(0.209, abs=0.001)
    assert decision.least_gain(800, 20_000, decisions=3) > few


def test_too_few_changes_show_nothing():
    """Of four images that changed not even four gains are better than a coin: p = 1 / 16."""
    assert decision.least_gain(0, 1000) is None
    assert decision.least_gain(4, 40) is None and not decision.is_better(*answers(4, 0, 40))
    gain = decision.least_gain(5, 40)  # all five have to be gained: (1 + gain / churn) / 2 is p
    assert ((1 + gain / 12.5) / 2) ** 5 == pytest.approx(decision.POWER)
    assert decision.least_gain(5, 40, decisions=2) is None
