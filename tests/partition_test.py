"""Who teaches which sample, against a loop over samples and models written from the definition."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import partition


def by_loop(logits_SxBxC, label_B):
    """The most confident of the initial student (0) and the teachers; a tie goes to the former."""
    source_B = []
    for b in range(logits_SxBxC.shape[1]):
        confidences = []
        for logits_C in logits_SxBxC[:, b].tolist():
            exps = [math.exp(z - max(logits_C)) for z in logits_C]
            probabilities = [e / sum(exps) for e in exps]
            confidences.append(max(probabilities) if label_B is None else probabilities[label_B[b]])
        best = 0
        for s, confidence in enumerate(confidences):
            if confidence > confidences[best]:
                best = s
        source_B.append(best)
    return np.array(source_B)


def draw(seed, *, models, samples=40, classes=5):
    rng = np.random.default_rng(seed)
    logits_SxBxC = rng.normal(0, 2, (models, samples, classes)).astype(np.float32)
    return logits_SxBxC, rng.integers(0, classes, samples).astype(np.int32)


def run(logits_SxBxC, label_B):
    label_B = None if label_B is None else jnp.asarray(label_B)
    source_B = partition.most_confident(jnp.asarray(logits_SxBxC), label_B=label_B)
    return np.asarray(source_B), np.asarray(partition.take(jnp.asarray(logits_SxBxC), source_B))


@pytest.mark.smoke
@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_equals_the_loop(teachers, supervised):
    for seed in range(5):
        logits_SxBxC, label_B = draw(seed, models=1 + teachers)
        label_B = label_B if supervised else None
        source_B, target_BxC = run(logits_SxBxC, label_B)
        expected_B = by_loop(logits_SxBxC, label_B)
        np.testing.assert_array_equal(source_B, expected_B)
        assert set(expected_B) == set(range(1 + teachers))  # each teaches something
        for b, s in enumerate(expected_B):
            np.testing.assert_array_equal(target_BxC[b], logits_SxBxC[s, b])


@pytest.mark.parametrize("supervised", [True, False])
def test_ties_go_to_the_initial_student(supervised):
    logits_SxBxC, label_B = draw(0, models=1)
    lesser_SxBxC = np.zeros_like(logits_SxBxC)  # uniform: never more confident than the maximum
    same_SxBxC = np.concatenate([logits_SxBxC, logits_SxBxC, lesser_SxBxC, logits_SxBxC])
    source_B, _ = run(same_SxBxC, label_B if supervised else None)
    if supervised:  # where the student is worse than a guess, the uniform teacher is better
        np.testing.assert_array_equal(source_B, by_loop(same_SxBxC, label_B))
        assert set(source_B) == {0, 2}
    else:
        assert set(source_B) == {0}


def test_one_teacher_is_the_definition_with_two_cases():
    logits_SxBxC, label_B = draw(1, models=2)
    exps = np.exp(logits_SxBxC.astype(np.float64))
    probs_SxBxC = exps / exps.sum(axis=-1, keepdims=True)
    p_0, p_t = probs_SxBxC[:, np.arange(len(label_B)), label_B]
    expected_BxC = np.where((p_t > p_0)[:, None], logits_SxBxC[1], logits_SxBxC[0])
    np.testing.assert_array_equal(run(logits_SxBxC, label_B)[1], expected_BxC)
    # That teacher again, as a second one, has nothing to add.
    np.testing.assert_array_equal(run(logits_SxBxC[[0, 1, 1]], label_B)[1], expected_BxC)


@pytest.mark.parametrize("supervised", [True, False])
def test_order_of_the_teachers_does_not_matter(supervised):
    logits_SxBxC, label_B = draw(2, models=4)
    label_B = label_B if supervised else None
    _, expected_BxC = run(logits_SxBxC, label_B)
    for order in itertools.permutations((1, 2, 3)):
        np.testing.assert_array_equal(run(logits_SxBxC[[0, *order]], label_B)[1], expected_BxC)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits(dtype):
    initial = [[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, 0, 1e4]]
    teacher = [[-1e4, 1e4, 0], [1e4, 0, -1e4], [-1e4, 0, 1e4]]
    logits_SxBxC = jnp.asarray([initial, teacher], dtype)
    label_B = jnp.asarray([0, 1, 0])  # surely the initial; exp(-10000) over exp(-20000); a tie
    assert jnp.isfinite(partition.confidence(logits_SxBxC, label_B=label_B)).all()
    assert partition.most_confident(logits_SxBxC, label_B=label_B).tolist() == [0, 1, 0]
    assert partition.most_confident(logits_SxBxC, label_B=None).tolist() == [0, 0, 0]


@pytest.mark.parametrize("label", [0, None])
def test_tells_the_surer_of_two_sure_models(label):
    """Both probabilities are 1 in float32, and their logarithms 0: 1 - 4e-9 and 1 - 3e-11."""
    logits_SxBxC = np.float32([[[20, 0, 0]], [[25, 0, 0]]])
    label_B = None if label is None else np.array([label])
    for logits, surer in ((logits_SxBxC, 1), (logits_SxBxC[::-1], 0)):
        assert run(logits, label_B)[0] == [surer]
