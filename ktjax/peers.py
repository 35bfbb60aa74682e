"""When one of several processes fails, the others hear why and end, instead of waiting for it.

What a process waits for in a collective operation it cannot be told there. So a thread of each
looks from time to time whether one has said, through JAX's coordination service, that it failed.
The service lives in process 0, which therefore ends after the others have heard.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

_FAILED, _HEARD = "ktjax/failed", "ktjax/heard"
_EVERY = 0.5  # seconds from look to look, of up to 50 processes
_OWN = 1.0  # seconds in which who hears of a failure may find its own, which it knows better
_WAIT = 10.0  # seconds that process 0 waits for the others at most
_OVER = threading.Event()  # this process has failed itself, or is done
_LOG = logging.getLogger(__name__)


def number() -> int | None:
    """Which of several processes this is, from 0 on; None: it is alone.

    Other than `jax.process_index` it waits for no devices, which processes look for together.
    """
    state = _state()
    return None if state is None else state.process_id


def listen(flush: Callable[[], None]) -> None:
    """Ends this process as soon as another one has failed; `flush` is called before."""
    state = _state()
    if state is not None:
        _OVER.clear()
        threading.Thread(target=_look, args=(state, flush), daemon=True).start()


def stop() -> None:
    """Nobody is listened to any more."""
    _OVER.set()


def tell(sentence: str) -> None:
    """Says that this process fails, and why. Of several that do the first is heard."""
    _OVER.set()
    state = _state()
    if state is None:
        return
    with contextlib.suppress(Exception):  # another was first, or the service is gone
        state.client.key_value_set(_FAILED, f"Process {state.process_id} has failed: {sentence}")
    _end(state)


def leave(sentence: str, flush: Callable[[], None]) -> NoReturn:
    """Ends this process with code 1, without waiting for the others, which are told why.

    Libraries would try again to write what cannot be written, and JAX to leave with the others.
    """
    flush()
    sys.stdout.flush()
    tell(sentence)
    os._exit(1)


def _look(state: Any, flush: Callable[[], None]) -> None:
    every = _EVERY * max(1, state.num_processes / 50)  # a pod does not keep process 0 busy
    while not _OVER.wait(every):
        try:
            sentence = state.client.key_value_try_get(_FAILED)
        except Exception:  # nobody has failed; or the service does not answer, or never will again
            continue
        if not _OVER.wait(_OWN):
            _LOG.error("%s\nThis process ends, too.", sentence)
            flush()
            _end(state)
            os._exit(1)


def _end(state: Any) -> None:
    """Says that this process has heard of a failure; process 0 waits until all have."""
    with contextlib.suppress(Exception):
        state.client.key_value_set(f"{_HEARD}/{state.process_id}", "")
        begin = time.monotonic()
        while state.process_id == 0 and time.monotonic() - begin < _WAIT:
            if len(state.client.key_value_dir_get(_HEARD)) == state.num_processes:
                break
            time.sleep(_EVERY / 10)


def _state() -> Any:
    """What JAX knows of the processes, which has no public name; None: there is one alone."""
    if not jax.distributed.is_initialized():
        return None
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed

        return distributed.global_state
    return None
