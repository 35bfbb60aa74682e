"""Classifier <-> a folder of config.json and model.safetensors. Never pickle.

config.json has the fields of timm's (`architecture`, `num_classes`, `label_names`, `model_args`,
`pretrained_cfg`); `format` tells whose names and layout the weights have: ktjax's, timm's or, as
`hf`, those of Hugging Face's transformers, whose configs hf.py reads and writes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from ktjax import files, paths
from ktjax.classifier import CROP_MODES, Classifier, InputSpec, Variables
from ktjax.models.checkpoints import card, entries, fields, hf, layouts
from ktjax.models.checkpoints.catalogue import NOT_TIMMS, TIMM
from ktjax.models.checkpoints.layouts import Layout
from ktjax.models.networks.positions import Entry

CONFIG = "config.json"
WEIGHTS = entries.WEIGHTS
FORMATS = ("ktjax", "timm", "hf")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")  # of data/resize.py
# The format of a folder of an imported torch module (models/imported), and the prefix that tells
# its architecture from ktjax's own.
TORCH = "torch"
IMPORTED = "torch:"
# What such a folder has besides config.json and model.safetensors: the first always.
GRAPH, TRAINING, CONSTANTS = "graph.json", "training.json", "constants.safetensors"
ZERO_SHOT = "zeroshot"  # CLIP's or SigLIP's, whose classes are texts (models/zero_shot.py)
OWN = "own"  # the weights of a module that only its owner has (models/own.py)
Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]
Adapt = Callable[[Entry], np.ndarray]  # of a network


def is_export(folder: Path) -> bool:
    """Whether the folder holds a model."""
    return (folder / CONFIG).is_file() and entries.file_of(folder) is not None


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the config.json that ktjax, timm or transformers wrote, in ktjax's terms.

    Raises:
      ValueError: none of them wrote it.
    """
    config = files.read_object(folder / CONFIG)
    if hf.is_config(config):
        config = hf.read_config(folder)
        fields.check(config, str(folder / hf.PREPROCESSOR))
        check_cfg(config["pretrained_cfg"], str(folder / hf.PREPROCESSOR))
        return config
    if "pretrained_cfg" not in config and "mean" in config:  # as timm wrote it until 2023
        config = {**config, "pretrained_cfg": config}
    needed = {"architecture", "num_classes", "pretrained_cfg"} - set(config)
    if needed:
        raise ValueError(
            f"{folder / CONFIG} was written neither by ktjax nor by timm or transformers: it "
            f"lacks {', '.join(sorted(needed))}."
        )
    spec = config["pretrained_cfg"]
    wanted = {"input_size", "mean", "std", "interpolation", "crop_pct"}
    needed = wanted - set(spec) if isinstance(spec, dict) else set()
    if needed:
        raise ValueError(f"pretrained_cfg in {folder / CONFIG} lacks {', '.join(sorted(needed))}.")
    fields.check(config, str(folder / CONFIG))
    check_cfg(spec, str(folder / CONFIG))
    config = {"format": "timm", "origin": f"pretrained {folder.name}"} | config
    config["model_args"] = config.get("model_args") or {}
    if config["format"] == OWN:
        raise ValueError(
            f"{folder} holds the weights of a user's own module, {config['architecture']}: "
            "ktjax.load_weights(CLASSIFIER, FOLDER) loads them into the Classifier that ktjax.from_"
            f"{str(config['architecture']).partition(':')[0]} makes from that module."
        )
    if config["format"] == TORCH:
        return config | {"architecture": f"{IMPORTED}{config['architecture']}"}
    if config["format"] not in FORMATS:
        known = ", ".join((*FORMATS, TORCH))
        raise ValueError(f"{folder / CONFIG} says format '{config['format']}'. Known: {known}.")
    return config


def check_cfg(spec: Mapping[str, Any], path: str) -> None:
    """Raises ValueError if timm's `pretrained_cfg` has values that are invalid or not supported.

    Fields that are not checked here change nothing: where weights come from, sizes for tests,
    licenses. `label_offset` and `label_names` are read with the classes.
    """
    allowed = {
        "interpolation": INTERPOLATIONS,
        "crop_mode": (None, *CROP_MODES),  # None: timm's default
    }
    for field, values in allowed.items():
        if spec.get(field) not in values:
            known = ", ".join(filter(None, values))
            raise ValueError(f"{path} has {field}={spec[field]!r}; ktjax supports {known}.")
    channels = {len(spec["mean"]), len(spec["std"]), spec["input_size"][0]}
    if channels != {3}:
        raise ValueError(
            f"{path} is not for images of 3 channels: input_size={spec['input_size']}, "
            f"mean={spec['mean']}, std={spec['std']}."
        )
    if not all(value > 0 for value in spec["std"]):
        raise ValueError(f"{path} has std={spec['std']}: all must be above 0.")


def input_spec(config: Mapping[str, Any]) -> InputSpec:
    """The input that a config.json describes."""
    spec = config["pretrained_cfg"]
    return InputSpec(
        size=tuple(spec["input_size"][1:]),
        mean=tuple(spec["mean"]),
        std=tuple(spec["std"]),
        interpolation=spec["interpolation"],
        crop_pct=spec["crop_pct"],
        crop_mode=spec.get("crop_mode") or "center",
    )


def pretrained_cfg(spec: InputSpec) -> dict[str, Any]:
    """The input in timm's terms."""
    return {
        "input_size": [3, *spec.size],
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
        "crop_mode": spec.crop_mode,
    }


def layout_of(format_: str, architecture: str, options: Mapping[str, Any]) -> Layout:
    """Where a file of this format has the parameters of a network.

    Raises:
      ValueError: there is no such format, or it does not have the architecture.
    """
    _check_format(format_)
    if format_ == "hf":
        return hf.layout(architecture, options)
    if format_ == "timm" and architecture not in TIMM["architectures"]:
        raise ValueError(f"timm has no '{architecture}': use format='ktjax'.")
    return {"ktjax": layouts.ktjax, "timm": layouts.timm}[format_]


def _check_format(format_: str) -> None:
    if format_ not in FORMATS:
        raise ValueError(f"No format '{format_}'. Known: {', '.join(FORMATS)}.")


def fill(
    classifier: Classifier,
    found: Arrays,
    *,
    layout: Layout,
    adapt: Adapt | None,
    made_for: tuple[int, int],
    where: Path,
    head: Variables | None = None,
) -> Classifier:
    """The classifier with the weights of a file.

    Args:
      classifier: its variables are shapes only.
      found: the entries of the file.
      layout: where the file has each parameter.
      adapt: gives entries the wanted shape, such as position embeddings for another image size;
        None: they must fit as they are.
      made_for: height and width of the images that the file is for.
      where: the file, for messages.
      head: a tree of bools: which variables are zero, and not read, whatever the file has for them
        or instead of them; None: all are read.

    Raises:
      ValueError: entries missing, unexpected or misshapen; all of them are listed.
    """
    leaves = traverse_util.flatten_dict(classifier.variables)
    places = {path: layout(path, leaf.ndim) for path, leaf in leaves.items()}
    fresh = {} if head is None else traverse_util.flatten_dict(head)
    names = {name for place in places.values() for name in place.names}
    found = entries.unwrapped(found, names, where=where)
    found = {k: v for k, v in found.items() if not k.endswith(layouts.IGNORED)}
    wanted, size = {}, tuple(classifier.input.size)
    for path, place in places.items():
        if fresh.get(path):
            for name in place.names:
                found.pop(name, None)
            continue
        shape = place.shape(leaves[path].shape)
        wanted |= dict.fromkeys(place.names, shape)
        name = place.names[0]
        if adapt is None or name not in found:
            continue
        # Of another size even what has the right shape may not fit: 4x16 places are 8x8, too.
        if found[name].shape != shape or made_for != size:
            (timms,), *_ = layouts.timm(path, len(shape))
            found[name] = adapt(Entry(timms, found[name], shape, made_for, size))
    if head is not None:  # other layers of an encoder after its features
        found = {k: v for k, v in found.items() if k in wanted or ".pooler." not in f".{k}"}
    entries.check_fit(where, found, wanted, by=classifier.architecture)
    filled = {
        path: jnp.zeros(leaves[path].shape, leaves[path].dtype)
        if fresh.get(path)
        else jnp.asarray(place.read(found), leaves[path].dtype)
        for path, place in places.items()
    }
    return dataclasses.replace(classifier, variables=traverse_util.unflatten_dict(filled))


def to_arrays(classifier: Classifier, *, layout: Layout) -> dict[str, np.ndarray]:
    """The classifier's weights as a file with this layout has them."""
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(jax.device_get(classifier.variables)).items():
        entry = layout(path, leaf.ndim)
        arrays |= entry.write(leaf)
        name = entry.names[0]
        if path[0] == "batch_stats" and name.endswith("running_mean"):
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            arrays[counter] = np.zeros((), np.int64)  # torch's loaders expect it
    return arrays


def export(
    classifier: Classifier,
    folder: str | Path,
    *,
    format: str = "ktjax",
    training: card.Training | None = None,
    **facts: Any,
) -> None:
    """Writes config.json and model.safetensors, which `ktjax.load_model(folder)` reads back.

    Also writes README.md, a model card, unless there is one that ktjax did not write.

    Args:
      classifier: what to write.
      folder: where to; created if needed.
      format: `ktjax`; `timm` for a folder that timm loads too, as `local-dir:FOLDER`; `hf` for one
        that transformers loads, if the architecture came from transformers. Imported graphs have
        torch's names in the first two.
      training: how the model was trained, for the card; None: it was not.
      **facts: more fields of config.json, unless the format is `hf`.

    Raises:
      ValueError: there is no such format, or it does not have the architecture or its options, or
        a way to prepare its images; or this is no Classifier.
    """
    if not isinstance(classifier, Classifier):
        raise ValueError(
            "Only a Classifier is exported, such as ktjax.load_model returns, not a "
            f"{type(classifier).__name__}."
        )
    folder = paths.of(folder)
    if classifier.definition is not None:
        _check_format(format)
        classifier.definition.export(classifier, folder, format=format, facts=facts)
        card.write(folder, classifier, format=format, training=training)
        return
    layout = layout_of(format, classifier.architecture, classifier.options)
    # What cannot be written is noticed before anything is.
    texts = {name: files.as_json(of) for name, of in _configs(classifier, format, facts).items()}
    paths.make_folder(folder)
    # Only their owner can read save_file's files. transformers requires the metadata.
    arrays = safetensors_numpy.save(to_arrays(classifier, layout=layout), {"format": "pt"})
    files.write_whole(folder / WEIGHTS, arrays)
    card.write(folder, classifier, format=format, training=training)
    for name, text in texts.items():
        files.write_whole(folder / name, text)


def _configs(
    classifier: Classifier, format: str, facts: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The contents of the files beside the weights, by name; config.json is the last.

    Raises:
      ValueError: the format cannot say what the classifier is.
    """
    # Rematerialization is of one's memory, not of the model.
    options = {name: value for name, value in classifier.options.items() if name != "remat"}
    if format == "hf":
        return hf.configs(
            architecture=classifier.architecture,
            options=options,
            spec=classifier.input,
            classes=classifier.classes,
        )
    if format == "timm":
        family = TIMM["architectures"][classifier.architecture]["family"]
        lacking = sorted(options.keys() & set(NOT_TIMMS.get(family, ())))
        if lacking:
            raise ValueError(
                f"timm's {classifier.architecture} has no option {', '.join(lacking)}: use "
                "format='ktjax'."
            )
    config = {
        "format": format,
        "architecture": classifier.architecture,
        "num_classes": len(classifier.classes),
        "origin": classifier.origin,
        **facts,
        "model_args": options,
        "pretrained_cfg": pretrained_cfg(classifier.input) | _timms_own(classifier.architecture),
        "label_names": classifier.classes,
    }
    return {CONFIG: config}


def _timms_own(architecture: str) -> dict[str, Any]:
    """What else timm needs in `pretrained_cfg`: for this size, and the first and last layer."""
    known = TIMM["architectures"].get(architecture)
    if known is None:
        return {}
    first, last = known["ends"]
    return {
        "fixed_input_size": known["fixed_size"],
        "first_conv": first,
        "classifier": last,
    }
