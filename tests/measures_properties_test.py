"""The measures of a transfer on random predictions, against loops over samples."""

import numpy as np
import pytest

from ktjax.analysis import calibration, measures

SAMPLES, CLASSES = 60, 4


def draw(seed, models):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, SAMPLES)
    logits = rng.normal(0, 2, (models, SAMPLES, CLASSES)).astype(np.float32)
    logits[:, np.arange(SAMPLES), label] += 1
    return logits, label


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_of_a_teacher_adds_up(seed):
    (before, after, teacher), label = draw(seed, 3)
    row = measures.of_transfer(
        before_NxC=before, after_NxC=after, teachers_KxNxC=teacher[None], label_N=label
    )
    correct = 100 * np.mean(teacher.argmax(axis=1) == label)
    for flips, accuracy in (("", "accuracy_before"), ("_after", "accuracy_after")):
        difference = row[f"rho_pos{flips}"] - row[f"rho_neg{flips}"]
        assert difference == pytest.approx(correct - row[accuracy])
    assert row["rho_neg_after"] != row["rho_neg"]


def by_loop(logits, label, supervised, temperatures):
    """Who teaches each sample."""
    sources = []
    for i in range(SAMPLES):
        sure = []
        for z, temperature in zip(logits, temperatures, strict=True):
            odds = np.exp(np.float64(z[i]) / temperature)
            share = odds / odds.sum()
            sure.append(share[label[i]] if supervised else share.max())
        sources.append(sure.index(max(sure)))
    return np.asarray(sources)


@pytest.mark.parametrize("temperatures", [None, [1.0, 0.8, 1.2], [3.0, 1.5, 2.0]])
@pytest.mark.parametrize("supervised", [True, False])
def test_a_partition_is_a_loop_over_samples(supervised, temperatures):
    logits, label = draw(0, 3)
    source = by_loop(logits, label, supervised, temperatures or [1, 1, 1])
    if temperatures:
        assert (source != by_loop(logits, label, supervised, [1, 1, 1])).any()
    row = measures.of_partition(
        before_NxC=logits[0],
        teachers_KxNxC=logits[1:],
        label_N=label,
        supervised=supervised,
        temperatures_S=temperatures,
    )
    shares = [100 * np.mean(source == k) for k in (1, 2)]
    assert row["taught_by"] == pytest.approx(shares) and min(shares) > 0
    # The teachers answer as the surest of them, at the same temperatures.
    best = by_loop(logits[1:], label, False, (temperatures or [1, 1, 1])[1:])
    answer = logits[1:][best, np.arange(SAMPLES)].argmax(axis=1)
    teacher, student = answer == label, logits[0].argmax(axis=1) == label
    for name, flips in (("positive", teacher & ~student), ("negative", student & ~teacher)):
        share = 100 * np.mean(source[flips] > 0)
        assert row[f"taught_{name}_flips"] == pytest.approx(share)


@pytest.mark.parametrize("temperatures", [None, [1.0, 0.8, 1.2], [3.0, 1.5, 2.0]])
def test_the_line_to_beat_is_a_loop_over_samples(temperatures):
    (before, first, second), label = draw(1, 3)
    row = measures.of_transfer(
        before_NxC=before,
        after_NxC=before,
        teachers_KxNxC=np.stack([first, second]),
        label_N=label,
        temperatures_S=temperatures,
    )
    logits = np.stack([before, first, second])
    source = by_loop(logits, label, False, temperatures or [1, 1, 1])
    if temperatures:
        assert (source != by_loop(logits, label, False, [1, 1, 1])).any()
    right = logits[source, np.arange(SAMPLES)].argmax(axis=1) == label
    assert row["ensemble_accuracy"] == pytest.approx(100 * right.mean())


@pytest.mark.smoke
def test_equally_sure_models_leave_the_answer_to_the_student():
    before = 3 * np.eye(2)
    teacher = before[::-1]
    for label, expected in ((np.arange(2), 100), (1 - np.arange(2), 0)):
        row = measures.of_transfer(
            before_NxC=before, after_NxC=before, teachers_KxNxC=teacher[None], label_N=label
        )
        assert row["ensemble_accuracy"] == expected
        shared = measures.of_partition(
            before_NxC=before,
            teachers_KxNxC=teacher[None],
            label_N=label,
            supervised=False,
            temperatures_S=[1.0, 1.0],
        )
        assert shared["taught_by"] == [0]


@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
def test_calibration_is_the_best_of_a_grid(planted):
    (logits,), _ = draw(2, 1)
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=logits.shape)
    label = (logits / planted + noise).argmax(axis=1)

    def cross_entropy(temperature):
        z = np.float64(logits) / temperature
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(SAMPLES), label])

    grid = np.geomspace(0.1, 10, 20_001)
    best = grid[np.argmin([cross_entropy(t) for t in grid])]
    assert calibration.temperature(logits, label) == pytest.approx(best, rel=1e-3)
