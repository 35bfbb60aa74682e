"""Classifier <-> a folder of config.json and model.safetensors. Never pickle.

config.json has the fields of timm's (`architecture`, `num_classes`, `label_names`,
`pretrained_cfg`), so that one reader serves both; `format` tells whose parameter names the weights
have. In a folder of ours they are the paths of the Flax tree, joined by "/".
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from ktjax.models.classifier import Classifier, InputSpec

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_FORMAT = "ktjax"


def is_export(folder: Path) -> bool:
    """Whether the folder holds a model."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder; ValueError if it is not one of ours."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} was not written by ktjax: it is no object.")
    missing = {"format", "architecture", "label_names", "pretrained_cfg", "origin"} - set(config)
    if missing or config["format"] != _FORMAT:
        lacks = f": it lacks {', '.join(sorted(missing))}" if missing else ""
        raise ValueError(f"{folder / CONFIG} was not written by ktjax{lacks}.")
    return config


def fill(classifier: Classifier, folder: Path, *, name: str, config: Mapping) -> Classifier:
    """The classifier with the folder's weights and input.

    Raises:
      ValueError: entries missing, unexpected or misshapen; all of them are listed.
    """
    try:
        found = safetensors_numpy.load_file(folder / WEIGHTS)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a whole safetensors file: {error}.") from error
    wanted = traverse_util.flatten_dict(classifier.variables, sep="/")
    problems = [f"missing {k} {wanted[k].shape}" for k in sorted(wanted.keys() - found.keys())]
    problems += [f"unexpected {k} {found[k].shape}" for k in sorted(found.keys() - wanted.keys())]
    problems += [
        f"misshapen {k}: file {found[k].shape}, {classifier.architecture} {wanted[k].shape}"
        for k in sorted(wanted.keys() & found.keys())
        if found[k].shape != wanted[k].shape
    ]
    if problems:
        raise ValueError(f"{folder / WEIGHTS} does not fit:\n  " + "\n  ".join(problems))
    flat = {k: jnp.asarray(v, wanted[k].dtype) for k, v in found.items()}
    spec = config["pretrained_cfg"]
    return dataclasses.replace(
        classifier,
        name=name,
        variables=traverse_util.unflatten_dict(flat, sep="/"),
        input=InputSpec(
            size=tuple(spec["input_size"][1:]),
            mean=tuple(spec["mean"]),
            std=tuple(spec["std"]),
            interpolation=spec["interpolation"],
            crop_pct=spec["crop_pct"],
        ),
        origin=config["origin"],
    )


def export(classifier: Classifier, folder: Path, **facts: Any) -> None:
    """Writes what `ktjax.load_model(folder)` reads back; `facts` go into config.json too."""
    spec = classifier.input
    config = {
        "format": _FORMAT,
        "architecture": classifier.architecture,
        "num_classes": len(classifier.classes),
        "origin": classifier.origin,
        **facts,
        "pretrained_cfg": {
            "input_size": [3, *spec.size],
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct,
        },
        "label_names": classifier.classes,
    }
    flat = traverse_util.flatten_dict(jax.device_get(classifier.variables), sep="/")
    folder.mkdir(parents=True, exist_ok=True)
    flat = {k: np.ascontiguousarray(v) for k, v in flat.items()}
    # Not save_file, whose files only their owner can read.
    (folder / WEIGHTS).write_bytes(safetensors_numpy.save(flat))
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
