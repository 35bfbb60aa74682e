"""Image processors of Hugging Face's transformers, in timm's terms.

Files omit what is a default of their class, so the defaults are here, too. Steps that timm's terms
cannot express are refused by name.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ktjax import files
from ktjax.classifier import InputSpec
from ktjax.models.checkpoints import fields

PREPROCESSOR = "preprocessor_config.json"
_LOG = logging.getLogger(__name__)
# Pillow's numbers for filters, which transformers uses.
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class _Kind(NamedTuple):
    """A class of image processors: its defaults, for what a file does not say."""

    size: Mapping[str, int]
    crop: int | None = None  # side of the center crop
    resample: int = 3
    normalized: tuple[Sequence[float], Sequence[float]] | None = _HALF  # mean and std
    crop_pct: float | None = None  # it resizes to size / crop_pct
    flips: bool = False  # red and blue are swapped

    @property
    def square(self) -> bool:
        """Whether a single number as the size is height and width, not the shorter edge."""
        return "height" in self.size


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _shorter(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


# By how the names of the classes begin: transformers 5.24.
_KINDS = {
    "Beit": _Kind(_square(224)),
    "Bit": _Kind(_shorter(224), crop=224, normalized=_CLIP),
    "CLIP": _Kind(_shorter(224), crop=224, normalized=_CLIP),
    "ConvNext": _Kind(_shorter(384), crop_pct=224 / 256),
    "DeiT": _Kind(_square(256), crop=224),
    "DINOv3ViT": _Kind(_square(224), resample=2, normalized=_IMAGENET),
    "EfficientNet": _Kind(_square(346)),
    "Levit": _Kind(_shorter(224), crop=224, normalized=_IMAGENET),
    "MobileNetV1": _Kind(_shorter(256), crop=224, resample=2),
    "MobileNetV2": _Kind(_shorter(256), crop=224, resample=2),
    "MobileViT": _Kind(_shorter(224), crop=256, normalized=None, flips=True),
    "PoolFormer": _Kind(_shorter(224), crop=224, normalized=_IMAGENET, crop_pct=0.9),
    "Pvt": _Kind(_square(224), normalized=_IMAGENET),
    "Segformer": _Kind(_square(512), resample=2, normalized=_IMAGENET),
    "Siglip": _Kind(_square(224)),
    "ViT": _Kind(_square(224), resample=2),
    "ViTHybrid": _Kind(_shorter(224), crop=224, normalized=_CLIP),
}
# By a config's model_type: the class that transformers uses for it.
_KIND_OF = {
    **dict.fromkeys(("beit", "data2vec-vision"), "Beit"),
    **dict.fromkeys(("bit", "dinov2", "dinov2_with_registers", "focalnet", "hiera"), "Bit"),
    **dict.fromkeys(("clip", "clip_vision_model"), "CLIP"),
    **dict.fromkeys(("convnext", "convnextv2", "cvt", "regnet", "resnet", "van"), "ConvNext"),
    **dict.fromkeys(("mobilevit", "mobilevitv2"), "MobileViT"),
    **dict.fromkeys(("pvt", "pvt_v2"), "Pvt"),
    **dict.fromkeys(("siglip", "siglip_vision_model"), "Siglip"),
    **dict.fromkeys(("dinat", "ijepa", "swiftformer", "swin", "swinv2", "vit", "vit_msn"), "ViT"),
    **dict(deit="DeiT", dinov3_vit="DINOv3ViT", efficientnet="EfficientNet", levit="Levit"),
    **dict(mobilenet_v1="MobileNetV1", mobilenet_v2="MobileNetV2", poolformer="PoolFormer"),
    **dict(segformer="Segformer", vit_hybrid="ViTHybrid"),
}
# Steps of processors. The first are supported, the others change no pixels.
_DONE = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order")
_HARMLESS = ("do_convert_rgb", "do_reduce_labels")


def read(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The input that a preprocessor_config.json describes, as timm's `pretrained_cfg` does.

    If there is none, the defaults of the model's class are used, with the size in its config, which
    is logged.

    Args:
      path: the file.
      config: transformers' config of the model.

    Raises:
      ValueError: timm's terms cannot express the processor, or its class is unknown.
    """
    spec: Mapping[str, Any] = {}
    if path.exists():
        spec = files.read_object(path)
    called = spec.get("image_processor_type") or spec.get("feature_extractor_type") or ""
    if not isinstance(called, str):
        raise ValueError(f"{path} has image_processor_type={called!r}, which must be text.")
    for end in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        called = called.removesuffix(end)
    if called not in _KINDS:
        called = _KIND_OF.get(config.get("model_type", ""), "")
        if called == "ConvNext" and spec.get("do_center_crop"):  # which ConvNext does not do
            called = "Bit"
    if called not in _KINDS:
        raise ValueError(
            f"{path} is missing, or for an image processor that ktjax does not know. Known as "
            f"image_processor_type: {', '.join(f'{kind}ImageProcessor' for kind in _KINDS)}."
        )
    kind = _KINDS[called]
    found = _input(path, spec, kind, called, _edges(path, config.get("image_size") or 0, True))
    if not path.exists():
        _LOG.warning(
            "There is no %s: images are read with the defaults of %sImageProcessor, %s.",
            path,
            called,
            ", ".join(f"{name} {value}" for name, value in found.items()),
        )
    return found


def _input(
    path: Path, spec: Mapping[str, Any], kind: _Kind, called: str, own: Mapping[str, int]
) -> dict[str, Any]:
    """`read`, for a class; `own` is the size in the model's config, if it has one."""
    others = [
        name
        for name, value in spec.items()
        if name.startswith("do_") and value and name not in (*_DONE, *_HARMLESS)
    ]
    if others or spec.get("do_flip_channel_order", kind.flips):
        raise ValueError(
            f"{path} has {', '.join(others) or 'do_flip_channel_order'}, which ktjax cannot do."
        )
    if not spec.get("do_resize", True):
        raise ValueError(f"{path} has do_resize=false: ktjax needs images of one size.")
    resample = spec.get("resample", kind.resample)
    if not isinstance(resample, int) or resample not in _FILTERS:
        raise ValueError(f"{path} has resample={resample}; ktjax supports {_FILTERS}.")
    if not path.exists() and not own:
        own = _square(224)  # the size of older networks
    size, crop_pct, crop_mode = _cropped(path, spec, kind, called, own)
    mean, std = _normalization(path, spec, kind, called)
    return {
        "input_size": [3, *size],
        "mean": mean,
        "std": std,
        "interpolation": _FILTERS[resample],
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }


def _cropped(
    path: Path, spec: Mapping[str, Any], kind: _Kind, called: str, own: Mapping[str, int]
) -> tuple[tuple[int, int], float, str]:
    """Height and width of the input, and timm's crop_pct and crop_mode."""
    crops = spec.get("do_center_crop", kind.crop is not None)
    crop = _edges(path, spec.get("crop_size") or kind.crop or 224, True)
    size = dict(_edges(path, spec.get("size") or kind.size, kind.square))
    if own and "size" not in spec and "crop_size" not in spec:  # the sizes of the class, scaled
        ratio = own["height"] / (kind.crop or next(iter(size.values())))
        size = {name: round(ratio * value) for name, value in size.items()}
        crop = own
    if "longest_edge" in size and "shortest_edge" not in size:
        side = size["longest_edge"]
        return (side, side), 1.0, "border"
    squashes = "height" in size
    resized = (size["height"], size["width"]) if squashes else (size["shortest_edge"],) * 2
    pct = spec.get("crop_pct", kind.crop_pct)
    if called == "ConvNext" and not squashes and not (crops and "crop_size" in spec):
        squashes = resized[0] >= 384
        return resized, 1.0 if squashes else pct or 224 / 256, "squash" if squashes else "center"
    if called == "PoolFormer" and pct:
        resized = tuple(int(side / pct) for side in resized)
        squashes = squashes and resized[0] != resized[1]
    if called == "Levit" and not squashes:
        resized = tuple(int(256 / 224 * side) for side in resized)
    mode = "squash" if squashes else "center"
    if not crops:
        return resized, 1.0, mode
    kept = (crop["height"], crop["width"])
    pct = _share(kept[0], resized[0])
    if kept[0] > resized[0] or math.floor(kept[1] / pct) != resized[1]:
        raise ValueError(
            f"{path} crops {kept[0]}x{kept[1]} pixels from {resized[0]}x{resized[1]}, which timm's "
            "crop_pct cannot express."
        )
    return kept, pct, mode


def _share(crop: int, size: int) -> float:
    """The crop_pct with which timm gets from the crop back to exactly this size."""
    share = crop / size
    while math.floor(crop / share) < size:
        share = math.nextafter(share, 0)
    return share


def _edges(path: Path, size: Any, square: bool) -> dict[str, int]:
    """A size by names; older files have a number, or a list. 0: not given."""
    if size == 0:
        return {}
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) in (1, 2):
        size = _square(size[0]) if len(size) == 1 else {"height": size[0], "width": size[1]}
    if isinstance(size, int) and not isinstance(size, bool):
        size = _square(size) if square else _shorter(size)
    named = {k: v for k, v in size.items() if v} if isinstance(size, Mapping) else {}
    names = named.keys()
    known = ({"height", "width"}, {"shortest_edge"}, {"longest_edge"})
    both = known[1] | known[2]
    whole = all(isinstance(side, int) and side > 0 for side in named.values())
    if not whole or names not in (*known, both):
        raise ValueError(
            f"{path} has the size {size}: ktjax supports a number, height and width, shortest_edge "
            "and longest_edge."
        )
    if names == both:
        named.pop("longest_edge")  # for unusually long images
    return named


def _normalization(
    path: Path, spec: Mapping[str, Any], kind: _Kind, called: str
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, for values from 0 to 1."""
    mean, std = [0.0] * 3, [1.0] * 3
    if spec.get("do_normalize", kind.normalized is not None):
        default = kind.normalized or _HALF
        mean = _channels(path, "image_mean", spec.get("image_mean", default[0]))
        std = _channels(path, "image_std", spec.get("image_std", default[1]))
    if called == "EfficientNet" and spec.get("include_top", True):
        # It divides twice, for the sake of TensorFlow's weights.
        default = kind.normalized or _HALF
        again = _channels(path, "image_std", spec.get("image_std", default[1]))
        std = [a * b for a, b in zip(std, again, strict=True)]
    factor = spec.get("rescale_factor", 1 / 255) if spec.get("do_rescale", True) else 1.0
    if not fields.is_number(factor) or factor <= 0:
        raise ValueError(f"{path} has rescale_factor={factor!r}, which must be a number above 0.")
    if spec.get("rescale_offset"):
        mean = [value + 1 for value in mean]
    scale = 255 * factor
    if abs(scale - 1) > 1e-6:
        mean, std = ([value / scale for value in values] for values in (mean, std))
    return mean, std


def _channels(path: Path, name: str, values: Any) -> list[float]:
    found = [values] * 3 if fields.is_number(values) else values
    if not isinstance(found, list | tuple) or not all(map(fields.is_number, found)):
        raise ValueError(f"{path} has {name}={values!r}, which must be a number, or three.")
    return [float(value) for value in found]


def to_json(spec: InputSpec) -> dict[str, Any]:
    """The content of preprocessor_config.json for an input: the processor that does the same.

    Raises:
      ValueError: none does.
    """
    filters = {name: number for number, name in _FILTERS.items()}
    return {
        **_resizing(spec),
        "do_resize": True,
        "resample": filters[spec.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }


def _resizing(spec: InputSpec) -> dict[str, Any]:
    """The image processor of transformers that crops the same way, and its sizes."""
    height, width = spec.size
    edges = {"height": height, "width": width}
    resized = [math.floor(side / spec.crop_pct) for side in spec.size]
    if spec.crop_mode == "border":
        raise ValueError("transformers has no image processor that adds borders, crop_mode border.")
    if spec.crop_mode == "squash":
        if spec.crop_pct == 1:
            return {"image_processor_type": "ViTImageProcessor", "size": edges}
        return {
            "image_processor_type": "DeiTImageProcessor",
            "size": {"height": resized[0], "width": resized[1]},
            "do_center_crop": True,
            "crop_size": edges,
        }
    if height != width:
        raise ValueError(
            "Format hf is for square images: transformers has no image processor that crops "
            f"{height}x{width} as crop_mode center does."
        )
    if height < 384 and spec.crop_pct != 1:
        return {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": height},
            "crop_pct": spec.crop_pct,
        }
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": min(resized)},
        "do_center_crop": True,
        "crop_size": edges,
    }
