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
    found = read_entries(folder / WEIGHTS)
    wanted = traverse_util.flatten_dict(classifier.variables, sep="/")
    shapes = {k: leaf.shape for k, leaf in wanted.items()}
    check_fit(folder / WEIGHTS, found, shapes, by=classifier.architecture)
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


def read_entries(path: Path, *, ignored: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The entries of a safetensors file, but for those whose names start with one of `ignored`.

    ValueError if the file is not whole.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if not name.startswith(ignored)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def check_fit(
    path: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], *, by: str
) -> None:
    """Raises ValueError unless the file's entries have the names and shapes that are wanted.

    Entries missing, unexpected or misshapen are listed, all of them; `by` says who wants.
    """
    problems = [f"missing {k} {wanted[k]}" for k in sorted(wanted.keys() - found.keys())]
    problems += [f"unexpected {k} {found[k].shape}" for k in sorted(found.keys() - wanted.keys())]
    problems += [
        f"misshapen {k}: file {found[k].shape}, {by} {wanted[k]}"
        for k in sorted(wanted.keys() & found.keys())
        if found[k].shape != wanted[k]
    ]
    if problems:
        raise ValueError(f"{path} does not fit:\n  " + "\n  ".join(problems))


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
