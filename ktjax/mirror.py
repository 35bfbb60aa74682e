"""A folder on this machine of what grows, or of what libraries write to disks only."""

import os
import tempfile
from pathlib import Path

from ktjax import paths


class Mirror:
    """`local` is a folder on this machine; `upload` brings what changed there to a bucket.

    Of a folder of a disk, `local` is that folder itself, and nothing is copied.
    """

    def __init__(self, folder: Path):
        self.folder, self.local = folder, folder
        self._scratch = None
        if paths.is_remote(folder):
            self._scratch = tempfile.TemporaryDirectory(prefix="ktjax-")
            self.local = Path(self._scratch.name)
        self._uploaded: dict[Path, tuple[int, int]] = {}  # size and time of each file

    def fetch(self, name: str) -> Path:
        """The file of this name, of which a bucket's is copied here, if there is one."""
        path = self.local / name
        if self._scratch is not None and (self.folder / name).exists():
            path.write_bytes((self.folder / name).read_bytes())
        return path

    def upload(self) -> None:
        """Uploads each file that was written since the last time, whole."""
        if self._scratch is None:
            return
        for path in sorted(self.local.rglob("*")):
            found = os.stat(path)
            now = found.st_size, found.st_mtime_ns
            if path.is_file() and self._uploaded.get(path) != now:
                paths.upload(path, self.folder / path.relative_to(self.local))
                self._uploaded[path] = now

    def close(self) -> None:
        """Uploads the rest, and deletes what is only here."""
        self.upload()
        if self._scratch is not None:
            self._scratch.cleanup()
