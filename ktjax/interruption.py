"""Being asked to end: by SIGTERM, by SIGINT, or by a notice of preemption to any of the processes.

A run that trains saves first, and loses no step; whatever else is under way ends at once, as it is
made again. Signals are the process's, and so is what this module remembers.
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

# How the process ends then: EX_TEMPFAIL in sysexits.h. Started again, it goes on where it was.
EXIT_CODE = 75
_AGAIN = 0.05  # seconds


class Interrupted(KeyboardInterrupt):
    """What there is to save is saved, and the process may end."""


class _Asked:
    ever = False
    deferred = False  # whoever deferred it calls `asked`
    calls = itertools.count()  # how often `asked` was called


def listen() -> None:
    """Takes over SIGINT, and SIGTERM from where nobody else has: before this they kill at once."""
    sys.unraisablehook = _unraised
    signal.signal(signal.SIGINT, _on_signal)
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)
    # Otherwise JAX's preemption service has SIGTERM, and tells all processes.


def _on_signal(number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one stops at once
    os.write(2, b"\nktjax: asked to end; what has been trained is saved first.\n")
    if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    _Asked.ever = True
    if not _Asked.deferred:
        raise Interrupted


def _unraised(unraisable: Any) -> None:
    """Asks once more where Python had to ignore an Interrupted: while it deleted an object, say."""
    if isinstance(unraisable.exc_value, Interrupted):
        threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Nothing is interrupted inside, where `asked` tells, but at the end."""
    _Asked.deferred = True
    try:
        yield
    finally:
        _Asked.deferred = False
    if _Asked.ever:
        raise Interrupted


def asked() -> bool:
    """Whether to end here; every process has to ask equally often, and all get the same answer."""
    if jax.process_count() > 1:
        # The service agrees on a later call than any process has made: calls are counted, not
        # steps, which begin again with every run.
        _Asked.ever |= multihost_utils.reached_preemption_sync_point(next(_Asked.calls))
    return _Asked.ever


def stop_if_asked() -> None:
    """Raises Interrupted if so; for work that has nothing to save."""
    if asked():
        raise Interrupted
