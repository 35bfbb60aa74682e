"""The weights of a log-linear pool: by hand, and against other ways to the same minimum."""

import numpy as np
import pytest
from scipy import optimize, special

from ktjax.analysis import calibration, pool


def loss_of(weight_S, logits_SxNxC, label_N):
    log_p = special.log_softmax(np.tensordot(weight_S, logits_SxNxC, axes=1), axis=1)
    return -np.mean(log_p[np.arange(len(label_N)), label_N])


@pytest.fixture(scope="module")
def zoo():
    """Three models that know parts of the labels, two of them boastful: logits and labels."""
    generator = np.random.default_rng(0)
    label_N = generator.integers(0, 7, 9000)
    truth = np.eye(7)[label_N]
    logits = [
        scale * (strength * truth + generator.normal(size=truth.shape))
        for strength, scale in ((1.0, 1.0), (2.0, 4.0), (0.3, 9.0))
    ]
    return np.asarray(logits, np.float32), label_N


def test_one_model_is_calibrated(zoo):
    logits_SxNxC, label_N = zoo
    (weight,) = pool.weights(logits_SxNxC[1:2], label_N)
    assert weight == pytest.approx(1 / calibration.temperature(logits_SxNxC[1], label_N), rel=1e-4)


def test_the_weights_of_a_known_model():
    """Labels drawn from softmax(0.8 a + 0.3 b): these weights come back, up to their error."""
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, 40_000, 5)) * 2
    p = special.softmax(0.8 * a + 0.3 * b, axis=1)
    label_N = (p.cumsum(axis=1) > generator.random((len(p), 1))).argmax(axis=1)
    np.testing.assert_allclose(pool.weights([a, b], label_N), [0.8, 0.3], atol=0.02)


def test_nothing_is_better(zoo):
    logits_SxNxC, label_N = zoo
    weight_S = pool.weights(logits_SxNxC, label_N)
    found = optimize.minimize(loss_of, np.ones(3), args=zoo, method="BFGS")
    np.testing.assert_allclose(weight_S, found.x, atol=1e-4)
    assert loss_of(weight_S, *zoo) <= found.fun + 1e-9


def test_the_same_model_twice_shares_its_weight(zoo):
    logits_SxNxC, label_N = zoo
    once = pool.weights(logits_SxNxC[:1], label_N)
    twice = pool.weights(logits_SxNxC[[0, 0]], label_N)
    np.testing.assert_allclose(twice, [once[0] / 2] * 2, rtol=1e-4)


def test_far_too_sure_models_converge(zoo):
    """Newton's full step overshoots where all probabilities are 0 or 1."""
    logits_SxNxC, label_N = zoo
    sure = pool.weights(1000 * logits_SxNxC, label_N)
    np.testing.assert_allclose(1000 * sure, pool.weights(logits_SxNxC, label_N), rtol=1e-3)


def test_weights_stay_finite_where_every_sample_is_right():
    """Cross-entropy alone has no minimum here. By hand, of the sum over both samples:

    2 log(1 + exp(-2 w)) + 0.03 w^2 / 2, as logits vary by 1, has its minimum where
    4 / (1 + exp(2 w)) = 0.03 w.
    """
    (weight,) = pool.weights([np.array([[2.0, 0.0], [0.0, 2.0]])], np.array([0, 1]))
    assert 4 / (1 + np.exp(2 * weight)) == pytest.approx(0.03 * weight, rel=1e-4)
    assert 1 < weight < 3


@pytest.mark.parametrize(
    ("logits", "labels"), [([], [0]), ([np.zeros((0, 2))], []), ([[[0, np.inf]]], [0])]
)
def test_what_cannot_be_fitted(logits, labels):
    with pytest.raises(ValueError, match="The weights of a pool are fitted on"):
        pool.weights(np.asarray(logits, float), np.asarray(labels, int))
