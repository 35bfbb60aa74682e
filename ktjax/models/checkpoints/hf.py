"""Folders of Hugging Face's transformers: reading and writing its configs, and its names of parts.

Each of its classifiers in hf_kinds.py is an architecture of `ktjax.models.MODELS`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktjax import files
from ktjax.classifier import InputSpec
from ktjax.models.checkpoints.hf_kinds import KINDS
from ktjax.models.checkpoints.layouts import Layout, Renamed, transformers

PREPROCESSOR = "preprocessor_config.json"
# Pillow's numbers for filters, which transformers uses.
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def layout(architecture: str, options: Mapping[str, Any]) -> Layout:
    """Where transformers has the parameters of an architecture.

    Raises:
      ValueError: transformers has no such architecture.
    """
    if architecture not in KINDS:
        raise ValueError(
            f"Format hf is for models that came from transformers, {architecture} did not. "
            f"It knows {', '.join(KINDS)}."
        )
    kind = KINDS[architecture]
    pairs = kind.names(**{name: options[name] for name in kind.options})
    return transformers(
        {timms: n if isinstance(n, Renamed) else Renamed((n,)) for timms, n in pairs}
    )


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether transformers wrote this config.json."""
    return "model_type" in config


def read_config(folder: Path) -> dict[str, Any]:
    """Reads transformers' config.json and preprocessor_config.json, in ktjax's terms.

    Raises:
      ValueError: ktjax does not have this classifier.
    """
    from transformers import AutoConfig  # takes a second

    path = folder / "config.json"
    try:
        # A folder may hold code of its own, which is never run, and nobody is asked about it.
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"transformers cannot read {path}: {str(error).splitlines()[0]}"
        ) from error
    known = [name for name in config["architectures"] or () if name in KINDS]
    if not known:
        raise ValueError(
            f"{path} is of {' or '.join(config['architectures'] or ['no class'])}; ktjax has "
            f"{', '.join(KINDS)}."
        )
    kind = KINDS[known[0]]
    for field, value in kind.fixed.items():
        if config[field] != value:
            raise ValueError(f"{path} has {field}={config[field]!r}; ktjax has {value!r} only.")
    labels = {int(number): name for number, name in config["id2label"].items()}
    return {
        "format": "hf",
        "architecture": known[0],
        "num_classes": len(labels),
        "model_args": {name: config[name] for name in kind.options},
        "origin": f"pretrained {folder.name}",
        "label_names": [labels[number] for number in range(len(labels))],
        "pretrained_cfg": pretrained_cfg(folder / PREPROCESSOR, config.get("image_size")),
    }


def pretrained_cfg(path: Path, image_size: int | None) -> dict[str, Any]:
    """The input in timm's terms."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}, which says how images are normalized.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    normalized, resample = spec.get("do_normalize", True), spec.get("resample", 2)
    needed = {"image_mean", "image_std"} if normalized else set()
    needed |= {"crop_size"} if spec.get("do_center_crop") else set()
    if lacking := sorted(needed - set(spec)):
        raise ValueError(f"{path} lacks {', '.join(lacking)}.")
    if resample not in _FILTERS:
        raise ValueError(f"{path} has resample={resample}; ktjax has {_FILTERS}.")
    size = _edges(spec.get("size", image_size or 224))
    crop_pct = 1.0
    if spec.get("do_center_crop"):
        crop = _edges(spec["crop_size"])
        size, crop_pct = crop, crop[0] / size[0]
    elif "crop_pct" in spec and size[0] < 384:  # as ConvNextImageProcessor does
        crop_pct = spec["crop_pct"] or 224 / 256
    return {
        "input_size": [3, *size],
        "mean": spec["image_mean"] if normalized else [0.0] * 3,
        "std": spec["image_std"] if normalized else [1.0] * 3,
        "interpolation": _FILTERS[resample],
        "crop_pct": crop_pct,
    }


def _edges(size: int | Mapping[str, int]) -> tuple[int, int]:
    """Height and width; older files have a number, or the shorter edge."""
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size:
        return (size["shortest_edge"],) * 2
    return size["height"], size["width"]


def write_config(
    folder: Path,
    *,
    architecture: str,
    options: Mapping[str, Any],
    spec: InputSpec,
    classes: Sequence[str],
) -> None:
    """Writes config.json and preprocessor_config.json as transformers reads them."""
    kind = KINDS[architecture]
    config = {
        "architectures": [architecture],
        "model_type": kind.model_type,
        **{name: options[name] for name in kind.options},
        **kind.fixed,
        "image_size": spec.size[0],
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "dtype": "float32",
    }
    filters = {name: number for number, name in _FILTERS.items()}
    preprocessor = {
        **_resizing(spec),
        "do_resize": True,
        "resample": filters[spec.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }
    for name, content in (("config.json", config), (PREPROCESSOR, preprocessor)):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        files.write_whole(folder / name, f"{text}\n")


def _resizing(spec: InputSpec) -> dict[str, Any]:
    """The image processor of transformers that crops in the same way, and its sizes."""
    height, width = spec.size
    edges = {"height": height, "width": width}
    if spec.crop_pct == 1:
        return {"image_processor_type": "ViTImageProcessor", "size": edges}
    if height == width < 384:
        return {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": height},
            "crop_pct": spec.crop_pct,
        }
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": int(min(spec.size) / spec.crop_pct)},
        "do_center_crop": True,
        "crop_size": edges,
    }
