"""Paths that users give: of a disk, or of a bucket, gs://BUCKET/... and s3://BUCKET/...

What lies on a disk is a pathlib.Path. What lies in a bucket is an etils.epath.Path, which has the
same methods, over fsspec and what the extras `ktjax[gcs]` and `ktjax[s3]` install; nothing of that
is imported where no such path is given.

A bucket holds objects, each there whole or not at all. Nothing can be appended to, renamed at once
or mapped into memory, and there are no folders. So what grows (metrics, events, logs) is written on
this machine and uploaded as a whole; what is mapped (stores) or opened by others (weights) is
copied to ~/.cache/ktjax, or $XDG_CACHE_HOME/ktjax, which may be deleted while no job runs.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any, NamedTuple


class _Scheme(NamedTuple):
    package: str  # that fsspec needs
    extra: str  # that installs it


SCHEMES = {"gs": _Scheme("gcsfs", "gcs"), "s3": _Scheme("s3fs", "s3")}


def scheme(name: str | os.PathLike) -> str | None:
    """What stands before `://`; None: a path of a disk."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", os.fspath(name))
    return found[1] if found else None


def is_remote(name: str | os.PathLike) -> bool:
    """Whether it is no path of a disk."""
    return scheme(name) is not None


def of(name: str | os.PathLike) -> Path:
    """The path of a disk, or of a bucket, with which nothing is done yet.

    Raises:
      ValueError: no such buckets are known, or the package for them is not installed.
    """
    kind = scheme(name)
    if kind is None:
        if isinstance(name, Path) and name.parts[:1] in [(f"{known}:",) for known in SCHEMES]:
            raise ValueError(f"pathlib.Path makes '{name}' of a bucket's path: give it as text.")
        return _at_home(name)
    if kind not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise ValueError(f"'{name}': paths are of a disk, or begin with {known}.")
    package, extra = SCHEMES[kind]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"'{name}' needs {package}: pip install 'ktjax[{extra}]'.")
    # TensorFlow, where it is installed, would read buckets in ways of its own.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    from etils import epath

    # Other processes, and TensorStore in this one, write what a list that is kept would not show.
    fsspec.config.conf.setdefault(kind, {}).setdefault("use_listings_cache", False)
    return epath.Path(os.fspath(name))


def on_disk(name: str | os.PathLike, field: str) -> Path:
    """The path of a disk; ValueError, which names the field, if it is of a bucket."""
    if is_remote(name):
        raise ValueError(
            f"{field}: '{name}' is not on a disk, from which alone images are read (ArrayRecord's "
            "reader, too): copy it, or mount the bucket."
        )
    return _at_home(name)


def _at_home(name: str | os.PathLike) -> Path:
    """The path, of which no shell has replaced a ~ that stands first: `--workdir=~/run` is such."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def absolute(path: Path) -> Path:
    """The same path, wherever a process works."""
    return path if is_remote(path) else path.absolute()


def reach(path: Path) -> None:
    """Raises ValueError where a bucket does not answer; whether the path is there, it may say."""
    if not is_remote(path):
        return
    try:
        _fs(path).info(os.fspath(path))
    except FileNotFoundError:
        pass
    except Exception as error:  # of the package, its transport, or whoever gives credentials
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"'{path}' cannot be reached: {reason[0].rstrip('.')}.") from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where a disk has none; buckets have no folders."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def put(path: Path, content: bytes) -> None:
    """Makes an object of a bucket, whole, in place of one that is there."""
    _fs(path).pipe_file(os.fspath(path), content)


def create(path: Path, content: bytes) -> bool:
    """Makes an object of a bucket that is not there yet; False: it is.

    The bucket itself sees to that (generation 0 on gs://, If-None-Match on s3://), so that of
    several who try one alone succeeds.
    """
    try:
        _fs(path).pipe_file(os.fspath(path), content, mode="create")
    except FileExistsError:
        return False
    return True


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing, where a bucket has none of that name."""
    if not is_remote(folder):
        return os.listdir(folder)
    try:
        found = _fs(folder).ls(os.fspath(folder), detail=False)
    except FileNotFoundError:
        return []
    return [name.rstrip("/").rpartition("/")[2] for name in found]


def find(folder: Path, name: str) -> list[Path]:
    """The files of this name in a folder and all below it."""
    if not is_remote(folder):
        return list(folder.rglob(name))
    fs, root = _opened(folder)
    found = (Path(path.removeprefix(root).lstrip("/")) for path in fs.find(root))
    return [folder / path for path in found if path.name == name]


def modified(path: Path) -> float:
    """When a file was last written, by the clock of who keeps it, in seconds."""
    if is_remote(path):
        return _fs(path).modified(os.fspath(path)).timestamp()
    return path.stat().st_mtime


def delete(path: Path, *, ignore_errors: bool = False) -> None:
    """Deletes a file, or a folder with all that is in it; nothing, where there is none."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            _fs(path).rm(os.fspath(path), recursive=True)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=ignore_errors)
    else:
        path.unlink(missing_ok=True)


def move(path: Path, target: Path, *, last: str = "") -> None:
    """Renames a folder. In a bucket, what is called `last` comes to its place after all else.

    There it copies all before it deletes any: who is killed meanwhile has lost nothing.
    """
    if not is_remote(path):
        os.rename(path, target)
        return
    fs, root = _opened(path)
    found = fs.find(root)
    if not found:
        raise FileNotFoundError(os.fspath(path))
    for name in sorted(found, key=lambda name: name == f"{root}/{last}"):
        fs.cp_file(name, f"{target}{name.removeprefix(root)}")
    delete(path)


def local(path: Path) -> Path:
    """A file on this machine with the content of this one: itself, or a copy in the cache.

    FileNotFoundError: there is none.
    """
    if not is_remote(path):
        return path
    copy = _cached(path)
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}.{secrets.token_hex(8)}.part")
        _fs(path).get_file(os.fspath(path), os.fspath(part))
        os.replace(part, copy)
    return copy


def upload(source: Path, path: Path, *, keep: bool = False) -> None:
    """Makes an object of a bucket from a file; with `keep` that becomes the object's local copy."""
    _fs(path).put_file(os.fspath(source), os.fspath(path))
    if keep:
        copy = _cached(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, copy)


def cache() -> Path:
    """Where copies of what buckets hold lie, what torch has exported of models by name, and images
    that were drawn.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "ktjax"


def _cached(path: Path) -> Path:
    """Where the local copy of an object lies: another place when it has become another."""
    version = _fs(path).ukey(os.fspath(path))
    digest = hashlib.sha256(f"{path}\n{version}".encode()).hexdigest()[:32]
    return cache() / digest / path.name


def _fs(path: Path) -> Any:
    return _opened(path)[0]


def _opened(path: Path) -> tuple[Any, str]:
    """The file system of fsspec, and what it calls the path."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))
