"""What a job reads: from the settings about data to splits. Written once, for every job."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ktjax import data, imagenet, models, parallel, paths
from ktjax.classifier import Classifier, InputSpec
from ktjax.data import pipeline, robustness, sources
from ktjax.data.robustness import RobustnessSet
from ktjax.data.sources import Source
from ktjax.experiment import estimate, shared, workdir
from ktjax.settings.data import Data, TrainingData
from ktjax.settings.training import Training
from ktjax.targets import describe

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_ACCEPT = "accept"


class Loaded(NamedTuple):
    """A data set, and the robustness sets beside it; nothing is decoded."""

    dataset: data.Dataset
    robustness: Mapping[str, RobustnessSet] = {}
    accept: Source | None = None  # where a job makes a decision about each run


class Robust(NamedTuple):
    """A robustness set, and its images as a model takes them."""

    chosen: RobustnessSet
    images: pipeline.Split

    def accuracy(self, logits_NxC: np.ndarray) -> float:
        """Accuracy in percent of a model that says this of the images."""
        return robustness.accuracy(self.chosen, logits_NxC)


class Splits(NamedTuple):
    """The splits of a job that trains."""

    train: pipeline.Split
    tune: pipeline.Split
    validation: pipeline.Split
    robustness: Mapping[str, Robust] = {}
    accept: pipeline.Split | None = None  # where one decision about each run is made


def check(settings: Data) -> None:
    """Raises ValueError unless there are such data sets; opens nothing."""
    for field, name in settings.datasets().items():
        data.check(name, field)
    if settings.data_dir is not None:
        paths.on_disk(settings.data_dir, "config.data_dir")
    parallel.check_batch_size(settings.eval_batch_size, "eval_batch_size")


def load(settings: TrainingData) -> Loaded:
    """The data of a job that trains, of each split at most `max_examples` images.

    Raises:
      ValueError: as `data.load`; or the classes are not those of ImageNet-1k, which the robustness
        sets have; or one of these is missing.
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
    if settings.robustness and dataset.classes != imagenet.synsets():
        raise ValueError(
            f"config.robustness: these sets have the classes of ImageNet-1k, and {dataset.name} "
            "has others."
        )
    sets = {
        name: _first_alone(lambda name=name: robustness.load(name, data_dir=settings.data_dir))
        for name in settings.robustness
    }
    if settings.max_examples is not None:
        sets = {name: chosen.take(settings.max_examples) for name, chosen in sets.items()}
    return Loaded(_at_most(settings.max_examples, dataset), sets)


def with_accept(settings: TrainingData, loaded: Loaded) -> Loaded:
    """With images for a decision about each run: the data set's own, or else half of tune."""
    dataset = loaded.dataset
    if dataset.accept is not None:
        count = settings.max_examples
        return loaded._replace(
            accept=dataset.accept if count is None else dataset.accept.take(count)
        )
    kept, held = sources.halves(dataset.tune.label_N, seed=settings.subset_seed)
    check_halves(dataset.name, kept, held)
    if parallel.is_first():
        _LOG.warning(
            "%s has no accept split: half of tune, %d images, is taken for it.",
            *(dataset.name, len(held)),
        )
    accept = dataset.tune.select(held)
    return loaded._replace(dataset=dataset._replace(tune=dataset.tune.select(kept)), accept=accept)


def check_halves(name: str, one: np.ndarray, other: np.ndarray) -> None:
    """Raises ValueError where tune has too few images for something to be in both halves."""
    if not len(one) or not len(other):
        raise ValueError(
            f"'{name}' has {len(one) + len(other)} tune images, which are to be halved: a larger "
            "config.minival, or a tune split, has more."
        )


def load_validation(settings: Data, *, minival: float | None = None) -> Loaded:
    """The data of a job that reads the validation split alone; with a `minival` tune as well.

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
                f"'{loaded.dataset.name}' has {name} images without labels, which training with "
                "labels alone and its measures need; a transfer by kl_dp_unsupervised does without "
                "those of train, and config.eval_data says what it is measured on."
            )


def check_models(loaded: Loaded, classifiers: Iterable[models.HasClasses]) -> None:
    """Raises ValueError unless all have the classes of the data set."""
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
    """The models with the classes of the data set, which they have by other names or among others.

    With `once` each is made once. What models lack that is trained, and what else cannot be, says
    models.fitted.
    """
    classes, name_of_data = loaded.dataset.classes, loaded.dataset.name

    def fit(name: str) -> Classifier:
        return models.fitted(
            classifiers[name],
            classes,
            name_of_data,
            trained=name in trained,
            by_position=settings.classes == "position",
        )

    return {
        name: once(("fitted", name, name in trained, classes), lambda name=name: fit(name))
        for name in classifiers
    }


def with_shared_classes(
    loaded: Loaded, classifiers: Mapping[str, Classifier], *, trained: Collection[str]
) -> tuple[Loaded, dict[str, Classifier]]:
    """The data set with those of its classes alone that all models have, and such models.

    Images without labels stay.

    Raises:
      ValueError: there are fewer than two such classes, or robustness sets, which have all.
    """
    dataset = loaded.dataset
    classifiers = {n: models.named(model, dataset.classes) for n, model in classifiers.items()}
    at = {n: models.places(model.classes, dataset.classes) for n, model in classifiers.items()}
    common = np.flatnonzero(np.all([place_C >= 0 for place_C in at.values()], axis=0))
    if len(common) < 2:
        raise ValueError(f"config.classes=shared: the models and {dataset.name} share no classes.")
    if loaded.robustness:
        raise ValueError("config.classes=shared and config.robustness do not go together.")
    classes = tuple(dataset.classes[i] for i in common)
    if parallel.is_first():
        _LOG.warning(
            "%s: %d of its %d classes are those of all models, and only these take part.",
            *(dataset.name, len(common), len(dataset.classes)),
        )
    number_C = np.full(len(dataset.classes) + 1, -2, np.int32)  # the last is for no label
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
    return loaded, {
        name: models.select(model, at[name][common], classes, trained=name in trained)
        for name, model in classifiers.items()
    }


def without_bad(settings: Data, loaded: Loaded, *, names: Sequence[str] = data.SPLITS) -> Loaded:
    """Without the images that do not decode, if the settings say so: every one is tried.

    ValueError where that leaves none.
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


def say_turned(settings: Data, dataset: data.Dataset, *, names: Sequence[str]) -> None:
    """Warns of images that EXIF says to turn, where they are taken as they lie."""
    if settings.upright or not parallel.is_first():
        return
    found = [
        pipeline.turned(getattr(dataset, name), threads=settings.decode_threads) for name in names
    ]
    count, looked = (sum(column) for column in zip(*found, strict=True))
    if count:
        _LOG.warning(
            "%s: EXIF says to turn %s of %s images, which are taken as they lie, as by timm; "
            "config.upright=True turns them.",
            *(dataset.name, f"{count:,}", f"{looked:,}"),
        )


def reading(settings: Data, classifiers: Iterable[Classifier]) -> pipeline.Reading:
    """How images are read: what the settings leave open, as the model of the largest input wants.

    Of several such models it is the first. The others resize what it gets. A crop_pct of the
    settings is that of a center crop.
    """
    largest = max((model.input for model in classifiers), key=lambda spec: max(spec.size))
    how = pipeline.Reading(
        size=max(largest.size),
        upright=settings.upright,
        pad=settings.on_bad_image == "pad",
        cache_gb=settings.cache_gb,
        threads=settings.decode_threads,
    )
    how = as_made_for(largest, how)
    if settings.crop_pct is not None:
        crop_pct = settings.crop_pct
        how = how._replace(crop_pct=crop_pct, crop_mode="center", fill=pipeline.NO_FILL)
    if settings.image_size is not None:
        how = how._replace(size=settings.image_size)
    if settings.interpolation is not None:
        how = how._replace(interpolation=settings.interpolation)
    return how


def as_made_for(spec: InputSpec, how: pipeline.Reading) -> pipeline.Reading:
    """The same by a model's own transform; at the longer side of an input that is no square."""
    return how._replace(
        size=max(spec.size),
        crop_pct=spec.crop_pct,
        interpolation=spec.interpolation,
        crop_mode=spec.crop_mode,
        fill=spec.fill if spec.crop_mode == "border" else pipeline.NO_FILL,
    )


def say_crops(how: pipeline.Reading, classifiers: Iterable[Classifier]) -> None:
    """Warns of models that are for images with other proportions than they are shown."""
    for model in classifiers if parallel.is_first() else ():
        if model.input.crop_mode != how.crop_mode:
            _LOG.warning(
                "%s is for images of crop_mode %s, and all models see them in crop_mode %s.",
                *(model.name, model.input.crop_mode, how.crop_mode),
            )
        height, width = model.input.size
        if height != width:
            _LOG.warning(
                "%s is for images of %d x %d pixels, and all models see squares, which it squeezes "
                "(ktjax.predict crops).",
                *(model.name, height, width),
            )


def open_splits(settings: TrainingData, loaded: Loaded, how: pipeline.Reading) -> Splits:
    """The splits of a job that trains; the robustness sets are read as validation is."""
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
    loaded_weights: Collection[Classifier] = (),
    refuse: Callable[[Splits], None] = lambda splits: None,
    held: contextlib.ExitStack | None = None,
) -> tuple[data.Dataset, Splits]:
    """What can be refused is refused, then the workdir is claimed: before any work of training.

    With `once` images are tried, and splits opened, once for all jobs that share them.
    `loaded_weights` are those of the models that were not drawn at random: a resumed run has to
    find the same. `refuse` raises ValueError where the splits are not what the job takes; the
    workdir is the job's until `held` ends.

    Raises:
      ValueError: models of other classes, images that do not decode, too few of them, or a workdir
        that cannot be used.
    """
    check_models(loaded, classifiers)
    good = once("good images", lambda: without_bad(settings, loaded))
    how = reading(settings, classifiers)
    needs = estimate.of_training(settings, len(good.dataset.train), how, classifiers)
    estimate.check(needs, how, folder)
    say_crops(how, classifiers)
    splits = once(("splits", how), lambda: open_splits(settings, good, how))
    refuse(splits)
    weights = {
        model.name: once(("weights", model.name), lambda m=model: describe.weights(m.variables))
        for model in loaded_weights
    }
    workdir.claim(folder, settings, good.dataset, weights=weights, accept=good.accept, held=held)
    once("turned", lambda: say_turned(settings, good.dataset, names=("train", "validation")))
    return good.dataset, splits


def _first_alone(prepare: Callable[[], _T]) -> _T:
    """Runs in one process before the others: what has to be written is written once."""
    if not parallel.is_first():
        parallel.wait_for_all("data")
    prepared = prepare()
    if parallel.is_first():
        parallel.wait_for_all("data")
    return prepared
