"""Students x teachers x objectives x seeds: how often a transfer helps, and by how much."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from ktjax import data, files, models, paths
from ktjax.analysis.records import to_json
from ktjax.analysis.rows import Results
from ktjax.classifier import Classifier
from ktjax.experiment import beginning, inputs, lease, logs, recipes, room, stores, transform
from ktjax.experiment import workdir as workdir_lib
from ktjax.experiment.shared import Shared
from ktjax.jobs import transfer
from ktjax.jobs.study import in_processes, on_ray, plan, table, work
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.study.plan import Run
from ktjax.jobs.transfer import plan as transfer_plan
from ktjax.jobs.transfer import setup
from ktjax.jobs.transfer.plan import asks_teachers
from ktjax.models.checkpoints import entries
from ktjax.settings.study import ASKED, Study
from ktjax.settings.transfer import Transfer
from ktjax.targets import store

_LOG = logging.getLogger(__name__)
_TABLE = "table"  # the lease of what all runs share


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Runs the study of the config, as `execute` does; returns the contents of results.json."""
    return to_json(execute(Study.read(config), workdir, overwrite=overwrite))


def check(settings: Study) -> None:
    """Raises ValueError unless the settings go together; nothing is loaded, compiled or written."""
    settings = plan.named(settings)
    if not settings.students:
        raise ValueError(f"config.students: name the models of '{settings.data}'.")
    inputs.check(settings)
    recipes.check(settings)
    if jax.process_count() > 1:
        raise ValueError(
            "Each run of a study uses one process: start several with config.shard or "
            "config.engine=ray, without --distributed."
        )
    if settings.engine == "ray":
        on_ray.check(settings)
    plan.plan(settings, labeled=True)
    if alone := _alone(settings):
        stores.check_teachers(alone)
    pairs = plan.pairs(settings)
    for student in settings.students:
        teachers = [teacher for learner, teacher in pairs if learner == student]
        asked = {
            name: entry
            for name, entry in settings.objectives.items()
            if teachers or not asks_teachers(entry)
        }
        if asked:
            transfer.check(
                settings.transfer(student, teachers, asked, seeds=settings.seeds, mcl={})
            )


def _alone(settings: Study) -> Transfer | None:
    """A transfer of all controls, for checks; None: there are none."""
    alone = {name: control.entry for name, control in transfer_plan.controls(settings).items()}
    if not alone:
        return None
    return settings.transfer(settings.students[0], (), alone, seeds=settings.seeds, mcl={})


def execute(settings: Study, workdir: str | Path, *, overwrite: bool = False) -> Results:
    """Executes the remaining runs of a study, and makes a table of all that are done.

    Other processes, however started, may work in the same workdir at the same time or have done so
    before; the lists of students, teachers, objectives, controls and seeds may have changed since.

    Returns:
      The contents of results.json, as a record. The file is written once all requested runs are
      done or have failed.

    Raises:
      ValueError: a model, the data set or the workdir is not usable, before any work; or all
        transfers have failed.
    """
    workdir, settings = paths.of(workdir), plan.named(settings)
    check(settings)
    inputs.check_apart(settings, workdir, (*settings.students, *settings.teachers))
    workdir_lib.config_of(workdir)  # refuses what cannot be a workdir before images are read
    if settings.targets == "stored" and settings.store is None:
        settings = settings.model_copy(update={"store": str(workdir / files.STORE)})
    shared = Shared(settings.cache_gb)
    whole = settings.transfer(
        settings.students[0], (), settings.objectives, seeds=settings.seeds, mcl=settings.mcl
    )
    loaded = transfer.load_data(whole, shared)
    dataset = loaded.dataset
    transfer.check_labels(whole, dataset)
    if alone := _alone(settings):
        stores.check_kept(alone, len(dataset.classes))
    settings.durations(len(dataset.train))
    labeled = dataset.train.labeled
    plan.plan(settings, labeled=labeled)  # refuses before the workdir is changed
    claim(workdir, settings, loaded, overwrite=overwrite)
    logs.start(workdir)  # until the first run has its own
    asked = plan.plan(settings, labeled=labeled, workdir=workdir)
    taught = any(one.teacher is not None for one in asked)
    if settings.controls and taught and not labeled and not any(one.is_control for one in asked):
        _LOG.warning("%s", setup.no_controls(settings))
    runs = Runs(workdir, settings)
    if settings.targets == "stored" and not all(map(runs.is_done, asked)):
        _check_room(settings, asked, whole, dataset)
    if not all(map(runs.is_done, asked)):
        transform.say_unlike(
            _blanks(settings), image_size=settings.image_size, crop_pct=settings.crop_pct
        )
    mine = plan.share(asked, settings.shard)
    ENGINES[settings.engine](settings, workdir, runs, mine, shared, labeled=labeled)
    with lease.wait(workdir / _TABLE, expiry=settings.lease_expiry):
        # Everything that this or another start has requested, perhaps only meanwhile.
        every = _with_earlier(workdir, settings, overwrite=False)
        planned = _all_of(every, workdir, labeled=labeled)
        for student in dict.fromkeys(one.student for one in planned):
            runs.keep([one for one in planned if one.student == student], settings.keep)
        found = {
            "dataset": dataset,
            "label_N": dataset.validation.label_N,
            "runs": (),
            **table.found(runs, planned, asked),
        }
        table.write(workdir, found["rows"])
        left = sum(not runs.is_done(one) for one in asked)
        if not left:
            results = workdir_lib.finish(workdir, every, **found)
            _check_some_worked(runs, asked)
            return results
    from ktjax.report import tables  # as in workdir.py: not before training

    results = workdir_lib.results_of(every, **found)
    print(
        f"{tables.as_text(results)}\n{left} of {len(asked)} runs are left: start the study "
        "again to continue; the report is written once none is left."
    )
    return results


def _check_room(
    settings: Study, asked: Sequence[Run], whole: Transfer, dataset: data.Dataset
) -> None:
    """Prints how much all stores take; ValueError if there is too little room for them."""
    assert settings.store is not None
    used = {name for run in asked for name in (run.student, run.teacher) if name is not None}
    used = {name for name in used if not name.startswith(store.PREFIX)}
    form, images = stores.form_of(whole, len(dataset.classes)), len(dataset.train)
    number = len(used) * len(settings.seeds)
    views = number * stores.count_views(whole, images)
    measured = number * (len(dataset.tune) + len(dataset.validation))
    size = form.told(images, views, measured)
    print(f"Answers of {len(used)} models, stored once for all runs in {settings.store}: {size}.")
    folder = paths.of(settings.store)
    if not paths.is_remote(folder):
        there = room.stored_bytes(whole, dataset.train, used)
        store.check_space(folder, form.size(images, views, measured) - there)


def _check_some_worked(runs: Runs, asked: Sequence[Run]) -> None:
    """Raises ValueError if every run with a teacher failed: for one reason, most likely."""
    taught = [one for one in asked if one.teacher is not None] or asked
    errors = [error for one in taught if (error := runs.error(one)) is not None]
    if errors and len(errors) == len(taught):
        raise ValueError(f"All {len(taught)} transfers failed; the first one: {errors[0]}")


def _locally(
    settings: Study,
    workdir: Path,
    runs: Runs,
    asked: Sequence[Run],
    shared: Shared,
    *,
    labeled: bool,
) -> None:
    """On this machine: in this process, or in several that it starts."""
    if settings.processes > 1:
        in_processes.run(settings, workdir, runs, asked, shared, labeled=labeled)
        return
    progress = work.Progress(runs, asked)
    try:
        work.work(
            settings,
            runs,
            asked,
            failed=work.failures(runs, asked),
            shared=shared,
            wait=settings.shard is None,
            told=progress.update,
        )
    finally:
        progress.close()


ENGINES = {"local": _locally, "ray": on_ray.run}


def claim(workdir: Path, settings: Study, loaded: inputs.Loaded, *, overwrite: bool) -> None:
    """Claims the workdir for this study, and notes there all that was ever requested.

    Raises:
      ValueError: it belongs to another experiment, which must not be overwritten; or it cannot be
        written; or it was begun on other images, or with other weights of a model.
    """
    dataset = loaded.dataset
    seen = beginning.seen(dataset, _weights(settings), loaded.accept)
    try:
        paths.make_folder(workdir)
        with lease.wait(workdir / _TABLE, expiry=settings.lease_expiry):
            every = _with_earlier(workdir, settings, overwrite=overwrite)
            files.write_json(workdir / files.CONFIG, every.identity())
            beginning.note(workdir, seen)
            _renew(workdir, every, seen["models"], labeled=dataset.train.labeled)
    except OSError as error:
        raise workdir_lib.unusable(workdir, error) from error
    beginning.check(workdir, dataset.name, seen)


def _renew(workdir: Path, every: Study, now: Mapping[str, str], *, labeled: bool) -> None:
    """Notes the weights of models that are new or have no finished run: they may be repaired."""
    began = beginning.read(workdir)["models"]
    if changed := {name: digest for name, digest in now.items() if began.get(name) != digest}:
        runs = Runs(workdir, every)
        planned = _all_of(every, workdir, labeled=labeled)
        done = [run for run in planned if runs.has_found(run)]
        used = {name for run in done for name in (run.student, run.teacher)}
        beginning.renew(workdir, {k: v for k, v in changed.items() if k not in used & set(began)})


def _all_of(every: Study, workdir: Path, *, labeled: bool) -> tuple[Run, ...]:
    """The runs that some start may have requested, whichever pairs it drew."""
    return plan.plan(every.model_copy(update={"pairs": None}), labeled=labeled, workdir=workdir)


def _weights(settings: Study) -> dict[str, str]:
    """Fingerprints of models in local folders, which may change: of their weights, or answers.

    Those of a hub would all have to be downloaded here. Runs report their own errors.
    """
    found = {}
    for name in dict.fromkeys((*settings.students, *settings.teachers)):
        with contextlib.suppress(ValueError, OSError):
            if name.startswith(store.PREFIX):
                found[name] = store.open_store(name).fingerprint()
            elif paths.of(name).exists():
                found[name] = entries.fingerprint(models.locate(name).path)
    return found


def _blanks(settings: Study) -> list[Classifier]:
    """The models in local folders, without their weights; likewise."""
    found = []
    for name in dict.fromkeys((*settings.students, *settings.teachers)):
        with contextlib.suppress(ValueError, OSError):
            if not name.startswith(store.PREFIX) and paths.of(name).exists():
                found.append(models.blank(name))
    return found


def _with_earlier(workdir: Path, settings: Study, *, overwrite: bool) -> Study:
    before, now = workdir_lib.config_of(workdir), settings.identity()
    if before is None:
        return settings
    changed = [name for name in before | now if _changed(name, before, now)]
    if changed and not overwrite:
        raise workdir_lib.of_another(workdir, before, now, changed)
    if changed:
        workdir_lib.clear(workdir)
        return settings
    lists = {
        name: list(dict.fromkeys([*before[name], *now[name]]))
        for name in ("students", "teachers", "seeds")
    }
    named = {name: before[name] | now[name] for name in ("objectives", "controls", "mcl")}
    return Study.read(settings.to_json() | lists | named)


def _changed(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a field has changed for a run that was requested before."""
    if name not in ASKED or name not in before:
        return before.get(name) != now.get(name)
    old, new = before[name], now[name]
    if name == "mcl":  # no entry for an objective is a setting, too
        both = set(before["objectives"]) & set(now["objectives"])
        return any(old.get(label) != new.get(label) for label in both)
    if name in ("objectives", "controls"):
        return any(old[label] != new[label] for label in set(old) & set(new))
    return False
