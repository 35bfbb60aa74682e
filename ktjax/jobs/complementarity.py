"""What the models of a zoo know of each other's mistakes: every ordered pair, before any training.

Every model is run once; what it answers is kept in the workdir, and a killed job goes on with the
next model. All pairs are then measured from what was kept.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tqdm
from safetensors import numpy as safetensors_numpy

from ktjax import config as config_lib
from ktjax import data, evaluate, interruption, models, parallel
from ktjax.analysis import complementarity, expertise, pairs, predictions, transfers
from ktjax.analysis.predictions import Predictions
from ktjax.classifier import Classifier, Output
from ktjax.data import pipeline
from ktjax.experiment import inputs
from ktjax.experiment import workdir as workdir_lib

SIMILARITIES = ("groups", "prototypes", "clip:NAME")
CLASS_FLIPS = "class_flips.safetensors"
_CLIP = "clip:"
_EXAMPLES = 12  # pictures in the report


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the config makes sense; nothing is loaded, compiled or written."""
    config_lib.check_positive(config, "eval_batch_size")
    parallel.check_batch_size(config.eval_batch_size, "eval_batch_size")
    config_lib.check_seeds(config.seed)
    inputs.check(config)
    if config.similarity not in SIMILARITIES[:2] and not config.similarity.startswith(_CLIP):
        config_lib.check_choice("similarity", config.similarity, SIMILARITIES)
    if len(config.models) < 2:
        raise ValueError(f"config.models={config.models}: a pair takes two models at least.")
    folders = [models.locate(name).path.resolve() for name in config.models]
    if len(set(folders)) < len(folders):
        raise ValueError(f"config.models names a model twice: {', '.join(config.models)}.")
    for name in config.random_students:
        models.check_architecture(name)
    if len(set(config.random_students)) < len(config.random_students):
        raise ValueError("config.random_students names an architecture twice.")


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Measures every ordered pair of `config.models`; resumes what was interrupted.

    With `overwrite` what another experiment has left in the workdir is deleted.

    Returns:
      What results.json holds.

    Raises:
      ValueError: the config, a model, the data set or the workdir is not usable; before any work.
    """
    workdir = Path(workdir)
    check(config)
    finished = workdir_lib.finished(workdir, config, overwrite=overwrite)
    if finished:
        return finished

    past_runs = _past_runs(config)
    dataset = inputs.load_validation(config)
    blanks = {name: models.blank(name) for name in config.models}
    for blank in blanks.values():
        models.check_classes(blank, dataset.classes, dataset.name)
    if not dataset.validation.labelled:
        raise ValueError(f"'{config.data}' has images without labels: nobody is right about them.")
    named_CxC = _similarity_of_names(config, dataset)  # no CLIP of that name: told before any work
    dataset, _ = inputs.without_bad(config, dataset, {}, names=("validation",))
    source = dataset.validation
    workdir_lib.claim(workdir, config, dataset)

    reading = inputs.reading(config, blanks.values())
    answers = _answers(config, workdir, dataset, reading)
    facts = {
        name: {
            "accuracy": 100 * float(np.mean(answers[name].correct_N)),
            "parameters": blank.num_parameters(),
            "origin": blank.origin,
            "family": models.family(blank.architecture),
        }
        for name, blank in blanks.items()
    }
    correct_MxN = np.stack([answers[name].correct_N for name in config.models])
    flips_MxMxC = pairs.flips_per_class(
        correct_MxN, source.label_N, num_classes=len(dataset.classes)
    )
    if parallel.is_first():
        _write_class_flips(workdir / CLASS_FLIPS, config, flips_MxMxC)
    similarity_CxC = named_CxC
    if similarity_CxC is None:
        similarity_CxC = _similarity(config, dataset, reading, facts)
    rows = complementarity.pair_rows(
        {name: answers[name] for name in config.models}, flips_MxMxC, similarity_CxC=similarity_CxC
    )
    teacher, student = complementarity.showcase(rows, facts)
    t, s = (config.models.index(name) for name in (teacher, student))
    areas = complementarity.areas(
        flips_MxMxC[t, s],
        classes=dataset.classes,
        groups=dataset.groups,
        images_C=np.bincount(source.label_N, minlength=len(dataset.classes)),
    )
    past = transfers.rows(past_runs, rows)
    return workdir_lib.finish(
        workdir,
        config,
        dataset=dataset,
        label_N=source.label_N,
        runs=(),
        models=facts,
        pairs=rows,
        examples=_examples(dataset, reading, answers, teacher, student),
        similarity_of_all=complementarity.similarity_of_all(similarity_CxC),
        expertise={"teacher": teacher, "student": student, "classes": areas},
        controls={
            "random_students": complementarity.random_students(
                correct_MxN,
                {name: answers[_random_name(name)].correct_N for name in config.random_students},
                teachers=config.models,
            ),
            "shuffled": complementarity.shuffled(correct_MxN, seed=config.seed),
        },
        transfers={
            "rows": past,
            "success": transfers.success(past),
            "foresight": transfers.foresight(past),
            "properties": transfers.properties(past, facts),
            "families": transfers.families(past, facts),
        },
    )


def _past_runs(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """The runs of `config.transfers`; ValueError if one of these is not about the same models."""
    runs = []
    for folder in config.transfers:
        try:
            text = (Path(folder) / workdir_lib.RESULTS).read_text(encoding="utf-8")
            results = json.loads(text)
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(
                f"config.transfers: '{folder}' has no {workdir_lib.RESULTS} that can be read; it "
                "takes workdirs of finished transfers."
            ) from error
        if results["job"] != "transfer":
            raise ValueError(f"config.transfers: '{folder}' is of a {results['job']} job.")
        if results["data"]["name"] != config.data:
            raise ValueError(
                f"config.transfers: '{folder}' is about {results['data']['name']}, not "
                f"{config.data}."
            )
        paired = [run for run in results["runs"] if len(run["teachers"]) == 1]
        names = {name for run in paired for name in (run["student"], *run["teachers"])}
        if unknown := sorted(names - set(config.models)):
            raise ValueError(
                f"config.transfers: '{folder}' has models that config.models lacks: "
                f"{', '.join(unknown)}."
            )
        runs += paired
    return runs


def _answers(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: data.Dataset,
    reading: pipeline.Reading,
) -> dict[str, Predictions]:
    """What every model answers, and every random student; from the store where it is there."""
    loads: dict[str, Callable[[], Classifier]] = {
        name: functools.partial(models.load, name) for name in config.models
    } | {
        _random_name(architecture): functools.partial(
            models.create, architecture, classes=dataset.classes, seed=config.seed
        )
        for architecture in config.random_students
    }
    folder = workdir / "predictions"
    if parallel.is_first():
        folder.mkdir(exist_ok=True)

    @functools.cache
    def images() -> pipeline.Split:  # not decoded where every model is in the store
        return pipeline.open_split(dataset.validation, reading, name=f"{dataset.name} validation")

    answers = {}
    for i, (name, load) in enumerate(tqdm.tqdm(loads.items(), "models", unit="model")):
        # The config is this workdir's: its i-th model is always the same.
        interruption.stop_if_asked()
        path = folder / f"{i:03}-{Path(name).name}.safetensors"
        if not parallel.as_first_sees(path.exists()):
            classifier = load()
            predict = evaluate.make_predict(classifier, batch_size=config.eval_batch_size)
            logits_NxC = predict(parallel.replicate(dict(classifier.variables)), images())
            try:
                answers[name] = predictions.of_logits(logits_NxC, dataset.validation.label_N)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if parallel.is_first():
                predictions.save(path, answers[name])
        else:
            answers[name] = predictions.load(path)
    return answers


def _random_name(architecture: str) -> str:
    return f"random:{architecture}"


def _similarity_of_names(
    config: ml_collections.ConfigDict, dataset: data.Dataset
) -> np.ndarray | None:
    """How alike any two classes are by their names in CLIP, [C, C]; None for another similarity."""
    if not config.similarity.startswith(_CLIP):
        return None
    # transformers, which only this needs, takes seconds to import.
    from ktjax.models.networks import clip_text

    name = config.similarity.removeprefix(_CLIP)
    return expertise.cosine_similarity(clip_text.embed_names(name, dataset.classes))


def _similarity(
    config: ml_collections.ConfigDict,
    dataset: data.Dataset,
    reading: pipeline.Reading,
    facts: Mapping[str, Mapping[str, Any]],
) -> np.ndarray | None:
    """How alike any two classes are, [C, C]; None where the data set has no groups."""
    if config.similarity == "groups":
        known = len(set(dataset.groups)) > 1
        return expertise.group_similarity(dataset.groups) if known else None
    best = models.load(max(facts, key=lambda name: facts[name]["accuracy"]))
    predict = evaluate.make_predict(_of_features(best), batch_size=config.eval_batch_size)
    source = dataset.validation
    images = pipeline.open_split(source, reading, name=f"{dataset.name} validation")
    features_NxD = predict(parallel.replicate(dict(best.variables)), images)
    prototypes_CxD = expertise.prototypes(features_NxD, source.label_N, len(dataset.classes))
    return expertise.cosine_similarity(prototypes_CxD)


def _of_features(classifier: Classifier) -> Classifier:
    """A classifier that gives its features as its logits."""

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
    """Positive flips of a pair, those first of which the teacher is surest."""
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


def _write_class_flips(
    path: Path, config: ml_collections.ConfigDict, flips_MxMxC: np.ndarray
) -> None:
    """Positive flips of every pair per class, which results.json has no room for: [M, M, C]."""
    tensors = {"positive_flips": flips_MxMxC}
    part = path.with_suffix(".part")
    part.write_bytes(
        safetensors_numpy.save(tensors, metadata={"models": json.dumps(config.models)})
    )
    os.replace(part, path)
