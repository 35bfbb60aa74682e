"""Complementary knowledge of the models of a zoo: every ordered pair, before any training.

Every model is run once and its answers are kept in the workdir; a killed job resumes with the next
model. All pairs are then measured from these answers.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from safetensors import numpy as safetensors_numpy

from ktjax import data, evaluate, files, interruption, models, parallel, paths, progress
from ktjax.analysis import calibration, complementarity, expertise, pairs, predictions, transfers
from ktjax.analysis.predictions import Predictions
from ktjax.analysis.records import to_json
from ktjax.analysis.rows import Results, Run, TransferResults
from ktjax.classifier import Classifier, Output
from ktjax.data import pipeline
from ktjax.experiment import estimate, evaluation, inputs, transform
from ktjax.experiment import workdir as workdir_lib
from ktjax.imagenet import in_words
from ktjax.models.checkpoints import entries
from ktjax.settings.complementarity import CLIP, Complementarity
from ktjax.targets import store

_EXAMPLES = 12  # pictures in the report


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Runs `execute` on the models of the config; returns the contents of results.json."""
    settings = Complementarity.read(config)
    with contextlib.ExitStack() as held:
        return to_json(execute(settings, workdir, overwrite=overwrite, held=held))


def check(settings: Complementarity) -> None:
    """Raises ValueError unless the settings go together; nothing is loaded, compiled or written."""
    inputs.check(settings)
    if stores := [name for name in settings.models if name.startswith(store.PREFIX)]:
        raise ValueError(f"config.models: {stores[0]} is a store, which can only be a teacher.")
    folders = [models.locate(name).path.resolve() for name in settings.models]
    if len(set(folders)) < len(folders):
        raise ValueError(f"config.models names a model twice: {', '.join(settings.models)}.")
    for name in settings.random_students:
        models.check_architecture(name)


def execute(
    settings: Complementarity,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    held: contextlib.ExitStack,
) -> Results:
    """Measures every ordered pair of the models; resumes what was interrupted.

    With `overwrite`, what another experiment left in the workdir is deleted. No other process may
    write to it until `held` is closed.

    Returns:
      The contents of results.json, as a record.

    Raises:
      ValueError: a model, the data set or the workdir is not usable; before any work.
    """
    workdir = paths.of(workdir)
    check(settings)
    inputs.check_apart(settings, workdir, settings.models)
    finished = workdir_lib.finished(workdir, settings, overwrite=overwrite)
    if finished:
        return finished

    past_runs = _past_runs(settings)
    read = ("validation", "tune") if settings.calibrate else ("validation",)
    loaded = inputs.load_validation(
        settings, minival=settings.minival if settings.calibrate else None
    )
    blanks = {name: models.blank(name) for name in settings.models}
    blanks = inputs.fitted(settings, loaded, blanks)
    dataset = loaded.dataset
    if not dataset.validation.labeled:
        raise ValueError(
            f"'{settings.data}' has images without labels: accuracy is not defined for them."
        )
    # First, so that a wrong CLIP model or template is reported before any work.
    named_CxC = _similarity_of_names(settings, dataset)
    dataset = inputs.without_bad(settings, loaded, names=read).dataset
    source = dataset.validation
    reading = transform.of_models(settings, blanks.values())
    estimate.check(estimate.of_evaluation(settings, reading), reading, workdir)
    found = {name: entries.fingerprint(models.locate(name).path) for name in settings.models}
    workdir_lib.claim(workdir, settings, dataset, overwrite=overwrite, weights=found, held=held)

    transform.say_crops(reading, blanks.values())
    transform.say_turned(settings, dataset, names=("validation",))
    answers = _answers(settings, workdir, dataset, reading)
    facts = {
        name: {
            "accuracy": 100 * float(np.mean(answers[name].correct_N)),
            "parameters": blank.num_parameters(),
            "origin": blank.origin,
            "family": models.family(blank.architecture),
            "inductive_bias": models.inductive_bias(blank.architecture),
            "protocol": models.protocol(name),
            "temperature": float(answers[name].temperature) if settings.calibrate else None,
            "own_accuracy": _own(settings, name, dataset, reading, answers),
        }
        for name, blank in blanks.items()
    }
    similarity_CxC = named_CxC
    if similarity_CxC is None:
        similarity_CxC = _similarity(settings, dataset, reading, facts)
    found = _measure(settings, workdir, dataset, answers, facts, similarity_CxC)
    past = transfers.rows(past_runs, found["pairs"])
    chosen = found["expertise"]["teacher"], found["expertise"]["student"]
    return workdir_lib.finish(
        workdir,
        settings,
        dataset=dataset,
        label_N=source.label_N,
        runs=(),
        models=facts,
        examples=_examples(dataset, reading, answers, *chosen),
        **found,
        transfers={
            "rows": past,
            "success": transfers.success(past),
            "foresight": transfers.foresight(past),
            "properties": transfers.properties(past, facts),
            "groups": transfers.groups(past, facts),
        },
    )


def _measure(
    settings: Complementarity,
    workdir: Path,
    dataset: data.Dataset,
    answers: Mapping[str, Predictions],
    facts: Mapping[str, Mapping[str, Any]],
    similarity_CxC: np.ndarray | None,
) -> dict[str, Any]:
    """Every pair, the areas of expertise of one of them, and the controls, for results.json."""
    label_N, num_classes = dataset.validation.label_N, len(dataset.classes)
    correct_MxN = np.stack([answers[name].correct_N for name in settings.models])
    flips_MxMxC = pairs.flips_per_class(correct_MxN, label_N, num_classes=num_classes)
    if parallel.is_first():
        _write_class_flips(workdir / files.CLASS_FLIPS, settings, flips_MxMxC)
    rows = complementarity.pair_rows(
        {name: answers[name] for name in settings.models},
        flips_MxMxC,
        similarity_CxC=similarity_CxC,
    )
    teacher, student = complementarity.showcase(rows, facts)
    t, s = (settings.models.index(name) for name in (teacher, student))
    areas = complementarity.areas(
        flips_MxMxC[t, s],
        classes=dataset.classes,
        groups=dataset.groups,
        images_C=np.bincount(label_N, minlength=num_classes),
    )
    random_correct = {
        name: answers[_random_name(name)].correct_N for name in settings.random_students
    }
    return {
        "pairs": rows,
        "similarity_of_all": complementarity.similarity_of_all(similarity_CxC),
        "expertise": {"teacher": teacher, "student": student, "classes": areas},
        "controls": {
            "random_students": complementarity.random_students(
                correct_MxN, random_correct, teachers=settings.models
            ),
            "shuffled": complementarity.shuffled(correct_MxN, seed=settings.seed),
        },
    }


def _past_runs(settings: Complementarity) -> list[Run]:
    """The runs of past transfers in the settings; ValueError if one has other models."""
    runs: list[Run] = []
    for folder in settings.transfers:
        try:
            results = workdir_lib.results_in(paths.of(folder))
        except OSError as error:
            raise ValueError(
                f"config.transfers: '{folder}' has no readable {files.RESULTS}; it must be the "
                "workdir of a finished transfer."
            ) from error
        if not isinstance(results, TransferResults):
            raise ValueError(f"config.transfers: '{folder}' is from a {results.job} job.")
        if data.identity(results.data.name) != data.identity(settings.data):
            raise ValueError(
                f"config.transfers: '{folder}' is from {results.data.name}, not {settings.data}."
            )
        paired = [run for run in results.runs if len(run.teachers) == 1]
        names = {name for run in paired for name in (run.student, *run.teachers)}
        if unknown := sorted(names - set(settings.models)):
            raise ValueError(
                f"config.transfers: '{folder}' has models that are not in config.models: "
                f"{', '.join(unknown)}."
            )
        runs += paired
    return runs


def _answers(
    settings: Complementarity,
    workdir: Path,
    dataset: data.Dataset,
    reading: pipeline.Reading,
) -> dict[str, Predictions]:
    """The answers of every model and every random student; stored ones are read."""
    loads: dict[str, Callable[[], Classifier]] = {
        name: functools.partial(_fitted, settings, name, dataset) for name in settings.models
    } | {
        _random_name(architecture): functools.partial(
            models.create, architecture, classes=dataset.classes, seed=settings.seed
        )
        for architecture in settings.random_students
    }
    folder = workdir / files.PREDICTIONS
    if parallel.is_first():
        paths.make_folder(folder)

    @functools.cache
    def images(split: str) -> pipeline.Split:  # not decoded if all answers are stored
        return pipeline.open_split(getattr(dataset, split), reading, name=f"{dataset.name} {split}")

    answers = {}
    random = f" and {len(settings.random_students)} controls" if settings.random_students else ""
    bar = progress.bar(loads.items(), desc=f"{len(settings.models)} models{random}", unit="model")
    for i, (name, load) in enumerate(bar):
        # The config belongs to this workdir, so its i-th model is always the same.
        interruption.stop_if_asked()
        path = folder / f"{i:03}-{Path(name).name}.safetensors"
        if not parallel.as_first_sees(path.exists()):
            classifier = load()
            predict = evaluate.make_predict(classifier, batch_size=settings.eval_batch_size)
            variables = parallel.replicate(dict(classifier.variables))
            temperature = None
            if settings.calibrate:
                tune_NxC = predict(variables, images("tune"))
                temperature = calibration.temperature(tune_NxC, dataset.tune.label_N)
            logits_NxC = predict(variables, images("validation"))
            try:
                answers[name] = predictions.of_logits(
                    logits_NxC, dataset.validation.label_N, temperature=temperature
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if parallel.is_first():
                predictions.save(path, answers[name])
        else:
            answers[name] = predictions.load(path)
    return answers


def _fitted(settings: Complementarity, name: str, dataset: data.Dataset) -> Classifier:
    """The model with the classes of the data set."""
    return models.fitted(
        models.load(name, templates=settings.templates),
        dataset.classes,
        dataset.name,
        by_position=settings.classes == "position",
    )


def _own(
    settings: Complementarity,
    name: str,
    dataset: data.Dataset,
    reading: pipeline.Reading,
    answers: Mapping[str, Predictions],
) -> float | None:
    """The model's accuracy with its own transform, if the settings ask for it."""
    if not settings.own_transform:
        return None
    interruption.stop_if_asked()
    model = _fitted(settings, name, dataset)
    predict = evaluate.make_predict(model, batch_size=settings.eval_batch_size)
    known = 100 * float(np.mean(answers[name].correct_N))
    return evaluation.own_accuracy(model, predict, dataset.validation, reading, shared=known)


def _random_name(architecture: str) -> str:
    return f"random:{architecture}"


def _similarity_of_names(settings: Complementarity, dataset: data.Dataset) -> np.ndarray | None:
    """Similarities of class names in CLIP, [C, C]; None if the settings have another similarity.

    ImageNet's classes are embedded by their words, not by their synset IDs.
    """
    if not settings.similarity.startswith(CLIP):
        return None
    # transformers, which only this needs, takes seconds to import.
    from ktjax.models.networks import clip_text

    name = settings.similarity.removeprefix(CLIP)
    names = in_words(dataset.classes)
    return expertise.cosine_similarity(clip_text.embed_names(name, names, settings.clip_template))


def _similarity(
    settings: Complementarity,
    dataset: data.Dataset,
    reading: pipeline.Reading,
    facts: Mapping[str, Mapping[str, Any]],
) -> np.ndarray | None:
    """Similarities of classes, [C, C]; None if the data set has no groups."""
    if settings.similarity == "groups":
        known = len(set(dataset.groups)) > 1
        return expertise.group_similarity(dataset.groups) if known else None
    best = models.load(max(facts, key=lambda name: facts[name]["accuracy"]))
    predict = evaluate.make_predict(_of_features(best), batch_size=settings.eval_batch_size)
    source = dataset.validation
    images = pipeline.open_split(source, reading, name=f"{dataset.name} validation")
    features_NxD = predict(parallel.replicate(dict(best.variables)), images)
    prototypes_CxD = expertise.prototypes(features_NxD, source.label_N, len(dataset.classes))
    return expertise.cosine_similarity(prototypes_CxD)


def _of_features(classifier: Classifier) -> Classifier:
    """A classifier that returns its features as its logits."""

    def forward(variables, x, **options):
        output, stats = classifier.forward(variables, x, **options)
        return Output(logits=output.features, features=output.features), stats

    return dataclasses.replace(classifier, forward=forward)


def _examples(
    dataset: data.Dataset,
    reading: pipeline.Reading,
    answers: Mapping[str, Predictions],
    teacher: str,
    student: str,
) -> list[dict[str, Any]]:
    """Positive flips of a pair, those with the most confident teacher first."""
    of_teacher, of_student = answers[teacher], answers[student]
    flipped = np.flatnonzero(of_teacher.correct_N & ~of_student.correct_N)
    surest = np.argsort(-of_teacher.max_log_odds_N[flipped], kind="stable")
    images = pipeline.Stream(dataset.validation, reading)
    return [
        {
            "image": images.take(np.array([i]))[0],
            "label": dataset.classes[images.label_N[i]],
            "teacher": teacher,
            "teacher_says": dataset.classes[of_teacher.top_NxK[i, 0]],
            "student_says": dataset.classes[of_student.top_NxK[i, 0]],
        }
        for i in flipped[surest][:_EXAMPLES].tolist()
    ]


def _write_class_flips(path: Path, settings: Complementarity, flips_MxMxC: np.ndarray) -> None:
    """Positive flips of every pair per class, too large for results.json: [M, M, C]."""
    tensors = {"positive_flips": flips_MxMxC}
    metadata = {"models": json.dumps(settings.models)}
    files.write_whole(path, safetensors_numpy.save(tensors, metadata=metadata))
