"""A local folder for files that grow, or that libraries can only write to disks."""

import os
import tempfile
from pathlib import Path

from ktjax import paths


class Mirror:
    """`local` is a folder on this machine; `upload` copies what changed there to the bucket.

    If the folder is on a disk, `local` is that folder itself, and nothing is copied.
    """

    def __init__(self, folder: Path):
        self.folder, self.local = folder, folder
        self._scratch = None
        if paths.is_remote(folder):
            self._scratch = tempfile.TemporaryDirectory(prefix="ktjax-")
            self.local = Path(self._scratch.name)
        self._uploaded: dict[Path, tuple[int, int]] = {}  # size and time of each file

    def fetch(self, name: str) -> Path:
        """The local file of this name, copied from the bucket if it is there."""
        path = self.local / name
        if self._scratch is not None and (self.folder / name).exists():
            path.write_bytes((self.folder / name).read_bytes())
        return path

    def upload(self) -> None:
        """Uploads each file that changed since the last call, as a whole."""
        if self._scratch is None:
            return
        for path in sorted(self.local.rglob("*")):
            found = os.stat(path)
            now = found.st_size, found.st_mtime_ns
            if path.is_file() and self._uploaded.get(path) != now:
                paths.upload(path, self.folder / path.relative_to(self.local))
                self._uploaded[path] = now

    def close(self) -> None:
        """Uploads the rest, and deletes the local copy."""
        self.upload()
        if self._scratch is not None:
            self._scratch.cleanup()
