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
        """For models whose arrays take at most so many GiB, and at least for those in use."""
        self._room = room_gb * 2**30
        self._made: dict[Hashable, Any] = {}
        self._models: dict[str, _Owned] = {}  # the one that was used last is last
        self._in_use: Collection[str] = ()

    def use(self, models: Collection[str]) -> None:
        """Keeps what belongs to these models until the next call, however large."""
        self._in_use = models

    def of(self, settings: Record, *, but: Collection[str], also: Hashable = ()) -> Once:
        """A memo for jobs whose settings agree in all fields `but` these, and in `also`."""
        fields = {name: value for name, value in settings.to_json().items() if name not in but}
        common = (json.dumps(fields, sort_keys=True), also)

        def once(key: Hashable, make: Callable[[], _T], *, of: str | None = None) -> _T:
            whole = (common, key)
            if whole not in self._made:
                self._made[whole] = make()
                if of is not None and math.isfinite(self._room):
                    self._models.setdefault(of, _Owned()).add(whole, self._made[whole])
            made = self._made[whole]
            if of in self._models:
                self._models[of] = self._models.pop(of)  # as the last one
                self._drop(but={of, *self._in_use})
            return made

        return once

    def _drop(self, *, but: Collection[str]) -> None:
        """Drops models, the least recently used first, until the others have room."""
        for name in [name for name in self._models if name not in but]:
            if sum(owned.size for owned in self._models.values()) <= self._room:
                return
            for key in self._models.pop(name).keys:
                del self._made[key]


class _Owned:
    """What belongs to a model."""

    def __init__(self) -> None:
        self.keys: list[Hashable] = []
        self._sizes: dict[int, int] = {}  # of arrays, by id: entries share them

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(self._sizes.values())

    def add(self, key: Hashable, made: Any) -> None:
        self.keys.append(key)
        self._sizes |= {id(array): array.nbytes for array in _arrays(made)}


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
    elif dataclasses.is_dataclass(made) and not isinstance(made, type):
        for field in dataclasses.fields(made):
            yield from _arrays(getattr(made, field.name))
