"""What a model loses by being fed from a batch of a larger size than its own.

InputSpec.prepare resizes such a batch a second time. With bilinear and bicubic interpolation it
filters as Pillow does, but in floating point: within 0.01 of 255 levels. The images here are
generated, sharp photographs of 500 x 375 pixels (standard deviation 47 levels), the model takes 224
pixels. If it shares a batch of 256, its pixels differ from those of its own transform by 4.7
(bilinear) and 4.9 levels (bicubic; root mean square); if it shares one of 288 to 448, by 8.9 to
11.2 and 11.1 to 13.9, for there the two crops lie half a pixel apart, since crops begin at whole
pixels. Pillow's second resize would cost the same, to 0.3 %, and the logits of a small ResNet
differ as much, to 2 %. `PYTHONPATH=. python tests/shared_batch_test.py` prints these figures.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

from ktjax import models
from ktjax.bench import data as bench_data
from ktjax.classifier import InputSpec
from ktjax.data import decode

SIZE = 224
LARGER = (256, 288, 320, 384, 448)
INTERPOLATIONS = ("bilinear", "bicubic")
CROP_PCT = 0.875
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@functools.cache
def photos():
    rng = np.random.default_rng(0)
    return [bench_data.photo(rng, height=375, width=500) for _ in range(6)]


@functools.cache
def cropped(size, interpolation):
    """The photos as timm's transform for evaluation gives them."""
    return np.stack(
        [
            decode.eval_crop(
                image, size=(size, size), crop_pct=CROP_PCT, interpolation=interpolation
            )
            for image in photos()
        ]
    )


@functools.cache
def small_resnet():
    """Of random weights."""
    return models.create("test_resnet", classes=tuple("abcdefghij"), seed=0)


def model(interpolation):
    """The same, with ImageNet's mean and standard deviation."""
    spec = InputSpec(
        (SIZE, SIZE), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation, CROP_PCT
    )
    return dataclasses.replace(small_resnet(), input=spec)


@functools.cache
def classify(interpolation):
    classifier = model(interpolation)
    return jax.jit(lambda image: classifier.apply(classifier.variables, image)[0].logits)


def in_pillow(image_BxHxWx3, interpolation):
    """Resized once more, to the size of the model."""
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((SIZE, SIZE), RESAMPLE[interpolation]))
            for image in image_BxHxWx3
        ]
    )


def on_device(image_BxHxWx3, interpolation):
    """The same by `prepare`, in levels from 0 to 255."""
    spec = InputSpec((SIZE, SIZE), (0, 0, 0), (1, 1, 1), interpolation)
    return 255 * np.asarray(jax.jit(spec.prepare)(image_BxHxWx3))


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def costs(size, interpolation):
    """Root mean squares of differences to the model's own transform.

    Of pixels in levels, and of logits as a share of how they differ among images: on the device,
    and in Pillow.
    """
    own, shared = (cropped(side, interpolation) for side in (SIZE, size))
    again = in_pillow(shared, interpolation)
    logits, device, pillow = (np.asarray(classify(interpolation)(x)) for x in (own, shared, again))
    spread = rms(logits - logits.mean(axis=0, keepdims=True))
    return {
        "pixels_device": rms(on_device(shared, interpolation) - own),
        "pixels_pillow": rms(again.astype(float) - own),
        "logits_device": rms(device - logits) / spread,
        "logits_pillow": rms(pillow - logits) / spread,
    }


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("out", [(SIZE, SIZE), (192, 240), (300, 288)])
def test_prepare_filters_as_pillow_does(out, interpolation):
    """In floating point, that is without Pillow's rounding: smaller, larger, and not square."""
    image = cropped(256, interpolation)[0]
    spec = InputSpec(out, (0, 0, 0), (1, 1, 1), interpolation)
    channels = [
        np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize(out[::-1], resample))
        for c in range(3)
        for resample in [RESAMPLE[interpolation]]
    ]
    prepared = 255 * np.asarray(spec.prepare(image[None]))[0]
    assert np.abs(prepared - np.stack(channels, axis=2)).max() < 0.01


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_batch_of_the_models_size_is_its_own(interpolation):
    spec = model(interpolation).input
    own = cropped(SIZE, interpolation)
    mean, std = (np.array(v, np.float32)[None, None, None] for v in (spec.mean, spec.std))
    expected = (own.astype(np.float32) / 255 - mean) / std
    np.testing.assert_allclose(spec.prepare(own), expected, rtol=1e-6, atol=1e-6)  # one bit


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [256, 384])
def test_a_larger_batch_costs_what_resizing_twice_costs(size, interpolation):
    cost = costs(size, interpolation)
    assert cost["pixels_device"] == pytest.approx(cost["pixels_pillow"], rel=0.005)
    assert cost["logits_device"] == pytest.approx(cost["logits_pillow"], rel=0.03)
    figures = {"bilinear": {256: 4.7, 384: 9.4}, "bicubic": {256: 4.9, 384: 11.6}}
    assert cost["pixels_device"] == pytest.approx(figures[interpolation][size], abs=0.1)


if __name__ == "__main__":
    for interpolation in INTERPOLATIONS:
        for size in LARGER:
            cost = costs(size, interpolation)
            print(interpolation, size, *(f"{name} {value:.3f}" for name, value in cost.items()))
