"""Predictions count every image once, whatever the batch size."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import evaluate, models
from ktjax.classifier import Output
from ktjax.data import pipeline
from ktjax.experiment import evaluation

IMAGES = pipeline.Images(
    np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8),
    np.arange(10, dtype=np.int32) % 3,
)


@pytest.mark.smoke
@pytest.mark.parametrize("batch_size", [5, 4, 10, 16])
def test_each_image_once_and_in_order(batch_size):
    # A classifier that says what it sees: its logits are the image.
    echo = types.SimpleNamespace(
        apply=lambda variables, image: (Output(image.reshape(len(image), -1) + 0.5, None), {})
    )
    logits_NxC = evaluate.make_predict(echo, batch_size=batch_size)({}, IMAGES)
    np.testing.assert_array_equal(logits_NxC, IMAGES.image_NxHxWx3.reshape(10, -1) + 0.5)


def test_float32_is_multiplied_in_float32():
    """TPUs and recent GPUs would take fewer bits."""
    asked = []

    def apply(variables, image):
        asked.append(jax.config.jax_default_matmul_precision)
        return Output(image.reshape(len(image), -1) + 0.5, None), {}

    evaluate.make_predict(types.SimpleNamespace(apply=apply), batch_size=5)({}, IMAGES)
    assert set(asked) == {"float32"}


def test_few_batches_are_on_the_devices(monkeypatch):
    """Fetched behind what runs: of a large split the logits would not fit there."""
    waiting, most = [0], [0]

    def dispatched(forward):
        def one(frozen, batch):
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            return np.zeros((1, 2, 3))

        return one

    def fetched(logits):
        waiting[0] -= 1
        return logits.reshape(-1, 3)

    monkeypatch.setattr(evaluate.parallel, "compile_forward", dispatched)
    monkeypatch.setattr(evaluate, "_rows", fetched)
    found = evaluate.make_predict(types.SimpleNamespace(), batch_size=2)({}, IMAGES)
    assert found.shape == (10, 3) and waiting == [0] and most == [3]


def test_equals_a_direct_apply():
    classifier = models.create("tiny_resnet_narrow", classes=("a", "b", "c"), seed=0)
    predict = evaluate.make_predict(classifier, batch_size=4)
    logits_NxC = predict(classifier.variables, IMAGES)
    assert logits_NxC.dtype == np.float32
    direct = jax.jit(classifier.apply)(classifier.variables, IMAGES.image_NxHxWx3)[0].logits
    np.testing.assert_allclose(logits_NxC, direct, atol=1e-5)
    # The variables are those handed over, not the classifier's own.
    double = jax.tree.map(lambda x: 2 * x, dict(classifier.variables))
    assert not np.allclose(predict(double, IMAGES), logits_NxC)


def test_accuracy_by_hand():
    logits_NxC = np.asarray(jnp.eye(4)[jnp.array([0, 1, 2, 2])])
    label_N = np.array([0, 1, 2, 3])
    assert evaluate.accuracy(logits_NxC, label_N) == 75.0
    assert evaluate.change(logits_NxC, np.eye(4)[[1, 1, 3, 3]], label_N) == -25.0
    # Of 7 images 3 and then 3 others: 100 * 3 / 7 is what it was.
    others = (np.eye(2)[[1, 1, 1, 0, 0, 0, 0]], np.eye(2)[[0, 0, 0, 0, 1, 1, 1]])
    assert evaluate.change(*others, np.ones(7, int)) == 0


def test_the_core_takes_any_data_and_any_model(python):
    """It imports no network, no hub, no data source, and nothing that decodes images."""
    modules = "ktjax.train, ktjax.objectives, ktjax.targets.live, ktjax.evaluate, ktjax.parallel"
    found = python(f"import sys, {modules}; print(*sys.modules)")
    assert "ktjax.evaluate" in found and "ktjax.batches" in found
    strangers = {"ktjax.models", "ktjax.data", "grain", "PIL", "huggingface_hub", "transformers"}
    assert not strangers & set(found)


@pytest.mark.parametrize("trained", [False, True])
def test_logits_that_are_not_finite(trained):
    """Of a model that was just trained: tune was fine, and its training counts as diverged."""
    model = types.SimpleNamespace(name="mine", origin="mine after kl", variables={"w": np.ones(2)})
    splits = types.SimpleNamespace(tune=0.0, validation=np.inf, robustness={})
    error = FloatingPointError if trained else ValueError
    with pytest.raises(error, match="mine after kl.* not finite"):
        evaluation.evaluate(
            model,
            lambda variables, value: np.full((1, 2), value),
            splits,
            layout="pmap",
            placed=model.variables if trained else None,
        )
