"""The folder of one run of an experiment: whose it is, whether it is finished, what it found."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ktjax
from ktjax import data, files, parallel, paths, writer
from ktjax.analysis import measures, rows
from ktjax.analysis.rows import Results, Run
from ktjax.classifier import Classifier
from ktjax.experiment import logs
from ktjax.report import page, tables
from ktjax.settings.record import Record

# What jobs write beside the config.
_WRITTEN = (
    *(files.RESULTS, files.DATA, files.REPORT, files.METRICS, files.CLASS_FLIPS, files.RIGHT),
    *(files.PAIRS, files.FIGURES, files.TRACKED),
    *(files.STUDENTS, files.MODELS, files.PREDICTIONS, files.CHECKPOINTS, files.TENSORBOARD),
    *(files.LOGS, files.RUNS, files.STORE),
)
_READABLE = 80  # characters of the two values of a field, in a sentence
# The last four draw, decode and resize: pixels depend on them.
_PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("pillow", "simplejpeg", "numba", "matplotlib"),
)


def finished(
    workdir: Path, settings: Record, *, overwrite: bool, report: bool = True
) -> Results | None:
    """The results if this experiment has been run here, and else None. Writes nothing.

    With `report` they are printed.

    Raises:
      ValueError: the folder belongs to another experiment, and that is not to be overwritten; or it
        is none, or another program's.
    """
    try:
        found, resolved = config_of(workdir), settings.identity()
        if found is None:
            return None
        if found != resolved:
            if overwrite:
                return None
            fields = [k for k in found | resolved if found.get(k) != resolved.get(k)]
            raise of_another(workdir, found, resolved, fields)
        results = rows.read(json.loads((workdir / files.RESULTS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{files.RESULTS} of '{workdir}' is no JSON: {error}.") from error
    except OSError as error:
        raise unusable(workdir, error) from error
    if report and parallel.is_first():
        print(f"Finished before.\n\n{tables.as_text(results)}\nReport: {workdir / files.REPORT}")
    return results


def config_of(workdir: Path) -> dict[str, Any] | None:
    """The resolved config of the experiment in a folder; None: there is none yet.

    Whoever deletes or replaces anything in a workdir has to know that ktjax wrote it.

    Raises:
      ValueError: the folder is another program's, as its config.json tells, or holds what a job
        would write although no config says which.
    """
    paths.reach(workdir)
    path = workdir / files.CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Runs and stores say themselves whose they are, and may be brought together from elsewhere.
        own = set(_WRITTEN) - {files.RUNS, files.STORE}
        there = [name for name in _WRITTEN if name in own and (workdir / name).exists()]
        if not there:
            return None
        raise ValueError(
            f"'{workdir}' holds {', '.join(there)}, and no {files.CONFIG} says that ktjax wrote "
            "this: take another --workdir."
        ) from None
    except ValueError as error:
        raise ValueError(f"{files.CONFIG} of '{workdir}' is no JSON: {error}.") from error
    except OSError as error:
        raise unusable(workdir, error) from error
    if not isinstance(found, dict) or found.get("job") not in rows.RESULTS:
        raise ValueError(
            f"{files.CONFIG} of '{workdir}' is no config of a job: ktjax did not write it. Take "
            "another --workdir."
        )
    return found


def of_another(
    workdir: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], fields: Iterable[str]
) -> ValueError:
    """The config that was found in a workdir differs from the wanted one in these fields."""
    if found["job"] != wanted["job"]:
        what = f"it is of the job {found['job']}, not {wanted['job']}"
    else:
        differ = (_difference(name, found.get(name), wanted.get(name)) for name in sorted(fields))
        what = f"its config differs in {', '.join(differ)}"
    return ValueError(
        f"'{workdir}' belongs to another experiment: {what}. Take another --workdir, or "
        "--overwrite that one."
    )


def _difference(name: str, found: Any, wanted: Any) -> str:
    values = f" ({json.dumps(found)} there, {json.dumps(wanted)} here)"
    return name + (values if len(values) <= _READABLE else "")


def claim(workdir: Path, settings: Record, dataset: data.Dataset) -> None:
    """Makes the folder this experiment's: writes the resolved config, and logs to it from now on.

    Of another experiment, which `finished` would have refused, everything is deleted but what
    ktjax does not write.

    Raises:
      ValueError: the folder cannot be written, or the processes do not share it; or the run began
        on other images, as far as their number and labels tell.
    """
    try:
        if parallel.is_first():
            paths.make_folder(workdir)
            _clear(workdir, settings)
            write_json(workdir / files.CONFIG, settings.identity())
            note_data(workdir, dataset)
        parallel.wait_for_all("claim")
        if not (workdir / files.CONFIG).exists():
            raise ValueError(
                f"Process {jax.process_index()} does not see what process 0 wrote to '{workdir}': "
                "--workdir has to be a folder that all processes share."
            )
        check_data(workdir, dataset)
        logs.start(workdir)
    except OSError as error:
        raise unusable(workdir, error) from error


def _seen(dataset: data.Dataset) -> dict[str, dict[str, Any]]:
    """How many images the splits have, and what tells other labels."""
    splits = {name: getattr(dataset, name).label_N for name in data.SPLITS}
    return {
        name: {"images": len(label_N), "labels": hashlib.sha256(label_N.tobytes()).hexdigest()}
        for name, label_N in splits.items()
    }


def note_data(workdir: Path, dataset: data.Dataset) -> None:
    """Writes what `check_data` compares with, where nothing is there."""
    if not (workdir / files.DATA).exists():
        write_json(workdir / files.DATA, _seen(dataset))


def check_data(workdir: Path, dataset: data.Dataset) -> None:
    """Raises ValueError unless a run began here on these images, as far as `_seen` tells."""
    began, now = json.loads((workdir / files.DATA).read_text(encoding="utf-8")), _seen(dataset)
    changed = [
        f"{name} had {began[name]['images']} and has {now[name]['images']}"
        for name in now
        if began[name] != now[name]
    ]
    if changed:
        raise ValueError(
            f"'{workdir}' was begun on other images of '{dataset.name}' ({', '.join(changed)}), "
            "and a resumed run has to see the same: put them back, or take another --workdir."
        )


def _clear(workdir: Path, settings: Record) -> None:
    """Deletes what another experiment has written."""
    if config_of(workdir) not in (None, settings.identity()):
        clear(workdir)


def clear(workdir: Path) -> None:
    """Deletes what jobs write; the config last, should this be interrupted."""
    for name in (*_WRITTEN, files.CONFIG):
        paths.delete(workdir / name)


def on_host(classifier: Classifier) -> Classifier:
    """The classifier with its weights in the host's memory: devices hold only what steps use."""
    return dataclasses.replace(classifier, variables=jax.device_get(dict(classifier.variables)))


def results_of(
    settings: Record,
    *,
    dataset: data.Dataset,
    label_N: np.ndarray,
    runs: Sequence[Run],
    models: Mapping[str, Any],
    pairs: Sequence[Any] = (),
    **found: Any,
) -> Results:
    """What results.json holds.

    Args:
      settings: of the job.
      dataset: that the job ran on.
      label_N: of the validation images.
      runs: a row for each run, with the measures of `analysis.measures`.
      models: name -> accuracy in percent, parameters, origin.
      pairs: what is known about pairs of models.
      **found: what else the job found.
    """
    return rows.read(
        {
            "job": settings.job,
            "runs": runs,
            "objectives": measures.of_objectives(runs),
            "models": dict(models),
            "pairs": pairs,
            **found,
            "classes": list(dataset.classes),
            "class_counts": np.bincount(label_N, minlength=len(dataset.classes)).tolist(),
            "data": {
                "name": dataset.name,
                "measured": dataset.measured,
                "train": len(dataset.train),
                "validation": len(label_N),
                "skipped": {split: len(wrong) for split, wrong in dataset.skipped.items()},
            },
            "environment": environment(),
            "config": settings.identity(),
        }
    )


def finish(
    workdir: Path,
    settings: Record,
    *,
    examples: Sequence[Mapping[str, Any]] = (),
    report: bool = True,
    **found: Any,
) -> Results:
    """Writes report and results.json, prints the table, and returns what results.json holds.

    Args:
      workdir: of the job.
      settings: of the job.
      examples: images for the report.
      report: else results.json is all that is written, and nothing is printed.
      **found: what `results_of` takes.
    """
    results = results_of(settings, tracked=writer.tracked(workdir), **found)
    if parallel.is_first():
        path = page.write(workdir, results, examples) if report else None
        # Last: it says that the job is finished.
        write_json(workdir / files.RESULTS, rows.to_json(results))
        if report:
            print(f"{tables.as_text(results)}\nReport: {path}")
    logs.stop()
    return results


def environment() -> dict[str, Any]:
    """Versions and devices, for results.json. Nothing that names the machine."""
    return {
        "ktjax": ktjax.__version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "peak_device_bytes": _peak_device_bytes(),
    }


def _peak_device_bytes() -> int | None:
    """The most memory that a device of this process has had in use; None where nobody counts."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def unusable(workdir: Path, error: OSError) -> ValueError:
    """The workdir cannot be read or written."""
    return ValueError(f"The workdir '{workdir}' cannot be used: {error.strerror or error}.")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    files.write_whole(path, f"{text}\n")
