"""A bucket in memory, s3://, for tests that need no network and no more packages."""

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from ktjax import paths


class Bucket(MemoryFileSystem):
    protocol = "s3"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("s3://", "memory://", 1))

    def info(self, path, **kwargs):
        found = super().info(path, **kwargs)
        if found["type"] == "directory" and not self.find(path):
            raise FileNotFoundError(path)  # what is not in a name is not there
        return found


def in_memory(monkeypatch):
    """Makes s3:// such buckets, which are empty; gives the path of one."""
    Bucket.store.clear()
    monkeypatch.setitem(_registry, "s3", Bucket)
    # etils keeps a client for as long as the process lives: buckets_test's, of another bucket.
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", fsspec.filesystem)
    monkeypatch.setitem(paths.SCHEMES, "s3", paths.SCHEMES["s3"]._replace(package="fsspec"))
    return paths.of("s3://bucket")
