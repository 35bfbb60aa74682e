"""What each process says while it works: workdir/logs/process-<i>.log, appended to."""

import logging
from pathlib import Path

import jax

import ktjax
from ktjax import parallel

FOLDER = "logs"
_LOGGERS = (logging.getLogger("ktjax"), logging.getLogger())


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        pass  # a full disk is told by those who write results to it


def start(workdir: Path) -> None:
    """Sends what ktjax says, and the warnings of all others, to this process's file from now on."""
    (workdir / FOLDER).mkdir(exist_ok=True)
    parallel.wait_for_all("logs")
    stop()
    handler = _File(workdir / FOLDER / f"process-{jax.process_index()}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours, others = _LOGGERS
    ours.setLevel(logging.INFO)
    ours.propagate = False  # the terminal has progress bars and results
    ours.addHandler(handler)
    others.addHandler(handler)
    ours.info(
        "ktjax %s, jax %s: process %d of %d, %d of %d devices (%s).",
        ktjax.__version__,
        jax.__version__,
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.local_devices()[0].device_kind,
    )


def stop() -> None:
    """Closes the file."""
    for logger in _LOGGERS:
        for handler in [h for h in logger.handlers if isinstance(h, _File)]:
            logger.removeHandler(handler)
            handler.close()
