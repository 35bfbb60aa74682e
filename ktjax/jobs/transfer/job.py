"""One student, one or more teachers: transfers what they know, by each of several objectives."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from safetensors import numpy as safetensors_numpy

from ktjax import (
    data,
    evaluate,
    files,
    models,
    parallel,
    paths,
    progress,
)
from ktjax.analysis import controls
from ktjax.analysis.records import to_json
from ktjax.analysis.rows import Results, Run
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.experiment import accept, beginning, evaluation, inputs, stores, transform
from ktjax.experiment import workdir as workdir_lib
from ktjax.experiment.evaluation import Evaluated
from ktjax.experiment.shared import Once, Shared
from ktjax.jobs.transfer import checks, frozen, mutual, plan, shown
from ktjax.jobs.transfer.setup import (
    Setup,
    say_what_chance_decides,
    warn_of_no_controls,
    warn_of_seen_images,
)
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe, store

# Fields in which transfers may differ that share data, models and their answers.
_OWN = ("student", "teachers", "strategy", "order", "soup_batch_norm", "seeds", "objectives")
_OWN += ("controls", "mcl")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    models: Mapping[str, Classifier] | None = None,
) -> dict[str, Any]:
    """Runs `execute` on the transfers of the config; returns the contents of results.json."""
    settings = Transfer.read(config)
    with contextlib.ExitStack() as held:
        given = models or {}
        return to_json(execute(settings, workdir, overwrite=overwrite, given=given, held=held))


def execute(
    settings: Transfer,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    shared: Shared | None = None,
    report: bool = True,
    given: Mapping[str, Classifier] | None = None,
    held: contextlib.ExitStack | None = None,
) -> Results:
    """Runs every transfer of the settings; resumes what was interrupted.

    Args:
      settings: of the job.
      workdir: of the job.
      overwrite: delete what another experiment left in the workdir.
      shared: data, models and answers that transfers of this process reuse.
      report: print the results and write report.html; else this is left to the caller.
      given: models in memory that the settings name, such as those of ktjax.from_linen. Resuming
        needs the same again, and so does reading the results of a finished job.
      held: no other process may write to the workdir until it is closed; None: the caller ensures
        that.

    Returns:
      The contents of results.json, as a record.

    Raises:
      ValueError: a model, the data set or the workdir is not usable; before any work.
      FloatingPointError: a run diverged.
    """
    workdir = paths.of(workdir)
    given = given or {}
    checks.check(settings, given)
    names = (settings.student, *settings.teachers)
    inputs.check_apart(settings, workdir, [name for name in names if name not in given])
    read = functools.partial(workdir_lib.finished, workdir, settings, overwrite=overwrite)
    finished = read(report=report and not given)
    if finished and not given:
        return finished

    shared = shared or Shared()
    shared.use(names)
    once = shared.of(settings, but=_OWN)
    classifiers = _load(settings, once, given)
    loaded = once("data", lambda: _data(settings))
    trained = checks.trained(settings)
    if settings.classes == "shared":
        loaded, classifiers = inputs.with_shared_classes(loaded, classifiers, trained=trained)
    classifiers = inputs.fitted(settings, loaded, classifiers, trained=trained, once=once)
    if finished:  # by these models? A name says nothing of what is in memory
        mine = {name: describe.fingerprint(classifiers[name]) for name in given}
        beginning.check_models(workdir, mine)
        return read(report=report)
    checks.check_labels(settings, loaded.dataset)
    _say_what_accept_shows(settings, loaded, once)
    stores.check_kept(settings, len(loaded.dataset.classes))
    only_stores = stores.teachers(settings)
    inputs.check_models(loaded, only_stores.values())
    dataset, splits = inputs.prepare(
        settings,
        loaded,
        classifiers.values(),
        workdir,
        once,
        overwrite=overwrite,
        loaded_weights=classifiers.values(),
        loaded_answers=only_stores.values(),
        held=held,
        refuse=lambda splits: stores.refuse_others(
            settings, splits, list(classifiers.values()), only_stores
        ),
    )

    # Answers depend on how images are read, which may depend on the models.
    how = transform.of_models(settings, classifiers.values())
    asked = shared.of(settings, but=_OWN, also=how)
    moves = plan.moves_alone(settings, classifiers[settings.student])
    say_what_chance_decides(settings, splits, asked, moves=moves)
    warn_of_no_controls(settings, splits, asked, moves=moves)
    start = _set_up(settings, workdir, splits, classifiers, only_stores, asked, report)
    warn_of_seen_images(start)
    engine = mutual if plan.STRATEGIES[settings.strategy].joint else frozen
    found, alone, answers = [], [], {}
    for done in engine.runs(start):
        (alone if done.control else found).append(done.row)
        answers[done.row.run] = done.validation_NxC.argmax(axis=1)
    return _finish(start, dataset, how, found, alone, answers)


def _finish(
    start: Setup,
    dataset: data.Dataset,
    how: pipeline.Reading,
    found: list[Run],
    alone: list[Run],
    answers: Mapping[str, np.ndarray],
) -> Results:
    """Subtracts the controls `alone` from the runs `found`, and writes the results."""
    settings, workdir, splits, report = start.settings, start.workdir, start.splits, start.report
    ran = {row.objective for row in alone}
    entries = {k: control.entry for k, control in plan.controls(settings).items() if k in ran}
    entries |= settings.objectives
    label_N = splits.validation.label_N
    correct = {name: answer_N == label_N for name, answer_N in answers.items()}
    found = controls.with_net(found, alone, controls.choose(alone), correct)
    _write_right(workdir, correct)
    return workdir_lib.finish(
        workdir,
        settings,
        dataset=dataset,
        label_N=label_N,
        runs=found,
        controls=alone,
        outcomes=controls.outcomes(found),
        served=stores.serve(settings, entries, len(dataset.classes)),
        models=shown.models(start, dataset, how),
        pairs=shown.pairs(start, dataset),
        examples=shown.examples(start, dataset, found, answers) if report else (),
        report=report,
    )


def _write_right(workdir: Path, correct: Mapping[str, np.ndarray]) -> None:
    """Saves which validation images are right after each run: net needs it later."""
    if parallel.is_first():
        bits = {name: np.packbits(correct_N) for name, correct_N in correct.items()}
        files.write_whole(workdir / files.RIGHT, safetensors_numpy.save(bits))


def _load(settings: Transfer, once: Once, given: Mapping[str, Classifier]) -> dict[str, Classifier]:
    """Student and teachers, by name; those that train have the stochastic depth of the settings.

    If the settings leave it open, it is read from the model's config.json, `model_args`, where
    ktjax and timm keep the arguments of a network. No timm checkpoint on the hub has it there:
    these are trained without, as in the authors' code. The value in transformers' config.json is
    ignored: it is more often the default of a class than what the weights were trained with.
    """
    options = {}
    if settings.drop_path_rate is not None:
        own = [name for name in checks.trained(settings) if name not in given]
        trained = [name for name in own if checks.drops_paths(name)]
        options = {name: {"drop_path_rate": settings.drop_path_rate} for name in trained}

    def load(name: str) -> Classifier:
        if name in given:
            return workdir_lib.on_host(dataclasses.replace(given[name], name=name))
        return workdir_lib.on_host(
            models.load(name, templates=settings.templates, **options.get(name, {}))
        )

    return {
        name: once(("model", name, name in options), lambda name=name: load(name), of=name)
        for name in (settings.student, *settings.teachers)
        if not name.startswith(store.PREFIX)
    }


def _set_up(
    settings: Transfer,
    workdir: Path,
    splits: inputs.Splits,
    classifiers: Mapping[str, Classifier],
    only_stores: Mapping[str, store.Store],
    once: Once,
    report: bool,
) -> Setup:
    """Evaluates every model; the answers of a store are read."""

    def predict(name: str) -> evaluate.Predict:
        make = evaluate.make_predict
        model = classifiers[name]
        size = settings.eval_batch_size
        return once(("predict", name), lambda: make(model, batch_size=size), of=name)

    def ask(name: str) -> Evaluated:
        model = classifiers[name]
        if settings.store is not None and not settings.robustness:
            models_of, seed = list(classifiers.values()), settings.seeds[0]
            images = stores.described(settings, splits, models_of, seed, once)
            if known := stores.known(settings, splits, model, images):
                return known
        return evaluation.evaluate(
            model,
            predict(name),
            splits,
            layout=settings.parallel,
            calibrate=settings.calibrate,
        )

    evaluated = {}
    # With drop path, the same model counts as another.
    for name in progress.bar(classifiers, desc="models", unit="model", leave=False, shown=report):
        key = ("asked", name, classifiers[name].options.get("drop_path_rate"))
        evaluated[name] = once(key, lambda name=name: ask(name), of=name)
    evaluated |= {
        name: stores.evaluated(found, splits, calibrate=settings.calibrate)
        for name, found in only_stores.items()
    }
    student, models_of = settings.student, [known.model for known in evaluated.values()]
    return Setup(
        settings,
        workdir,
        splits,
        evaluated,
        student,
        predict(student),
        one_view=stores.one_view(settings, splits, models_of),
        once=once,
        report=report,
    )


def _data(settings: Transfer) -> inputs.Loaded:
    loaded = inputs.load(settings, also=settings.robustness)
    return accept.with_accept(settings, loaded) if settings.export == "no_regret" else loaded


def _say_what_accept_shows(settings: Transfer, loaded: inputs.Loaded, once: Once) -> None:
    key = ("what accept shows", loaded.dataset.classes)
    once(key, lambda: accept.say_what_it_shows(loaded, plan.decisions(settings)))


def load_data(settings: Transfer, shared: Shared) -> inputs.Loaded:
    """The data that all transfers with these settings share, whatever their models.

    ValueError: as `inputs.load`; or an objective needs more than the logits that are kept of its
    classes.
    """
    once = shared.of(settings, but=_OWN)
    loaded = once("data", lambda: _data(settings))
    if settings.classes != "shared":  # then the models decide how many there are
        _say_what_accept_shows(settings, loaded, once)
        stores.check_kept(settings, len(loaded.dataset.classes))
    return once("good images", lambda: inputs.without_bad(settings, loaded))
