"""flips.py against counts made on paper, plain loops and the identities of the paper."""

import math

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from ktjax import partition
from ktjax.analysis import flips

T, F = True, False
#                   0  1  2  3  4  5  6  7
TEACHER = np.array([T, T, T, T, F, F, F, F])
BEFORE = np.array([T, F, F, F, T, T, F, F])
AFTER = np.array([T, T, T, F, F, T, T, F])
LABEL = np.array([0, 0, 2, 2, 1, 1, 1, 0])


def test_flips_on_paper():
    pair = {"teacher_correct_N": TEACHER, "student_correct_N": BEFORE}
    assert np.flatnonzero(flips.positive_flips(**pair)).tolist() == [1, 2, 3]
    assert np.flatnonzero(flips.negative_flips(**pair)).tolist() == [4, 5]
    assert flips.rho(**pair) == (3 / 8, 2 / 8)


PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@hypothesis.given(PAIRS)
def test_rho_accounts_for_the_accuracy_difference(pairs):
    teacher, student = np.array(pairs).T
    pair = {"teacher_correct_N": teacher, "student_correct_N": student}
    rho_pos, rho_neg = flips.rho(**pair)
    num_positive = sum(t and not s for t, s in pairs)
    num_negative = sum(s and not t for t, s in pairs)
    assert num_positive - num_negative == sum(t for t, _ in pairs) - sum(s for _, s in pairs)
    assert (rho_pos, rho_neg) == (num_positive / len(pairs), num_negative / len(pairs))
    assert flips.positive_flips(**pair).sum() == num_positive
    assert flips.negative_flips(**pair).sum() == num_negative


def test_delta_se_on_paper():
    # Gained 1, 2, 6; lost 4: g = 3/8, l = 1/8, sqrt((4/8 - (2/8)^2) / 8) = sqrt(7/128).
    se = flips.delta_se(before_correct_N=BEFORE, after_correct_N=AFTER)
    assert se == pytest.approx(math.sqrt(7 / 128))


@hypothesis.given(PAIRS)
def test_delta_se_is_the_spread_of_the_paired_differences(pairs):
    before, after = np.array(pairs).T
    difference = after.astype(float) - before
    expected = difference.std() / math.sqrt(len(pairs))
    se = flips.delta_se(before_correct_N=before, after_correct_N=after)
    assert se == pytest.approx(expected, abs=1e-9)


def test_delta_se_agrees_with_a_bootstrap():
    rng = np.random.default_rng(0)
    before = rng.random(2000) < 0.7
    after = np.where(rng.random(2000) < 0.1, rng.random(2000) < 0.8, before)
    draws = rng.integers(0, 2000, (2000, 2000))
    deltas = after[draws].mean(axis=1) - before[draws].mean(axis=1)
    se = flips.delta_se(before_correct_N=before, after_correct_N=after)
    assert se == pytest.approx(deltas.std(), rel=0.06)


def test_flips_per_class_on_paper():
    positive = flips.positive_flips(teacher_correct_N=TEACHER, student_correct_N=BEFORE)
    assert flips.flips_per_class(positive, LABEL, num_classes=4).tolist() == [1, 0, 2, 0]
    nothing = flips.flips_per_class(np.zeros(8, bool), LABEL, num_classes=4)
    assert nothing.tolist() == [0, 0, 0, 0]


def test_flip_entropy():
    entropy, share = flips.flip_entropy(np.array([2, 1, 1, 0]))
    assert entropy == pytest.approx(1.5 * math.log(2))
    assert share == pytest.approx(0.75)
    assert flips.flip_entropy(np.array([7, 7, 7])) == pytest.approx((math.log(3), 1.0))
    assert flips.flip_entropy(np.array([0, 9, 0])) == (0.0, 0.0)
    assert flips.flip_entropy(np.zeros(5, int)) == (0.0, 0.0)
    assert flips.flip_entropy(np.array([4])) == (0.0, 0.0)


def test_confidence_against_a_loop():
    logits = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    label = np.array([0, 1, 2, 1, 0])
    for m in range(2):
        for n in range(5):
            exps = [math.exp(z) for z in logits[m, n]]
            p = [e / sum(exps) for e in exps]
            for found, share in (
                (flips.confidence(logits, label)[m, n], p[label[n]]),
                (flips.confidence(logits)[m, n], max(p)),
            ):
                assert found == pytest.approx(math.log(share / (1 - share)), rel=1e-5, abs=1e-6)


def test_confidence_of_huge_logits():
    logits = np.array([[[1e4, 0.0], [0.0, 1e4]]], np.float32)
    np.testing.assert_array_equal(flips.confidence(logits, np.array([0, 0])), [[1e4, -1e4]])
    half = np.array([[[6e4, 6e4, 6e4]]], np.float16)  # the sum of two overflows float16
    assert flips.confidence(half)[0, 0] == pytest.approx(-math.log(2), abs=0.005)
    assert flips.confidence(half[..., :1])[0, 0] == np.inf  # there is no other class


def test_confidence_tells_apart_whose_probabilities_are_one():
    """As the partition does in training: in float64, both probabilities are 1."""
    logits = np.array([[[40.0, 0.0, 0.0]], [[45.0, 0.0, 0.0]]], np.float32)
    for label in (None, np.array([0])):
        for order, source in (([0, 1], 1), ([1, 0], 0)):
            assert flips.confidence(logits[order], label).argmax(axis=0) == [source]
            found = partition.most_confident(logits[order], label_B=label)
            assert found.tolist() == [source]


# Few values, so that many samples tie; and any others.
VALUES = st.sampled_from([-45.0, -3.0, 0.0, 1.0, 3.0, 40.0, 45.0]) | st.floats(-1e4, 1e4, width=32)
MODELS, SAMPLES, CLASSES = 4, 6, 3


@hypothesis.given(
    hypothesis_numpy.arrays(np.float32, (MODELS - 1, SAMPLES, CLASSES), elements=VALUES),
    st.integers(0, MODELS - 2),
    st.lists(st.integers(0, CLASSES - 1), min_size=SAMPLES, max_size=SAMPLES),
    st.booleans(),
)
@hypothesis.settings(deadline=None)
def test_confidence_is_that_of_the_partition(logits, again, label, supervised):
    logits = np.concatenate([logits, logits[again : again + 1]])  # it ties with one before it
    label = np.array(label, np.int32) if supervised else None
    ours = flips.confidence(logits, label)
    theirs = np.asarray(partition.confidence(jnp.asarray(logits), label_B=label))
    assert ours.dtype == theirs.dtype == np.float32
    ulp = np.spacing(np.abs(logits).max(axis=2) + 1)
    assert (np.abs(ours - theirs) <= 3 * ulp).all()
    sources = ours.argmax(axis=0)
    assert (sources < MODELS - 1).all()
    found = np.asarray(partition.most_confident(jnp.asarray(logits), label_B=label))
    for n in np.flatnonzero(sources != found):  # models that differ by rounding alone
        assert abs(ours[sources[n], n] - ours[found[n], n]) <= 6 * ulp[:, n].max()
        assert not np.array_equal(logits[sources[n], n], logits[found[n], n])


def test_confidence_ensemble():
    logits = np.array(
        [
            [[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [20.0, 0.0]],
            [[0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.0, 25.0]],
        ],
        np.float32,
    )
    # The first wins 0; the second 1; 2 ties, so the first; on 3 both are sure beyond float32.
    assert flips.confidence_ensemble(logits).tolist() == [0, 1, 1, 1]
    assert flips.confidence_ensemble(logits[1:]).tolist() == [1, 1, 0, 1]  # its own answers


def test_confidence_ensemble_at_the_temperatures_that_suit_the_models():
    logits = np.array([[[2.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]], np.float32)
    # At 4 and 1 the first is surer by 1/2 and 1/4, the second by 1 and 2; at 1 and 4 by 2 and 1,
    # 1/4 and 1/2. What a model answers is the same at any temperature.
    assert flips.confidence_ensemble(logits).tolist() == [0, 1]
    assert flips.confidence_ensemble(logits, [4.0, 1.0]).tolist() == [1, 1]
    assert flips.confidence_ensemble(logits, [1.0, 4.0]).tolist() == [0, 0]


def test_transfer_rate_on_paper():
    correct = {"teacher_correct_N": TEACHER, "before_correct_N": BEFORE, "after_correct_N": AFTER}
    assert flips.transfer_rate(**correct) == 2 / 3
    assert flips.transfer_rate(**correct, where_N=LABEL == 2) == 1 / 2
    assert flips.transfer_rate(**correct, where_N=LABEL == 1) is None


def test_given_to_teacher_on_paper():
    source = np.array([0, 1, 0, 2, 1, 0, 0, 0])
    positive = flips.positive_flips(teacher_correct_N=TEACHER, student_correct_N=BEFORE)
    assert flips.given_to_teacher(source, positive) == 2 / 3
    assert flips.given_to_teacher(source, np.zeros(8, bool)) is None


LOGITS = np.zeros((1, 8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flips.rho(teacher_correct_N=TEACHER, student_correct_N=BEFORE[1:]), "student has"),
        (lambda: flips.rho(teacher_correct_N=TEACHER * 1, student_correct_N=BEFORE), "bool array"),
        (lambda: flips.rho(teacher_correct_N=TEACHER[:0], student_correct_N=BEFORE[:0]), "N > 0"),
        (lambda: flips.flips_per_class(TEACHER, LABEL - 1, num_classes=3), "without a label"),
        (lambda: flips.flips_per_class(TEACHER, LABEL, num_classes=2), "0 .. 1"),
        (lambda: flips.flips_per_class(TEACHER, LABEL * 1.0, num_classes=3), "integers"),
        (lambda: flips.flip_entropy(np.zeros((2, 2))), "shape"),
        (lambda: flips.flip_entropy(np.array([1, -1])), "negative"),
        (lambda: flips.confidence(LOGITS[0]), "shape"),
        (lambda: flips.confidence(LOGITS, LABEL - 1), "without a label"),
        (lambda: flips.confidence(LOGITS * np.nan), "not finite"),
        (lambda: flips.confidence_ensemble(LOGITS[:0]), "shape"),
        (lambda: flips.given_to_teacher(LABEL - 1, TEACHER), "non-negative"),
        (lambda: flips.given_to_teacher(LABEL[1:], TEACHER), "non-negative"),
        (
            lambda: flips.transfer_rate(
                teacher_correct_N=TEACHER,
                before_correct_N=BEFORE,
                after_correct_N=AFTER,
                where_N=TEACHER[1:],
            ),
            "where has 7",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
