"""A job's inputs: from the data settings to splits. Shared by all jobs."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ktjax import batches, data, imagenet, models, parallel, paths
from ktjax.classifier import Classifier
from ktjax.data import overlap, pipeline, robustness
from ktjax.data.robustness import RobustnessSet
from ktjax.data.sources import Source
from ktjax.experiment import estimate, shared, transform, workdir
from ktjax.models.checkpoints import repositories
from ktjax.settings.data import Data, TrainingData
from ktjax.settings.training import Training
from ktjax.targets import describe, store
from ktjax.targets.store import Store

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_ACCEPT = "accept"


class Loaded(NamedTuple):
    """A data set and its robustness sets; nothing is decoded."""

    dataset: data.Dataset
    robustness: Mapping[str, RobustnessSet] = {}
    accept: Source | None = None  # if the job makes a decision about each run


class Robust(NamedTuple):
    """A robustness set, and its images as a model takes them."""

    chosen: RobustnessSet
    images: pipeline.Split

    def accuracy(self, logits_NxC: np.ndarray) -> float:
        """Accuracy in percent of a model with these logits."""
        return robustness.accuracy(self.chosen, logits_NxC)


class Splits(NamedTuple):
    """The splits of a job that trains."""

    train: pipeline.Split
    tune: pipeline.Split
    validation: pipeline.Split
    robustness: Mapping[str, Robust] = {}
    accept: pipeline.Split | None = None  # only for decisions about exports

    @property
    def labeled(self) -> bool:
        """Whether every image of train has a label."""
        return batches.are_labeled(self.train.label_N)


def check_apart(settings: Data, workdir: Path, models: Iterable[str]) -> None:
    """Raises ValueError if the workdir lies among the images of a data set, or holds a model.

    --overwrite would delete a model that the job is about to use.
    """
    for name in settings.datasets().values():
        data.check_apart(name, workdir)
    for name in models:
        if repositories.of(name) is not None:
            continue
        place = paths.of(name.removeprefix(store.PREFIX))
        if paths.is_remote(place) or paths.is_remote(workdir):
            inside = workdir in (place, *place.parents)
        else:
            inside = place.resolve().is_relative_to(workdir.resolve())
        if inside and place.exists():
            raise ValueError(
                f"'{name}' lies in --workdir='{workdir}', where a job keeps and deletes what is "
                "its own: use another --workdir."
            )


def check(settings: Data) -> None:
    """Raises ValueError unless the data sets exist; opens nothing."""
    for field, name in settings.datasets().items():
        data.check(name, field)
    if settings.data_dir is not None:
        paths.on_disk(settings.data_dir, "config.data_dir")
    parallel.check_batch_size(settings.eval_batch_size, "eval_batch_size")


def load(settings: TrainingData, *, also: Collection[str] = ()) -> Loaded:
    """The data of a job that trains, with at most `max_examples` images per split.

    Args:
      settings: of the data.
      also: robustness sets to evaluate on, by name.

    Raises:
      ValueError: as `data.load`; or there are robustness sets and the classes are not those of
        ImageNet-1k; or a robustness set is missing.
    """
    dataset = _first_alone(
        lambda: data.load(
            settings.data,
            data_dir=settings.data_dir,
            eval_data=settings.eval_data,
            minival=settings.minival,
            train_fraction=settings.train_fraction,
            subset_seed=settings.subset_seed,
        )
    )
    if parallel.is_first():
        measured_on = {"tune": dataset.tune, "validation": dataset.validation}
        measured_on |= {} if dataset.accept is None else {_ACCEPT: dataset.accept}
        for sentence in overlap.sentences(dataset.train, measured_on):
            _LOG.warning("%s: %s", dataset.name, sentence)
    if also and dataset.classes != imagenet.synsets():
        raise ValueError(
            f"config.robustness: these sets have the classes of ImageNet-1k, but {dataset.name} "
            "has others."
        )
    sets = {
        name: _first_alone(lambda name=name: robustness.load(name, data_dir=settings.data_dir))
        for name in also
    }
    if settings.max_examples is not None:
        sets = {name: chosen.take(settings.max_examples) for name, chosen in sets.items()}
    return Loaded(_at_most(settings.max_examples, dataset), sets)


def check_halves(name: str, one: np.ndarray, other: np.ndarray) -> None:
    """Raises ValueError if tune has too few images to fill both halves."""
    if not len(one) or not len(other):
        raise ValueError(
            f"'{name}' has {len(one) + len(other)} tune images, too few to split in half: use a "
            "larger config.minival, or a tune split with more."
        )


def load_validation(settings: Data, *, minival: float | None = None) -> Loaded:
    """The data of a job that reads only the validation split; with a `minival` also tune.

    ValueError: as `data.load`.
    """

    def load() -> data.Dataset:
        if minival is None:
            return data.load_validation(settings.data, data_dir=settings.data_dir)
        return data.load(settings.data, data_dir=settings.data_dir, minival=minival)

    dataset = _first_alone(load)
    return Loaded(_at_most(settings.max_examples, dataset))


def _at_most(count: int | None, dataset: data.Dataset) -> data.Dataset:
    if count is None:
        return dataset
    return dataset._replace(**{name: getattr(dataset, name).take(count) for name in data.SPLITS})


def check_labels(loaded: Loaded) -> None:
    """Raises ValueError unless every image of train, tune and validation has a label."""
    for name in data.SPLITS:
        if not getattr(loaded.dataset, name).labeled:
            raise ValueError(
                f"'{loaded.dataset.name}' has {name} images without labels, which supervised "
                "training and its measures need; a transfer by kl_dp_unsupervised needs no train "
                "labels, and config.eval_data names the images it is measured on."
            )


def check_models(loaded: Loaded, classifiers: Iterable[models.HasClasses]) -> None:
    """Raises ValueError unless all models have the classes of the data set."""
    for classifier in classifiers:
        models.check_classes(classifier, loaded.dataset.classes, loaded.dataset.name)


def fitted(
    settings: Data,
    loaded: Loaded,
    classifiers: Mapping[str, Classifier],
    *,
    trained: Collection[str] = (),
    once: shared.Once = shared.anew,
) -> dict[str, Classifier]:
    """The models mapped to the data set's classes, which they may have by other names or as part.

    With `once` each is made only once. See models.fitted for trained models that lack classes, and
    for errors.
    """
    classes, name_of_data = loaded.dataset.classes, loaded.dataset.name
    measured = settings.datasets().get("eval_data")
    if measured is not None and not loaded.dataset.train.labeled:
        name_of_data = measured  # a pool has the classes of the data that models are measured on

    def fit(name: str) -> Classifier:
        return models.fitted(
            classifiers[name],
            classes,
            name_of_data,
            trained=name in trained,
            by_position=settings.classes == "position",
        )

    return {
        name: once(("fitted", name, name in trained, classes), lambda n=name: fit(n), of=name)
        for name in classifiers
    }


def with_shared_classes(
    loaded: Loaded, classifiers: Mapping[str, Classifier], *, trained: Collection[str]
) -> tuple[Loaded, dict[str, Classifier]]:
    """The data set and the models, restricted to the classes that all models share.

    Images without labels stay.

    Raises:
      ValueError: there are fewer than two such classes, a split has no images of them, or there are
        robustness sets.
    """
    dataset = loaded.dataset
    classifiers = {n: models.named(model, dataset.classes) for n, model in classifiers.items()}
    at = {n: models.places(model.classes, dataset.classes) for n, model in classifiers.items()}
    common = np.flatnonzero(np.all([place_C >= 0 for place_C in at.values()], axis=0))
    if len(common) < 2:
        raise ValueError(f"config.classes=shared: the models and {dataset.name} share no classes.")
    if loaded.robustness:
        raise ValueError("config.classes=shared cannot be combined with config.robustness.")
    classes = tuple(dataset.classes[i] for i in common)
    if parallel.is_first():
        _LOG.warning(
            "%s: using only the %d of its %d classes that all models have.",
            dataset.name,
            len(common),
            len(dataset.classes),
        )
    number_C = np.full(len(dataset.classes) + 1, -2, np.int32)  # the last is for unlabeled images
    number_C[common], number_C[-1] = np.arange(len(common)), -1

    def kept(source: Source | None) -> Source | None:
        if source is None:
            return None
        label_N = number_C[source.label_N]
        found = np.flatnonzero(label_N > -2)
        return dataclasses.replace(source.select(found), label_N=label_N[found])

    names = (*data.SPLITS, _ACCEPT)
    dataset = dataset._replace(
        **{name: kept(getattr(dataset, name)) for name in names},
        classes=classes,
        groups=tuple(dataset.groups[i] for i in common),
    )
    loaded = loaded._replace(dataset=dataset, accept=kept(loaded.accept))
    used = {name: getattr(dataset, name) for name in data.SPLITS} | {_ACCEPT: loaded.accept}
    empty = [name for name, source in used.items() if source is not None and not len(source)]
    if empty:
        raise ValueError(
            f"config.classes=shared: '{dataset.name}' has no {' and no '.join(empty)} images of "
            f"the {len(common)} classes that all models have: use a larger config.minival, or "
            "splits with more images."
        )
    return loaded, {
        name: models.select(model, at[name][common], classes, trained=name in trained)
        for name, model in classifiers.items()
    }


def without_bad(settings: Data, loaded: Loaded, *, names: Sequence[str] = data.SPLITS) -> Loaded:
    """Drops images that do not decode, if the settings say so, after trying every one.

    ValueError if that leaves none.
    """
    if settings.on_bad_image != "skip":
        return loaded
    dataset, sets, accept = loaded
    encoded = {name: getattr(dataset, name) for name in names}
    encoded |= {} if accept is None else {_ACCEPT: accept}
    good, skipped = {}, {}
    for name, source in {**encoded, **{k: chosen.source for k, chosen in sets.items()}}.items():
        good[name], skipped[name] = pipeline.decodable(
            source, threads=settings.decode_threads, name=f"{dataset.name} {name}"
        )
        for sentence in skipped[name] if parallel.is_first() else ():
            _LOG.warning("%s Skipped.", sentence)
        if not len(good[name]):
            raise ValueError(f"'{dataset.name}': no image of {name} decodes.")
    kept = {name: source.select(good[name]) for name, source in encoded.items()}
    accept = kept.pop(_ACCEPT, None)
    return Loaded(
        dataset._replace(skipped=skipped, **kept),
        {name: chosen.select(good[name]) for name, chosen in sets.items()},
        accept,
    )


def open_splits(settings: TrainingData, loaded: Loaded, how: pipeline.Reading) -> Splits:
    """The splits of a job that trains; the robustness sets are read like validation."""
    of_training = how._replace(crop_scale=settings.crop_scale, processes=settings.decode_processes)
    return Splits(
        *pipeline.read_splits(loaded.dataset, of_training),
        robustness={
            name: Robust(chosen, pipeline.open_split(chosen.source, how, name=name))
            for name, chosen in loaded.robustness.items()
        },
        accept=None
        if loaded.accept is None
        else pipeline.open_split(loaded.accept, how, name=f"{loaded.dataset.name} {_ACCEPT}"),
    )


def prepare(
    settings: Training,
    loaded: Loaded,
    classifiers: Collection[Classifier],
    folder: Path,
    once: shared.Once = shared.anew,
    *,
    overwrite: bool,
    loaded_weights: Collection[Classifier] = (),
    loaded_answers: Collection[Store] = (),
    refuse: Callable[[Splits], None] = lambda splits: None,
    held: contextlib.ExitStack | None = None,
) -> tuple[data.Dataset, Splits]:
    """Runs all checks, then claims the workdir, before any training.

    With `once`, images are tried and splits opened only once for all jobs that share them.
    `loaded_weights` are the models whose weights are not random, `loaded_answers` teachers that are
    only a store: a resumed run must find the same.
    `refuse` raises ValueError if the job cannot use the splits; the workdir belongs to the job
    until `held` closes, and is cleared of another experiment with `overwrite`.

    Raises:
      ValueError: models with other classes, images that do not decode, too few images, or a workdir
        that cannot be used.
    """
    check_models(loaded, classifiers)
    settings.durations(len(loaded.dataset.train))  # raises if too few, before any is decoded
    good = once("good images", lambda: without_bad(settings, loaded))
    how = transform.of_models(settings, classifiers)
    needs = estimate.of_training(settings, len(good.dataset.train), how, classifiers)
    estimate.check(needs, how, folder)
    transform.say_crops(how, classifiers)
    splits = once(("splits", how), lambda: open_splits(settings, good, how))
    refuse(splits)
    weights = {
        model.name: once(
            ("weights", model.name), lambda m=model: describe.fingerprint(m), of=model.name
        )
        for model in loaded_weights
    } | {one.name: one.fingerprint() for one in loaded_answers}
    workdir.claim(
        folder,
        settings,
        good.dataset,
        overwrite=overwrite,
        weights=weights,
        accept=good.accept,
        held=held,
    )
    once(("copies", *sorted(weights)), lambda: _say_copies(weights))
    once(
        "turned",
        lambda: transform.say_turned(settings, good.dataset, names=("train", "validation")),
    )
    return good.dataset, splits


def _say_copies(weights: Mapping[str, str]) -> None:
    """Warns about models that are the same under several names: nothing tells them apart."""
    named: dict[str, list[str]] = {}
    for name, digest in weights.items():
        named.setdefault(digest, []).append(name)
    for names in named.values() if parallel.is_first() else ():
        if len(names) > 1:
            _LOG.warning(
                "%s have the same weights: none of them adds what the others lack.",
                " and ".join(names),
            )


def _first_alone(prepare: Callable[[], _T]) -> _T:
    """Runs in process 0 before the others, so that files are written only once."""
    if not parallel.is_first():
        parallel.wait_for_all("data")
    prepared = prepare()
    if parallel.is_first():
        parallel.wait_for_all("data")
    return prepared
