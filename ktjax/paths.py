"""Paths that users give: on a disk, or in a bucket, gs://BUCKET/... and s3://BUCKET/...

A path on a disk is a pathlib.Path. A path in a bucket is an etils.epath.Path, which has the same
methods, on top of fsspec and what the extras `ktjax[gcs]` and `ktjax[s3]` install; none of these is
imported unless such a path is given.

A bucket holds objects, each there whole or not at all. They cannot be appended to, renamed
atomically or mapped into memory, and there are no folders. So what grows (metrics, events, logs) is
written on this machine and uploaded as a whole; what is mapped (stores) or opened by other code
(weights) is copied to ~/.cache/ktjax, or $XDG_CACHE_HOME/ktjax, which may be deleted while no job
runs.
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
    """The part before `://`; None: a path on a disk."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", os.fspath(name))
    return found[1] if found else None


def is_remote(name: str | os.PathLike) -> bool:
    """Whether it is not a path on a disk."""
    return scheme(name) is not None


def of(name: str | os.PathLike) -> Path:
    """The path on a disk or in a bucket; accesses nothing.

    Raises:
      ValueError: an unknown kind of bucket, or the package for it is not installed.
    """
    kind = scheme(name)
    if kind is None:
        if isinstance(name, Path) and name.parts[:1] in [(f"{known}:",) for known in SCHEMES]:
            raise ValueError(f"pathlib.Path turns a bucket path into '{name}': pass a string.")
        return _at_home(name)
    if kind not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise ValueError(f"'{name}': paths must be on a disk, or begin with {known}.")
    package, extra = SCHEMES[kind]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"'{name}' needs {package}: pip install 'ktjax[{extra}]'.")
    # If TensorFlow is installed, etils would use it for buckets.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    from etils import epath

    # Other processes, and TensorStore in this one, write files that a cached listing would miss.
    fsspec.config.conf.setdefault(kind, {}).setdefault("use_listings_cache", False)
    return epath.Path(os.fspath(name))


def on_disk(name: str | os.PathLike, field: str) -> Path:
    """The path on a disk; ValueError, which names the field, if it is in a bucket."""
    if is_remote(name):
        raise ValueError(
            f"{field}: '{name}' is not on a disk, and images (ArrayRecord too) are only read from "
            "disks: copy it, or mount the bucket."
        )
    return _at_home(name)


def _at_home(name: str | os.PathLike) -> Path:
    """The path with a leading ~ expanded, which shells do not do in `--workdir=~/run`."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def absolute(path: Path) -> Path:
    """The same path, independent of the current directory."""
    return path if is_remote(path) else path.absolute()


def reach(path: Path) -> None:
    """Raises ValueError if a bucket does not answer; the path itself need not exist."""
    if not is_remote(path):
        return
    try:
        _fs(path).info(os.fspath(path))
    except FileNotFoundError:
        pass
    except Exception as error:  # of the package, its transport, or the credentials
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"'{path}' cannot be reached: {reason[0].rstrip('.')}.") from error


def is_writable(path: Path) -> bool:
    """Whether a folder on a disk can be made there, or written to; assumed of buckets."""
    if is_remote(path):
        return True
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return os.access(there, os.W_OK)


def make_folder(path: Path) -> None:
    """Creates a folder on a disk, and its parents, if missing; buckets have no folders."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def put(path: Path, content: bytes) -> None:
    """Writes an object in a bucket atomically, replacing an existing one."""
    _fs(path).pipe_file(os.fspath(path), content)


def create(path: Path, content: bytes) -> bool:
    """Creates an object in a bucket unless it exists; False: it exists.

    The bucket itself guarantees this (generation 0 on gs://, If-None-Match on s3://), so that only
    one of several attempts succeeds.
    """
    try:
        _fs(path).pipe_file(os.fspath(path), content, mode="create")
    except FileExistsError:
        return False
    return True


def names(folder: Path) -> list[str]:
    """The names in a folder; none if a bucket has no such folder."""
    if not is_remote(folder):
        return os.listdir(folder)
    try:
        found = _fs(folder).ls(os.fspath(folder), detail=False)
    except FileNotFoundError:
        return []
    return [name.rstrip("/").rpartition("/")[2] for name in found]


def find(folder: Path, name: str) -> list[Path]:
    """The files with this name in a folder and its subfolders."""
    if not is_remote(folder):
        return list(folder.rglob(name))
    fs, root = _opened(folder)
    found = (Path(path.removeprefix(root).lstrip("/")) for path in fs.find(root))
    return [folder / path for path in found if path.name == name]


def modified(path: Path) -> float:
    """When a file was last written, by the clock of its storage, in seconds."""
    if is_remote(path):
        return _fs(path).modified(os.fspath(path)).timestamp()
    return path.stat().st_mtime


def delete(path: Path, *, ignore_errors: bool = False) -> None:
    """Deletes a file, or a folder and its contents; does nothing if it does not exist."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            _fs(path).rm(os.fspath(path), recursive=True)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=ignore_errors)
    else:
        path.unlink(missing_ok=True)


def move(path: Path, target: Path, *, last: str = "") -> None:
    """Renames a folder. In a bucket, the file named `last` is moved after all others.

    There it copies everything before it deletes anything: nothing is lost if it is killed.
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
    """A local file with this content: the file itself, or a copy in the cache.

    FileNotFoundError: the file does not exist.
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
    """Uploads a file to a bucket; with `keep` the file becomes the object's local copy."""
    _fs(path).put_file(os.fspath(source), os.fspath(path))
    if keep:
        copy = _cached(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, copy)


def cache() -> Path:
    """The cache folder: copies from buckets, models by name that torch exported, and drawn
    images.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "ktjax"


def _cached(path: Path) -> Path:
    """The place of an object's local copy: a new one for each version of the object."""
    version = _fs(path).ukey(os.fspath(path))
    digest = hashlib.sha256(f"{path}\n{version}".encode()).hexdigest()[:32]
    return cache() / digest / path.name


def _fs(path: Path) -> Any:
    return _opened(path)[0]


def _opened(path: Path) -> tuple[Any, str]:
    """The fsspec file system, and its name for the path."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))
