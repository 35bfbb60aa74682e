"""Whether models have converged: what more training on labels alone gains."""

import contextlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from ktjax import evaluate, files, models, parallel, paths, progress
from ktjax.analysis import convergence, rows
from ktjax.analysis.records import to_json
from ktjax.analysis.rows import Results
from ktjax.classifier import Classifier
from ktjax.data import pipeline, sources
from ktjax.experiment import beginning, evaluation, inputs, recipes, supervised, transform
from ktjax.experiment import workdir as workdir_lib
from ktjax.settings.convergence import Convergence

_LOG = logging.getLogger(__name__)
_HALVES = 1234  # the seed that splits tune
# Jobs that differ only in these may be combined: what they run, and their verdict. Of images that
# lie elsewhere, data.json says whether they are the same.
_MAY_DIFFER = ("models", "learning_rates", "seeds", "most_gain", "data_dir")


class _Right(NamedTuple):
    """Which images a model gets right: bool [N]."""

    tune: np.ndarray
    validation: np.ndarray


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Checks the models of the config, as `execute` does; returns the contents of results.json."""
    settings = Convergence.read(config)
    with contextlib.ExitStack() as held:
        return to_json(execute(settings, workdir, overwrite=overwrite, held=held))


def check(settings: Convergence) -> None:
    """Raises ValueError unless the settings go together; nothing is loaded, compiled or written."""
    inputs.check(settings)
    recipes.check(settings)
    for name in settings.models:
        models.locate(name)


def execute(
    settings: Convergence,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    held: contextlib.ExitStack,
) -> Results:
    """Trains each model further on labels alone, at each learning rate and with each seed.

    The result of a run is kept in `workdir/runs` as soon as it ends, and is not computed again.
    Results of other jobs may be put there, if these differ only in models, learning rates and
    seeds.

    Returns:
      The contents of results.json, as a record.

    Raises:
      ValueError: a model, the data set or the workdir is not usable, before any work is done; or a
        kept result is damaged or of another job.
      FloatingPointError: a model diverges at every learning rate.
    """
    workdir = paths.of(workdir)
    check(settings)
    inputs.check_apart(settings, workdir, settings.models)
    finished = workdir_lib.finished(workdir, settings, overwrite=overwrite)
    if finished:
        return finished
    loaded = inputs.load(settings)
    inputs.check_labels(loaded)
    students = {
        name: workdir_lib.on_host(models.load(name, templates=settings.templates))
        for name in settings.models
    }
    students = inputs.fitted(settings, loaded, students, trained=students)
    dataset, splits = inputs.prepare(
        settings,
        loaded,
        students.values(),
        workdir,
        overwrite=overwrite,
        loaded_weights=students.values(),
        refuse=lambda splits: inputs.check_halves(loaded.dataset.name, *_halves(splits)),
        held=held,
    )
    paths.make_folder(workdir / files.RUNS)
    short = files.short_names(settings.models)
    began = beginning.read(workdir)
    of = _of(settings, transform.of_models(settings, students.values()), began["images"])
    total = len(students) * len(settings.learning_rates) * len(settings.seeds)
    found = []
    with progress.bar(total=total, desc="runs", unit="run") as bar:
        for name, student in students.items():
            own = of | {"weights": began["models"][student.name]}
            found.append(_check(settings, student, short[name], own, splits, workdir, bar.update))
    return workdir_lib.finish(
        workdir,
        settings,
        dataset=dataset,
        label_N=splits.validation.label_N,
        runs=(),
        models={
            name: rows.Model(
                accuracy=row.accuracy, parameters=model.num_parameters(), origin=model.origin
            )
            for (name, model), row in zip(students.items(), found, strict=True)
        },
        checks=found,
    )


def _of(settings: Convergence, how: pipeline.Reading, images: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs must have in common, as JSON: of this job, and of others that are combined.

    How images are read follows the models where the settings leave it open.
    """
    said = {name: value for name, value in settings.identity().items() if name not in _MAY_DIFFER}
    seen = {"image_size": how.size, "crop_pct": how.crop_pct, "interpolation": how.interpolation}
    seen |= {"crop_mode": how.crop_mode, "fill": list(how.fill)}
    return said | seen | {"images": images}


def _check(
    settings: Convergence,
    student: Classifier,
    short: str,
    of: Mapping[str, Any],
    splits: inputs.Splits,
    workdir: Path,
    done: Callable[[], Any],
) -> rows.Check:
    """Executes every run of one model, and checks whether it has converged."""
    predict = evaluate.make_predict(student, batch_size=settings.eval_batch_size)
    asked = evaluation.evaluate(student, predict, splits, layout=settings.parallel)
    before = _right(asked.tune_NxC, asked.validation_NxC, splits)
    recipe = supervised.make_recipe(
        settings,
        student,
        splits,
        learning_rate=settings.learning_rates[0],
        seed=settings.seeds[0],
    )

    def run(rate: float, seed: int) -> _Right:
        name = f"{short}-{rate:g}-{seed}"
        path = workdir / files.RUNS / f"{name}.npz"
        mine = {**of, "learning_rate": rate, "seed": seed}
        if not parallel.as_first_sees(path.exists()):
            own = recipe.at(learning_rate=rate, seed=seed)
            right = _train(settings, own, student, predict, splits, workdir, name)
            if parallel.is_first():
                _write(path, right, mine)
                paths.delete(workdir / files.CHECKPOINTS / name, ignore_errors=True)
        done()
        parallel.as_first_finds(lambda: path.exists() or None, f"'{path.parent}'")
        return _read(path, splits, mine)

    after: dict[float, list[_Right]] = {}
    for rate in settings.learning_rates:
        try:
            after[rate] = [run(rate, seed) for seed in settings.seeds]
        except FloatingPointError as error:
            if rate == settings.learning_rates[-1] and not after:
                raise
            _LOG.warning("%s at %g is left out: %s", student.name, rate, error)
    pick_N, judge_N = _halves(splits)
    tune = {rate: np.stack([one.tune for one in found]) for rate, found in after.items()}
    found = convergence.check(before.tune, tune, pick_N=pick_N, judge_N=judge_N)
    validated = convergence.gain(
        before.validation, np.stack([one.validation for one in after[found.learning_rate]])
    )
    return rows.Check(
        model=student.name,
        accuracy=100 * float(before.validation.mean()),
        tune_accuracy=100 * float(before.tune.mean()),
        learning_rate=found.learning_rate,
        picked_on={
            f"{rate:g}": found.picked_on[rate].mean if rate in found.picked_on else None
            for rate in settings.learning_rates
        },
        gain=found.gain.mean,
        gain_se=found.gain.se,
        upper=found.upper,
        validation_gain=validated.mean,
        validation_gain_se=validated.se,
        at_its_end=found.upper < settings.most_gain,
    )


def _halves(splits: inputs.Splits) -> tuple[np.ndarray, np.ndarray]:
    """The half of tune that picks a learning rate, and the one that judges."""
    return sources.halves(splits.tune.label_N, seed=_HALVES)


def _train(
    settings: Convergence,
    recipe: recipes.Recipe,
    student: Classifier,
    predict: evaluate.Predict,
    splits: inputs.Splits,
    workdir: Path,
    name: str,
) -> _Right:
    """Which images the model gets right after one run."""
    fitted = supervised.fit(recipe, student, splits, predict, run=name, workdir=workdir)
    answers = evaluation.ask(
        predict, fitted.placed, splits, layout=settings.parallel, tune=fitted.tune_NxC
    )
    return _right(answers.tune, answers.validation, splits)


def _right(tune_NxC: np.ndarray, validation_NxC: np.ndarray, splits: inputs.Splits) -> _Right:
    return _Right(
        tune_NxC.argmax(axis=1) == splits.tune.label_N,
        validation_NxC.argmax(axis=1) == splits.validation.label_N,
    )


def _write(path: Path, right: _Right, of: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    bits = {name: np.packbits(bits) for name, bits in right._asdict().items()}
    np.savez(buffer, of=np.frombuffer(json.dumps(of).encode(), np.uint8), **bits)
    files.write_whole(path, buffer.getvalue())


def _read(path: Path, splits: inputs.Splits, of: Mapping[str, Any]) -> _Right:
    """Reads what `_write` wrote. ValueError: the file is damaged, or of another job."""
    counts = _Right(len(splits.tune), len(splits.validation))._asdict()
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            packed = {name: kept[name] for name in counts}
            there = json.loads(kept["of"].tobytes()) if "of" in kept else {}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' was not written by ktjax, or is damaged: delete it.") from error
    if there != of:
        what = workdir_lib.differences(there, of) if there else "it does not say which"
        raise ValueError(
            f"'{path}' is of another job: {what}. Delete it, and the run is done again, or use "
            "another --workdir."
        )
    return _Right(
        **{
            name: np.unpackbits(bits, count=counts[name]).astype(bool)
            for name, bits in packed.items()
        }
    )
