"""Progress bars: of several processes only the first one shows them."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm


def bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm.tqdm:
    """As `tqdm.tqdm`, but silent where another process of the same job shows the same bar."""
    return tqdm.tqdm(iterable, disable=not shown or _another_shows_it(), **options)


def _another_shows_it() -> bool:
    # Converting a folder needs no JAX. Where JAX is not imported there are no other processes.
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_index() > 0
