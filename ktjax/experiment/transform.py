"""How images are read: the transform that all models of a job share, and warnings about it."""

import logging
from collections.abc import Collection, Iterable, Sequence

from ktjax import data, parallel
from ktjax.classifier import Classifier, InputSpec
from ktjax.data import pipeline
from ktjax.settings.data import Data

_LOG = logging.getLogger(__name__)


def of_models(settings: Data, classifiers: Iterable[Classifier]) -> pipeline.Reading:
    """How images are read: what the settings leave open follows the model with the largest input.

    With several such models, the first one counts. The others resize its images. A crop_pct in the
    settings means a center crop.
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
    """The same with a model's own transform; non-square inputs use the longer side."""
    return how._replace(
        size=max(spec.size),
        crop_pct=spec.crop_pct,
        interpolation=spec.interpolation,
        crop_mode=spec.crop_mode,
        fill=spec.fill if spec.crop_mode == "border" else pipeline.NO_FILL,
    )


def say_crops(how: pipeline.Reading, classifiers: Iterable[Classifier]) -> None:
    """Warns of models that get other images than they were trained with: crops, shape, size."""
    for model in classifiers if parallel.is_first() else ():
        if model.input.crop_mode != how.crop_mode:
            _LOG.warning(
                "%s expects images in crop_mode %s, but all models get them in crop_mode %s.",
                model.name,
                model.input.crop_mode,
                how.crop_mode,
            )
        height, width = model.input.size
        if height != width:
            _LOG.warning(
                "%s expects images of %d x %d pixels, but all models get squares, which it "
                "stretches to that size (ktjax.predict crops).",
                model.name,
                height,
                width,
            )
        if max(height, width) > how.size:
            _LOG.warning(
                "%s expects images of %d pixels, but gets %d, enlarged: config.image_size.",
                model.name,
                max(height, width),
                how.size,
            )


def say_unlike(classifiers: Collection[Classifier], *, image_size: int, crop_pct: float) -> None:
    """Warns if images are read as none of the models was trained: too large, or cropped otherwise.

    A model that was trained on whole images, say, is less accurate on their centers, and a transfer
    would first of all teach it that.
    """
    largest = max((max(model.input.size) for model in classifiers), default=image_size)
    crops = {model.input.crop_pct for model in classifiers} or {crop_pct}
    fields = {"image_size": largest} if largest < image_size else {}
    fields |= {"crop_pct": max(crops)} if crop_pct not in crops else {}
    if fields and parallel.is_first():
        _LOG.warning(
            "Images are read at %d pixels with crop_pct=%g, as no model here was trained: %s would "
            "suit them.",
            image_size,
            crop_pct,
            " and ".join(f"config.{name}={value:g}" for name, value in fields.items()),
        )


def say_turned(settings: Data, dataset: data.Dataset, *, names: Sequence[str]) -> None:
    """Warns of images whose EXIF rotation is ignored."""
    if settings.upright or not parallel.is_first():
        return
    found = [
        pipeline.turned(getattr(dataset, name), threads=settings.decode_threads) for name in names
    ]
    count, looked = (sum(column) for column in zip(*found, strict=True))
    if count:
        _LOG.warning(
            "%s: EXIF says to rotate %s of %s images, which are used unrotated, as in timm; "
            "config.upright=True rotates them.",
            dataset.name,
            f"{count:,}",
            f"{looked:,}",
        )
