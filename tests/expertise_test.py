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


def test_set_similarity_on_paper():
    similarity = np.array(
        [
            [1.0, 0.8, 0.3, -0.1],
            [0.8, 1.0, 0.4, 0.0],
            [0.3, 0.4, 1.0, 0.5],
            [-0.1, 0.0, 0.5, 1.0],
        ]
    )
    # Pairs 0-1, 0-2, 1-2, and all six of them, which sum to 1.9.
    found = expertise.set_similarity([2, 0, 1], similarity)
    assert found == pytest.approx((0.5, 0.8, 1.9 / 6))
    assert found._fields == ("mean", "max", "mean_all")
    found = expertise.set_similarity(np.array([0, 3]), similarity.astype(np.float32))
    assert found == pytest.approx((-0.1, -0.1, 1.9 / 6))
    assert all(type(value) is float for value in found)  # JSON takes no float32


def test_set_similarity_leaves_out_what_is_unknown():
    similarity = np.array([[1.0, 0.5, np.nan], [0.5, 1.0, np.nan], [np.nan, np.nan, np.nan]])
    assert expertise.set_similarity([0, 1, 2], similarity) == (0.5, 0.5, 0.5)
    assert expertise.set_similarity([1, 2], similarity) == (None, None, 0.5)
    assert expertise.set_similarity([1, 2], np.full((3, 3), np.nan)) == (None, None, None)


def test_set_similarity_needs_two_classes():
    similarity = np.array([[1, 0.25], [0.25, 1]])
    assert expertise.set_similarity([], similarity) == (None, None, 0.25)
    assert expertise.set_similarity(np.array([1]), similarity) == (None, None, 0.25)
    assert expertise.set_similarity([0], np.ones((1, 1))) == (None, None, None)


def test_group_similarity_against_all_pairs():
    groups = np.array(["digit", "digit", "greek", "greek", "greek", "sign"])

    def share(classes):
        pairs = list(itertools.combinations(classes, 2))
        return sum(groups[a] == groups[b] for a, b in pairs) / len(pairs)

    similarity = expertise.group_similarity(groups)
    for classes in ([2, 3, 0], [4, 1], [0, 1], [5, 4, 3, 2, 1, 0]):
        mean, _, mean_all = expertise.set_similarity(classes, similarity)
        assert (mean, mean_all) == pytest.approx((share(classes), share(range(6))))
    assert expertise.set_similarity([2, 3, 4], similarity) == (1.0, 1.0, 4 / 15)
    assert expertise.set_similarity([0, 2, 5], similarity) == (0.0, 0.0, 4 / 15)


def test_cosine_similarity_on_paper():
    similarity = expertise.cosine_similarity(np.array([[2, 0], [3, 4], [0, 5], [-1, 0]], np.int32))
    expected = [[1, 0.6, 0, -1], [0.6, 1, 0.8, -0.6], [0, 0.8, 1, 0], [-1, -0.6, 0, 1]]
    np.testing.assert_allclose(similarity, expected, atol=1e-15)


def test_no_cosine_is_above_1():
    assert expertise.cosine_similarity(np.random.default_rng(0).normal(size=(99, 7))).max() == 1


def test_a_class_without_direction_is_like_none():
    embedding = np.array([[1.0, 1.0], [0.0, 0.0], [np.nan, np.nan], [1.0, -1.0]])
    similarity = expertise.cosine_similarity(embedding)
    assert np.isnan(similarity[1:3]).all() and np.isnan(similarity[:, 1:3]).all()
    np.testing.assert_allclose(similarity[::3, ::3], np.eye(2), atol=1e-15)


def test_prototypes_on_paper():
    # Class 0: (1, 0) and (0.6, 0.8); class 1 has no samples; class 2: (0, 1) and one of length 0.
    features = np.array([[7, 0], [0, 3], [0.3, 0.4], [0, 0]], np.float32)
    found = expertise.prototypes(features, np.array([0, 2, 0, 2]), 3)
    expected = [[0.8, 0.4], [np.nan, np.nan], [0, 0.5]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    large = np.array([[300, 400]], np.float16)  # whose squares are infinite
    np.testing.assert_allclose(expertise.prototypes(large, np.array([0]), 1), [[0.6, 0.8]])
    similarity = expertise.cosine_similarity(found)
    assert expertise.set_similarity([0, 2], similarity).mean == pytest.approx(0.2**0.5)
    assert expertise.set_similarity([0, 1], similarity).mean is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expertise.top_classes(np.array([1, -1]), 5), "negative"),
        (lambda: expertise.top_classes(np.array([0.5, 0.5]), 5), "integers"),
        (lambda: expertise.top_classes(np.array([], int), 5), "C > 0"),
        (lambda: expertise.top_classes(np.array([1, 2]), 0), "percent"),
        (lambda: expertise.top_classes(np.array([1, 2]), 101), "percent"),
        (lambda: expertise.set_similarity([0, 2], np.eye(2)), "0 .. 1"),
        (lambda: expertise.set_similarity([-1, 0], np.eye(2)), "0 .. 1"),
        (lambda: expertise.set_similarity([0, 0], np.eye(2)), "repeat"),
        (lambda: expertise.set_similarity([0.0, 1.0], np.eye(2)), "integers"),
        (lambda: expertise.set_similarity([0], np.ones((2, 3))), r"\[C, C\].*not \[2, 3\]"),
        (lambda: expertise.set_similarity([0], np.ones(3)), r"\[C, C\].*not \[3\]"),
        (lambda: expertise.set_similarity([], np.ones((0, 0))), "C > 0"),
        (lambda: expertise.group_similarity([]), "C > 0"),
        (lambda: expertise.group_similarity([[0, 1]]), r"not \[1, 2\]"),
        (lambda: expertise.cosine_similarity(np.ones(3)), r"embedding_CxD.*\[C, D\].*not \[3\]"),
        (lambda: expertise.cosine_similarity(np.ones((3, 0))), r"not \[3, 0\]"),
        (lambda: expertise.prototypes(np.ones((0, 3)), [], 2), r"features_NxD.*\[N, D\]"),
        (lambda: expertise.prototypes(np.full((1, 3), np.inf), np.array([0]), 2), "finite"),
        (lambda: expertise.prototypes(np.ones((2, 3)), np.array([0, 2]), 2), r"0 \.\. 1, not 0"),
        (lambda: expertise.prototypes(np.ones((2, 3)), np.array([0, -1]), 2), "without a label"),
        (lambda: expertise.prototypes(np.ones((2, 3)), np.array([0]), 2), r"shape \[2\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
