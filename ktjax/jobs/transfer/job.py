"""One student, one or more teachers: transfers what they know, by each of several objectives."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tqdm

from ktjax import config as config_lib
from ktjax import data, evaluate, models, objectives
from ktjax.analysis import flips, measures
from ktjax.experiment import inputs, training
from ktjax.experiment import workdir as workdir_lib
from ktjax.jobs.transfer import frozen, mutual
from ktjax.jobs.transfer import setup as scene_lib
from ktjax.jobs.transfer.plan import ORDERS, STRATEGIES, plan
from ktjax.jobs.transfer.setup import Scene

TARGETS = ("live", "stored")
_EXAMPLES = 12  # pictures in the report


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the config makes sense; nothing is loaded, compiled or written."""
    training.check(config)
    inputs.check_training(config)
    config_lib.check_choice("strategy", config.strategy, tuple(STRATEGIES))
    config_lib.check_choice("order", config.order, tuple(ORDERS))
    config_lib.check_choice("targets", config.targets, TARGETS)
    for name in ("teachers", "seeds", "objectives"):
        if not config[name]:
            raise ValueError(f"config.{name} is empty: a transfer needs one at least.")
    config_lib.check_seeds(*config.seeds)
    for label in config.objectives:
        _check_objective(config, label)
    for label in config.mcl:
        _check_slow_weights(config, label)
    names = (config.student, *config.teachers)
    if len({models.locate(name).path.resolve() for name in names}) < len(names):
        raise ValueError(f"Student and teachers have to differ: {', '.join(names)}.")
    plan(config, dict.fromkeys(config.teachers, 0.0))
    if config.strategy == "mutual" and (config.calibrate or config.targets == "stored"):
        raise ValueError(
            "Strategy 'mutual' has no frozen models, which config.calibrate and stored "
            "config.targets are about."
        )


def _check_objective(config: ml_collections.ConfigDict, label: str) -> None:
    """Raises ValueError unless an entry of config.objectives can be run."""
    entry = config.objectives[label]
    if not re.fullmatch(r"[\w.+-]+", label):
        raise ValueError(f"config.objectives: '{label}' names files; take letters and digits.")
    missing = {"objective", "learning_rate"} - set(entry)
    if missing:
        raise ValueError(f"config.objectives.{label} lacks {', '.join(sorted(missing))}.")
    objectives.check(entry.objective, scene_lib.options(entry))
    config_lib.check_positive(entry, "learning_rate")
    known = objectives.OBJECTIVES[entry.objective]
    if known.joint != (config.strategy == "mutual"):
        fitting_ones = [k for k, v in objectives.OBJECTIVES.items() if v.joint != known.joint]
        raise ValueError(
            f"Strategy '{config.strategy}' does not go with objective '{entry.objective}': "
            f"it takes {', '.join(fitting_ones)}."
        )
    if known.features and config.targets == "stored":
        raise ValueError(
            f"Objective '{entry.objective}' compares features, and stored targets are logits: "
            "set config.targets to live."
        )


def _check_slow_weights(config: ml_collections.ConfigDict, label: str) -> None:
    config_lib.check_choice("mcl", label, tuple(config.objectives))
    entry = config.mcl[label]
    if set(entry) != {"tau", "every"}:
        raise ValueError(f"config.mcl.{label} takes tau and every, not {', '.join(entry)}.")
    if not 0 <= entry.tau < 1 or entry.every < 1:
        raise ValueError(
            f"config.mcl.{label}: tau={entry.tau} has to be from 0 to below 1, and "
            f"every={entry.every} one step or more."
        )


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Runs every transfer of the config; resumes what was interrupted.

    With `overwrite` what another experiment has left in the workdir is deleted.

    Returns:
      What results.json holds.

    Raises:
      ValueError: the config, a model, the data set or the workdir is not usable; before any work.
      FloatingPointError: a run diverged.
    """
    workdir = Path(workdir)
    check(config)
    finished = workdir_lib.finished(workdir, config, overwrite=overwrite)
    if finished:
        return finished

    names = (config.student, *config.teachers)
    loaded = {name: workdir_lib.on_host(models.load(name)) for name in names}
    dataset = inputs.load(config)
    for classifier in loaded.values():
        models.check_classes(classifier, dataset.classes, dataset.name)
    _check_labels(config, dataset)
    _check_top_k(config, dataset)
    sets = inputs.robustness_sets(config, dataset)
    dataset, sets = inputs.without_bad(config, dataset, sets)
    training.durations(config, examples=len(dataset.train))
    robust = inputs.robust_splits(config, sets, loaded.values())
    splits = inputs.splits(config, dataset, loaded.values())
    workdir_lib.claim(workdir, config, dataset)

    predicts = {
        name: evaluate.make_predict(classifier, batch_size=config.eval_batch_size)
        for name, classifier in loaded.items()
    }
    standings = {
        name: scene_lib.stand(loaded[name], predicts[name], splits, config, robust)
        for name in tqdm.tqdm(names, desc="models", unit="model", leave=False)
    }
    scene = Scene(config, workdir, splits, standings, predicts[config.student], robust)
    rows, answers = [], {}
    for row, after_NxC in _runs(scene):
        rows.append(row)
        answers[row["run"]] = after_NxC.argmax(axis=1)
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


def _runs(scene: Scene) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every run's row of results.json, and the student's logits after it on validation."""
    config = scene.config
    if config.strategy == "mutual":
        total = len(config.seeds) * len(config.objectives)
        with tqdm.tqdm(total=total, desc="transfers", unit="run") as bar:
            for seed in config.seeds:
                yield from mutual.runs_of_seed(scene, seed, bar)
        return
    planned = plan(config, {teacher: scene.accuracy(teacher) for teacher in config.teachers})
    with tqdm.tqdm(total=len(planned), desc="transfers", unit="run") as bar:
        for seed in config.seeds:
            yield from frozen.runs_of_seed(scene, planned, seed, bar)


def _check_labels(config: ml_collections.ConfigDict, dataset: data.Dataset) -> None:
    """Raises ValueError, with what to take instead, where labels are asked for and lack."""
    if not dataset.train.labelled:
        need = {
            label: objectives.OBJECTIVES[entry.objective].without_labels
            for label, entry in config.objectives.items()
            if objectives.needs_labels(entry.objective, scene_lib.options(entry))
        }
        if need:
            instead = ", ".join(f"{other} instead of {label}" for label, other in need.items())
            raise ValueError(
                f"'{config.data}' has images without labels, which {', '.join(need)} need: take "
                f"{instead}."
            )
    for name in ("tune", "validation"):
        if not getattr(dataset, name).labelled:
            raise ValueError(
                f"'{config.data}' has {name} images without labels: these measure the transfer, "
                "and need them whatever the objective."
            )


def _check_top_k(config: ml_collections.ConfigDict, dataset: data.Dataset) -> None:
    for label, entry in config.objectives.items():
        top_k = scene_lib.options(entry).get("top_k")
        if top_k is not None and top_k > len(dataset.classes):
            raise ValueError(
                f"config.objectives.{label}.top_k={top_k}, and {dataset.name} has "
                f"{len(dataset.classes)} classes."
            )


def _facts(scene: Scene, name: str) -> dict[str, Any]:
    standing = scene.models[name]
    label_N = scene.splits.validation.label_N
    return {
        "accuracy": evaluate.accuracy(standing.validation_NxC, label_N),
        "parameters": standing.model.num_parameters(),
        "origin": standing.model.origin,
        "temperature": standing.temperature,
        "robustness": dict(standing.robustness),
    }


def _pair(scene: Scene, teacher: str, dataset: data.Dataset) -> dict[str, Any]:
    student = scene.config.student
    return {"teacher": teacher, "student": student} | measures.of_pair(
        student_NxC=scene.models[student].validation_NxC,
        teacher_NxC=scene.models[teacher].validation_NxC,
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
    before_N = scene.models[best["student"]].validation_NxC.argmax(axis=1)
    teachers_KxNxC = np.asarray([scene.models[name].validation_NxC for name in best["teachers"]])
    teacher_N = flips.confidence_ensemble(teachers_KxNxC)
    label_N = validation.label_N
    flipped = np.flatnonzero((teacher_N == label_N) & (before_N != label_N))
    learned_first = np.argsort(after_N[flipped] != label_N[flipped], kind="stable")
    return [
        {
            "image": validation.take(np.array([i]))[0],
            "label": dataset.classes[label_N[i]],
            "teacher": " + ".join(best["teachers"]),
            "teacher_says": dataset.classes[teacher_N[i]],
            "student_says": dataset.classes[before_N[i]],
            "after_says": dataset.classes[after_N[i]],
        }
        for i in flipped[learned_first][:_EXAMPLES]
    ]
