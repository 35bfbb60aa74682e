"""expertise.py against searches over all sets and all pairs."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ktjax.analysis import expertise


def test_top_classes_on_paper():
    counts = np.array([1, 5, 0, 3, 1])  # 10 flips
    assert expertise.top_classes(counts, 2).tolist() == [1]
    assert expertise.top_classes(counts, 50).tolist() == [1]
    assert expertise.top_classes(counts, 51).tolist() == [1, 3]
    assert expertise.top_classes(counts, 80).tolist() == [1, 3]
    assert expertise.top_classes(counts, 90).tolist() == [1, 3, 0]
    assert expertise.top_classes(counts, 100).tolist() == [1, 3, 0, 4]


def test_top_classes_breaks_ties_by_class_number():
    counts = np.array([1, 0, 2] * 20)  # short arrays are sorted stably by any algorithm
    assert expertise.top_classes(counts, 100).tolist() == [*range(2, 60, 3), *range(0, 60, 3)]


def test_top_classes_of_unsigned_counts():
    assert expertise.top_classes(np.array([0, 3, 1], np.uint8), 100).tolist() == [1, 2]


def test_top_classes_without_flips():
    for percent in expertise.PERCENTS:
        assert expertise.top_classes(np.zeros(3, int), percent).tolist() == []


@hypothesis.given(
    st.lists(st.integers(0, 9), min_size=1, max_size=7), st.sampled_from([*expertise.PERCENTS, 100])
)
def test_no_smaller_set_holds_as_much(counts, percent):
    top = expertise.top_classes(np.array(counts), percent).tolist()
    assert 100 * sum(counts[c] for c in top) >= percent * sum(counts)
    for smaller in itertools.combinations(counts, max(len(top) - 1, 0)):
        assert not top or 100 * sum(smaller) < percent * sum(counts)


def test_group_similarity_against_all_pairs():
    groups = np.array(["digit", "digit", "greek", "greek", "greek", "sign"])

    def share(classes):
        pairs = list(itertools.combinations(classes, 2))
        return sum(groups[a] == groups[b] for a, b in pairs) / len(pairs)

    for classes in ([2, 3, 0], [4, 1], [0, 1], [5, 4, 3, 2, 1, 0]):
        expected = (share(classes), share(range(6)))
        assert expertise.group_similarity(classes, groups) == pytest.approx(expected)
    assert expertise.group_similarity([2, 3, 4], groups) == (1.0, 4 / 15)


def test_group_similarity_needs_two_classes():
    assert expertise.group_similarity([], [0, 0]) == (None, 1.0)
    assert expertise.group_similarity(np.array([1]), [0, 0]) == (None, 1.0)
    assert expertise.group_similarity([0], [0]) == (None, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expertise.top_classes(np.array([1, -1]), 5), "negative"),
        (lambda: expertise.top_classes(np.array([0.5, 0.5]), 5), "integers"),
        (lambda: expertise.top_classes(np.array([], int), 5), "C > 0"),
        (lambda: expertise.top_classes(np.array([1, 2]), 0), "percent"),
        (lambda: expertise.top_classes(np.array([1, 2]), 101), "percent"),
        (lambda: expertise.group_similarity([0, 2], [0, 0]), "0 .. 1"),
        (lambda: expertise.group_similarity([-1, 0], [0, 0]), "0 .. 1"),
        (lambda: expertise.group_similarity([0, 0], [0, 0]), "repeat"),
        (lambda: expertise.group_similarity([0.0, 1.0], [0, 0]), "integers"),
        (lambda: expertise.group_similarity([0], []), "C > 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
