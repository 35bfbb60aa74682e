"""Orbax: save, restore the latest, keep two and the best. Knows pytrees, not models.

Orbax trusts what the disk returns. So a checkpoint's record says which run it belongs to, and has a
checksum of every array: a checkpoint that does not match when read is skipped in favor of the one
before it. On a CPU the checksums take 3.5 ns of one core per four-byte number: 0.18 s for the 51
million of a ResNet-50 and its momentum, which take 6 s to save, and 0.05 % of a transfer to
glyphs/tiny_resnet_narrow of 124 steps and 4 saves (2 cores, jax 0.10.2). A single process computes
them in a thread, on a copy in memory: only the copy blocks the run, for 0.04 s (0.15 the first
time), down from 0.20 s of one core with the checksums and Orbax's own work.

Orbax itself writes to disks and to gs://, from all processes at once; a complete checkpoint there
has an object commit_success.txt, written last. Orbax cannot write to other buckets: for these, a
checkpoint is made on this machine and uploaded as one object, a tar file, which is there whole or
not at all. Every save then waits for the upload, and only a single process is supported.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from ktjax import parallel, paths

_LOG = logging.getLogger(__name__)
_AT_ONCE = 2**15  # words of an array that fit in a processor's cache
_Words = TypeVar("_Words", np.ndarray, jax.Array)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        del step
        return False  # calls are counted, see interruption.py: only that module may ask


class Unwritten(OSError):
    """A checkpoint could not be written: the storage is at fault, not the run."""


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints of one training run, named by completed updates.

    The latest two and the one with the best score are kept. If one cannot be written, the next
    `save`, `digest`, `restore`, or at the latest `close` raises Unwritten; earlier checkpoints are
    kept.

    `of` identifies the run, part by part: its name, and digests of everything it depends on. A
    checkpoint of another run is not used.
    """

    def __init__(self, folder: Path, *, of: Mapping[str, str]):
        self._of = dict(of)
        self._digest = ""
        self._thread = futures.ThreadPoolExecutor(1, "checkpoints")
        self._saving: futures.Future[None] | None = None  # what the thread is doing
        # `best_fn` with `max_to_keep` would delete the latest ones, and a resume would lose much.
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
                best_fn=_score,  # else scores are not read from disk, and the best is forgotten
                cleanup_tmp_directories=True,  # what a dead process left incomplete
            ),
        )
        self._list_as_first()

    def _list_as_first(self) -> None:
        """Waits until all processes list what process 0 does: they must resume from one step."""
        steps = json.loads(parallel.told_by_all(json.dumps(self._manager.all_steps()))[0])

        def seen() -> bool | None:
            if self._manager.all_steps() != steps:
                self._manager.reload()
            return self._manager.all_steps() == steps or None

        parallel.as_first_finds(seen, f"'{self._folder}'")

    def latest(self) -> int | None:
        """The step of the latest checkpoint; None if there is none."""
        self._wait()
        return self._manager.latest_step()

    @property
    def digest(self) -> str:
        """Digest of the arrays that were last saved or restored."""
        self._wait()
        return self._digest

    def save(self, step: int, state: Any, *, record: Any, score: float | None) -> None:
        """Saves asynchronously.

        Args:
          step: completed updates.
          state: a pytree of arrays; may be donated as soon as this returns.
          record: JSON-able, restored unchanged.
          score: larger is better; None: this state was not evaluated.
        """
        self._wait()
        # With several processes, all compute the checksums, in the same order. Accelerators compute
        # them where the arrays are; a thread would have to fetch the arrays first.
        if jax.process_count() == 1 and all(map(_is_on_host, jax.tree.leaves(state))):
            copy = jax.tree.map(np.array, state)
            self._saving = self._thread.submit(self._save_copy, step, copy, record, score)
        else:
            self._save(step, state, record, score)

    def _save_copy(self, step: int, copy: Any, record: Any, score: float | None) -> None:
        state = jax.tree.map(jnp.asarray, copy)  # Orbax records array types
        self._save(step, state, record, score)

    def _save(self, step: int, state: Any, record: Any, score: float | None) -> None:
        said = {"record": record, "of": self._of, "arrays": checksums(state)}
        self._digest = _digest(said["arrays"])
        said["digest"] = _digest(said)
        with self._writing():
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

    def _wait(self) -> None:
        """Waits until Orbax has the state being saved; raises what `_save` raised."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def restore(self, like: Any, *, steps: Sequence[int] | None = None) -> tuple[Any, Any]:
        """The latest intact (state, record), of these steps or of all.

        Damaged checkpoints are moved aside, to `unreadable-<step>`, with a warning.

        Args:
          like: the state or its shapes, with the wanted shardings: it may have been saved on other
            devices, and by a different number of processes.

        Raises:
          OSError: none of them can be used.
          Unwritten: what was saved last could not be written.
          ValueError: processes read different checkpoints.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        self._wait()
        with self._writing():
            self._manager.wait_until_finished()  # pending saves count, and delete older ones
        faults: dict[int, Exception] = {}
        for step in sorted(steps or self._manager.all_steps(), reverse=True):
            restored, fault = self._read(step, abstract)
            if parallel.seen_by_all(fault is None):
                fault = self._mismatch(restored)  # in every process: arrays may span them all
            if parallel.seen_by_all(fault is None):
                if len(set(parallel.told_by_all(_digest(restored["record"])))) > 1:
                    raise ValueError(
                        f"Processes read different checkpoints of step {step} in '{self._folder}', "
                        "which all processes must share."
                    )
                if parallel.is_first():
                    for later, error in faults.items():
                        self._put_aside(later, error)
                parallel.wait_for_all("checkpoints put aside")
                self._manager.reload()
                self._list_as_first()
                self._digest = _digest(restored["record"]["arrays"])
                return restored["state"], restored["record"]["record"]
            faults[step] = fault or OSError("another process cannot read it")
        first = next(iter(faults.values()))
        raise OSError(
            f"None of the checkpoints in '{self._folder}' can be used; the latest: "
            f"{_reason(first)}. To start this run over, delete the folder."
        )

    def _read(self, step: int, abstract: Any) -> tuple[Any, Exception | None]:
        """What a checkpoint holds, and the error if it cannot be read."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
        )
        try:
            return self._manager.restore(step, args=args), None
        except Exception as error:  # damage can raise anything
            return None, error

    def _mismatch(self, restored: Any) -> Exception | None:
        """Why what was read is not what this run saved; None: it is."""
        said = restored["record"]
        if not isinstance(said, dict) or said.keys() != {"record", "of", "arrays", "digest"}:
            return ValueError("it has no checksums as ktjax writes them")
        if said.pop("digest") != _digest(said):
            return ValueError("its record is damaged")
        others = [name for name, value in self._of.items() if said["of"].get(name) != value]
        if others:
            return ValueError(f"it differs in {' and '.join(others)}")
        found = checksums(restored["state"])
        damaged = [name for name in found if found[name] != said["arrays"].get(name)]
        if damaged:
            return ValueError(f"{len(damaged)} of its arrays are damaged, such as {damaged[0]}")
        return None

    def _put_aside_damaged_scores(self) -> None:
        """Orbax reads all checkpoints' scores when it starts, and fails on a damaged one."""
        if not self._folder.exists():
            return
        for name in filter(str.isdecimal, paths.names(self._folder)):
            path = self._folder / name / "metrics" / "metrics"
            try:
                json.loads(path.read_text(encoding="utf-8") if path.exists() else "{}")
            except ValueError as error:
                self._put_aside(int(name), error)

    def _put_aside(self, step: int, error: Exception) -> None:
        """Renames a checkpoint that cannot be used: a later one will get its name."""
        if self._remote is not None:
            self._remote.sound.discard(step)
        aside = self._folder / f"unreadable-{step}"
        paths.delete(aside, ignore_errors=True)
        paths.move(self._folder / str(step), aside)
        _LOG.warning(
            "The checkpoint of step %d cannot be used (%s): moved to '%s'. Using the one before it "
            "instead.",
            step,
            _reason(error),
            aside,
        )

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._thread.shutdown()
        self._wait()
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()
            if self._remote is not None:
                self._remote.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells as Unwritten what goes wrong meanwhile."""
        try:
            yield
        except Exception as error:  # whatever Orbax and TensorStore raise
            if _another_died(error):
                raise
            raise Unwritten(
                f"A checkpoint in '{self._folder}' could not be written: {_reason(error)}. "
                "Complete ones are kept: run the same command to resume from the latest."
            ) from error


def checksums(tree: Any) -> dict[str, str]:
    """A checksum of each array's bits, by its name in the tree, however the arrays are sharded.

    They are computed where the arrays are, in all processes; every process gets all of them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = parallel.fetch([(_on_host if _is_on_host(x) else _on_devices)(x) for _, x in leaves])
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {name: f"{a:08x}{b:08x}" for name, (a, b) in zip(names, sums, strict=True)}


def _is_on_host(x: Any) -> bool:
    """Whether this process has a whole array in host memory: then nothing needs to be compiled."""
    if not isinstance(x, jax.Array):
        return True
    return {device.platform for device in x.devices()} == {"cpu"} and (
        x.is_fully_addressable or x.is_fully_replicated
    )


@jax.jit
def _on_devices(x: jax.Array) -> jax.Array:
    """The checksums of an array, uint32 [2]."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    kind = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")  # wider types: one more axis
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        steps = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += np.uint32(stride % 2**32) * steps
        stride *= bits.shape[axis]
    return jnp.stack([v.sum(dtype=jnp.uint32) for v in _mixed(bits, place)])


def _on_host(x: Any) -> np.ndarray:
    """The same for an array in host memory."""
    flat = np.ascontiguousarray(x).reshape(-1)
    bits = flat.view(f"uint{8 * min(flat.dtype.itemsize, 4)}")
    sums = np.zeros(2, np.uint32)
    for start in range(0, len(bits), _AT_ONCE):
        part = bits[start : start + _AT_ONCE].astype(np.uint32)
        place = np.arange(start, start + len(part)).astype(np.uint32)
        sums += np.array([v.sum(dtype=np.uint32) for v in _mixed(part, place)])
    return sums


def _mixed(bits: _Words, place: _Words) -> tuple[_Words, _Words]:
    """Two numbers for each word of an array, uint32, from its value and position, to be summed.

    Sums modulo 2^32 do not depend on the order, so nor on the sharding. A single changed word
    changes both sums, as each step is one to one; other damage goes undetected with a probability
    of 1 in 2^64. The first three steps are the end of MurmurHash3 (fmix32).
    """
    x = bits ^ (place * np.uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return x, (x ^ (x >> 15)) * np.uint32(0x2C1B3C6D)


def _digest(said: Mapping[str, Any]) -> str:
    """Digest of a record's content as JSON."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class _Tars:
    """Checkpoints in a bucket, one object each, and the local folder where Orbax has them."""

    def __init__(self, folder: Path):
        if jax.process_count() > 1:
            raise ValueError(
                f"Several processes cannot write checkpoints to '{folder}': use a shared disk, "
                "or gs://."
            )
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="ktjax-")
        self.local = Path(self._scratch.name)
        self.sound: set[int] = set()  # steps in the bucket, as far as is known undamaged
        for step in self._there():
            try:
                with self._path(step).open("rb") as file, tarfile.open(fileobj=file) as tar:
                    tar.extractall(self.local, filter="data")
                self.sound.add(step)
            except tarfile.TarError as error:
                _LOG.warning("'%s' cannot be read (%s): skipped.", self._path(step), error)

    def upload(self, steps: Sequence[int]) -> None:
        """Uploads the steps that the bucket lacks or has damaged, and deletes all others there."""
        there = self._there()
        for step in sorted(set(steps) - (there & self.sound)):
            packed = self.local / f"{step}.tar"
            with tarfile.open(packed, "w") as tar:
                tar.add(self.local / str(step), str(step))
            paths.upload(packed, self._path(step))
            packed.unlink()
            self.sound.add(step)
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
    """Whether another process failed, rather than the disk."""
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)


def _reason(error: Exception) -> str:
    """The system's error message, or else the first line of the library's."""
    text = str(error)
    said = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)]
    lines = text.strip().splitlines() or [type(error).__name__]
    return next((known for known in said if known in text), lines[0][:300].rstrip("."))
