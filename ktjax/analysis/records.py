"""Dataclasses as JSON, and back, checked on reading."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def from_json(cls: type[_T], data: Mapping[str, Any]) -> _T:
    """The record that `to_json` wrote; ValueError if a field is missing or unknown."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values, unknown = dict(data), sorted(set(data) - set(fields))
    if "rest" in fields:
        names = fields["rest"].metadata["names"]
        rest = {name: values.pop(name) for name in unknown if re.fullmatch(names, name)}
        values["rest"], unknown = rest, [name for name in unknown if name not in rest]
    required = [name for name, field in fields.items() if _required(field)]
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"{cls.__name__} in results.json is missing {', '.join(missing)}.")
    if unknown:
        raise ValueError(f"{cls.__name__} in results.json has unknown {', '.join(unknown)}.")
    kinds = typing.get_type_hints(cls)
    return cls(**{name: _of_kind(kinds[name], value) for name, value in values.items()})


def to_json(record: Any) -> dict[str, Any]:
    """The record as in results.json: dicts, lists, strings and numbers."""
    found = {}
    for field in dataclasses.fields(record):
        value = _plain(getattr(record, field.name))
        found |= value if field.name == "rest" else {field.name: value}
    return found


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _of_kind(kind: Any, value: Any) -> Any:
    """The JSON value as its field's type: a record or a tuple, which JSON does not have."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        kinds = [one for one in args if one is not types.NoneType]
        return value if value is None else _of_kind(kinds[0], value)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_json(kind, value)
    if origin is tuple:
        return tuple(_of_kind(args[0], one) for one in value) if args else tuple(value)
    if origin is Mapping:
        return {name: _of_kind(args[1], one) for name, one in value.items()}
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
