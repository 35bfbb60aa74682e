"""What all records share: types with their bounds, and how a config becomes a record.

Every fault of a config is told at once, a sentence each, with the dotted name of the field and what
it takes. Records have no defaults: these stand in the config files. No JAX.
"""

import math
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import ml_collections
import pydantic
import pydantic_core
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from ktjax import spelling

MOST = 2**31 - 1  # of what counts steps, images or bytes of a batch
_READABLE = 80  # characters of a value, in a sentence
_LONGEST = 255  # bytes of a part of a path
_SMALLEST, _LARGEST = 1e-30, 1e30  # float32 holds these, and some products


def _number(value: Any) -> Any:
    """To Python True is a number, and to pydantic too; and float32 makes 0 or inf of some."""
    if isinstance(value, bool):
        raise pydantic_core.PydanticKnownError("float_type")
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if finite and value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise pydantic_core.PydanticCustomError("float32", "such that float32 holds it")
    return value


NUMBER = BeforeValidator(_number)
Count = Annotated[int, Field(ge=1, le=MOST)]
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the 32 bits that JAX takes
Positive = Annotated[float, NUMBER, Field(gt=0)]
Amount = Annotated[float, NUMBER, Field(ge=0)]
Share = Annotated[float, NUMBER, Field(gt=0, le=1)]  # of something, not nothing
Part = Annotated[float, NUMBER, Field(gt=0, lt=1)]  # likewise, and not all
BelowOne = Annotated[float, NUMBER, Field(ge=0, lt=1)]
Lead = Annotated[float, NUMBER, Field(ge=0, le=0.999)]  # of a probability over others, in float32
Side = Annotated[int, Field(ge=1, le=2**14)]  # of an image, in pixels
Workers = Annotated[int, Field(ge=1, le=1024)]  # threads or processes of a machine
OtherWorkers = Annotated[int, Field(ge=0, le=1024)]  # likewise, or none
# timm's: the share of the shorter side that a centered crop shows; the smallest in use is 0.8.
Cropped = Annotated[float, NUMBER, Field(ge=0.1, le=1)]


def _name(value: str) -> str:
    """What names files or models: text that a file system and a terminal take."""
    if not value.strip() or not value.isprintable():
        raise pydantic_core.PydanticCustomError("name", "a name, of printable characters")
    if any(len(part.encode()) > _LONGEST for part in value.split("/")):
        raise pydantic_core.PydanticCustomError("long", "a name that file systems take: shorter")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_name)]


def _template(value: str) -> str:
    if value.count("{}") != 1:
        raise pydantic_core.PydanticCustomError("template", "a text with one place")
    return value


Template = Annotated[str, StringConstraints(min_length=1), AfterValidator(_template)]


def _unchangeable(mapping: dict[Any, Any]) -> Mapping[Any, Any]:
    return types.MappingProxyType(mapping)


# Annotated[Mapping[...], FROZEN]: a mapping that nobody can change.
FROZEN = AfterValidator(_unchangeable)


def check_once(field: str, values: Sequence[Any]) -> None:
    """Raises ValueError where two values of a field are the same; numbers in six digits.

    Folders are named by them.
    """
    told = [f"{value:g}" if isinstance(value, float) else value for value in values]
    if len(set(told)) < len(told):
        raise ValueError(f"config.{field}={tuple(values)} names one twice.")


def filled(raw: Mapping[str, Any], follow: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, where they are None with what follows from others."""
    return {k: follow[k] if k in follow and v is None else v for k, v in raw.items()}


class Record(pydantic.BaseModel):
    """A part of a config, checked and unchangeable; fields are those of the config, by name."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a config, those that are None and follow from another one set."""
        return raw

    @classmethod
    def read(cls, config: ml_collections.ConfigDict | Mapping[str, Any]) -> Self:
        """The record of a config.

        Raises:
          ValueError: with a sentence for every field that is unknown, missing or not what it takes.
        """
        raw = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
        fields = {name: _tuples(value) for name, value in cls.resolved(raw).items()}
        try:
            return cls.model_validate(fields)
        except pydantic.ValidationError as error:
            faults = [_sentence(fault, cls) for fault in error.errors()]
            raise ValueError("\n".join(dict.fromkeys(faults))) from None

    def identity(self) -> dict[str, Any]:
        """What says whose a workdir is: the fields on which what is found depends."""
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


def _tuples(value: Any) -> Any:
    """Lists become tuples: both are written in configs."""
    if isinstance(value, Mapping):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


# What a value has to be, by pydantic's name of the fault.
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
        return f"{field} has {context.get('actual_length', 0)} entries, and takes {wanted}."
    wanted = _WANTED.get(kind, fault["msg"]).format(**context)
    return f"{field}={value} has to be {wanted}."


def _shown(value: Any) -> str:
    """A value in a sentence: on one line, and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _READABLE else f"{text[: _READABLE - 3]}..."


def _place(loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """The dotted name; pydantic adds the objective's own name below each entry that has one."""
    if len(loc) > 2 and loc[0] in ("objectives", "controls"):
        loc = (*loc[:2], *loc[3:])
    return tuple(map(str, loc))


def _unknown(place: tuple[str, ...], record: type[Record]) -> str:
    *above, name = place
    if above:
        return f"config.{'.'.join(above)} has no field '{name}'."
    near = spelling.nearest(name, record.model_fields)
    return f"The config has no field '{name}'. Nearest: {near}."
