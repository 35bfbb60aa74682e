"""Compiled programs on disk, for later processes: compiling is half of what a restart waits for."""

import hashlib
import logging
import os
import platform
from pathlib import Path

import jax

from ktjax import paths, peers

# JAX's settings that `keep` makes.
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)
CPU_INFO = Path("/proc/cpuinfo")
_LOG = logging.getLogger(__name__)
_MOST_BYTES = 2 * 2**30  # the least recently used are deleted


def keep(folder: str | os.PathLike | None = None) -> None:
    """Turns on JAX's compilation cache for this process; `ktjax` the command does so by itself.

    What was set before, or JAX_COMPILATION_CACHE_DIR, is left as it is.

    Of several processes (jax.distributed) only one writes, and on GPUs they compile together: if
    one found a program and another did not, that one would wait forever. So these need a folder
    that all see and that a single job uses, all call this, and all have the same processor;
    otherwise nothing is kept.

    Args:
      folder: where programs lie, apart by processor, at most 2 GB; None: ktjax/compiled in the
        user's cache.

    Raises:
      ValueError: the folder is in a bucket.
    """
    alike = folder is None or peers.agree(_processor())
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if folder is None and jax.distributed.is_initialized():
        return
    if folder is not None and paths.scheme(folder) is not None:
        raise ValueError(f"Compiled programs are kept on a disk, not in '{folder}'.")
    if not alike:
        _LOG.warning(
            "Compiled programs are not kept in '%s': the processes have different processors.",
            folder,
        )
        return
    base = _default() if folder is None else Path(folder).expanduser().absolute()
    jax.config.update("jax_compilation_cache_dir", str(base / _processor()))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # By default JAX does not cache what compiles in under a second: most of a small model's time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def how() -> dict[str, str] | None:
    """The arguments of `keep` for a process on another machine; None if it was not called here."""
    given = jax.config.jax_compilation_cache_dir
    if given is None or Path(given).name != _processor():
        return None
    base = Path(given).parent
    return {} if base == _default() else {"folder": str(base)}


def _default() -> Path:
    return paths.cache() / "compiled"


def _processor() -> str:
    """A name of this processor: others, in machines that share a home folder, need other programs.

    On Linux by its features, elsewhere by its architecture.
    """
    text = platform.machine()
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
        text += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
