"""Arguments of config files. What a config must contain is defined in settings/. No JAX."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from ktjax import spelling

_FEW = 6  # names that are read at a glance


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Parses the part after the colon of `--config=file.py:arg`.

    Args:
      arg: `name=value` pairs separated by commas; a bare `name` sets a bool. Values of a sequence
        are separated by plus signs: `teachers=a+b`.
      **spec: the known names with their defaults, which determine the types of the values; for a
        sequence, the first entry of the default.

    Returns:
      A ConfigDict with a value for each name in the spec.

    Raises:
      ValueError: an unknown name, with the list of the known ones, or a value of the wrong type.
    """
    parsed, before = dict(spec), ""
    for part in filter(None, (arg or "").split(",")):
        name, equals, text = part.partition("=")
        if name not in spec:
            hint = (
                f" If it belongs to '{before}': values with commas or plus signs are given as "
                f"--config.{before}=VALUE."
                if before and not equals
                else ""
            )
            raise ValueError(f"Unknown config argument '{name}'.{_known(name, sorted(spec))}{hint}")
        before = name
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
            raise ValueError(f"Config argument '{name}' must be true or false, not '{text}'.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"Config argument '{name}' must be of type {kind.__name__}, not '{text}'."
        ) from None


def check_choice(field: str, value: Any, known: Sequence[str]) -> None:
    """Raises ValueError, with the list of known values, unless the value is one of them."""
    if value not in known:
        raise ValueError(f"config.{field}='{value}' is not known.{_known(str(value), known)}")


def _known(name: str, known: Sequence[str]) -> str:
    """The known names; where they are many, the most similar ones again."""
    near = f" Nearest: {spelling.nearest(name, known)}." if len(known) > _FEW else ""
    return f" Known: {', '.join(known)}.{near}"
