"""Predictions of a model: `ktjax.predict` and `ktjax predict`, for people who use a student.

Images go through the model's own transform, bit-identical to timm's evaluation transform: resized
and cropped as its checkpoint says, and normalized on the device. As in timm, the EXIF orientation
is applied only on request.
"""

import argparse
import functools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ktjax import models
from ktjax.classifier import Classifier, Forward, InputSpec
from ktjax.data import decode, sources

_BATCH = 64  # images
ImageLike = str | os.PathLike | np.ndarray | Image.Image


class Prediction(NamedTuple):
    """A predicted class and its probability."""

    label: str
    probability: float


def predict(
    model: Classifier | str,
    images: np.ndarray | ImageLike | Sequence[ImageLike],
    *,
    top: int = 5,
    batch_size: int = _BATCH,
    upright: bool = False,
) -> list[list[Prediction]]:
    """The most probable classes of each image.

    Args:
      model: a Classifier, or a name or folder as `ktjax.load_model` takes it.
      images: paths, Pillow images, or uint8 arrays [H, W, 3], NumPy's or JAX's, of any sizes; an
        array [B, H, W, 3]; or a single one of the first three.
      top: how many classes to return; all, if there are fewer.
      batch_size: how many images are processed at a time.
      upright: rotates files and Pillow images as their EXIF says, for a model that was trained
        with config.upright.

    Returns:
      The classes of each image, the most probable first.

    Raises:
      ValueError: a missing or unreadable file, an array of the wrong kind, an unknown model, one
        with a single class, or `top` or `batch_size` below 1.
    """
    answered = _answered(model, _listed(images), top=top, batch_size=batch_size, upright=upright)
    return [classes for _, classes in answered]


def _answered(
    model: Classifier | str,
    images: Sequence[Any],
    *,
    top: int,
    batch_size: int,
    upright: bool,
    refused: list[str] | None = None,
) -> Iterator[tuple[Any, list[Prediction]]]:
    """Each image with its most probable classes, batch by batch.

    With `refused`, what is wrong with an image is added there, and the others are answered.
    """
    for name, count in (("top", top), ("batch_size", batch_size)):
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more.")
    if isinstance(model, str | os.PathLike):
        model = models.load(os.fspath(model))
    if not model.classes:
        raise ValueError(
            f"{model.name} has no classes of its own: name them with "
            "predict(ktjax.load_model(NAME, classes=...), ...)."
        )
    if len(model.classes) == 1:
        raise ValueError(
            f"{model.name} has one class, '{model.classes[0]}', whose probability would always be "
            "1: a classifier needs two or more."
        )
    rows = min(batch_size, len(images))  # compiles for one size only
    for start in range(0, len(images), batch_size):
        batch, prepared = [], []
        for image in images[start : start + batch_size]:
            try:
                prepared.append(_prepared(image, model.input, upright))
            except ValueError as error:
                if refused is None:
                    raise
                refused.append(str(error))
            else:
                batch.append(image)
        if not batch:
            continue
        padded = np.pad(np.stack(prepared), [(0, rows - len(batch)), (0, 0), (0, 0), (0, 0)])
        probability_BxC = _probabilities(model.forward, model.input, model.variables, padded)
        for image, probability_C in zip(batch, np.asarray(probability_BxC), strict=False):
            best = np.argsort(-probability_C, kind="stable")[:top]
            yield image, [Prediction(model.classes[c], float(probability_C[c])) for c in best]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probabilities(
    forward: Forward, spec: InputSpec, variables: Any, image_BxHxWx3: jax.Array
) -> jax.Array:
    x = spec.prepare(image_BxHxWx3)
    output, _ = forward(variables, x, train=False, rngs=None, freeze_stats=False)
    return jax.nn.softmax(output.logits.astype(np.float32))


def _listed(images: Any) -> list[Any]:
    if isinstance(images, np.ndarray | jax.Array):
        return list(images) if images.ndim == 4 else [images]
    alone = isinstance(images, str | os.PathLike | Image.Image)
    return [images] if alone else list(images)


def _prepared(image: Any, spec: InputSpec, upright: bool) -> np.ndarray:
    """The image resized and cropped for the model: uint8 [h, w, 3]."""
    return decode.eval_crop(
        _pixels(image, upright),
        size=spec.size,
        crop_pct=spec.crop_pct,
        interpolation=spec.interpolation,
        crop_mode=spec.crop_mode,
        fill=spec.fill,
    )


def _pixels(image: Any, upright: bool) -> np.ndarray:
    """The unchanged image: uint8 [H, W, 3]."""
    if isinstance(image, Image.Image):
        image_HxWx3 = decode.of_pillow(image)
        turn = decode.orientation_of(image) if upright else 1
        return decode.turned(image_HxWx3, turn)
    if isinstance(image, str | os.PathLike):
        if os.path.isdir(image):
            raise ValueError(f"'{image}' is a folder: name its images, such as {image}/*.jpg.")
        if not os.path.exists(image):
            raise ValueError(f"There is no image '{image}'.")
        try:
            return decode.decode(sources.read_file(image), upright=upright)
        except decode.DecodeError as error:
            raise ValueError(f"'{image}' does not decode: {error}.") from error
        except OSError as error:
            raise ValueError(f"'{image}' cannot be read: {error.strerror or error}.") from error
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"An image must be uint8 [H, W, 3], RGB, not {image.dtype} {list(image.shape)}."
        )
    return image


def main(words: Sequence[str]) -> None:
    """`ktjax predict MODEL IMAGE... [--top N] [--json]`.

    Raises:
      ValueError: as `predict`; one about images comes after the answers to all others.
    """
    parser = argparse.ArgumentParser("ktjax predict", description="Classifies images.")
    parser.add_argument("model", help="a name or folder, as ktjax.load_model takes it")
    parser.add_argument("image", nargs="+", help="PNG, JPEG, or any format Pillow reads")
    parser.add_argument("--top", type=int, default=5, help="classes per image (%(default)s)")
    parser.add_argument("--upright", action="store_true", help="rotate images as their EXIF says")
    parser.add_argument("--json", action="store_true", help="print one JSON object, keyed by image")
    asked = parser.parse_args(words)
    refused: list[str] = []
    answered = _answered(
        asked.model,
        asked.image,
        top=asked.top,
        batch_size=_BATCH,
        upright=asked.upright,
        refused=refused,
    )
    if asked.json:
        found = {image: [one._asdict() for one in classes] for image, classes in answered}
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        for image, classes in answered:
            print(image)
            for label, probability in classes:
                print(f"  {100 * probability:5.1f} %  {label}", flush=True)
    if refused:
        raise ValueError("\n".join(refused))
