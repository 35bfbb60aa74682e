"""Orbax: save, restore the latest, keep two and the best. Knows pytrees, not models.

Orbax writes to disks and to gs:// itself, from all processes at once; what it calls complete there
has an object commit_success.txt, written last. Other buckets it cannot write: there a checkpoint is
made on this machine and put as one object, a tar file, which is there whole or not at all. That
takes the time of the upload at every save, and is for a single process.
"""

import errno
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from ktjax import parallel, paths

_LOG = logging.getLogger(__name__)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        del step
        return False  # calls are counted, see interruption.py: nobody else may ask


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints of one training run, named by completed updates.

    The latest two and the one with the best score are kept. Where one cannot be written, an OSError
    says so, from `close` at the latest; what was complete before stays.
    """

    def __init__(self, folder: Path):
        # `best_fn` with `max_to_keep` would delete the latest ones: resume would go far back.
        best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        self._remote = _Tars(folder) if paths.scheme(folder) not in (None, "gs") else None
        self._folder = paths.absolute(folder) if self._remote is None else self._remote.local
        if parallel.is_first():
            self._put_aside_damaged_scores()
        parallel.wait_for_all("checkpoints")
        self._manager = _Manager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=_score,  # else scores are not read from disk, and the best forgotten
                cleanup_tmp_directories=True,  # what a process that died did not complete
            ),
        )

    def latest(self) -> int | None:
        """The step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, record: Any, score: float | None) -> None:
        """Saves asynchronously.

        Args:
          step: completed updates.
          state: a pytree of arrays; may be donated as soon as this returns.
          record: JSON-able, restored as it is.
          score: larger is better; None: this state was not evaluated.
        """
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), record=ocp.args.JsonSave({"record": record})
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )
            if self._remote is not None:
                self._manager.wait_until_finished()
                self._remote.upload(self._manager.all_steps())
        except Exception as error:  # whatever Orbax and TensorStore call it
            if _another_died(error):
                raise
            raise self._unwritten(error) from error

    def restore(self, like: Any, *, steps: Sequence[int] | None = None) -> tuple[Any, Any]:
        """The latest (state, record) that can be read, of these steps, or of all.

        Checkpoints that cannot are put aside, as `unreadable-<step>`, which is logged.

        Args:
          like: the state in shapes, or a state, with the shardings that it is to have: it may have
            been saved on other devices, and by another number of processes.

        Raises:
          OSError: none of them can be read.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        self._manager.wait_until_finished()  # what is being saved counts, and makes others go
        failures: dict[int, Exception] = {}
        for step in sorted(steps or self._manager.all_steps(), reverse=True):
            restored = None
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
                    ),
                )
            except Exception as error:  # damage shows as anything
                failures[step] = error
            if _all_processes(restored is not None):
                if parallel.is_first():
                    for later, error in failures.items():
                        self._put_aside(later, error)
                parallel.wait_for_all("checkpoints put aside")
                self._manager.reload()
                return restored["state"], restored["record"]["record"]
            failures.setdefault(step, OSError("another process cannot read it"))
        first = next(iter(failures.values()))
        raise OSError(
            f"None of the checkpoints in '{self._folder}' can be read, the latest because of: "
            f"{_reason(first)}. To begin this run anew, delete the folder."
        )

    def _put_aside_damaged_scores(self) -> None:
        """Orbax reads the scores of all checkpoints when it starts, and fails on a damaged one."""
        if not self._folder.exists():
            return
        for name in filter(str.isdecimal, paths.names(self._folder)):
            path = self._folder / name / "metrics" / "metrics"
            try:
                json.loads(path.read_text(encoding="utf-8") if path.exists() else "{}")
            except ValueError as error:
                self._put_aside(int(name), error)

    def _put_aside(self, step: int, error: Exception) -> None:
        """Renames what cannot be read: a later checkpoint will have its name."""
        aside = self._folder / f"unreadable-{step}"
        paths.delete(aside, ignore_errors=True)
        paths.move(self._folder / str(step), aside)
        _LOG.warning(
            "The checkpoint of step %d cannot be read (%s): put aside as '%s'. Gone back to the "
            "one before.",
            *(step, _reason(error), aside),
        )

    def close(self) -> None:
        """Waits until everything is on disk."""
        try:
            self._manager.wait_until_finished()
            self._manager.close()
            if self._remote is not None:
                self._remote.close()
        except Exception as error:
            if _another_died(error):
                raise
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> OSError:
        return OSError(
            f"A checkpoint in '{self._folder}' could not be written: {_reason(error)}. Complete "
            "ones are kept: started again, the run goes on from the latest."
        )


class _Tars:
    """Checkpoints of a bucket, an object each, and the folder here that Orbax has them in."""

    def __init__(self, folder: Path):
        if jax.process_count() > 1:
            raise ValueError(
                f"Several processes cannot write checkpoints to '{folder}': take a shared disk, "
                "or gs://."
            )
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="ktjax-")
        self.local = Path(self._scratch.name)
        for step in self._there():
            try:
                with self._path(step).open("rb") as file, tarfile.open(fileobj=file) as tar:
                    tar.extractall(self.local, filter="data")
            except tarfile.TarError as error:
                _LOG.warning("'%s' cannot be read (%s): left out.", self._path(step), error)

    def upload(self, steps: Sequence[int]) -> None:
        """Brings steps to the bucket that are not there, and deletes there what is none of them."""
        there = self._there()
        for step in sorted(set(steps) - there):
            packed = self.local / f"{step}.tar"
            with tarfile.open(packed, "w") as tar:
                tar.add(self.local / str(step), str(step))
            paths.upload(packed, self._path(step))
            packed.unlink()
        for step in there - set(steps):
            paths.delete(self._path(step))

    def close(self) -> None:
        self._scratch.cleanup()

    def _there(self) -> set[int]:
        found = (name.partition(".") for name in paths.names(self._folder))
        return {int(step) for step, _, kind in found if step.isdecimal() and kind == "tar"}

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}.tar"


def _another_died(error: Exception) -> bool:
    """Whether it is the other processes that fail, and not the disk."""
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)


def _reason(error: Exception) -> str:
    """What the system said, or else the first line of what the libraries said."""
    text = str(error)
    said = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)]
    lines = text.strip().splitlines() or [type(error).__name__]
    return next((known for known in said if known in text), lines[0][:300].rstrip("."))


def _all_processes(mine: bool) -> bool:
    if jax.process_count() == 1:
        return mine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))
