"""Studies on Ray: a task for the runs of each student, on one machine or on a cluster.

Ray (the extra `study`) is only imported here. RAY_ADDRESS names a cluster, all of whose machines
must see the workdir; without it, Ray uses this machine alone. As everywhere, leases keep two tasks
from doing the same run, and release the runs of a worker that dies: a task that Ray starts again
resumes from the last checkpoint.
"""

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktjax import compiled, data, interruption, models, paths, trackers
from ktjax.experiment.shared import Shared
from ktjax.jobs.study import plan, work
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.study.plan import Run
from ktjax.settings.study import Study
from ktjax.targets import store

_LOG = logging.getLogger(__name__)
_POLL = 2.0  # seconds between two checks of the tasks
_OF_SHARE = 0.9  # of a task's share of a GPU; the rest is for CUDA itself


def check(settings: Study) -> None:
    """Raises ValueError unless Ray is installed, and a cluster finds what the settings name."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("config.engine=ray needs Ray: pip install 'ktjax[study]'.")
    # Made absolute here they would be other models and data: their names are part of the study.
    if os.environ.get("RAY_ADDRESS") not in (None, "", "local") and (found := _relative(settings)):
        raise ValueError(
            "Tasks on a Ray cluster have another working directory: use absolute paths instead of "
            f"{', '.join(repr(name) for name in found)}."
        )


def _relative(settings: Study) -> list[str]:
    """The relative paths among the models and data of a study."""
    zoo = models.zoo()
    named = [name for name in (*settings.students, *settings.teachers) if name not in zoo]
    places = [name.removeprefix(store.PREFIX).removeprefix("local-dir:") for name in named]
    found = [place for place in places if not paths.is_remote(place) and paths.of(place).exists()]
    folders = [name for name in settings.datasets().values() if name.startswith(data.FOLDER)]
    found += [name.removeprefix(data.FOLDER) for name in folders]
    found += [] if settings.data_dir is None else [settings.data_dir]
    return [place for place in dict.fromkeys(found) if not paths.of(place).is_absolute()]


def run(
    settings: Study,
    workdir: Path,
    runs: Runs,
    asked: Sequence[Run],
    shared: Shared,
    *,
    labeled: bool,
) -> None:
    """Executes the runs in Ray tasks, and returns when all have ended."""
    del shared  # of this process; each task makes its own
    import ray  # pyright: ignore[reportMissingImports] of the extra `study`

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports usage
    fields = settings.to_json()
    if settings.store is not None:
        # Tasks have another working directory.
        fields["store"] = str(paths.absolute(paths.of(settings.store)))
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False)
    _say_unused(settings, ray.cluster_resources().get("GPU", 0))
    progress, failed = work.Progress(runs, asked), work.failures(runs, asked)
    try:
        # A process for each: what a task compiled and placed on devices is freed with it.
        task = ray.remote(
            num_cpus=settings.ray.cpus,
            num_gpus=settings.ray.gpus,
            max_retries=settings.ray.retries,
            max_calls=1,
        )(_student)
        pending = [
            task.remote(
                fields,
                str(paths.absolute(workdir)),
                student,
                labeled,
                failed,
                trackers.followed(),
                compiled.how(),
            )
            for student in dict.fromkeys(one.student for one in asked)
        ]
        while pending:
            interruption.stop_if_asked()
            ended, pending = ray.wait(pending, timeout=_POLL)
            progress.update()
            for one in ended:
                try:
                    ray.get(one)
                except ray.exceptions.RayTaskError:
                    raise  # it concerns the whole study: a full disk, for example
                except ray.exceptions.RayError as error:
                    _LOG.warning("A Ray task has died for good: %s", error)
        progress.update()
    finally:
        progress.close()
        if started:
            ray.shutdown()


def _say_unused(settings: Study, gpus: float) -> None:
    """Warns if the cluster has GPUs of which no task gets one."""
    if gpus and not settings.ray.gpus:
        _LOG.warning(
            "config.ray.gpus=0, but the cluster has %g GPUs: depending on its version, Ray hides "
            "them from the tasks, or all tasks of a machine share them; config.ray.gpus=1.0 gives "
            "each task its own.",
            gpus,
        )


def _share_gpu(gpus: float) -> None:
    """Bounds this task's memory if it has only a part of a GPU, unless the user does.

    JAX takes three quarters at startup, whatever Ray grants: the next task would have no room.
    """
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    if 0 < gpus < 1 and not any(name in os.environ for name in names):
        os.environ[names[0]] = f"{_OF_SHARE * gpus:.3f}"  # which JAX reads when it finds devices


def _student(
    fields: Mapping[str, Any],
    workdir: str,
    student: str,
    labeled: bool,
    failed: Mapping[Path, float],
    tracker: str | None,
    programs: Mapping[str, str] | None,
) -> None:
    """Executes the remaining runs of a student in a task, whose machine may be another."""
    trackers.follow(tracker)
    _share_gpu(fields["ray"]["gpus"])
    if programs is not None:
        compiled.keep(**programs)
    settings = Study.read(fields)
    runs = Runs(paths.of(workdir), settings)
    planned = plan.plan(settings, labeled=labeled, workdir=runs.workdir)
    asked = [one for one in planned if one.student == student]
    work.work(settings, runs, asked, failed=failed, wait=True)
