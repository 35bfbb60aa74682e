"""Arguments of config files, durations and validation. No JAX."""

import math
from collections.abc import Sequence
from typing import Any

import ml_collections

# Fields in which None has a meaning: the comments of the configs say which.
OPTIONAL = (
    *("clip_norm", "crop_pct", "crop_scale", "data_dir", "eval_data", "eval_every_epochs"),
    *("eval_every_steps", "image_size", "interpolation", "max_examples", "top_k"),
    *("total_epochs", "total_steps"),
)


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Parses what stands after the colon of `--config=file.py:arg`.

    Args:
      arg: `name=value` pairs between commas; a bare `name` sets a bool. Values of a sequence stand
        between plus signs: `teachers=a+b`.
      **spec: the known names with their defaults, whose types the values take.

    Returns:
      A ConfigDict with a value for each name of the spec.

    Raises:
      ValueError: an unknown name, with the list of the known ones, or a value of another type.
    """
    parsed = dict(spec)
    for part in filter(None, (arg or "").split(",")):
        name, equals, text = part.partition("=")
        if name not in spec:
            raise ValueError(f"Unknown config argument '{name}'. Known: {', '.join(sorted(spec))}.")
        if not equals and not isinstance(spec[name], bool):
            raise ValueError(f"Config argument '{name}' needs a value: {name}=...")
        parsed[name] = _parse(name, text if equals else "true", spec[name])
    return ml_collections.ConfigDict(parsed)


def _parse(name: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"Config argument '{name}' is true or false, not '{text}'.")
        return text.lower() == "true"
    if kind is tuple:
        return tuple(filter(None, text.split("+")))
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"Config argument '{name}' is of type {kind.__name__}: '{text}' is not."
        ) from None


def steps(config: ml_collections.ConfigDict, name: str, *, steps_per_epoch: int) -> int:
    """A duration in steps, from `config.<name>_steps` or `config.<name>_epochs`.

    Raises:
      ValueError: not exactly one of the two is given (the other is None), or it is no step long.
    """
    in_steps, in_epochs = config[f"{name}_steps"], config[f"{name}_epochs"]
    if (in_steps is None) == (in_epochs is None):
        raise ValueError(
            f"Give one of config.{name}_steps={in_steps} and config.{name}_epochs={in_epochs}, "
            "and None for the other."
        )
    count = in_steps if in_epochs is None else in_epochs * steps_per_epoch
    if not math.isfinite(count) or round(count) < 1:
        raise ValueError(f"config.{name}_steps or config.{name}_epochs comes to {count} steps.")
    return round(count)


def check_choice(field: str, value: Any, known: Sequence[str]) -> None:
    """Raises ValueError, with the list of what is known, unless the value is in it."""
    if value not in known:
        raise ValueError(f"config.{field}='{value}' is not known. Known: {', '.join(known)}.")


def check_positive(config: ml_collections.ConfigDict, *fields: str) -> None:
    """Raises ValueError unless the fields are above zero, and finite."""
    for field in fields:
        if not 0 < config[field] < math.inf:
            raise ValueError(f"config.{field}={config[field]} has to be above zero, and finite.")


def check_seeds(*seeds: int) -> None:
    """Raises ValueError unless the seeds are different, in the 32 bits that JAX takes of each."""
    if not all(0 <= seed < 2**32 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"Seeds have to be different, from 0 to below 2^32: {seeds}.")
