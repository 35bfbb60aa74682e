"""What a run needs at least, before anything is allocated: what cannot be is refused.

Lower bounds only: activations, which depend on the network and the compiler, are not in them. So
nothing that could work is refused, and what passes may still turn out too large.
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
_MOMENTS = {"sgd": 1, "adamw": 2}  # numbers beside each parameter that an optimizer keeps


class Needs(NamedTuple):
    """Lower bounds, in bytes."""

    steps: int
    batches: int  # of images: one that is used, one ahead
    state: int  # of the smallest of the models, as if it was the one that trains: with gradients
    disk: int  # of one checkpoint of it, and the export


def of_training(
    settings: Training, examples: int, how: pipeline.Reading, models: Collection[Classifier]
) -> Needs:
    """What a run on so many images needs at least."""
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
    """What models need that are only asked."""
    return Needs(steps=0, batches=2 * settings.eval_batch_size * how.size**2 * 3, state=0, disk=0)


def check(needs: Needs, how: pipeline.Reading, folder: Path) -> None:
    """Raises ValueError, with the estimate, if this machine cannot have it.

    Args:
      needs: of the run.
      how: its images are read.
      folder: the workdir, which need not be there yet.
    """
    told = (
        f"at least {_readable(needs.batches)} for two batches of images of {how.size} pixels, "
        f"{_readable(needs.state)} for what trains, and {_readable(needs.disk)} of disk"
    )
    _LOG.info("%s steps, which need %s.", f"{needs.steps:,}", told)
    memory, device = _memory(), _device_memory()
    if memory is not None and needs.batches + (needs.state if device is None else 0) > memory:
        raise ValueError(
            f"This needs {told}, and there are {_readable(memory)} of memory: lower "
            "config.batch_size, config.eval_batch_size, config.steps_per_dispatch or "
            "config.image_size."
        )
    # With fsdp each device holds a part of what trains.
    share = needs.state / jax.device_count() + needs.batches / 2 / jax.device_count()
    if device is not None and share > device:
        raise ValueError(
            f"This needs {told}, and {jax.device_count()} devices have {_readable(device)} each."
        )
    free = _free(folder)
    if free is not None and needs.disk > free:
        raise ValueError(f"This needs {told}, and there are {_readable(free)} for '{folder}'.")


def _memory() -> int | None:
    """What this machine has, or this container may use; None: nobody says."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    text = _LIMIT.read_text().strip() if _LIMIT.is_file() else ""
    return min(found, int(text)) if text.isdecimal() else found


def _device_memory() -> int | None:
    """What a device has of its own; None: nobody says, or it is the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def _free(folder: Path) -> int | None:
    """What is free where a folder is, or will be; None in a bucket, and where a run goes on."""
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
