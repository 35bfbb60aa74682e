"""Classifier <-> a folder of config.json and model.safetensors. Never pickle.

config.json has the fields of timm's (`architecture`, `num_classes`, `label_names`, `model_args`,
`pretrained_cfg`); `format` tells whose names and layout the weights have:

  ktjax  the paths of the Flax tree, joined by "/"
  timm   timm's, which are the same paths joined by ".", as the modules are named so; leaves and
         axes are torch's (LEAVES, AXES)
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from ktjax.models.classifier import Classifier, InputSpec

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMATS = ("ktjax", "timm")
Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]
# adapt(timm's name of an entry, the file's array, the shape that is wanted) -> of that shape
Adapt = Callable[[str, np.ndarray, Shape], np.ndarray]

# Names of leaves: Flax's -> torch's. All others are called the same.
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Axes of a kernel with so many: torch's from Flax's, as np.transpose takes them.
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
# Ends of entries of torch's that a network computes for itself or does not need.
_IGNORED = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "position_ids",
    "mask_token",
)


class Entry(NamedTuple):
    """Where a parameter lies in a file."""

    name: str
    axes: tuple[int, ...] | None  # that the file has it transposed by; None: it lies as it is


def entry_of(path: tuple[str, ...], ndim: int, format_: str) -> Entry:
    """Where the leaf of this path in `variables` lies in a file of this format."""
    if format_ == "ktjax":
        return Entry("/".join(path), None)
    _, *modules, leaf = path  # without "params" or "batch_stats"
    axes = AXES.get(ndim) if leaf == "kernel" else None
    return Entry(".".join([*modules, LEAVES.get(leaf, leaf)]), axes)


def is_export(folder: Path) -> bool:
    """Whether the folder holds a model."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder that ktjax or timm wrote, complete: what timm leaves out is added.

    Raises:
      ValueError: it is none.
    """
    config = read_json(folder / CONFIG)
    needed = {"architecture", "num_classes", "pretrained_cfg"} - set(config)
    if needed:
        raise ValueError(
            f"{folder / CONFIG} was written neither by ktjax nor by timm: it lacks "
            f"{', '.join(sorted(needed))}."
        )
    spec = config["pretrained_cfg"]
    needed = {"input_size", "mean", "std", "interpolation", "crop_pct"} - set(spec)
    if needed:
        raise ValueError(f"pretrained_cfg in {folder / CONFIG} lacks {', '.join(sorted(needed))}.")
    config = {"format": "timm", "origin": f"pretrained {folder.name}", "model_args": {}} | config
    if config["format"] not in FORMATS:
        raise ValueError(
            f"{folder / CONFIG} says format '{config['format']}'. Known: {', '.join(FORMATS)}."
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; ValueError if it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return content


def input_spec(config: Mapping[str, Any]) -> InputSpec:
    """The input that a config.json speaks of."""
    spec = config["pretrained_cfg"]
    return InputSpec(
        size=tuple(spec["input_size"][1:]),
        mean=tuple(spec["mean"]),
        std=tuple(spec["std"]),
        interpolation=spec["interpolation"],
        crop_pct=spec["crop_pct"],
    )


def pretrained_cfg(spec: InputSpec) -> dict[str, Any]:
    """The input in timm's terms."""
    return {
        "input_size": [3, *spec.size],
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
    }


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


def read_shapes(path: Path) -> dict[str, Shape]:
    """The shapes of a safetensors file's entries, from its header alone; ValueError as above."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def check_fit(
    where: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, Shape], *, by: str
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
        raise ValueError(f"{where} does not fit:\n  " + "\n  ".join(problems))


def fill(
    classifier: Classifier, found: Arrays, *, format_: str, adapt: Adapt | None, where: Path
) -> Classifier:
    """The classifier with the weights of a file.

    Args:
      classifier: its variables have shapes only.
      found: the entries of the file.
      format_: of the file, one of FORMATS.
      adapt: what a network does with entries of another shape, as position embeddings of another
        image size; None: nothing.
      where: the file, for messages.

    Raises:
      ValueError: entries missing, unexpected or misshapen; all of them are listed.
    """
    leaves = traverse_util.flatten_dict(classifier.variables)
    entries = {path: entry_of(path, leaf.ndim, format_) for path, leaf in leaves.items()}
    if format_ == "timm":
        found = {k: v for k, v in found.items() if not k.endswith(_IGNORED)}
    wanted = {}
    for path, (name, axes) in entries.items():
        shape = leaves[path].shape
        wanted[name] = shape if axes is None else tuple(shape[axis] for axis in axes)
        if adapt is not None and name in found and found[name].shape != wanted[name]:
            timms = entry_of(path, len(shape), "timm").name
            found = {**found, name: adapt(timms, found[name], wanted[name])}
    check_fit(where, found, wanted, by=classifier.architecture)
    filled = {
        path: jnp.asarray(
            found[name] if axes is None else found[name].transpose(np.argsort(axes)),
            leaves[path].dtype,
        )
        for path, (name, axes) in entries.items()
    }
    return dataclasses.replace(classifier, variables=traverse_util.unflatten_dict(filled))


def to_arrays(classifier: Classifier, *, format_: str) -> dict[str, np.ndarray]:
    """The classifier's weights as a file of this format has them."""
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(jax.device_get(classifier.variables)).items():
        name, axes = entry_of(path, leaf.ndim, format_)
        arrays[name] = np.ascontiguousarray(leaf if axes is None else leaf.transpose(axes))
        if format_ == "timm" and path[0] == "batch_stats" and path[-1] == "mean":
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            arrays[counter] = np.zeros((), np.int64)  # timm's loader asks for it
    return arrays


def export(classifier: Classifier, folder: Path, *, format: str = "ktjax", **facts: Any) -> None:
    """Writes config.json and model.safetensors, which `ktjax.load_model(folder)` reads back.

    Args:
      classifier: to be written.
      folder: made if it is not there.
      format: `timm` for a folder that timm loads too, as `local-dir:FOLDER`.
      **facts: go into config.json.

    Raises:
      ValueError: no such format.
    """
    if format not in FORMATS:
        raise ValueError(f"No format '{format}'. Known: {', '.join(FORMATS)}.")
    config = {
        "format": format,
        "architecture": classifier.architecture,
        "num_classes": len(classifier.classes),
        "origin": classifier.origin,
        **facts,
        "model_args": dict(classifier.options),
        "pretrained_cfg": pretrained_cfg(classifier.input),
        "label_names": classifier.classes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    arrays = to_arrays(classifier, format_=format)
    # Not save_file, whose files only their owner can read.
    (folder / WEIGHTS).write_bytes(safetensors_numpy.save(arrays))
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
