"""The content of store.json: what answers depend on, see targets/__init__.py."""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

import ktjax
from ktjax.batches import Split
from ktjax.classifier import Classifier
from ktjax.targets.rows import Form
from ktjax.targets.store import FORMAT, PLAIN

# They decode, draw, resize and augment images, and compute answers.
_PACKAGES = ("jax", "dm-pix", "numpy", "pillow", "simplejpeg", "numba", "matplotlib")
_PROBES = 512  # images whose pixels are hashed


def views(
    images: Split,
    *,
    data: str,
    size: int,
    crop_pct: float,
    interpolation: str,
    crop_mode: str,
    fill: tuple[int, int, int],
    upright: bool,
    crop_scale: tuple[float, float] | None,
    augment: str,
    seed: int,
) -> dict[str, Any]:
    """The views of a training split.

    The images are identified by their count, their labels, and the pixels of some hundreds of them
    before augmentation; neither the location of the files nor the name `data` matters.

    Args:
      images: the split.
      data: its name.
      size: side in pixels.
      crop_pct, interpolation, crop_scale, upright: how images are read, as in configs.
      crop_mode, fill: of the models' input, as in pipeline.Reading.
      augment: from ktjax.augment.RECIPES; or PLAIN: one view, the images as used for evaluation.
      seed: of the views.
    """
    plain = augment == PLAIN
    return {
        "data": data,
        **_seen(images, None if plain else seed),
        "size": size,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "crop_mode": crop_mode,
        "fill": list(fill),
        "upright": upright,
        "crop_scale": None if plain or crop_scale is None else list(crop_scale),
        "augment": augment,
        "seed": None if plain else seed,
    }


def split(images: Split) -> dict[str, Any]:
    """A split as used for evaluation."""
    return _seen(images, None)


def model(classifier: Classifier) -> dict[str, Any]:
    """A model: its weights, and its input format."""
    spec = classifier.input
    return {
        "name": classifier.name,
        "origin": classifier.origin,
        "weights": weights(classifier.variables),
        "architecture": classifier.architecture,
        # Of a model that answers no block is skipped: a student and the same model as a teacher
        # share a store, whatever the rate that the student trains with.
        "options": _options(classifier, but=("drop_path_rate",)),
        "input": f"{spec.size} {spec.mean} {spec.std} {spec.interpolation}",
    }


def fingerprint(classifier: Classifier) -> str:
    """The SHA-256 of what a model computes: its weights, and a function that is not ktjax's."""
    of_weights = weights(classifier.variables)
    if classifier.definition is None:
        return of_weights
    return hashlib.sha256(f"{of_weights} {_options(classifier)}".encode()).hexdigest()


def weights(variables: Any) -> str:
    """The SHA-256 of all weights, with their names and shapes."""
    found = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(variables))
    for name, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        array = np.ascontiguousarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def answers(
    of_model: Mapping[str, Any],
    of_images: Mapping[str, Any],
    *,
    classes: tuple[str, ...],
    form: Form,
    dtype: str,
    tune: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """store.json's description of a model's answers.

    Args:
      of_model: `model`, or what is known of another framework's model.
      of_images: `views`.
      classes: in logit order.
      form: what is kept.
      dtype: what the model computed in.
      tune, validation: `split`; None: there are no answers for it.
    """
    description = {
        "format": FORMAT,
        "model": dict(of_model),
        "images": dict(of_images),
        "classes": classes,
        "k": form.k,
        "ways": form.ways,
        "dtype": dtype,
        "versions": versions(),
        "tune": tune,
        "validation": validation,
    }
    return json.loads(json.dumps(description))  # as when read back: lists, not tuples


def labels(label_N: np.ndarray) -> str:
    """The SHA-256 of the labels of images."""
    return hashlib.sha256(label_N.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of ktjax and the packages that may change answers and views."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"ktjax": ktjax.__version__, **found}


def _options(classifier: Classifier, *, but: Collection[str] = ()) -> str:
    options = {name: value for name, value in classifier.options.items() if name not in but}
    return json.dumps(options, sort_keys=True, default=str)


def _seen(images: Split, seed: int | None) -> dict[str, Any]:
    return {
        "examples": len(images),
        "labels": labels(images.label_N),
        "pixels": _pixels(images, seed),
    }


def _pixels(images: Split, seed: int | None) -> str:
    """The SHA-256 of some images, spread evenly; of their first view if there is a seed."""
    probes = np.unique(np.linspace(0, len(images) - 1, _PROBES).astype(int))
    taken = images.take(probes) if seed is None else images.views(probes, seed=seed, view=0)
    return hashlib.sha256(np.ascontiguousarray(taken).tobytes()).hexdigest()
