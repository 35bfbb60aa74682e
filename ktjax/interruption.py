"""Handles requests to stop: SIGTERM, SIGINT, or a preemption notice to any of the processes.

A training run saves first, and loses no step; all other work stops at once, as it can be redone.
Signals are per process, and so is the state of this module.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

# The exit code of a stopped job: EX_TEMPFAIL in sysexits.h. The same command resumes it.
EXIT_CODE = 75
_AGAIN = 0.05  # seconds


class Interrupted(KeyboardInterrupt):
    """Everything worth saving is saved, and the process may exit."""


class _Asked:
    ever = False
    deferred = False  # the code that deferred it calls `asked`
    calls = itertools.count()  # how often `asked` was called
    ignored = sys.__unraisablehook__  # what handles all other errors that Python ignores


def listen() -> None:
    """Handles SIGINT, and SIGTERM unless JAX does: before this call they kill at once."""
    if sys.unraisablehook is not _unraised:
        _Asked.ignored = sys.unraisablehook
    sys.unraisablehook = _unraised
    signal.signal(signal.SIGINT, _on_signal)
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)
    # Otherwise JAX's preemption service handles SIGTERM, and notifies all processes.


def _on_signal(number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one stops at once
    os.write(2, b"\nktjax: stopping; saving a checkpoint first.\n")
    if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    _Asked.ever = True
    if not _Asked.deferred:
        raise Interrupted


def _unraised(unraisable: Any) -> None:
    """Repeats the signal if Python had to ignore an Interrupted, say while deleting an object."""
    if isinstance(unraisable.exc_value, Interrupted):
        threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        _Asked.ignored(unraisable)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Interrupts only at the end of the context; inside it, `asked` tells."""
    _Asked.deferred = True
    try:
        yield
    finally:
        _Asked.deferred = False
    if _Asked.ever:
        raise Interrupted


def asked() -> bool:
    """Whether to stop here; all processes must call it equally often, and get the same answer."""
    if jax.process_count() > 1:
        # The service picks a later call than any process has made: calls are counted, not steps,
        # which start over with every run.
        _Asked.ever |= multihost_utils.reached_preemption_sync_point(next(_Asked.calls))
    return _Asked.ever


def stop_if_asked() -> None:
    """Raises Interrupted if asked to stop; for work that has nothing to save."""
    if asked():
        raise Interrupted
