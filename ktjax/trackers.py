"""Experiment trackers: services that get metrics in addition to metrics.jsonl and TensorBoard.

`follow(name)`, which --tracker calls, chooses one for all later runs of this process. Tracking does
not affect a run's identity. A resumed run continues as the same run there, by an id made from its
workdir; steps that it repeats log the same values again. Each package reads its own environment
(WANDB_MODE=offline, MLFLOW_TRACKING_URI, ...), and is imported only on request.
"""

import hashlib
import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

PROJECT = "ktjax"


class Tracker(Protocol):
    """One run at a service."""

    link: str  # an address, or a path

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics after so many steps."""

    def close(self) -> None:
        """Ends the run, or leaves it to be resumed."""


class _Wandb:
    def __init__(self, workdir: Path, run: str, folder: Path):
        self._run = importlib.import_module("wandb").init(
            project=PROJECT,
            name=_name(workdir, run),
            id=_id(workdir, run),
            resume="allow",
            dir=os.fspath(folder),
            reinit="create_new",
        )
        self.link = self._run.url or os.fspath(Path(self._run.dir).parent)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, workdir: Path, run: str, folder: Path):
        mlflow = importlib.import_module("mlflow")
        self._client = client = mlflow.MlflowClient()
        found = client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else client.create_experiment(PROJECT)
        tag = _id(workdir, run)
        there = client.search_runs([experiment], f"tags.`ktjax.run` = '{tag}'")
        name = _name(workdir, run)
        self._id = (
            there[0].info.run_id
            if there
            else client.create_run(experiment, run_name=name, tags={"ktjax.run": tag}).info.run_id
        )
        self.link = f"{mlflow.get_tracking_uri()}/#/experiments/{experiment}/runs/{self._id}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Trackio:
    def __init__(self, workdir: Path, run: str, folder: Path):
        self._run = importlib.import_module("trackio").init(
            project=PROJECT,
            name=f"{_name(workdir, run, between='-')}-{_id(workdir, run)}",
            resume="allow",
        )
        self.link = f"trackio show --project {PROJECT}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}
_followed: list[str] = []  # at most one


def follow(name: str | None) -> None:
    """Tracks the runs of this process from now on; None: no longer.

    Raises:
      ValueError: no such service is known, or its package is not installed.
    """
    if name is not None and name not in TRACKERS:
        raise ValueError(f"--tracker={name} is not known. Known: {', '.join(TRACKERS)}.")
    if name is not None and importlib.util.find_spec(name) is None:
        raise ValueError(f"--tracker={name} needs {name}: pip install 'ktjax[{name}]'.")
    _followed[:] = [] if name is None else [name]


def followed() -> str | None:
    """The name given to `follow`, for worker processes."""
    return _followed[0] if _followed else None


def begin(workdir: Path, run: str, folder: Path) -> Tracker | None:
    """The run at the chosen service; None: none was chosen. `folder` is a local folder."""
    return TRACKERS[_followed[0]](workdir, run, folder) if _followed else None


def _name(workdir: Path, run: str, *, between: str = "/") -> str:
    return f"{_lasting(workdir).name}{between}{run}"


def _id(workdir: Path, run: str) -> str:
    return hashlib.sha256(f"{_lasting(workdir)}\n{run}".encode()).hexdigest()[:16]


def _lasting(workdir: Path) -> Path:
    """Without what names the holder of a study's run, NAME@0-12345678: the next one goes on."""
    return workdir.with_name(re.sub(r"@\d+-[0-9a-f]{8}$", "", workdir.name))
