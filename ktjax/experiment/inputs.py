"""What a job reads: from the settings about data to splits. Written once, for every job."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ktjax import data, models, parallel, paths
from ktjax.classifier import Classifier
from ktjax.data import imagenet, pipeline, robustness, sources
from ktjax.data.robustness import RobustnessSet
from ktjax.data.sources import Source
from ktjax.experiment import shared, workdir
from ktjax.settings.data import Data, TrainingData
from ktjax.settings.training import Training

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
    data.check(settings.data)
    if isinstance(settings, TrainingData) and settings.eval_data is not None:
        data.check(settings.eval_data, "eval_data")
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
    kept, held = sources.stratified(dataset.tune.label_N, fraction=0.5, seed=settings.subset_seed)
    if parallel.is_first():
        _LOG.warning(
            "%s has no accept split: half of tune, %d images, is taken for it.",
            *(dataset.name, len(held)),
        )
    accept = dataset.tune.select(held)
    return loaded._replace(dataset=dataset._replace(tune=dataset.tune.select(kept)), accept=accept)


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

    Of several such models it is the first. The others resize what it gets.
    """
    largest = max((model.input for model in classifiers), key=lambda spec: max(spec.size))

    def given(value: _T | None, otherwise: _T) -> _T:
        return otherwise if value is None else value

    return pipeline.Reading(
        size=given(settings.image_size, max(largest.size)),
        crop_pct=given(settings.crop_pct, largest.crop_pct),
        interpolation=given(settings.interpolation, largest.interpolation),
        upright=settings.upright,
        cache_gb=settings.cache_gb,
        threads=settings.decode_threads,
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
    refuse: Callable[[Splits], None] = lambda splits: None,
) -> tuple[data.Dataset, Splits]:
    """What can be refused is refused, then the workdir is claimed: before any work of training.

    With `once` images are tried, and splits opened, once for all jobs that share them. `refuse`
    raises ValueError where the splits are not what the job takes.

    Raises:
      ValueError: models of other classes, images that do not decode, too few of them, or a workdir
        that cannot be used.
    """
    check_models(loaded, classifiers)
    good = once("good images", lambda: without_bad(settings, loaded))
    settings.durations(len(good.dataset.train))
    how = reading(settings, classifiers)
    splits = once(("splits", how), lambda: open_splits(settings, good, how))
    refuse(splits)
    workdir.claim(folder, settings, good.dataset)
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
