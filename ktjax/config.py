"""Arguments of config files. What a config has to be is said in settings/. No JAX."""

from collections.abc import Sequence
from typing import Any

import ml_collections

# Fields in which None has a meaning: the comments of the configs say which.
OPTIONAL = (
    *("augment", "clip_norm", "crop_pct", "crop_scale", "data_dir", "eval_data", "every"),
    "drop_path_rate",
    *("eval_every_epochs", "eval_every_steps", "image_size", "interpolation", "learning_rate"),
    "learning_rates",
    *(
        "max_examples",
        "minival",
        "pairs",
        "schedule",
        "shard",
        "store",
        "store_top_k",
        "top_k",
        "total_epochs",
    ),
    *("total_steps", "train_fraction", "views", "warmup"),
)


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Parses what stands after the colon of `--config=file.py:arg`.

    Args:
      arg: `name=value` pairs between commas; a bare `name` sets a bool. Values of a sequence stand
        between plus signs: `teachers=a+b`.
      **spec: the known names with their defaults, whose types the values take; those of a sequence
        that of the default's first.

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
    if kind is tuple:
        texts = filter(None, text.split("+"))
        return tuple(_parse(name, one, default[0]) if default else one for one in texts)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"Config argument '{name}' is true or false, not '{text}'.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"Config argument '{name}' is of type {kind.__name__}: '{text}' is not."
        ) from None


def check_choice(field: str, value: Any, known: Sequence[str]) -> None:
    """Raises ValueError, with the list of what is known, unless the value is in it."""
    if value not in known:
        raise ValueError(f"config.{field}='{value}' is not known. Known: {', '.join(known)}.")
