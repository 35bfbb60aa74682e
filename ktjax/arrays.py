"""Arrays in files, each with its digest beside it, written atomically.

`NAME.npy` is moved into place once it is complete, after `NAME.sha256`, the file's digest in
hexadecimal. So readers only see complete files, and several processes may write the same array at
the same time.
"""

import hashlib
import os
import secrets
from pathlib import Path

import numpy as np

from ktjax import files, paths


class Damaged(ValueError):
    """The file does not match the digest beside it."""


def save(path: Path, array: np.ndarray) -> None:
    """Writes `path`, which ends in .npy, to a disk or a bucket; OSError if the storage fails."""
    remote = paths.is_remote(path)
    folder = paths.cache() if remote else path.parent
    paths.make_folder(folder)
    part = folder / f"{path.name}.{secrets.token_hex(8)}.part"
    try:
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files.write_whole(path.with_suffix(".sha256"), f"{_sha256(part)}\n")
        if remote:
            paths.upload(part, path, keep=True)
        else:
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # left behind if the disk is full


def load(path: Path) -> np.ndarray:
    """The array, mapped into memory; from a local copy if it is in a bucket.

    Raises:
      FileNotFoundError: the file or its digest is missing.
      Damaged: the file is not the one that was written.
      ValueError, OSError: the file is incomplete.
    """
    copy = paths.local(path)
    try:
        array = np.load(copy, mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(str(error)) from error
    if path.with_suffix(".sha256").read_text(encoding="utf-8").split() != [_sha256(copy)]:
        raise Damaged(f"'{path}' is damaged: it does not match the digest beside it.")
    return array


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
