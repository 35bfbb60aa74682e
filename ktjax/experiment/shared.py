"""Shares work between the jobs of one process: made on first use, and kept while there is room."""

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from ktjax.settings.record import Record

_T = TypeVar("_T")


class Once(Protocol):
    """A memo: returns what `make` returned when the key was first used."""

    def __call__(self, key: Hashable, make: Callable[[], _T], *, of: str | None = None) -> _T:
        """Calls `make` only the first time, or again if the model `of` was dropped since."""
        ...


def anew(key: Hashable, make: Callable[[], _T], *, of: str | None = None) -> _T:
    """Calls `make` every time: nothing is shared."""
    del key, of
    return make()


class Shared:
    """Data sets, models, their logits and compiled steps, keyed by everything they depend on.

    What belongs to a model, such as its weights, its logits and its compiled step, is dropped once
    those that were used later take all the room: a study may have hundreds of models. Everything
    else is kept as long as this object.
    """

    def __init__(self, room_gb: float = math.inf):
        """For models whose arrays take at most so many GiB, and at least for the last one used."""
        self._room = room_gb * 2**30
        self._made: dict[Hashable, Any] = {}
        self._models: dict[str, _Owned] = {}  # the one that was used last is last

    def of(self, settings: Record, *, but: Collection[str], also: Hashable = ()) -> Once:
        """A memo for jobs whose settings agree in all fields `but` these, and in `also`."""
        fields = {name: value for name, value in settings.to_json().items() if name not in but}
        common = (json.dumps(fields, sort_keys=True), also)

        def once(key: Hashable, make: Callable[[], _T], *, of: str | None = None) -> _T:
            whole = (common, key)
            new = whole not in self._made
            made = self._made[whole] = make() if new else self._made[whole]
            if of is not None:
                owned = self._models[of] = self._models.pop(of, _Owned())
                if new:
                    owned.keys.append(whole)
                    owned.bytes |= {id(array): array.nbytes for array in _arrays(made)}
                    self._drop()
            return made

        return once

    def _drop(self) -> None:
        """Drops models, the least recently used first, until the others have room."""
        for name in list(self._models)[:-1]:
            if sum(sum(owned.bytes.values()) for owned in self._models.values()) <= self._room:
                return
            for key in self._models.pop(name).keys:
                del self._made[key]


@dataclasses.dataclass
class _Owned:
    """What belongs to a model: its entries, and the size of each of their arrays."""

    keys: list[Hashable] = dataclasses.field(default_factory=list)
    bytes: dict[int, int] = dataclasses.field(default_factory=dict)  # by id: entries share arrays


def _arrays(made: Any) -> Iterator[Any]:
    """The arrays of a tree of tuples, mappings and dataclasses."""
    if hasattr(made, "nbytes"):
        yield made
    elif isinstance(made, Mapping):
        for value in made.values():
            yield from _arrays(value)
    elif isinstance(made, tuple | list):
        for value in made:
            yield from _arrays(value)
    elif dataclasses.is_dataclass(made):
        for field in dataclasses.fields(made):
            yield from _arrays(getattr(made, field.name))
