"""Checks the types in a model's config.json: other programs write it, and people edit it.

Arguments that say the same about a model are checked here, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LARGEST = 2**14  # side of an image, in pixels
_MOST = 10**7  # classes


def check(config: Mapping[str, Any], path: str) -> None:
    """Raises ValueError, with the field, unless all fields have the types that timm writes."""
    spec = config["pretrained_cfg"]
    if not isinstance(spec, dict):
        raise _unlike(path, "pretrained_cfg", spec, "a mapping of names")
    for name in ("architecture", "format", "origin"):
        if name in config and not isinstance(config[name], str):
            raise _unlike(path, name, config[name], "text")
    count = config["num_classes"]
    if not _is_whole(count) or not 0 <= count <= _MOST:
        raise _unlike(path, "num_classes", count, "a whole number")
    if not isinstance(config.get("model_args") or {}, dict):
        raise _unlike(path, "model_args", config["model_args"], "a mapping of names")
    for place in (config, spec):
        labels = place.get("label_names")
        if labels and not (
            isinstance(labels, list) and all(isinstance(one, str) for one in labels)
        ):
            raise _unlike(path, "label_names", labels, "a list of names")
    check_input(spec, path)


def check_input(spec: Mapping[str, Any], path: str) -> None:
    """The same for the fields of `pretrained_cfg` that say what images a model takes."""
    for name in ("mean", "std"):
        numbers = spec.get(name)
        if not isinstance(numbers, list | tuple) or not all(map(is_number, numbers)):
            raise _unlike(path, name, numbers, "a list of numbers")
    size = spec.get("input_size")
    if not (
        isinstance(size, list | tuple)
        and len(size) == 3
        and all(_is_whole(side) and 0 < side <= _LARGEST for side in size)
    ):
        raise _unlike(path, "input_size", size, "three whole numbers: channels, height, width")
    share = spec.get("crop_pct")
    if not is_number(share) or not 0 < share <= 1:
        raise _unlike(path, "crop_pct", share, "above 0, at most 1")
    if not isinstance(spec.get("interpolation"), str):
        raise _unlike(path, "interpolation", spec.get("interpolation"), "text")


class Given(NamedTuple):
    """Arguments that describe a model, with Python's own numbers and strings; None: not given."""

    size: tuple[int, int] | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    classes: tuple[str, ...] | int | None


def given(*, size: Any = None, mean: Any = None, std: Any = None, classes: Any = None) -> Given:
    """The arguments of `load_model`, `import_torch` and `from_linen`, from tuples, lists or arrays.

    Raises:
      ValueError: one of them cannot describe a model.
    """
    size, mean, std, classes = map(_plain, (size, mean, std, classes))
    if size is not None and not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(_is_whole(side) and 0 < side <= _LARGEST for side in size)
    ):
        raise ValueError(f"size={size!r} must be (height, width), from 1 to {_LARGEST:,} pixels.")
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is None:
            continue
        if not (isinstance(numbers, tuple) and len(numbers) == 3 and all(map(is_number, numbers))):
            raise ValueError(f"{name}={numbers!r} must be three numbers, one for each channel.")
        if max(numbers) > 1:
            raise ValueError(f"{name}={numbers}: it is for values from 0 to 1, not to 255.")
    are_names = isinstance(classes, tuple) and all(isinstance(one, str) for one in classes)
    if classes is not None and not are_names and not _is_whole(classes):
        raise ValueError(f"classes={classes!r} must be the names of all classes, or their number.")
    return Given(size, mean, std, classes)


def _plain(value: Any) -> Any:
    """Sequences as tuples, and the numbers of arrays, of any library, as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(map(_plain, value))
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number of sane size."""
    return (_is_whole(value) or isinstance(value, float)) and abs(value) < 1e30  # no NaN either


def _unlike(path: str, name: str, value: Any, wanted: str) -> ValueError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return ValueError(f"{path} has {name}={shown}, which must be {wanted}.")
