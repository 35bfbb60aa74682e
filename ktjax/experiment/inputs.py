"""What a job reads: from the fields of a config that are about data to splits."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
import numpy as np

from ktjax import config as config_lib
from ktjax import data, parallel
from ktjax.classifier import Classifier
from ktjax.data import pipeline, resize, robustness
from ktjax.data.robustness import RobustnessSet

ON_BAD_IMAGE = ("error", "skip")
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
# name -> the set, and its images as a model takes them
RobustnessSets = Mapping[str, tuple[RobustnessSet, pipeline.Split]]


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the fields that every job reads make sense; opens nothing."""
    data.check(config.data)
    for name in ("image_size", "max_examples"):
        if config[name] is not None:
            config_lib.check_positive(config, name)
    if config.crop_pct is not None and not 0 < config.crop_pct <= 1:
        raise ValueError(f"config.crop_pct={config.crop_pct} is a share: above 0, at most 1.")
    if config.interpolation is not None:
        config_lib.check_choice("interpolation", config.interpolation, resize.INTERPOLATIONS)
    if config.cache_gb < 0:
        raise ValueError(f"config.cache_gb={config.cache_gb} must not be negative.")
    config_lib.check_positive(config, "decode_threads")
    config_lib.check_choice("on_bad_image", config.on_bad_image, ON_BAD_IMAGE)


def check_training(config: ml_collections.ConfigDict) -> None:
    """As `check`, with the fields of jobs that train."""
    check(config)
    if config.eval_data is not None:
        data.check(config.eval_data, "eval_data")
    for name in config.robustness:
        config_lib.check_choice("robustness", name, tuple(robustness.SETS))
    if not 0 < config.minival < 1:
        raise ValueError(f"config.minival={config.minival} is a share: above 0, below 1.")
    if not 0 < config.train_fraction <= 1:
        raise ValueError(
            f"config.train_fraction={config.train_fraction} is a share: above 0, at most 1."
        )
    if config.subset_seed < 0:
        raise ValueError(f"config.subset_seed={config.subset_seed} must not be negative.")
    if config.decode_processes < 0:
        raise ValueError(f"config.decode_processes={config.decode_processes} must not be negative.")
    scale = config.crop_scale
    if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(
            f"config.crop_scale={scale} is the least and the most share of an image's area, or "
            "None: not cropped."
        )


def load(config: ml_collections.ConfigDict) -> data.Dataset:
    """The data set of a job that trains, of each split at most `max_examples` images.

    Raises:
      ValueError: as `data.load`.
    """
    dataset = first_alone(
        lambda: data.load(
            config.data,
            data_dir=config.data_dir,
            eval_data=config.eval_data,
            minival=config.minival,
            train_fraction=config.train_fraction,
            subset_seed=config.subset_seed,
        )
    )
    return _at_most(config.max_examples, dataset)


def load_validation(config: ml_collections.ConfigDict) -> data.Dataset:
    """The data set of a job that reads its validation split alone."""
    dataset = first_alone(lambda: data.load_validation(config.data, data_dir=config.data_dir))
    return _at_most(config.max_examples, dataset)


def _at_most(count: int | None, dataset: data.Dataset) -> data.Dataset:
    if count is None:
        return dataset
    return dataset._replace(**{name: getattr(dataset, name).take(count) for name in data.SPLITS})


def robustness_sets(
    config: ml_collections.ConfigDict, dataset: data.Dataset
) -> dict[str, RobustnessSet]:
    """The sets of `config.robustness`.

    ValueError if the classes of the data set are not those of ImageNet-1k, or a set is missing.
    """
    if config.robustness and dataset.classes != robustness.synsets():
        raise ValueError(
            f"config.robustness: these sets have the classes of ImageNet-1k, and {dataset.name} "
            "has others."
        )
    sets = {
        name: first_alone(lambda name=name: robustness.load(name, data_dir=config.data_dir))
        for name in config.robustness
    }
    if config.max_examples is None:
        return sets
    return {name: chosen.take(config.max_examples) for name, chosen in sets.items()}


def without_bad(
    config: ml_collections.ConfigDict,
    dataset: data.Dataset,
    sets: Mapping[str, RobustnessSet],
    *,
    names: Sequence[str] = data.SPLITS,
) -> tuple[data.Dataset, Mapping[str, RobustnessSet]]:
    """Both without the images that do not decode, if the config says so: every one is tried.

    ValueError where that leaves none.
    """
    if config.on_bad_image != "skip":
        return dataset, sets
    sources = {name: getattr(dataset, name) for name in names}
    good, skipped = {}, {}
    for name, source in {**sources, **{k: chosen.source for k, chosen in sets.items()}}.items():
        good[name], skipped[name] = pipeline.decodable(
            source, threads=config.decode_threads, name=f"{dataset.name} {name}"
        )
        for sentence in skipped[name] if parallel.is_first() else ():
            _LOG.warning("%s Skipped.", sentence)
        if not len(good[name]):
            raise ValueError(f"'{dataset.name}': no image of {name} decodes.")
    kept = {name: source.select(good[name]) for name, source in sources.items()}
    return (
        dataset._replace(skipped=skipped, **kept),
        {name: chosen.select(good[name]) for name, chosen in sets.items()},
    )


def reading(config: ml_collections.ConfigDict, models: Iterable[Classifier]) -> pipeline.Reading:
    """How images are read: what the config leaves open, as the model of the largest input wants.

    Of several such models it is the first. The others resize what it gets.
    """
    largest = max((model.input for model in models), key=lambda spec: max(spec.size))

    def given(value: _T | None, otherwise: _T) -> _T:
        return otherwise if value is None else value

    return pipeline.Reading(
        size=given(config.image_size, max(largest.size)),
        crop_pct=given(config.crop_pct, largest.crop_pct),
        interpolation=given(config.interpolation, largest.interpolation),
        cache_gb=config.cache_gb,
        threads=config.decode_threads,
    )


def splits(
    config: ml_collections.ConfigDict, dataset: data.Dataset, models: Iterable[Classifier]
) -> pipeline.Splits:
    """The splits of a job that trains."""
    scale = config.crop_scale
    how = reading(config, models)._replace(
        crop_scale=None if scale is None else tuple(scale), processes=config.decode_processes
    )
    return pipeline.read_splits(dataset, how)


def robust_splits(
    config: ml_collections.ConfigDict,
    sets: Mapping[str, RobustnessSet],
    models: Iterable[Classifier],
) -> RobustnessSets:
    """The sets, and their images as validation's are read."""
    how = reading(config, models)
    return {
        name: (chosen, pipeline.open_split(chosen.source, how, name=name))
        for name, chosen in sets.items()
    }


def robust_accuracy(
    predict: Callable[[pipeline.Split], np.ndarray], sets: RobustnessSets
) -> dict[str, float]:
    """Accuracy in percent on each set, of a model whose logits `predict` gives."""
    return {
        name: robustness.accuracy(chosen, predict(images))
        for name, (chosen, images) in sets.items()
    }


def robust_row(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """What a row of results.json says of them."""
    return {
        name: {"before": before[name], "after": after[name], "delta": after[name] - before[name]}
        for name in before
    }


def first_alone(prepare: Callable[[], _T]) -> _T:
    """Runs in one process before the others: what has to be written is written once."""
    if not parallel.is_first():
        parallel.wait_for_all("data")
    prepared = prepare()
    if parallel.is_first():
        parallel.wait_for_all("data")
    return prepared
