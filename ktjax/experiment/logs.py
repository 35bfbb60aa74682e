"""The log of each process: workdir/logs/process-<i>.log, appended to.

Warnings and errors of ktjax also go to the terminal.
"""

import contextlib
import contextvars
import logging
from collections.abc import Sequence
from pathlib import Path

import jax

import ktjax
from ktjax import files, parallel, paths, peers, progress
from ktjax.mirror import Mirror

# The command line arguments of this process; None: ktjax is called by a program.
STARTED_BY: contextvars.ContextVar[Sequence[str] | None] = contextvars.ContextVar(
    "STARTED_BY", default=None
)
_OURS, _ALL = logging.getLogger("ktjax"), logging.getLogger()


class _File(logging.FileHandler):
    """A log file; for a bucket it is written locally, and uploaded by `upload` and `close`."""

    def __init__(self, folder: Path, name: str):
        self._mirror = Mirror(folder)
        super().__init__(self._mirror.fetch(name), encoding="utf-8")

    def upload(self) -> None:
        with contextlib.suppress(Exception):  # whatever a bucket's library raises
            self.flush()
            self._mirror.upload()

    def close(self) -> None:
        super().close()
        with contextlib.suppress(Exception):
            self._mirror.close()

    def handleError(self, record: logging.LogRecord) -> None:
        pass  # a full disk is reported by the code that writes results


class _Terminal(logging.StreamHandler):
    def format(self, record: logging.LogRecord) -> str:
        number = peers.number()
        who = "ktjax" if number is None else f"ktjax (process {number})"
        return f"{who}: {record.getMessage()}"

    def emit(self, record: logging.LogRecord) -> None:
        with progress.aside():
            super().emit(record)


class _Early(logging.Handler):
    """What is said before a job has its log file, which begins with it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def expect() -> None:
    """Also keeps what is said from now on for the log file of the job that is about to start."""
    to_terminal()
    _OURS.addHandler(_Early())


def to_terminal() -> None:
    """Sends warnings and errors of ktjax, and nothing else, to the terminal."""
    _OURS.propagate = False
    if not any(isinstance(handler, _Terminal) for handler in _OURS.handlers):
        terminal = _Terminal()
        terminal.setLevel(logging.WARNING)
        _OURS.addHandler(terminal)


def start(workdir: Path) -> None:
    """Starts sending ktjax's log, and other libraries' warnings, to this process's file."""
    if parallel.is_first():
        paths.make_folder(workdir / files.LOGS)
    parallel.wait_for_all("logs")
    stop()
    to_terminal()
    handler = _File(workdir / files.LOGS, f"process-{jax.process_index()}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _OURS.setLevel(logging.INFO)
    _OURS.addHandler(handler)
    _ALL.addHandler(handler)
    for early in [h for h in _OURS.handlers if isinstance(h, _Early)]:
        _OURS.removeHandler(early)
        for record in early.records:
            handler.handle(record)
    _OURS.info(
        "ktjax %s, jax %s: process %d of %d, %d of %d devices (%s).",
        ktjax.__version__,
        jax.__version__,
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.local_devices()[0].device_kind,
    )


def flush() -> None:
    """Uploads the log so far to a bucket; on a disk it is already there."""
    for handler in _OURS.handlers:
        if isinstance(handler, _File):
            handler.upload()


def stop() -> None:
    """Closes the log file."""
    for logger in (_OURS, _ALL):
        for handler in [h for h in logger.handlers if isinstance(h, _File)]:
            logger.removeHandler(handler)
            handler.close()
