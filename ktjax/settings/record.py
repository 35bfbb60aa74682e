"""What all records share: types with bounds, and the conversion of a config to a record.

All errors in a config are reported at once, one sentence each, with the dotted name of the field
and its valid values. Records have no defaults: these are in the config files. No JAX.
"""

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import ml_collections
import pydantic
import pydantic_core
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from ktjax import spelling

MOST = 2**31 - 1  # of steps, images or bytes of a batch
_READABLE = 80  # characters of a value, in a message
_LONGEST = 255  # bytes of a part of a path
_SMALLEST, _LARGEST = 1e-30, 1e30  # float32 holds these, and some products


def _number(value: Any) -> Any:
    """Rejects bools, which are numbers to Python and pydantic, and values outside float32."""
    if isinstance(value, bool):
        raise pydantic_core.PydanticKnownError("float_type")
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if finite and value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise pydantic_core.PydanticCustomError("float32", "in the range of float32")
    return value


NUMBER = BeforeValidator(_number)
Count = Annotated[int, Field(ge=1, le=MOST)]
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the 32 bits that JAX takes
Positive = Annotated[float, NUMBER, Field(gt=0)]
Amount = Annotated[float, NUMBER, Field(ge=0)]
Share = Annotated[float, NUMBER, Field(gt=0, le=1)]  # a fraction, above 0
Part = Annotated[float, NUMBER, Field(gt=0, lt=1)]  # a fraction, above 0 and below 1
BelowOne = Annotated[float, NUMBER, Field(ge=0, lt=1)]
Lead = Annotated[float, NUMBER, Field(ge=0, le=0.999)]  # of a probability, in float32
Side = Annotated[int, Field(ge=1, le=2**14)]  # of an image, in pixels
Workers = Annotated[int, Field(ge=1, le=1024)]  # threads or processes of a machine
OtherWorkers = Annotated[int, Field(ge=0, le=1024)]  # likewise, or none
# timm's: the fraction of the shorter side that a center crop keeps; the smallest in use is 0.8.
Cropped = Annotated[float, NUMBER, Field(ge=0.1, le=1)]


def _name(value: str) -> str:
    """A name of files or models: text that file systems and terminals accept."""
    if not value.strip() or not value.isprintable():
        raise pydantic_core.PydanticCustomError("name", "a name, of printable characters")
    if any(len(part.encode()) > _LONGEST for part in value.split("/")):
        raise pydantic_core.PydanticCustomError("long", "a shorter name, which file systems accept")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_name)]


def _template(value: str) -> str:
    if value.count("{}") != 1:
        raise pydantic_core.PydanticCustomError("template", "a text with one place")
    return value


Template = Annotated[str, StringConstraints(min_length=1), AfterValidator(_template)]


def _unchangeable(mapping: dict[Any, Any]) -> Mapping[Any, Any]:
    return types.MappingProxyType(mapping)


# Annotated[Mapping[...], FROZEN]: a read-only mapping.
FROZEN = AfterValidator(_unchangeable)
# Fields that may change when a job resumes, on a machine with less memory for example.
FREE = ("cache_gb", "decode_threads", "decode_processes")


def check_once(field: str, values: Sequence[Any]) -> None:
    """Raises ValueError if two values of a field are the same; numbers to six digits.

    Folders are named after them.
    """
    told = [f"{value:g}" if isinstance(value, float) else value for value in values]
    if len(set(told)) < len(told):
        raise ValueError(f"config.{field}={tuple(values)} has duplicates.")


def filled(raw: Mapping[str, Any], follow: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, with those that are None taken from `follow` if it has them."""
    return {k: follow[k] if k in follow and v is None else v for k, v in raw.items()}


class Record(pydantic.BaseModel):
    """A part of a config, validated and immutable; its fields have the config's names."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a config, with defaults that depend on other fields filled in."""
        return raw

    @classmethod
    def read(cls, config: ml_collections.ConfigDict | Mapping[str, Any]) -> Self:
        """The record of a config.

        Raises:
          ValueError: with a sentence for every field that is unknown, missing or invalid.
        """
        raw = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
        fields = {name: _tuples(value) for name, value in cls.resolved(raw).items()}
        try:
            return cls.model_validate(fields)
        except pydantic.ValidationError as error:
            found = error.errors()
            inside = {fault["loc"][:1] for fault in found if len(fault["loc"]) > 1}
            # A tuple lacks the entries that are at fault themselves.
            found = [one for one in found if one["type"] != "too_short" or one["loc"] not in inside]
            faults = [_sentence(fault, cls) for fault in found]
            raise ValueError("\n".join(dict.fromkeys(faults))) from None

    def identity(self) -> dict[str, Any]:
        """What identifies a workdir: the fields that results depend on."""
        return {name: value for name, value in self.to_json().items() if name not in FREE}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


def _tuples(value: Any) -> Any:
    """Turns lists into tuples: configs may use either."""
    if isinstance(value, Mapping):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


# What a value must be, by pydantic's name for the error.
_WANTED = {
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "text",
    "template": "a text with one {{}} in it, for a name",
    "string_too_short": "a name",
    "string_too_long": "a name of {max_length} characters at most",
    "tuple_type": "a tuple",
    "too_short": "{min_length} or more",
    "too_long": "{max_length} at most",
    "mapping_type": "a mapping of names",
    "dict_type": "a mapping of names",
    "model_type": "a mapping of names",
    "model_attributes_type": "a mapping of names",
}


def _sentence(fault: Mapping[str, Any], record: type[Record]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":  # a check of several fields, which names them
        return str(context["error"])
    place = _place(fault["loc"])
    field = ".".join(("config", *place))
    if kind == "extra_forbidden":
        return _unknown(place, record)
    if kind == "missing":
        return f"config lacks the field '{'.'.join(place)}'."
    if kind == "union_tag_not_found":
        return f"config lacks the field '{'.'.join(place)}.objective'."
    if kind == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "")
        return f"{field}.objective={_shown(context['tag'])} is not known. Known: {known}."
    value = _shown(fault["input"])
    if kind == "literal_error":
        known = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{field}={value} is not known. Known: {known}."
    if kind in ("too_short", "too_long"):
        wanted = _WANTED[kind].format(**context)
        return f"{field} has {context.get('actual_length', 0)} entries, but must have {wanted}."
    wanted = _WANTED.get(kind, fault["msg"]).format(**context)
    return f"{field}={value} must be {wanted}."


def _shown(value: Any) -> str:
    """A value for a message: on one line, and truncated if long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _READABLE else f"{text[: _READABLE - 3]}..."


def _place(loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """The dotted name, without the objective's name that pydantic adds below each entry."""
    if len(loc) > 2 and loc[0] in ("objectives", "controls"):
        loc = (*loc[:2], *loc[3:])
    return tuple(map(str, loc))


def _unknown(place: tuple[str, ...], record: type[Record]) -> str:
    *above, name = place
    near = spelling.nearest(name, [one for one in _fields_below(above, record) if one != name])
    owner = f"config.{'.'.join(above)}" if above else "The config"
    return f"{owner} has no field '{name}'. Nearest: {near}."


def _fields_below(above: Sequence[str], record: type[Record]) -> list[str]:
    """The fields that records at such a place may have."""
    if not above:
        return list(record.model_fields)
    own = _records(record.model_fields[above[0]].annotation)
    return sorted({field for one in own for field in one.model_fields})


def _records(annotation: Any) -> list[type[Record]]:
    """The records that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return [annotation]
    return [one for part in typing.get_args(annotation) for one in _records(part)]
