"""The folders of a study's runs: what they hold, and how it gets there atomically."""

import contextlib
import dataclasses
import errno
import functools
import json
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from ktjax import files, paths
from ktjax.analysis import controls, rows
from ktjax.analysis.rows import TransferResults
from ktjax.checkpoint import Unwritten
from ktjax.experiment import beginning, logs
from ktjax.experiment import lease as lease_lib
from ktjax.experiment import workdir as workdir_lib
from ktjax.experiment.lease import Lease
from ktjax.experiment.shared import Shared
from ktjax.jobs import transfer
from ktjax.jobs.study.plan import Run, transfer_of
from ktjax.settings.record import FREE
from ktjax.settings.study import Study
from ktjax.settings.transfer import Transfer

_ERROR = "error.json"  # why a run failed
# Of a disk or process that all runs need, whichever file was at hand.
_OF_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


class Found(NamedTuple):
    """The result of a run."""

    results: TransferResults
    bits: np.ndarray  # right_N, packed: there may be many runs

    @property
    def right_N(self) -> np.ndarray:
        """Which validation images are right after it, bool."""
        return np.unpackbits(self.bits, count=self.results.data.validation).astype(bool)

    @property
    def row(self) -> rows.Run:
        """Its only row."""
        return self.results.runs[0]


class Runs:
    """The runs of a workdir on disk; results of finished ones are cached."""

    def __init__(self, workdir: Path, settings: Study):
        self.workdir, self._settings = workdir, settings
        self._found: dict[Path, Found] = {}
        self._finished: set[Path] = set()  # as far as is known: a bucket is slow to ask
        self._without: set[Path] = set()  # finished runs whose students were deleted here

    def is_done(self, run: Run) -> bool:
        """Whether it is finished, or has failed."""
        return self.has_found(run) or self.error(run) is not None

    def done(self, runs: Sequence[Run]) -> list[Run]:
        """Those that are finished, or have failed.

        The folders above them are listed, each once: nothing is asked about what nobody has begun.
        """

        @functools.cache
        def names(folder: Path) -> Collection[str]:
            if folder.parent != Path() and folder.name not in names(folder.parent):
                return ()
            try:
                return frozenset(paths.names(self.workdir / folder))
            except (FileNotFoundError, NotADirectoryError):
                return ()

        there = [run for run in runs if run.folder.name in names(run.folder.parent)]
        return [run for run in there if self.is_done(run)]

    def has_found(self, run: Run) -> bool:
        """Whether it is finished, which it then stays."""
        if run.folder not in self._finished:
            if not (self.workdir / run.folder / files.RESULTS).exists():
                return False
            self._finished.add(run.folder)
        return True

    def error(self, run: Run) -> str | None:
        """Why it failed; None if it did not, or has finished since."""
        if self.has_found(run):
            return None
        try:
            text = (self.workdir / run.folder / _ERROR).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return json.loads(text)["error"]

    def diverged(self, run: Run) -> bool:
        """Whether it failed because its training diverged, which counts as not improved."""
        return (self.error(run) or "").startswith(f"{FloatingPointError.__name__}:")

    def failure(self, run: Run) -> float | None:
        """When it last failed, in seconds; None if it did not, or has finished since."""
        if self.has_found(run):
            return None
        try:
            return paths.modified(self.workdir / run.folder / _ERROR)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def found(self, run: Run) -> Found:
        """Its result; it must be finished.

        Raises:
          ValueError: it is damaged, or of a study with other settings or images: folders may be
            copied.
        """
        if run.folder not in self._found:
            folder = self.workdir / run.folder
            found = _read(folder)
            _check_own(folder, found.results.config, transfer_of(self._settings, run).identity())
            _check_images(folder, self._images)
            self._found[run.folder] = found
        return self._found[run.folder]

    @functools.cached_property
    def _images(self) -> Mapping[str, Any]:
        """Fingerprints of the study's splits."""
        return beginning.read(self.workdir)["images"]

    def take(self, run: Run) -> contextlib.AbstractContextManager[Lease | None]:
        """The lease of a run; only its holder can publish the run's results."""
        path = self.workdir / run.folder
        paths.make_folder(path.parent)
        return lease_lib.take(path, expiry=self._settings.lease_expiry)

    def do(self, run: Run, settings: Transfer, lease: Lease, shared: Shared) -> bool:
        """Executes or resumes a run and moves it to its folder; False if the lease was lost.

        If the run fails, its error is kept there instead.

        Raises:
          OSError: what all runs write to is full, for example, or cannot be written.
          jax.errors.JaxRuntimeError: a device has died.
        """
        place = lease_lib.enter(lease)
        try:
            transfer.execute(settings, place, shared=shared, report=False)
        except Exception as error:  # of its models, its numerics, its memory: maybe not the next's
            held = lease.held()  # else the new holder has renamed the folder
            if held and _stops_all(error, self.workdir, settings.store):
                raise
            logs.stop()
            if held:
                paths.delete(place, ignore_errors=True)
                paths.make_folder(place)
                said: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
                files.write_json(
                    place / _ERROR, said | {"traceback": traceback.format_exc().splitlines()}
                )
        paths.delete(place / files.CHECKPOINTS, ignore_errors=True)
        return self._publish(run, place, lease)

    def _publish(self, run: Run, place: Path, lease: Lease) -> bool:
        """Moves what was made to the run's folder; False if the lease was lost."""
        if not lease.held() or self.has_found(run):  # another may finish at any moment
            paths.delete(place, ignore_errors=True)
            return False
        path = self.workdir / run.folder
        paths.delete(path, ignore_errors=True)  # it had failed before
        try:
            paths.move(place, path, last=files.RESULTS)
        except FileNotFoundError:
            if lease.held():
                raise
            return False  # the new holder has renamed the folder
        return True

    def keep(self, runs: Sequence[Run], keep: str) -> None:
        """Deletes exported students that config.keep excludes, among the runs of one student."""
        done = [run for run in runs if self.has_found(run)]
        # Without teachers, the runs that are not controls are the requested ones.
        taught = [run for run in done if run.teacher is not None]
        taught = taught or [run for run in done if not run.is_control]
        stay = {"all": done, "none": [], "best": []}[keep]
        if keep == "best" and taught:
            stay = [max(taught, key=lambda run: controls.tune_delta(self.found(run).row))]
        for run in done:
            if run not in stay and run.folder not in self._without:
                paths.delete(self.workdir / run.folder / files.STUDENTS, ignore_errors=True)
                self._without.add(run.folder)


def _read(folder: Path) -> Found:
    try:
        results = workdir_lib.results_in(folder)
        bits = safetensors_numpy.load((folder / files.RIGHT).read_bytes())[results.runs[0].run]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"'{folder}' is damaged ({error}): delete it, and the run is done again."
        ) from error
    assert isinstance(results, TransferResults)
    row = dataclasses.replace(results.runs[0], run=str(folder))
    return Found(dataclasses.replace(results, runs=(row,)), bits)


def _check_images(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raises ValueError if the run in a folder saw other images than this study."""
    try:
        there = beginning.read(folder)["images"]
    except FileNotFoundError as error:
        raise ValueError(
            f"'{folder}' is damaged ({error}): delete it, and the run is done again."
        ) from error
    if others := [split for split in wanted if there.get(split) != wanted[split]]:
        raise ValueError(
            f"'{folder}' is of another study: it saw other images of {' and '.join(others)}. "
            "Delete it, and the run is done again, or use another --workdir."
        )


def _stops_all(error: Exception, workdir: Path, store: str | None) -> bool:
    """Whether the next run would fail likewise: what the study writes or computes on is broken."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return _lost_device()
    if not isinstance(error, OSError):
        return False
    if isinstance(error, Unwritten) or error.errno in _OF_ALL:
        return True
    own = [workdir, *([] if store is None else [paths.of(store)])]
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | Path)]
    return any(_is_below(name, folder) for name in names for folder in own)


def _lost_device() -> bool:
    """Whether one of this process's devices no longer computes; one that is full still does."""
    try:
        jax.block_until_ready([jnp.zeros(1, device=device) + 1 for device in jax.local_devices()])
    except jax.errors.JaxRuntimeError as error:
        return not str(error).startswith("RESOURCE_EXHAUSTED")
    return False


def _is_below(name: str | Path, folder: Path) -> bool:
    if paths.is_remote(folder):
        return str(name).startswith(f"{folder}/")
    return Path(name).absolute().is_relative_to(folder.absolute())


def _check_own(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError if the run in a folder had another config than this study gives it."""
    there = {name: value for name, value in found.items() if name not in FREE}
    if there != wanted:
        raise ValueError(
            f"'{folder}' is of another study: {workdir_lib.differences(there, wanted)}. Delete it, "
            "and the run is done again, or use another --workdir."
        )
