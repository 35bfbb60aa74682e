"""Who works on something: at most one of all processes and machines that share a disk.

A lease is a file beside what it is for, `NAME@N.lease`. It is made exclusively (O_EXCL), so that of
several who try one alone has it, and it says by a nonce whose it is. Its holder touches it, the
heartbeat; it has expired when nobody has for a while. Who takes up what a dead one left makes the
lease of the next number: nothing is renamed that another could hold meanwhile. The lease of the
largest number counts, so that who was only asleep sees that it has lost.

That alone would not keep a sleeper from writing when it wakes. So a holder works in a folder of its
own, `Lease.place`, which the next holder takes over by renaming it, and it gives its work away by
renaming it, too: a sleeper has nothing left to rename.

On a local disk all of this is exact, and the death of a process of the same machine is seen at
once: it had locked the file (flock). On NFS (version 3 and later) O_EXCL and renaming are atomic on
the server, whose clock alone tells the ages of files; signs of life may be seen late, as clients
cache attributes, so `expiry` should be a minute or more.

In a bucket (gs://, s3://) a lease is put on the condition that there is none (paths.create), which
is as exclusive; locks there are none, so that a dead holder is known by its age alone. A folder is
renamed object by object, results last: of a sleeper that wakes after it has looked whether it has
lost, what it moves may come over what the next holder moves. Both are of one run, the same but for
times. A bucket that is mounted as a folder (gcsfuse) has neither: there one launcher has to start
everything.
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

_POLL = 0.2  # seconds between two tries
_BEATS = 6  # signs of life until a lease expires
_NOBODY = {"nonce": None, "boot": None}
_OWN: set[str] = set()  # nonces of the leases of this process
_NAMESPACE = Path("/proc/self/ns/pid")  # of Linux: differs from container to container
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux: differs from machine to machine


class Lease(NamedTuple):
    """A lease that was taken; whether it still counts, `held` says."""

    path: Path  # what it is for
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
        """Whether nobody has taken over."""
        return _numbers(self.path)[-1:] == [self.number] and _read(self.file)["nonce"] == self.nonce


@contextlib.contextmanager
def take(
    path: Path, *, expiry: float, lost: Callable[[], None] | None = None
) -> Iterator[Lease | None]:
    """Holds the lease of `path` as long as the context; None if another has it.

    Args:
      path: what the lease is for; its folder exists, itself it need not.
      expiry: seconds without a sign of life after which a holder is taken for dead.
      lost: called, in a thread, as soon as it is seen that another has taken over.
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
    """As `take`, but waits while another has it."""
    while True:
        with take(path, expiry=expiry) as lease:
            if lease is not None:
                yield lease
                return
        time.sleep(_POLL)


@contextlib.contextmanager
def alone(path: Path, *, expiry: float, lost: Callable[[], None] | None = None) -> Iterator[Lease]:
    """As `take`, for work that others are not to wait for.

    Whether a holder on another machine is alive, it takes a while to see.

    Raises:
      ValueError: another has it, and is alive.
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
                f"Process {holder.get('process')} on {holder.get('host')} works in '{path.parent}' "
                "at this moment: end it first, or take another --workdir."
            )
        time.sleep(_POLL)


def enter(lease: Lease) -> Path:
    """The holder's place, in which it finds what the last holder left in its own.

    Of losers, who wrote on, everything goes.
    """
    # A larger number is of who has taken over meanwhile.
    earlier = [place for number, place in sorted(_places(lease.path)) if number < lease.number]
    for place in earlier[:-1]:
        paths.delete(place, ignore_errors=True)
    for place in earlier[-1:]:
        with contextlib.suppress(FileNotFoundError):
            paths.move(place, lease.place, last=files.RESULTS)
    paths.make_folder(lease.place)
    return lease.place


def is_taken(path: Path, *, expiry: float) -> bool:
    """Whether somebody alive has the lease of `path`."""
    numbers = _numbers(path)
    return bool(numbers) and not _is_dead(_file(path, numbers[-1]), expiry)


def _make(path: Path, expiry: float, stack: contextlib.ExitStack) -> Lease | None:
    """The lease, whose file stays open and locked until the stack is unwound."""
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
            _lock(file, fcntl.LOCK_EX)  # before it is said whose it is, and others look at the lock
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
        with contextlib.suppress(Exception):  # clients of buckets raise what they like
            if lease.held():
                _touch(lease.file)
            elif lost is not None and _numbers(lease.path)[-1:] > [lease.number]:
                lost()
                return


def _touch(file: Path) -> None:
    """Makes a file new, by the clock of the server that has it."""
    if paths.is_remote(file):
        paths.put(file, file.read_bytes())
    else:
        os.utime(file)


def _is_dead(file: Path, expiry: float) -> bool:
    """Whether the holder of a lease has died: its lock is gone, or it has long given no sign."""
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
        return False  # given back at this moment: it is free the next time


def _runs_here(holder: Mapping[str, Any]) -> bool | None:
    """Whether a holder of this machine is alive; None: only its own machine can tell."""
    if _processes() is None or (holder.get("boot"), holder.get("processes")) != (
        _boot(),
        _processes(),
    ):
        return None
    if holder["process"] == os.getpid():
        return holder["nonce"] in _OWN  # else a container's first process has this number again
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _lock(file: IO[Any], kind: int) -> bool:
    """Whether the lock was free; where a disk has no locks, nobody can tell."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _now(folder: Path) -> float:
    """The time of the server that has the folder, which is not this machine's on NFS."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    files.write_whole(probe, "")
    try:
        return paths.modified(probe)
    finally:
        paths.delete(probe)


def _processes() -> str | None:
    """What tells the processes of this container from others of the same number."""
    return os.readlink(_NAMESPACE) if _NAMESPACE.is_symlink() else None


def _boot() -> str | None:
    return _BOOT.read_text().strip() if _BOOT.exists() else None


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}@{number}.lease")


def _read(file: Path) -> dict[str, Any]:
    """Whose a lease is: nobody's, where it is gone or not yet written."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return _NOBODY


def _numbers(path: Path) -> list[int]:
    """The numbers of the leases that there are, the largest last."""
    return sorted(int(n) for n in _matching(path, r"(\d+)\.lease"))


def _places(path: Path) -> list[tuple[int, Path]]:
    """The places of all holders, by number."""
    found = _matching(path, r"(\d+-\w+)")
    return [(int(n.partition("-")[0]), path.with_name(f"{path.name}@{n}")) for n in found]


def _matching(path: Path, tail: str) -> list[str]:
    """What matches the group of `tail`, of the files beside `path` that are called NAME@tail."""
    pattern = re.compile(rf"{re.escape(path.name)}@{tail}")
    matches = (pattern.fullmatch(name) for name in paths.names(path.parent))
    return [match[1] for match in matches if match]
