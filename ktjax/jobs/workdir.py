"""The folder of one run of an experiment: whose it is, whether it is finished, what it found."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from ktjax import data
from ktjax.analysis import report

CONFIG = "config.json"
RESULTS = "results.json"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def claim(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Makes the folder this experiment's.

    Returns:
      The results, if the experiment is finished, after printing them; else None.

    Raises:
      ValueError: the folder belongs to another experiment, or cannot be written.
    """
    resolved = json.loads(json.dumps(config.to_dict()))  # tuples become lists, as in the file
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same(json.loads(path.read_text()), resolved, workdir)
        else:
            _write_json(path, resolved)
    except OSError as error:
        raise ValueError(f"The workdir '{workdir}' cannot be used: {error.strerror}.") from error
    finished = workdir / RESULTS
    if not finished.exists():
        return None
    results = json.loads(finished.read_text())
    print(f"Finished before.\n\n{report.table(results)}\nReport: {workdir / report.PAGE}")
    return results


def finish(
    workdir: Path,
    config: ml_collections.ConfigDict,
    *,
    dataset: data.Dataset,
    label_N: np.ndarray,
    runs: Sequence[Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]] = (),
    examples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Writes report and results.json, prints the table, and returns what results.json holds.

    Args:
      workdir: of the job.
      config: of the job.
      dataset: that the job ran on.
      label_N: of the validation images.
      runs: a row for each run, with the measures of `analysis.measures`.
      models: name -> accuracy in percent, parameters, origin.
      pairs: complementary knowledge of teachers and student.
      examples: images for the report.
    """
    results = {
        "job": config.job,
        "runs": list(runs),
        "models": dict(models),
        "pairs": list(pairs),
        "classes": list(dataset.classes),
        "class_counts": np.bincount(label_N, minlength=len(dataset.classes)).tolist(),
        "data": {"name": dataset.name, "validation": len(label_N)},
        "environment": environment(),
        "config": config.to_dict(),
    }
    page = report.write(workdir, results, examples)
    _write_json(workdir / RESULTS, results)  # last: it says that the job is finished
    print(f"{report.table(results)}\nReport: {page}")
    return results


def environment() -> dict[str, Any]:
    """Versions and devices, for results.json. Nothing that names the machine."""
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.local_devices()],
    }


def _check_same(found: dict[str, Any], resolved: dict[str, Any], workdir: Path) -> None:
    if found != resolved:
        fields = sorted(k for k in found | resolved if found.get(k) != resolved.get(k))
        raise ValueError(
            f"'{workdir}' belongs to another experiment: its config differs in "
            f"{', '.join(fields)}. Take another --workdir."
        )


def _write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as a whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, path)
