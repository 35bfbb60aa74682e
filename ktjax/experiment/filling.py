"""Fills stores with a model's answers to views: each view once, whoever computes it.

Processes of a study, or jobs that share config.store, may need the same answers at the same time. A
view is computed under a lease next to its file, so that no two of them do, and another takes up
what one that dies leaves.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import tqdm

from ktjax import interruption, parallel, progress
from ktjax.data import pipeline
from ktjax.experiment import lease
from ktjax.targets import store as store_lib
from ktjax.targets.store import Store, view_name

_LOG = logging.getLogger(__name__)
_POLL = 0.2  # seconds between two looks at what others are computing
_EXPIRY = 120.0  # seconds without a heartbeat after which they count as dead


def fill(
    store: Store,
    answers: Callable[[int], np.ndarray],
    views: int,
    images: pipeline.Split,
    *,
    measured: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes the missing views of a store, and what is missing of the splits in MEASURED.

    Runs that fill the same store begin at different views, leave out what others have written or
    are computing, and wait for that at the end: nothing is computed twice.

    Args:
      store: to write to.
      answers: of the model, by view.
      views: how many are wanted.
      images: the training split.
      measured: logits [N, C] that the model is known to have on other splits, by their names.
    """
    missing = [view for view in range(views) if not store.has(view_name(view))]
    more = sum(len(logits) for split, logits in measured.items() if not store.has(split))
    if (missing or more) and parallel.is_first():
        name = store.description["model"]["name"]
        size = store.form.told(len(images), len(missing), more)
        tqdm.tqdm.write(f"store {store.folder}: {size}")
        store_lib.check_space(store.folder, store.form.size(len(images), len(missing), more))
        _LOG.info("Storing the logits of %s for %d views: %s.", name, len(missing), size)
    begin = secrets.randbelow(views) if jax.process_count() == 1 else 0
    order = [(begin + i) % views for i in range(views)]
    for view in progress.bar(order, desc=f"store {store.folder.name}", unit="view", leave=False):
        _write(store, view, answers)
    for view in order:
        while not parallel.as_first_sees(store.has(view_name(view))):  # unless they have died
            time.sleep(_POLL)
            _write(store, view, answers)
    for split, logits_NxC in measured.items() if parallel.is_first() else ():
        _add(store, split, logits_NxC)
    parallel.wait_for_all("stored")
    names = [*map(view_name, range(views)), *measured]
    parallel.as_first_finds(lambda: all(map(store.has, names)) or None, f"'{store.folder}'")


def _add(store: Store, split: str, logits_NxC: Any) -> None:
    """Writes a split's logits, unless they are there.

    Two runs may have other bits of them, of programs of other batches: under the lease, array and
    digest are of one of them.
    """
    if not store.has(split):
        with lease.wait(store.folder / split, expiry=_EXPIRY):
            if not store.has(split):
                store_lib.write_rows(store, split, np.asarray(logits_NxC, np.float32))


def _write(store: Store, view: int, answers: Callable[[int], np.ndarray]) -> None:
    """Writes a view, unless it is there, or another run is computing it."""
    interruption.stop_if_asked()
    with _claim(store, view_name(view)) as claimed:
        rows_N = answers(view) if claimed else None
        if rows_N is not None and parallel.is_first():
            store_lib.write_rows(store, view_name(view), rows_N)


@contextlib.contextmanager
def _claim(store: Store, name: str) -> Iterator[bool]:
    """Whether these rows are missing; during the context no other run computes them."""
    if jax.process_count() > 1:  # they compute every view together
        yield not parallel.as_first_sees(store.has(name))
    elif store.has(name):
        yield False
    else:
        with lease.take(store.folder / name, expiry=_EXPIRY) as held:
            yield held is not None and not store.has(name)
