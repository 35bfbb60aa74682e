"""What several jobs of one process have in common: made when it is first asked for, and kept."""

import json
from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol, TypeVar

from ktjax.settings.record import Record

_T = TypeVar("_T")


class Once(Protocol):
    """What `make` gave when the key was first asked for."""

    def __call__(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Calls `make` if it is the first time."""
        ...


def anew(key: Hashable, make: Callable[[], _T]) -> _T:
    """Where nothing is shared."""
    del key
    return make()


class Shared:
    """Data sets, models and what they say, compiled steps: by all that they depend on.

    Everything stays until the object goes: memory grows with the models that were asked for.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def of(self, settings: Record, *, but: Collection[str], also: Hashable = ()) -> Once:
        """What jobs share whose settings agree in all fields `but` these, and in what is `also`."""
        fields = {name: value for name, value in settings.to_json().items() if name not in but}
        common = (json.dumps(fields, sort_keys=True), also)

        def once(key: Hashable, make: Callable[[], _T]) -> _T:
            if (common, key) not in self._made:
                self._made[common, key] = make()
            return self._made[common, key]

        return once
