"""Folders of Hugging Face's transformers: reading and writing its configs, and its names of parts.

Each of its classifiers in hf_kinds.py is an architecture of `ktjax.models.MODELS`.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktjax.classifier import InputSpec
from ktjax.models.checkpoints import processors
from ktjax.models.checkpoints.hf_kinds import KINDS, ZERO_SHOT
from ktjax.models.checkpoints.layouts import Layout, Renamed, transformers
from ktjax.models.checkpoints.processors import PREPROCESSOR

_LOG = logging.getLogger(__name__)
# Else transformers says at each start that PyTorch is missing, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# Of images that are not square, transformers' networks of these types are others than ktjax's.
_SQUARE = ("swin", "beit", "dinov2")
_TIMMS = "timm_wrapper"  # transformers' class around timm's networks: the config is timm's


def layout(architecture: str, options: Mapping[str, Any]) -> Layout:
    """Where transformers has the parameters of an architecture in a file.

    Raises:
      ValueError: transformers has no such architecture.
    """
    if architecture in ZERO_SHOT:
        raise ValueError(
            f"{architecture} has a text tower, too, in transformers' format: ktjax keeps only the "
            "image classifier."
        )
    if architecture not in KINDS:
        raise ValueError(
            f"Format hf is for models that came from transformers; {architecture} did not. "
            f"It supports {', '.join(KINDS)}."
        )
    kind = KINDS[architecture]
    pairs = kind.names(**{name: options[name] for name in kind.options})
    return transformers(
        {timms: n if isinstance(n, Renamed) else Renamed((n,)) for timms, n in pairs}
    )


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether this config.json is transformers' own, and not timm's."""
    return "model_type" in config and config["model_type"] != _TIMMS


def read_config(folder: Path) -> dict[str, Any]:
    """Reads transformers' config.json and preprocessor_config.json, in ktjax's terms.

    Raises:
      ValueError: ktjax does not have this classifier.
    """
    from transformers import AutoConfig  # takes a second

    path = folder / "config.json"
    try:
        # A folder may hold code of its own, which is never run, and no prompt asks about it.
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except Exception as error:  # its checks and its code may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = " ".join(lines[:2]) or type(error).__name__
        raise ValueError(f"transformers cannot read {path}: {told}") from error
    architecture, headless = _architecture(path, config)
    kind = KINDS[architecture]
    for field, value in kind.fixed.items():
        if config[field] != value:
            raise ValueError(
                f"{path} has {field}={config[field]!r}; ktjax supports only {value!r}, and imports "
                "others where torch is installed: `python -m ktjax.models import`."
            )
    headless = headless or not is_for_one_class(config.get("problem_type"), str(path))
    names = () if headless else class_names(config["id2label"])
    return {
        "format": "hf",
        "architecture": architecture,
        "num_classes": len(names),
        "model_args": {name: config[name] for name in kind.options},
        "origin": f"pretrained {folder.name}",
        "label_names": list(names),
        "pretrained_cfg": processors.read(folder / PREPROCESSOR, config),
    }


def is_zero_shot(config: Mapping[str, Any]) -> bool:
    """Whether transformers' config.json is of a whole CLIP or SigLIP without a head."""
    types = {kind.model_type for kind in ZERO_SHOT.values()}
    classes = config.get("architectures") or ()
    return config["model_type"] in types and all(name in ZERO_SHOT for name in classes)


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether ktjax has the network of transformers' config.json, as far as that tells."""
    found = _network(config.get("architectures") or (), config["model_type"])
    if found is None:
        return False
    fixed = KINDS[found].fixed
    return all(config.get(field, value) == value for field, value in fixed.items())


def _architecture(path: Path, config: Mapping[str, Any]) -> tuple[str, bool]:
    """The entry of KINDS for a config, and whether that is of an encoder without a head."""
    given = config["architectures"] or ()
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path} has architectures={given!r}, which must be a list of names.")
    found = _network(given, config["model_type"])
    if is_zero_shot(config):
        raise ValueError(
            f"{path} is of a CLIP or SigLIP model, whose classes are texts: "
            f"zeroshot:{path.parent} uses it with those of the data."
        )
    if found is None:
        raise ValueError(
            f"{path} is of {' or '.join(given or ['no class'])}; ktjax has {', '.join(KINDS)}. "
            "It imports others where torch and transformers are installed: `python -m ktjax.models "
            "import`."
        )
    return found, found not in given


def _network(given: Sequence[str], model_type: str) -> str | None:
    """The entry of KINDS for a class of transformers, or for its encoder."""
    for name in given:
        if name in KINDS:
            return name
    if not given or any("ImageClassification" in name for name in given):
        return None
    return next((name for name, kind in KINDS.items() if kind.model_type == model_type), None)


def is_for_one_class(problem_type: str | None, path: str) -> bool:
    """Whether one class of an image is right, by transformers' `problem_type`; logs if not.

    Otherwise a softmax of the outputs means nothing, so the head is not used: a new one may be.
    """
    if problem_type in (None, "single_label_classification"):
        return True
    _LOG.warning(
        "%s has problem_type=%s: its head is left out, as ktjax is for one class per image.",
        path,
        problem_type,
    )
    return False


def class_names(id2label: Mapping[Any, str]) -> tuple[str, ...]:
    """The classes in the order of the logits.

    Some configs count from 1, or skip numbers. transformers' heads have as many outputs as there
    are names, so names are taken in the order of their numbers.
    """
    named = {int(number): str(name) for number, name in id2label.items()}
    if sorted(named) != list(range(len(named))):
        _LOG.warning(
            "id2label has the numbers %d to %d for %d classes: taken in this order.",
            min(named),
            max(named),
            len(named),
        )
    return tuple(named[number] for number in sorted(named))


def configs(
    *, architecture: str, options: Mapping[str, Any], spec: InputSpec, classes: Sequence[str]
) -> dict[str, Any]:
    """config.json and preprocessor_config.json as transformers reads them: their contents, by name.

    Raises:
      ValueError: no image processor of transformers' prepares images like this, or its network
        does not take them.
    """
    kind = KINDS[architecture]
    square = spec.size[0] == spec.size[1]
    if kind.model_type in _SQUARE and not square:
        raise ValueError(
            f"Format hf is for square images: transformers' {architecture} does not compute the "
            f"same of {spec.size[0]}x{spec.size[1]}."
        )
    config = {
        "architectures": [architecture],
        "model_type": kind.model_type,
        **{name: options[name] for name in kind.options},
        **kind.fixed,
        "image_size": spec.size[0] if square else list(spec.size),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "dtype": "float32",
    }
    return {PREPROCESSOR: processors.to_json(spec), "config.json": config}
