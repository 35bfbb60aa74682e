"""One student, one or more teachers: transfers what they know, by each of several objectives."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from ktjax import config as config_lib
from ktjax import data, evaluate, models, objectives, parallel, targets
from ktjax.analysis import flips, measures
from ktjax.data import augment, pipeline
from ktjax.jobs import fitting
from ktjax.jobs import workdir as workdir_lib
from ktjax.models import weights
from ktjax.models.classifier import Classifier

STRATEGIES = ("single", "parallel")
TARGETS = ("live", "stored")
_EXAMPLES = 12  # pictures in the report


class Run(NamedTuple):
    """One transfer of the job."""

    objective: str
    teachers: tuple[str, ...]
    seed: int
    name: str  # of its files and in its metrics


def plan(config: ml_collections.ConfigDict) -> tuple[Run, ...]:
    """The transfers that a config asks for.

    Strategy `single` has a run for each teacher alone, `parallel` one for all at once. An objective
    that asks no teacher has one run per seed.
    """
    together = {"single": [(t,) for t in config.teachers], "parallel": [tuple(config.teachers)]}
    short = _short_names(config.teachers)

    def name(objective: str, teachers: tuple[str, ...], seed: int) -> str:
        parts = (objective, "+".join(short[teacher] for teacher in teachers), str(seed))
        return "-".join(filter(None, parts))

    return tuple(
        Run(objective, teachers, seed, name(objective, teachers, seed))
        for seed in config.seeds
        for objective in config.objectives
        for teachers in (
            together[config.strategy] if objectives.OBJECTIVES[objective].teachers else [()]
        )
    )


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each path; more parts where that does not tell them apart."""
    parts = {name: Path(name).parts for name in names}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {name: ".".join(parts[name][-length:]) for name in names}
        if len(set(short.values())) == len(names):
            break
    return {name: text.strip(".").replace("/", "") for name, text in short.items()}


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the config makes sense; nothing is loaded, compiled or written."""
    fitting.check(config)
    data.check(config.data)
    config_lib.check_choice("strategy", config.strategy, STRATEGIES)
    config_lib.check_choice("targets", config.targets, TARGETS)
    for name in ("teachers", "seeds", "objectives"):
        if not config[name]:
            raise ValueError(f"config.{name} is empty: a transfer needs one at least.")
    fitting.check_seeds(config.seeds)
    for objective, options in config.objectives.items():
        objectives.check(objective, _options(options))
        config_lib.check_positive(options, "learning_rate")
    names = (config.student, *config.teachers)
    if len({models.locate(name).resolve() for name in names}) < len(names):
        raise ValueError(f"Student and teachers have to differ: {', '.join(names)}.")


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Runs every transfer of the config; resumes what was interrupted.

    Returns:
      What results.json holds.

    Raises:
      ValueError: the config, a model, the data set or the workdir is not usable; before any work.
      FloatingPointError: a run diverged.
    """
    workdir = Path(workdir)
    check(config)
    finished = workdir_lib.finished(workdir, config)
    if finished:
        return finished

    loaded = {name: models.load(name) for name in (config.student, *config.teachers)}
    dataset = data.load(config.data, data_dir=config.data_dir)
    for classifier in loaded.values():
        models.check_classes(classifier, dataset.classes, dataset.name)
    splits = pipeline.read_splits(dataset, size=config.image_size, limit=config.max_examples)
    fitting.durations(config, examples=len(splits.train))
    _check_labels(config, splits.train)
    workdir_lib.claim(workdir, config)

    predicts = {
        name: evaluate.make_predict(classifier, batch_size=config.eval_batch_size)
        for name, classifier in loaded.items()
    }
    logits = {
        name: predicts[name](parallel.replicate(classifier.variables), splits.validation)
        for name, classifier in loaded.items()
    }
    scene = Scene(config, workdir, loaded, splits, logits, predicts[config.student])
    rows, answers = [], {}
    with tqdm.tqdm(total=len(plan(config)), desc="transfers", unit="run") as bar:
        for seed in config.seeds:
            for row, answer_N in _transfers_of_seed(scene, seed, bar):
                rows.append(row)
                answers[row["run"]] = answer_N
    return workdir_lib.finish(
        workdir,
        config,
        dataset=dataset,
        label_N=splits.validation.label_N,
        runs=rows,
        models={name: _facts(scene, name) for name in loaded},
        pairs=[_pair(scene, teacher, dataset) for teacher in config.teachers],
        examples=_examples(scene, dataset, rows, answers),
    )


def _check_labels(config: ml_collections.ConfigDict, images: pipeline.Images) -> None:
    need = [name for name in config.objectives if objectives.OBJECTIVES[name].labels]
    if need and (images.label_N < 0).any():
        raise ValueError(
            f"'{config.data}' has images without labels, which {', '.join(need)} need: "
            "take kl_dp_unsupervised or kl."
        )


class Scene(NamedTuple):
    """What all transfers of a job share."""

    config: ml_collections.ConfigDict
    workdir: Path
    models: dict[str, Classifier]
    splits: pipeline.Splits
    logits: dict[str, np.ndarray]  # of each model before any transfer, [N, C] on validation
    predict: evaluate.Predict  # of the student


def _transfers_of_seed(
    scene: Scene, seed: int, bar: tqdm.tqdm
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every planned transfer with this seed: its row of results.json, and what the student answers
    after it on validation, [N].

    What runs share is made when the first of them asks for it: the step (one per objective, and
    per set of teachers where these are asked in every step) and the frozen models.
    """
    config = scene.config
    student = scene.models[config.student]
    dtype = jnp.dtype(config.dtype)
    examples = len(scene.splits.train)

    @functools.cache
    def frozen(name: str) -> Any:
        if config.targets == "live":
            return targets.frozen_variables(scene.models[name], dtype=dtype)
        steps_per_epoch, total, _ = fitting.durations(config, examples=examples)
        return targets.store(
            scene.models[name],
            scene.splits.train,
            augment=augment.make_augment(config.augment, seed=seed),
            views=-(-total // steps_per_epoch),
            batch_size=config.eval_batch_size,
            dtype=dtype,
        )

    @functools.cache
    def recipe(objective: str, teachers: tuple[str, ...]) -> fitting.Recipe:
        options = config.objectives[objective]
        asked = [scene.models[name] for name in teachers]
        return fitting.make_recipe(
            config,
            student=student,
            objective=objectives.OBJECTIVES[objective].make(**_options(options)),
            teach=targets.make_ask(student, asked) if config.targets == "live" else targets.replay,
            learning_rate=options.learning_rate,
            examples=examples,
            seed=seed,
        )

    def frozen_of(planned: Run) -> targets.Frozen:
        asks_initial = objectives.OBJECTIVES[planned.objective].initial
        return targets.Frozen(
            initial=frozen(config.student) if asks_initial else None,
            teachers=tuple(frozen(name) for name in planned.teachers),
        )

    for planned in (p for p in plan(config) if p.seed == seed):
        live = planned.teachers if config.targets == "live" else ()
        fitted = fitting.fit(
            recipe(planned.objective, live),
            student=student,
            frozen=functools.partial(frozen_of, planned),
            images=scene.splits.train,
            tune=scene.splits.tune,
            predict=scene.predict,
            run=planned.name,
            workdir=scene.workdir,
        )
        variables = parallel.replicate(fitted.variables)
        after_NxC = scene.predict(variables, scene.splits.validation)
        row = _row(scene, planned, fitted, after_NxC)
        after = dataclasses.replace(
            student,
            variables=fitted.variables,
            origin=f"{student.name} after {planned.objective} "
            f"from {' + '.join(planned.teachers) or 'no teacher'}, seed {seed}",
        )
        folder = scene.workdir / "students" / planned.name
        weights.export(after, folder, accuracy=row["accuracy_after"])
        change = f"{row['accuracy_before']:.2f} -> {row['accuracy_after']:.2f} %"
        bar.write(f"{planned.name}: {change}, {row['seconds']:.0f} s")
        bar.update()
        yield row, after_NxC.argmax(axis=1)


def _row(
    scene: Scene, planned: Run, fitted: fitting.Fitted, after_NxC: np.ndarray
) -> dict[str, Any]:
    config, validation = scene.config, scene.splits.validation
    before_NxC = scene.logits[config.student]
    teachers_KxNxC = np.asarray([scene.logits[name] for name in planned.teachers])
    measured = measures.of_transfer(
        before_NxC=before_NxC,
        after_NxC=after_NxC,
        teachers_KxNxC=teachers_KxNxC,
        label_N=validation.label_N,
    ) | measures.of_partition(
        before_NxC=before_NxC,
        teachers_KxNxC=teachers_KxNxC,
        label_N=validation.label_N,
        supervised=objectives.OBJECTIVES[planned.objective].supervised,
    )
    return fitting.row(
        fitted,
        run=planned.name,
        student=config.student,
        teachers=planned.teachers,
        objective=planned.objective,
        seed=planned.seed,
        measured=measured,
    )


def _facts(scene: Scene, name: str) -> dict[str, Any]:
    return {
        "accuracy": evaluate.accuracy(scene.logits[name], scene.splits.validation.label_N),
        "parameters": scene.models[name].num_parameters(),
        "origin": scene.models[name].origin,
    }


def _pair(scene: Scene, teacher: str, dataset: data.Dataset) -> dict[str, Any]:
    student = scene.config.student
    return {"teacher": teacher, "student": student} | measures.of_pair(
        student_NxC=scene.logits[student],
        teacher_NxC=scene.logits[teacher],
        label_N=scene.splits.validation.label_N,
        classes=dataset.classes,
        groups=dataset.groups,
    )


def _examples(
    scene: Scene,
    dataset: data.Dataset,
    rows: Sequence[Mapping[str, Any]],
    answers: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Positive flips of the run that improved most, first those that the student has learned."""
    taught = [row for row in rows if row["teachers"]]
    if not taught:
        return []
    best = max(taught, key=lambda row: row["delta"])
    validation = scene.splits.validation
    after_N = answers[best["run"]]
    before_N = scene.logits[scene.config.student].argmax(axis=1)
    teachers_KxNxC = np.asarray([scene.logits[name] for name in best["teachers"]])
    teacher_N = flips.confidence_ensemble(teachers_KxNxC)
    label_N = validation.label_N
    flipped = np.flatnonzero((teacher_N == label_N) & (before_N != label_N))
    learned_first = np.argsort(after_N[flipped] != label_N[flipped], kind="stable")
    return [
        {
            "image": validation.image_NxHxWx3[i],
            "label": dataset.classes[label_N[i]],
            "teacher": " + ".join(best["teachers"]),
            "teacher_says": dataset.classes[teacher_N[i]],
            "student_says": dataset.classes[before_N[i]],
            "after_says": dataset.classes[after_N[i]],
        }
        for i in flipped[learned_first][:_EXAMPLES]
    ]


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an objective, without the one that is the optimiser's."""
    return {name: value for name, value in entry.items() if name != "learning_rate"}
