"""Leases: at most one of all processes and machines that share a disk works on something.

A lease is a file next to what it protects, `NAME@N.lease`. It is created exclusively (O_EXCL), so
that only one of several attempts succeeds, and a nonce in it identifies the holder. The holder
touches it, the heartbeat; the lease expires when nobody has for a while. A process that takes over
from a dead one creates the lease with the next number: nothing is renamed that another might hold
meanwhile. The lease with the largest number counts, so that a holder that was only suspended sees
that it has lost.

That alone would not keep a suspended holder from writing when it wakes. So a holder works in a
folder of its own, `Lease.place`, which the next holder takes over by renaming it. The holder also
publishes its work by renaming the folder: a suspended one has nothing left to rename.

On a local disk all of this is exact, and the death of a process on the same machine is noticed at
once, since it had locked the file (flock). On NFS (version 3 and later) O_EXCL and renaming are
atomic on the server, and only the server's clock tells the ages of files; heartbeats may be seen
late, as clients cache attributes, so `expiry` should be a minute or more.

In a bucket (gs://, s3://) a lease is created on the condition that it does not exist
(paths.create), which is as exclusive. There are no locks, so a dead holder is detected only by the
lease's age. A folder is renamed object by object, results last: if a holder is suspended right
after it checked its lease, what it moves when it wakes may overwrite what the next holder moves.
Both belong to the same run, and differ only in times. A bucket mounted as a folder (gcsfuse) has
neither: there one launcher must start everything.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ktjax import files, paths

_POLL = 0.2  # seconds between attempts
_BEATS = 6  # heartbeats until a lease expires
_NOBODY = {"nonce": None, "boot": None}
_OWN: set[str] = set()  # nonces of the leases of this process
_NAMESPACE = Path("/proc/self/ns/pid")  # on Linux: differs between containers
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # on Linux: differs between machines


class Lease(NamedTuple):
    """A lease that was taken; `held` tells whether it still counts."""

    path: Path  # what it protects
    number: int
    nonce: str

    @property
    def file(self) -> Path:
        """The lease's own file."""
        return _file(self.path, self.number)

    @property
    def place(self) -> Path:
        """The folder that its holder works in; `enter` makes it."""
        return self.path.with_name(f"{self.path.name}@{self.number}-{self.nonce}")

    def held(self) -> bool:
        """Whether no other holder has taken over."""
        return _numbers(self.path)[-1:] == [self.number] and _read(self.file)["nonce"] == self.nonce


@contextlib.contextmanager
def take(
    path: Path, *, expiry: float, lost: Callable[[], None] | None = None
) -> Iterator[Lease | None]:
    """Holds the lease of `path` during the context; yields None if another process has it.

    Args:
      path: what the lease protects; its folder must exist, the path itself need not.
      expiry: seconds without a heartbeat after which a holder counts as dead.
      lost: called, in a thread, as soon as another holder is seen to have taken over.
    """
    with contextlib.ExitStack() as stack:
        lease = _make(path, expiry, stack)
        if lease is None:
            yield None
            return
        over = threading.Event()
        arguments = (lease, expiry / _BEATS, over, lost)
        beat = threading.Thread(target=_beat, args=arguments, daemon=True)
        beat.start()
        try:
            yield lease
        finally:
            over.set()
            beat.join()
            _OWN.discard(lease.nonce)
            if lease.held():
                paths.delete(lease.file)


@contextlib.contextmanager
def wait(path: Path, *, expiry: float) -> Iterator[Lease]:
    """Like `take`, but waits while another process has it."""
    while True:
        with take(path, expiry=expiry) as lease:
            if lease is not None:
                yield lease
                return
        time.sleep(_POLL)


@contextlib.contextmanager
def alone(path: Path, *, expiry: float, lost: Callable[[], None] | None = None) -> Iterator[Lease]:
    """Like `take`, but fails instead of waiting for another process.

    It takes a while to see whether a holder on another machine is alive.

    Raises:
      ValueError: another process has it, and is alive.
    """
    until = time.monotonic() + 1.5 * expiry
    while True:
        with take(path, expiry=expiry, lost=lost) as lease:
            if lease is not None:
                yield lease
                return
        numbers = _numbers(path)
        holder = _read(_file(path, numbers[-1])) if numbers else _NOBODY
        if _runs_here(holder) or time.monotonic() > until:
            raise ValueError(
                f"Process {holder.get('process')} on {holder.get('host')} is working in "
                f"'{path.parent}': stop it first, or use another --workdir."
            )
        time.sleep(_POLL)


def enter(lease: Lease) -> Path:
    """The holder's place, with what the previous holder left.

    Everything that earlier holders kept writing is deleted.
    """
    # A larger number belongs to a process that has taken over meanwhile.
    earlier = [place for number, place in sorted(_places(lease.path)) if number < lease.number]
    for place in earlier[:-1]:
        paths.delete(place, ignore_errors=True)
    for place in earlier[-1:]:
        with contextlib.suppress(FileNotFoundError):
            paths.move(place, lease.place, last=files.RESULTS)
    paths.make_folder(lease.place)
    return lease.place


def _make(path: Path, expiry: float, stack: contextlib.ExitStack) -> Lease | None:
    """The new lease, whose file stays open and locked until the stack is unwound."""
    numbers = _numbers(path)
    if numbers and not _is_dead(_file(path, numbers[-1]), expiry):
        return None
    number = 1 + max([-1, *numbers, *(number for number, _ in _places(path))])
    lease = Lease(path, number, secrets.token_hex(4))
    who = {"host": socket.gethostname(), "process": os.getpid()}
    _OWN.add(lease.nonce)
    said = json.dumps({"nonce": lease.nonce, "boot": _boot(), "processes": _processes(), **who})
    if paths.is_remote(path):
        if not paths.create(lease.file, said.encode()):
            return None
    else:
        try:
            file = stack.enter_context(lease.file.open("x+", encoding="utf-8"))
            _lock(file, fcntl.LOCK_EX)  # before the owner is written and others check the lock
            file.write(said)
            file.flush()
        except FileExistsError:
            return None
    for old in numbers:
        paths.delete(_file(path, old))
    return lease


def _beat(
    lease: Lease, seconds: float, over: threading.Event, lost: Callable[[], None] | None
) -> None:
    while not over.wait(seconds):
        with contextlib.suppress(Exception):  # bucket clients may raise anything
            if lease.held():
                _touch(lease.file)
            elif lost is not None and _numbers(lease.path)[-1:] > [lease.number]:
                lost()
                return


def _touch(file: Path) -> None:
    """Updates a file's modification time, by its server's clock."""
    if paths.is_remote(file):
        paths.put(file, file.read_bytes())
    else:
        os.utime(file)


def _is_dead(file: Path, expiry: float) -> bool:
    """Whether a lease's holder has died: its lock is gone, or its heartbeat has expired."""
    try:
        if _runs_here(_read(file)) is False:
            return True
        if paths.is_remote(file):
            return _now(file.parent) - paths.modified(file) > expiry
        with file.open("rb") as opened:
            boot = _read(file)["boot"]
            if boot is not None and boot == _boot() and _lock(opened, fcntl.LOCK_SH):
                return True
            return _now(file.parent) - os.fstat(opened.fileno()).st_mtime > expiry
    except FileNotFoundError:
        return False  # just released: it is free the next time


def _runs_here(holder: Mapping[str, Any]) -> bool | None:
    """Whether a holder of this machine is alive; None: only its own machine can tell."""
    if _processes() is None or (holder.get("boot"), holder.get("processes")) != (
        _boot(),
        _processes(),
    ):
        return None
    if holder["process"] == os.getpid():
        return holder["nonce"] in _OWN  # else a reused number, such as a container's first process
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _lock(file: IO[Any], kind: int) -> bool:
    """Whether the lock was free; False on disks without locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _now(folder: Path) -> float:
    """The time on the folder's server, which on NFS is not this machine's."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    files.write_whole(probe, "")
    try:
        return paths.modified(probe)
    finally:
        paths.delete(probe)


def _processes() -> str | None:
    """Identifies this container, as process numbers repeat across containers."""
    return os.readlink(_NAMESPACE) if _NAMESPACE.is_symlink() else None


def _boot() -> str | None:
    return _BOOT.read_text().strip() if _BOOT.exists() else None


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}@{number}.lease")


def _read(file: Path) -> dict[str, Any]:
    """The holder of a lease; nobody if the file is gone or not yet written."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return _NOBODY


def _numbers(path: Path) -> list[int]:
    """The numbers of the existing leases, in ascending order."""
    return sorted(int(n) for n in _matching(path, r"(\d+)\.lease"))


def _places(path: Path) -> list[tuple[int, Path]]:
    """The places of all holders, by number."""
    found = _matching(path, r"(\d+-\w+)")
    return [(int(n.partition("-")[0]), path.with_name(f"{path.name}@{n}")) for n in found]


def _matching(path: Path, tail: str) -> list[str]:
    """The matches of the group in `tail` among the files next to `path` named NAME@tail."""
    pattern = re.compile(rf"{re.escape(path.name)}@{tail}")
    matches = (pattern.fullmatch(name) for name in paths.names(path.parent))
    return [match[1] for match in matches if match]
