"""Shares work between the jobs of one process: made on first use, and kept."""

import json
from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol, TypeVar

from ktjax.settings.record import Record

_T = TypeVar("_T")


class Once(Protocol):
    """A memo: returns what `make` returned when the key was first used."""

    def __call__(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Calls `make` only the first time."""
        ...


def anew(key: Hashable, make: Callable[[], _T]) -> _T:
    """Calls `make` every time: nothing is shared."""
    del key
    return make()


class Shared:
    """Data sets, models, their logits and compiled steps, keyed by everything they depend on.

    Everything is kept as long as this object: memory grows with the models that were used.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def of(self, settings: Record, *, but: Collection[str], also: Hashable = ()) -> Once:
        """A memo for jobs whose settings agree in all fields `but` these, and in `also`."""
        fields = {name: value for name, value in settings.to_json().items() if name not in but}
        common = (json.dumps(fields, sort_keys=True), also)

        def once(key: Hashable, make: Callable[[], _T]) -> _T:
            if (common, key) not in self._made:
                self._made[common, key] = make()
            return self._made[common, key]

        return once
