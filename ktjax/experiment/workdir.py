"""The workdir of an experiment: which one it belongs to, whether it is finished, its results."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ktjax import data, files, parallel, paths, peers, writer
from ktjax.analysis import measures, records, rows
from ktjax.analysis.rows import Results, Run
from ktjax.classifier import Classifier
from ktjax.data.sources import Source
from ktjax.experiment import beginning, lease, logs
from ktjax.settings.record import FREE, Record

_LOG = logging.getLogger(__name__)
# What jobs write, in addition to the config.
_WRITTEN = (
    *(files.RESULTS, files.DATA, files.REPORT, files.METRICS, files.CLASS_FLIPS, files.RIGHT),
    *(files.PAIRS, files.FIGURES, files.TRACKED),
    *(files.STUDENTS, files.MODELS, files.PREDICTIONS, files.CHECKPOINTS, files.TENSORBOARD),
    *(files.LOGS, files.RUNS, files.STORE),
)
_EXPIRY = 60.0  # seconds without a heartbeat, see lease.py
_READABLE = 80  # characters of a field's two values, in a message


def finished(
    workdir: Path, settings: Record, *, overwrite: bool, report: bool = True
) -> Results | None:
    """The results if this experiment has finished here, otherwise None. Writes nothing.

    With `report` they are printed.

    Raises:
      ValueError: the folder belongs to another experiment, which must not be overwritten, or to
        another program, or it is not a folder.
    """
    try:
        found, resolved = config_of(workdir), settings.identity()
        if found is None:
            return None
        if found != resolved:
            if overwrite:
                return None
            raise of_another(workdir, found, resolved)
        results = results_in(workdir)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(workdir, error) from error
    if report and parallel.is_first():
        from ktjax.report import tables

        try:
            text = tables.as_text(results)
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # as in results_in
            raise _damaged(workdir / files.RESULTS, error) from error
        print(f"Already finished.\n\n{text}\nReport: {workdir / files.REPORT}")
        _LOG.warning("Images and weights were not read again: they may have changed since.")
    return results


def results_in(workdir: Path) -> Results:
    """The results of a finished job.

    Raises:
      ValueError: results.json is not as ktjax writes it.
      OSError: it cannot be read, or does not exist.
    """
    path = workdir / files.RESULTS
    found = files.read_json(path)
    try:
        return rows.read(found)
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # of another shape
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"'{path}' is not as ktjax writes it ({error}). Delete it and run the same command to "
        "resume from the checkpoints."
    )


def config_of(workdir: Path) -> dict[str, Any] | None:
    """The resolved config of the experiment in a folder; None: there is none yet.

    Before anything in a workdir is deleted or replaced, this makes sure that ktjax wrote it.

    Raises:
      ValueError: config.json shows that the folder belongs to another program, or the folder holds
        files that a job would write, without a config, or it cannot be written.
    """
    paths.reach(workdir)
    path = workdir / files.CONFIG
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        # Runs and stores carry their own identity, and may be copied here from elsewhere.
        own = set(_WRITTEN) - {files.RUNS, files.STORE}
        there = [name for name in _WRITTEN if name in own and (workdir / name).exists()]
        if there:
            raise ValueError(
                f"'{workdir}' holds {', '.join(there)}, but no {files.CONFIG} shows that ktjax "
                "wrote this: use another --workdir."
            ) from None
        if not paths.is_writable(workdir):  # told before images are read, not after
            raise ValueError(
                f"The workdir '{workdir}' cannot be used: no right to write."
            ) from None
        return None
    except OSError as error:
        raise unusable(workdir, error) from error
    if not isinstance(found, dict) or found.get("job") not in tuple(rows.RESULTS):
        raise ValueError(
            f"{files.CONFIG} of '{workdir}' is not the config of a job: ktjax did not write it. "
            "Use another --workdir."
        )
    return {name: value for name, value in found.items() if name not in FREE}


def of_another(
    workdir: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    fields: Iterable[str] | None = None,
) -> ValueError:
    """The error that the config in a workdir differs from the wanted one in these fields.

    None: in all in which it does.
    """
    if found["job"] != wanted["job"]:
        what = f"its job is {found['job']}, not {wanted['job']}"
    else:
        what = differences(found, wanted, fields)
    return ValueError(
        f"'{workdir}' belongs to another experiment: {what}. Use another --workdir, or "
        "--overwrite to replace it."
    )


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], fields: Iterable[str] | None = None
) -> str:
    """In which fields the config of a job differs from the wanted one, in words; None: in all."""
    if fields is None:
        fields = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    differ = (_difference(name, found.get(name), wanted.get(name)) for name in sorted(fields))
    return f"its config differs in {', '.join(differ)}"


def _difference(name: str, found: Any, wanted: Any) -> str:
    values = f" ({json.dumps(found)} there, {json.dumps(wanted)} here)"
    return name + (values if len(values) <= _READABLE else "")


def claim(
    workdir: Path,
    settings: Record,
    dataset: data.Dataset,
    *,
    overwrite: bool,
    weights: Mapping[str, str] | None = None,
    accept: Source | None = None,
    held: contextlib.ExitStack | None = None,
) -> None:
    """Claims the folder for this experiment: writes the resolved config, and starts logging there.

    Args:
      workdir: the job's folder.
      settings: the job's settings.
      dataset: the data set it reads.
      overwrite: delete everything that ktjax wrote for another experiment.
      weights: digests of the weights it starts with, by the models' names.
      accept: the images of its decisions; None: it makes none.
      held: no one else may write to the folder until it closes; None: the caller ensures that.

    Raises:
      ValueError: the folder cannot be written, or the processes do not share it, or another process
        writes to it; or it belongs to another experiment, which must not be overwritten; or the
        processes were started differently; or the run started with other images or weights.
    """
    found = beginning.seen(dataset, weights or {}, accept)
    beginning.check_processes(settings, found)
    try:
        _as_first(lambda: _make(workdir, settings, found, held, overwrite=overwrite))
        config = workdir / files.CONFIG
        parallel.as_first_finds(lambda: config.exists() or None, f"the workdir '{workdir}'")
        beginning.check(workdir, dataset.name, found)
        logs.start(workdir)
    except OSError as error:
        raise unusable(workdir, error) from error


def _as_first(do: Callable[[], None]) -> None:
    """Does something only in process 0; its ValueError is raised in all processes."""
    refused = ""
    if parallel.is_first():
        try:
            do()
        except ValueError as error:
            refused = str(error)
    refused = parallel.told_by_all(refused)[0]
    if refused:
        raise ValueError(refused)


def _make(
    workdir: Path,
    settings: Record,
    found: Mapping[str, Any],
    held: contextlib.ExitStack | None,
    *,
    overwrite: bool,
) -> None:
    paths.make_folder(workdir)
    if held is not None:
        writer_file = workdir / files.WRITER
        lost = functools.partial(_taken_over, workdir)
        held.enter_context(lease.alone(writer_file, expiry=_EXPIRY, lost=lost))
    _clear(workdir, settings, overwrite=overwrite)
    files.write_json(workdir / files.CONFIG, settings.identity())
    beginning.note(workdir, found)


def _taken_over(workdir: Path) -> None:
    """Exits this process, after another took over because it was suspended or lost its disk."""
    said = f"Another process has taken over '{workdir}', as this one had no heartbeat."
    _LOG.error(said)
    peers.leave(said, logs.flush)


def _clear(workdir: Path, settings: Record, *, overwrite: bool) -> None:
    """Deletes what another experiment wrote, or refuses: it may have begun after `finished` looked.

    Nobody else may write here meanwhile.
    """
    found, wanted = config_of(workdir), settings.identity()
    if found in (None, wanted):
        return
    if not overwrite:
        raise of_another(workdir, found, wanted)
    clear(workdir)


def clear(workdir: Path) -> None:
    """Deletes what jobs write; the config last, in case this is interrupted."""
    for name in (*_WRITTEN, files.CONFIG):
        paths.delete(workdir / name)


def on_host(classifier: Classifier) -> Classifier:
    """The classifier with its weights in host memory, so that devices hold only what steps use."""
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
    """The content of results.json.

    Args:
      settings: the job's settings.
      dataset: the data set the job ran on.
      label_N: labels of the validation images.
      runs: one row per run, with the measures of `analysis.measures`.
      models: name -> accuracy in percent, parameters, origin.
      pairs: results for pairs of models.
      **found: other results of the job.
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
    """Writes report and results.json, prints the table, and returns the content of results.json.

    Args:
      workdir: the job's folder.
      settings: the job's settings.
      examples: images for the report.
      report: False: only writes results.json, and prints nothing.
      **found: what `results_of` takes.
    """
    results = results_of(settings, tracked=writer.tracked(workdir), **found)
    if parallel.is_first():
        text = _write_report(workdir, results, examples) if report else ""
        # Last: it marks the job as finished.
        files.write_json(workdir / files.RESULTS, records.to_json(results))
        if report:
            print(text)
    # Otherwise the others would exit, and JAX gives process 0 only seconds to follow.
    parallel.wait_for_all("finished")
    logs.stop()
    return results


def _write_report(workdir: Path, results: Results, examples: Sequence[Mapping[str, Any]]) -> str:
    """Writes report.html, and returns its tables and its path as text for the terminal."""
    from ktjax.report import page, tables  # matplotlib takes long to import: not before training

    path = page.write(workdir, results, examples)
    return f"{tables.as_text(results)}\nReport: {path}"


def environment() -> dict[str, Any]:
    """Versions and devices, for results.json. Nothing that names the machine."""
    return {
        **beginning.versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "peak_device_bytes": _peak_device_bytes(),
    }


def _peak_device_bytes() -> int | None:
    """The peak memory in use on a device of this process; None if devices do not report it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def unusable(workdir: Path, error: OSError) -> ValueError:
    """The error that the workdir cannot be read or written."""
    return ValueError(f"The workdir '{workdir}' cannot be used: {error.strerror or error}.")
