"""Orbax: save, restore the latest, keep two and the best. Knows pytrees, not models.

Orbax believes what a disk gives back. So a checkpoint's record says whose it is, and has a checksum
of every array: what does not match when it is read again is not used, but the one before it.
On a CPU the checksums take 3.5 ns of one core for each number of four bytes: 0.18 s for the 51
million of a ResNet-50 and its momentum, of which saving takes 6 s, and 0.05 % of a transfer to
glyphs/tiny_resnet_narrow of 124 steps and 4 saves (2 cores, jax 0.10.2). A single process makes
them in a thread, of a copy in memory: the copy is what holds a run up, 0.04 s (the first 0.15)
where it was 0.20 s of one core with sums and Orbax's own.

Orbax writes to disks and to gs:// itself, from all processes at once; what it calls complete there
has an object commit_success.txt, written last. Other buckets it cannot write: there a checkpoint is
made on this machine and put as one object, a tar file, which is there whole or not at all. That
takes the time of the upload at every save, and is for a single process.
"""

import errno
import hashlib
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from ktjax import parallel, paths

_LOG = logging.getLogger(__name__)
_AT_ONCE = 2**15  # words of an array that stay in a processor's cache
_Words = TypeVar("_Words", np.ndarray, jax.Array)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        del step
        return False  # calls are counted, see interruption.py: nobody else may ask


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints of one training run, named by completed updates.

    The latest two and the one with the best score are kept. Where one cannot be written, an OSError
    says so: of the next `save`, of `digest`, or of `close` at the latest; what was complete before
    stays.

    `of` says whose they are, by what each part of it is called: the run's name, and digests of all
    that it depends on. A checkpoint that was saved of another is not used.
    """

    def __init__(self, folder: Path, *, of: Mapping[str, str]):
        self._of = dict(of)
        self._digest = ""
        self._thread = futures.ThreadPoolExecutor(1, "checkpoints")
        self._saving: futures.Future[None] | None = None  # what the thread is at
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
        self._wait()
        return self._manager.latest_step()

    @property
    def digest(self) -> str:
        """Of the arrays that were saved or restored last."""
        self._wait()
        return self._digest

    def save(self, step: int, state: Any, *, record: Any, score: float | None) -> None:
        """Saves asynchronously.

        Args:
          step: completed updates.
          state: a pytree of arrays; may be donated as soon as this returns.
          record: JSON-able, restored as it is.
          score: larger is better; None: this state was not evaluated.
        """
        self._wait()
        # Of several processes all work on the sums, and in the same order; and other devices than
        # a CPU make them where they have the arrays, while it would have to fetch them.
        if jax.process_count() == 1 and all(map(_is_on_host, jax.tree.leaves(state))):
            copy = jax.tree.map(np.array, state)
            self._saving = self._thread.submit(self._save_copy, step, copy, record, score)
        else:
            self._save(step, state, record, score)

    def _save_copy(self, step: int, copy: Any, record: Any, score: float | None) -> None:
        state = jax.tree.map(jnp.asarray, copy)  # Orbax notes what arrays are
        self._save(step, state, record, score)

    def _save(self, step: int, state: Any, record: Any, score: float | None) -> None:
        said = {"record": record, "of": self._of, "arrays": checksums(state)}
        self._digest = _digest(said["arrays"])
        said["digest"] = _digest(said)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(said)
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

    def _wait(self) -> None:
        """Until Orbax has what is being saved; raises what `_save` has raised."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def restore(self, like: Any, *, steps: Sequence[int] | None = None) -> tuple[Any, Any]:
        """The latest (state, record) that is as it was saved, of these steps, or of all.

        Checkpoints that are not are put aside, as `unreadable-<step>`, which is logged.

        Args:
          like: the state in shapes, or a state, with the shardings that it is to have: it may have
            been saved on other devices, and by another number of processes.

        Raises:
          OSError: none of them can be used.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        self._wait()
        self._manager.wait_until_finished()  # what is being saved counts, and makes others go
        faults: dict[int, Exception] = {}
        for step in sorted(steps or self._manager.all_steps(), reverse=True):
            restored, fault = self._read(step, abstract)
            if _all_processes(fault is None):
                fault = self._mismatch(restored)  # all of them: arrays may be of all processes
            if _all_processes(fault is None):
                if parallel.is_first():
                    for later, error in faults.items():
                        self._put_aside(later, error)
                parallel.wait_for_all("checkpoints put aside")
                self._manager.reload()
                self._digest = _digest(restored["record"]["arrays"])
                return restored["state"], restored["record"]["record"]
            faults[step] = fault or OSError("another process cannot read it")
        first = next(iter(faults.values()))
        raise OSError(
            f"None of the checkpoints in '{self._folder}' can be used, the latest because of: "
            f"{_reason(first)}. To begin this run anew, delete the folder."
        )

    def _read(self, step: int, abstract: Any) -> tuple[Any, Exception | None]:
        """What a checkpoint holds, and why it cannot be read."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
        )
        try:
            return self._manager.restore(step, args=args), None
        except Exception as error:  # damage shows as anything
            return None, error

    def _mismatch(self, restored: Any) -> Exception | None:
        """Why what was read is not what was saved of this run; None: it is."""
        said = restored["record"]
        if not isinstance(said, dict) or said.keys() != {"record", "of", "arrays", "digest"}:
            return ValueError("it has no checksums, as ktjax writes them")
        if said.pop("digest") != _digest(said):
            return ValueError("its record is damaged")
        others = [name for name, value in self._of.items() if said["of"].get(name) != value]
        if others:
            return ValueError(f"it is not of the same {' and '.join(others)}")
        found = checksums(restored["state"])
        damaged = [name for name in found if found[name] != said["arrays"].get(name)]
        if damaged:
            return ValueError(f"{len(damaged)} of its arrays are damaged, {damaged[0]} for one")
        return None

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
            "The checkpoint of step %d cannot be used (%s): put aside as '%s'. Gone back to the "
            "one before.",
            *(step, _reason(error), aside),
        )

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._thread.shutdown()
        self._wait()
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


def checksums(tree: Any) -> dict[str, str]:
    """A checksum of each array over its bits, by its name in the tree, however arrays are sharded.

    They are made where the arrays lie, of whatever processes; each of these gets all of them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = parallel.fetch([(_on_host if _is_on_host(x) else _on_devices)(x) for _, x in leaves])
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {name: f"{a:08x}{b:08x}" for name, (a, b) in zip(names, sums, strict=True)}


def _is_on_host(x: Any) -> bool:
    """Whether this process has all of an array in its memory: there nothing need be compiled."""
    if not isinstance(x, jax.Array):
        return True
    return {device.platform for device in x.devices()} == {"cpu"} and (
        x.is_fully_addressable or x.is_fully_replicated
    )


@jax.jit
def _on_devices(x: jax.Array) -> jax.Array:
    """The sums of an array, uint32 [2]."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    kind = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")  # of more bytes: another axis
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        steps = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += np.uint32(stride % 2**32) * steps
        stride *= bits.shape[axis]
    return jnp.stack([v.sum(dtype=jnp.uint32) for v in _mixed(bits, place)])


def _on_host(x: Any) -> np.ndarray:
    """The same of an array that NumPy reads as it lies there."""
    flat = np.ascontiguousarray(x).reshape(-1)
    bits = flat.view(f"uint{8 * min(flat.dtype.itemsize, 4)}")
    sums = np.zeros(2, np.uint32)
    for start in range(0, len(bits), _AT_ONCE):
        part = bits[start : start + _AT_ONCE].astype(np.uint32)
        place = np.arange(start, start + len(part)).astype(np.uint32)
        sums += np.array([v.sum(dtype=np.uint32) for v in _mixed(part, place)])
    return sums


def _mixed(bits: _Words, place: _Words) -> tuple[_Words, _Words]:
    """Two numbers for each word of an array, uint32, by what it is and where: they are summed up.

    Sums modulo 2^32 do not depend on the order, and so not on where the parts of an array lie. A
    word that changes alone changes both, as each step is one to one; other damage goes unseen by
    one chance in 2^64. The first three steps are the end of MurmurHash3 (fmix32).
    """
    x = bits ^ (place * np.uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return x, (x ^ (x >> 15)) * np.uint32(0x2C1B3C6D)


def _digest(said: Mapping[str, Any]) -> str:
    """Of what a record says, as JSON has it."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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
