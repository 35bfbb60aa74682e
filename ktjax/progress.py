"""Progress: bars in terminals and notebooks, elsewhere a line from time to time.

With several processes, only the first one shows it.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

_SECONDS = 30.0  # between lines, without a terminal
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {rate_fmt}, {remaining} left"
_OWN_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s{postfix}"  # for callers with a better estimate


def bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm.tqdm:
    """Like `tqdm.tqdm`, but silent if another process of the job shows the same bar."""
    silent = not shown or _another_shows_it()
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm.tqdm(iterable, disable=silent, **options)
    line = _OWN_LINE if "bar_format" in options else _LINE
    return _Lines(iterable, disable=silent, **options | {"bar_format": line})


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Hides the bars, so that a message gets its own lines, and then redraws them."""
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
        yield


def close_all() -> None:
    """Closes bars that a failure left open, so that they print nothing after it."""
    for one in [*getattr(tqdm.tqdm, "_instances", ())]:
        one.close()


class _Lines(tqdm.tqdm):
    """Lines for logs and pipes, where a bar would leave everything it ever showed."""

    def __init__(self, *arguments: Any, **options: Any):
        self._due = time.monotonic() + _SECONDS
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Writes a line if one is due."""
        del msg, pos
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _SECONDS
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Does nothing: lines stay."""

    def close(self) -> None:
        """Prints nothing: the caller reports the outcome."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)


def _another_shows_it() -> bool:
    # Converting a folder needs no JAX. Without JAX there are no other processes.
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_index() > 0
