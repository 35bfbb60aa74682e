"""Lower bounds on a run's memory and disk, checked before anything is allocated.

They exclude activations, which depend on the network and the compiler. So nothing that could work
is refused, and what passes may still turn out too large.
"""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax

from ktjax import paths
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.settings.data import Data
from ktjax.settings.training import Training

_LOG = logging.getLogger(__name__)
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
_MOMENTS = {"sgd": 1, "adamw": 2}  # numbers that an optimizer keeps per parameter


class Needs(NamedTuple):
    """Lower bounds, in bytes."""

    steps: int
    batches: int  # of images: one in use, one ahead
    state: int  # with gradients, of the smallest model, as if it were the one that trains
    disk: int  # for one checkpoint of it, and the export


def of_training(
    settings: Training, examples: int, how: pipeline.Reading, models: Collection[Classifier]
) -> Needs:
    """The least that a run on so many images needs."""
    weights = 4 * min(model.num_parameters() for model in models)
    kept = 1 + _MOMENTS[settings.optimizer] * settings.trains_all
    durations = settings.durations(examples)
    together = min(settings.steps_per_dispatch, durations.eval_every)
    at_once = max(settings.batch_size * together, settings.eval_batch_size)
    return Needs(
        steps=durations.total,
        batches=2 * at_once * how.size**2 * 3,
        state=(kept + 1) * weights,
        disk=(kept + 1) * weights,
    )


def of_evaluation(settings: Data, how: pipeline.Reading) -> Needs:
    """The least that evaluating models needs."""
    return Needs(steps=0, batches=2 * settings.eval_batch_size * how.size**2 * 3, state=0, disk=0)


def check(needs: Needs, how: pipeline.Reading, folder: Path) -> None:
    """Raises ValueError, with the estimate, if this machine has too little memory or disk.

    Args:
      needs: the run's lower bounds.
      how: how its images are read.
      folder: the workdir, which need not exist yet.
    """
    told = (
        f"at least {_readable(needs.batches)} for two batches of images of {how.size} pixels, "
        f"{_readable(needs.state)} for what trains, and {_readable(needs.disk)} of disk"
    )
    _LOG.info("%s steps; they need %s.", f"{needs.steps:,}", told)
    memory, device = _memory(), _device_memory()
    if memory is not None and needs.batches + (needs.state if device is None else 0) > memory:
        raise ValueError(
            f"This needs {told}, but there are only {_readable(memory)} of memory: lower "
            "config.batch_size, config.eval_batch_size, config.steps_per_dispatch or "
            "config.image_size."
        )
    # With fsdp each device holds a part of the state.
    share = needs.state / jax.device_count() + needs.batches / 2 / jax.device_count()
    if device is not None and share > device:
        raise ValueError(
            f"This needs {told}, but {jax.device_count()} devices have {_readable(device)} each."
        )
    free = _free(folder)
    if free is not None and needs.disk > free:
        raise ValueError(f"This needs {told}, but only {_readable(free)} are free for '{folder}'.")


def _memory() -> int | None:
    """This machine's memory, or this container's limit; None: unknown."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    text = _LIMIT.read_text().strip() if _LIMIT.is_file() else ""
    return min(found, int(text)) if text.isdecimal() else found


def _device_memory() -> int | None:
    """A device's own memory; None: unknown, or shared with the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def _free(folder: Path) -> int | None:
    """Free space where a new folder will be; None for a bucket, or if a run resumes there."""
    if paths.is_remote(folder) or folder.exists():
        return None
    above = next((path for path in folder.absolute().parents if path.is_dir()), None)
    return None if above is None else shutil.disk_usage(above).free


def _readable(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} PB"
