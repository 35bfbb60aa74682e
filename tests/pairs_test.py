"""pairs.py against counts made on paper, and against flips.py and plain loops, pair by pair."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ktjax.analysis import flips, pairs

T, F = True, False
LABEL = np.array([0, 0, 1, 1, 2, 2])
ANSWER = np.array([[0, 0, 1, 0, 0, 1], [0, 1, 2, 1, 2, 0], [1, 1, 2, 0, 0, 2]])
CORRECT = np.array([[T, T, T, F, F, F], [T, F, F, T, T, F], [F, F, F, F, F, T]])
M, N, C = 7, 1301, 37  # N is more than two steps of `_count`, and no block divides M, N or C


@pytest.fixture(scope="module")
def zoo():
    """What `pairs.measure` takes; few confidences, so that many tie, at both ends of float32."""
    rng = np.random.default_rng(0)
    ends = [1e-45, 1e-38, 6e-8, 3.4e38, np.inf]
    values = [-3, -1, -0.0, 0.0, 1, 1.0000001, 65504, 65504.004, *ends, *(-x for x in ends)]
    confidence = rng.choice(np.array(values, np.float32), (2, M, N))
    answer = rng.integers(0, C, (M, N)).astype(np.int16)
    correct = rng.random((M, N)) < rng.uniform(0.2, 0.9, (M, 1))
    correct[5], correct[6] = True, False
    return dict(
        correct_MxN=correct,
        answer_MxN=answer,
        label_log_odds_MxN=confidence[0],
        max_log_odds_MxN=confidence[1],
    )


@pytest.fixture(scope="module")
def label():
    """Classes of many sizes: one of more than 255 samples, one of none."""
    return np.minimum(np.random.default_rng(1).geometric(0.25, N) - 1, C - 2)


def confident(correct, confidence, t, s):
    return sum(
        bool(correct[t, n] if confidence[t, n] > confidence[s, n] else correct[s, n])
        for n in range(correct.shape[1])
    )


def test_flips_on_paper():
    assert pairs.both_right(CORRECT).tolist() == [[3, 1, 0], [1, 3, 0], [0, 0, 1]]
    assert pairs.same_answer(ANSWER).tolist() == [[6, 1, 2], [1, 6, 2], [2, 2, 6]]
    assert pairs.flips_per_class(CORRECT, LABEL, num_classes=4).tolist() == [
        [[0, 0, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0]],
        [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]],
        [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
    ]


def test_measures_on_paper():
    # Of model 0, 1, 2 who is surest: all alike at sample 0, then 0, 0, 1, 1, 2.
    sure = np.array([[1, 2, 2, 0, 0, 0], [1, 0, 0, 2, 2, 0], [1, 1, 1, 1, 1, 9]], np.float32)
    found = pairs.measure(
        correct_MxN=CORRECT, answer_MxN=ANSWER, label_log_odds_MxN=sure, max_log_odds_MxN=-sure
    )
    sixths = {name: (6 * matrix / 100).round(9).tolist() for name, matrix in found.items()}
    assert sixths["rho_pos"] == [[0, 2, 3], [2, 0, 3], [1, 1, 0]]
    assert sixths["rho_neg"] == [[0, 2, 1], [2, 0, 1], [3, 3, 0]]
    assert sixths["agreement"] == [[6, 1, 2], [1, 6, 2], [2, 2, 6]]
    assert sixths["oracle_accuracy"] == [[3, 5, 4], [5, 3, 4], [4, 4, 1]]
    # At sample 0 the student answers: 2 is wrong there, 0 and 1 are right.
    assert sixths["partition_gain"] == [[0, 2, 2], [2, 0, 2], [1, 1, 0]]
    assert sixths["ensemble_accuracy"] == [[3, 1, 0], [1, 3, 0], [1, 1, 1]]
    assert sixths["partition_gain_unsupervised"] == [[0, -2, -1], [-2, 0, -1], [-2, -2, 0]]
    phi = found["error_correlation"]
    assert phi[0, 1] == phi[1, 0] == pytest.approx(-1 / 3)
    assert phi[0, 2] == pytest.approx(-1 / math.sqrt(5))
    assert np.diagonal(phi) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("block", [1, 2, 4, 5, 16])
def test_every_block_size_counts_the_same(block, zoo):
    correct, answer = zoo["correct_MxN"], zoo["answer_MxN"]
    same, surer = pairs.same_answer(answer, block=block), {}
    for name in ("label_log_odds_MxN", "max_log_odds_MxN"):
        surer[name] = pairs.surer_right(correct, zoo[name], block=block)
    for t in range(M):
        for s in range(M):
            assert same[t, s] == sum(a == b for a, b in zip(answer[t], answer[s], strict=True))
            for name, count in surer.items():
                assert count[t, s] == confident(correct, zoo[name], t, s), (t, s)


def test_every_pair_is_as_flips_and_a_loop_say(zoo):
    correct = zoo["correct_MxN"]
    found = pairs.measure(**zoo)
    for t in range(M):
        for s in range(M):
            of = {name: matrix[t, s] for name, matrix in found.items()}
            rho = flips.rho(teacher_correct_N=correct[t], student_correct_N=correct[s])
            assert (of["rho_pos"], of["rho_neg"]) == pytest.approx([100 * x for x in rho])
            oracle = sum(a or b for a, b in zip(correct[t], correct[s], strict=True))
            assert of["oracle_accuracy"] == pytest.approx(100 * oracle / N)
            answer = zoo["answer_MxN"]
            assert of["agreement"] == pytest.approx(100 * np.mean(answer[t] == answer[s]))
            sure = confident(correct, zoo["max_log_odds_MxN"], t, s)
            told = confident(correct, zoo["label_log_odds_MxN"], t, s)
            own = correct[s].sum()
            assert of["ensemble_accuracy"] == pytest.approx(100 * sure / N)
            assert of["partition_gain_unsupervised"] == pytest.approx(100 * (sure - own) / N)
            assert of["partition_gain"] == pytest.approx(100 * (told - own) / N)
            if {t, s} & {5, 6}:
                assert np.isnan(of["error_correlation"])
            else:
                phi = np.corrcoef(~correct[t], ~correct[s])[0, 1]
                assert of["error_correlation"] == pytest.approx(phi)
                assert -1 <= of["error_correlation"] <= 1


@hypothesis.given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=100))
@hypothesis.settings(max_examples=25, deadline=None)
def test_rho_accounts_for_the_accuracy_difference_exactly(samples):
    correct = np.resize(np.array(samples).T, (3, 100))  # one shape, one compilation
    both = pairs.both_right(correct)
    right = np.diagonal(both)
    assert right.tolist() == correct.sum(axis=1).tolist()
    positive = right[:, None] - both
    assert positive.min() >= 0
    assert (positive - positive.T == right[:, None] - right[None, :]).all()
    assert (positive == (correct[:, None] & ~correct[None]).sum(axis=2)).all()


def test_counts_are_whole_numbers_beyond_16_bits():
    size = 2**17 + 1
    right = np.ones((2, size), bool)
    sure = np.array([[1.0], [0.0]], np.float32).repeat(size, axis=1)
    assert pairs.both_right(right).tolist() == [[size] * 2] * 2
    assert pairs.same_answer(right.astype(np.int16)).tolist() == [[size] * 2] * 2
    assert pairs.surer_right(right, sure).tolist() == [[size] * 2] * 2


def test_flips_per_class_and_their_entropy_are_those_of_each_pair(zoo, label):
    correct = zoo["correct_MxN"]
    found = pairs.flips_per_class(correct, label, num_classes=C)
    assert np.bincount(label).max() > 255 and found.dtype == np.uint16
    entropy = pairs.flip_entropy(found)
    for t in range(M):
        for s in range(M):
            positive = flips.positive_flips(
                teacher_correct_N=correct[t], student_correct_N=correct[s]
            )
            expected = flips.flips_per_class(positive, label, num_classes=C)
            assert found[t, s].tolist() == expected.tolist()
            assert entropy[t, s] == pytest.approx(flips.flip_entropy(expected)[1], abs=1e-12)


def test_a_single_class_has_no_entropy():
    flips_of_one = pairs.flips_per_class(CORRECT, np.zeros(6, int), num_classes=1)
    assert flips_of_one[0, 1].tolist() == [2] and flips_of_one.dtype == np.uint8
    assert pairs.flip_entropy(flips_of_one).tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairs.both_right(CORRECT.astype(int)), r"bool of shape \[M, N\].* int64"),
        (lambda: pairs.both_right(CORRECT[0]), r"not bool \[6\]"),
        (lambda: pairs.both_right(np.broadcast_to(T, (1, 2**24))), "16,777,216 samples are more"),
        (lambda: pairs.same_answer(ANSWER * 1.0), r"integers of shape \[M, N\].*float64"),
        (lambda: pairs.surer_right(CORRECT, ANSWER * 1.0), r"float32 \[3, 6\], not float64"),
        (lambda: pairs.surer_right(CORRECT, np.full((3, 6), np.nan, "f4")), "has NaN values"),
        (lambda: pairs.flips_per_class(CORRECT, LABEL[1:], num_classes=3), r"shape \[6\]"),
        (lambda: pairs.flips_per_class(CORRECT, LABEL, num_classes=2), r"0 \.\. 1, not 0 \.\. 2"),
    ],
)
def test_other_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
