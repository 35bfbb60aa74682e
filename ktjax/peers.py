"""When one of several processes fails, the others learn why and exit, instead of waiting for it.

A process that waits in a collective operation cannot be notified there. So a thread in each polls
JAX's coordination service for reported failures. The service lives in process 0, which therefore
exits only after the others have heard.
"""

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

_FAILED, _HEARD, _SAID = "ktjax/failed", "ktjax/heard", "ktjax/said"
_TIMES = itertools.count()  # of asking whether all agree
_TOGETHER = 60.0  # seconds until all have asked
_EVERY = 0.5  # seconds between polls, for up to 50 processes
_OWN = 1.0  # seconds for a process that hears of a failure to report its own, more precise one
_WAIT = 10.0  # seconds that process 0 waits for the others at most
_OVER = threading.Event()  # this process has failed itself, or is done
_LOG = logging.getLogger(__name__)


def number() -> int | None:
    """The number of this process, starting at 0; None: it is the only one.

    Unlike `jax.process_index` it does not wait for devices, which processes set up together.
    """
    state = _state()
    return None if state is None else state.process_id


def agree(said: str) -> bool:
    """Whether all processes say the same, without using their devices; all must ask, in turn."""
    state = _state()
    if state is None:
        return True
    asked = f"{_SAID}/{next(_TIMES)}"
    # One key for those who say the same: a pod reads as few as a pair.
    state.client.key_value_set(f"{asked}/{said}", "", allow_overwrite=True)
    state.client.wait_at_barrier(asked, round(1000 * _TOGETHER))
    return len(state.client.key_value_dir_get(asked)) == 1


def listen(flush: Callable[[], None]) -> None:
    """Exits this process as soon as another one has failed, after calling `flush`."""
    state = _state()
    if state is not None:
        _OVER.clear()
        threading.Thread(target=_look, args=(state, flush), daemon=True).start()


def stop() -> None:
    """Stops listening for failures."""
    _OVER.set()


def tell(sentence: str) -> None:
    """Reports that this process failed, and why. Only the first report counts."""
    _OVER.set()
    state = _state()
    if state is None:
        return
    with contextlib.suppress(Exception):  # another process was first, or the service is gone
        state.client.key_value_set(_FAILED, f"Process {state.process_id} has failed: {sentence}")
    _end(state)


def leave(sentence: str, flush: Callable[[], None]) -> NoReturn:
    """Exits this process with code 1, without waiting for the others, which are told why.

    A normal exit would let libraries retry failed writes, and JAX wait for the others.
    """
    flush()
    sys.stdout.flush()
    tell(sentence)
    os._exit(1)


def _look(state: Any, flush: Callable[[], None]) -> None:
    every = _EVERY * max(1, state.num_processes / 50)  # so that a pod does not overload process 0
    while not _OVER.wait(every):
        try:
            sentence = state.client.key_value_try_get(_FAILED)
        except Exception:  # no failure so far; or the service does not answer, perhaps never again
            continue
        if not _OVER.wait(_OWN):
            _LOG.error("%s\nThis process exits, too.", sentence)
            flush()
            _end(state)
            os._exit(1)


def _end(state: Any) -> None:
    """Reports that this process has heard of a failure; process 0 waits until all have."""
    with contextlib.suppress(Exception):
        state.client.key_value_set(f"{_HEARD}/{state.process_id}", "")
        begin = time.monotonic()
        while state.process_id == 0 and time.monotonic() - begin < _WAIT:
            if len(state.client.key_value_dir_get(_HEARD)) == state.num_processes:
                break
            time.sleep(_EVERY / 10)


def _state() -> Any:
    """JAX's state of the processes, which is not public; None: there is only one."""
    if not jax.distributed.is_initialized():
        return None
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed

        return distributed.global_state
    return None
