"""The temperature that a model should have had."""

import numpy as np
import pytest

from ktjax.analysis import calibration


def sampled(temperature, *, number=4000, classes=5, seed=0):
    """Logits, and labels drawn from what these say at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (number, classes)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(axis=1)


def cross_entropy(logits, label, temperature):
    z = np.float64(logits) / temperature
    return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), label])


@pytest.mark.smoke
@pytest.mark.parametrize("planted", [0.5, 1.0, 3.0])
def test_finds_what_was_planted(planted):
    logits, label = sampled(planted)
    assert calibration.temperature(logits, label) == pytest.approx(planted, rel=0.1)


def test_nothing_is_better():
    logits, label = sampled(2.0)
    found = calibration.temperature(logits, label)
    best = cross_entropy(logits, label, found)
    for other in np.geomspace(0.2, 20, 200):
        assert best <= cross_entropy(logits, label, other) + 1e-9


def test_louder_logits_want_a_higher_temperature():
    logits, label = sampled(1.0)
    found = calibration.temperature(logits, label)
    assert calibration.temperature(4 * logits, label) == pytest.approx(4 * found, rel=1e-3)


def test_always_right_or_saying_nothing_stays_within_bounds():
    logits = 3 * np.eye(4, dtype=np.float32)
    low, high = calibration.BOUNDS
    assert low <= calibration.temperature(logits, np.arange(4)) < 0.2
    assert calibration.temperature(logits, (np.arange(4) + 1) % 4) > 50
    assert low <= calibration.temperature(0 * logits, np.arange(4)) <= high
