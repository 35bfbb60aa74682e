"""Stored logits of a transfer: of its own models, and of teachers that are only a store."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ktjax import augment, interruption, objectives, parallel, paths, progress
from ktjax.analysis import calibration
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation, filling, transform
from ktjax.experiment.evaluation import Evaluated
from ktjax.experiment.inputs import Splits
from ktjax.experiment.shared import Once
from ktjax.settings.objective import Entry
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe, live, rows, served
from ktjax.targets import store as store_lib
from ktjax.targets.rows import Form
from ktjax.targets.store import Store, view_name
from ktjax.topk import told

_LOG = logging.getLogger(__name__)


def teachers(settings: Transfer) -> dict[str, Store]:
    """The teachers that are only a store, by name; ValueError if one cannot be read."""
    names = [name for name in settings.teachers if name.startswith(store_lib.PREFIX)]
    return {name: store_lib.open_store(name) for name in names}


def check_teachers(settings: Transfer) -> None:
    """Raises ValueError unless teachers that are only a store support the settings."""
    if settings.store is not None:
        paths.reach(paths.of(settings.store))
    taught = [e for e in _entries(settings) if objectives.OBJECTIVES[e.objective].teachers]
    for name, store in teachers(settings).items():
        if store.form.k is not None:
            _check_serve(settings, taught, store.form.k)
        _check_teacher(settings, name, store)


def check_kept(settings: Transfer, classes: int) -> None:
    """Raises ValueError unless what is kept of so many logits supports the settings."""
    k = form_of(settings, classes).k
    if k is not None:
        _check_serve(settings, _entries(settings), k)


def _check_serve(settings: Transfer, entries: Sequence[Entry], k: int) -> None:
    """Raises ValueError unless the k largest logits serve these objectives, and calibration."""
    for entry in entries:
        served.of_top_k(entry.objective, entry.options(), k)
    if settings.calibrate:
        raise ValueError(
            f"config.calibrate compares models at other temperatures, but the {k} largest "
            "logits do not give a model's confidence there: keep all (config.store_top_k=None)."
        )


def _check_teacher(settings: Transfer, name: str, store: Store) -> None:
    wanted = settings.softenings()
    if store.form.k is not None and (lacking := [w for w in wanted if w not in store.form.ways]):
        # --temperatures are of logits as they are, not of standardized ones.
        how = "without" if any(way[1] for way in lacking) else "with --temperatures, or without"
        raise ValueError(
            f"'{name}' keeps the sum of the other classes at {told(store.form.ways)}, but "
            f"config.objectives need {told(lacking)}: pack it {how} --k."
        )
    seed = store.description["images"]["seed"]
    if not store.plain and any(other != seed for other in settings.seeds):
        raise ValueError(
            f"'{name}' has the views of seed {seed}: set config.seeds to ({seed},), not "
            f"{settings.seeds}."
        )
    need = {
        "config.calibrate": settings.calibrate,
        f"config.order={settings.order}": settings.strategy == "sequential"
        and settings.order in ("ascending", "descending"),
    }
    need |= {
        f"config.objectives.{label}": objectives.OBJECTIVES[entry.objective].pool
        for label, entry in settings.objectives.items()
    }
    asking = [field for field, needed in need.items() if needed]
    if asking and not store.has("tune"):
        raise ValueError(
            f"{' and '.join(asking)} need a model's logits on the tune images, which '{name}' does "
            "not have."
        )


def serve(settings: Transfer, entries: Mapping[str, Entry], classes: int) -> dict[str, str]:
    """How well top-k logits serve objectives: `objectives.EXACT` or APPROXIMATE."""
    of_teachers = [store.form.k for store in teachers(settings).values()]
    own = [form_of(settings, classes).k] if settings.targets == "stored" else []
    found = {}
    for label, entry in entries.items():
        kept = own + of_teachers if objectives.OBJECTIVES[entry.objective].teachers else own
        largest = [k for k in kept if k is not None]
        if largest:
            found[label] = served.of_top_k(entry.objective, entry.options(), min(largest))
    return found


def _entries(settings: Transfer) -> list[Entry]:
    """The objectives and the controls; the learning rate of controls does not matter here."""
    return [*settings.objectives.values(), *(c.at(1.0) for c in settings.controls.values())]


def form_of(settings: Transfer, classes: int) -> Form:
    """The form in which the logits of the transfer's own models are stored."""
    ways = {*settings.softenings(), *settings.store_softenings}
    return rows.form(classes, settings.store_top_k, tuple(sorted(ways)))


def count_views(settings: Transfer, images: int) -> int:
    """The number of views that training on so many images sees."""
    durations = settings.durations(images)
    count = -(-durations.total // durations.epoch)
    return count if settings.views is None else min(count, settings.views)


def one_view(settings: Transfer, splits: Splits, models: Sequence[Classifier | Store]) -> bool:
    """Whether a model's logits are too large to keep all views on the devices."""
    views = count_views(settings, len(splits.train))
    forms = [
        model.form if isinstance(model, Store) else form_of(settings, len(model.classes))
        for model in models
        if isinstance(model, Store) or settings.targets == "stored"
    ]
    largest = max((form.dtype.itemsize for form in forms), default=0)
    return largest * views * len(splits.train) > settings.cache_gb * 2**30


def images_of(
    settings: Transfer,
    splits: Splits,
    classifiers: Sequence[Classifier],
    seed: int,
    *,
    plain: bool = False,
) -> dict[str, Any]:
    """store.json's description of a seed's training views, or of the plain images."""
    how = transform.of_models(settings, classifiers)
    return describe.views(
        splits.train,
        data=settings.data,
        size=how.size,
        crop_pct=how.crop_pct,
        interpolation=how.interpolation,
        crop_mode=how.crop_mode,
        fill=how.fill,
        upright=how.upright,
        crop_scale=settings.crop_scale,
        augment=store_lib.PLAIN if plain else settings.augment,
        seed=seed,
    )


def described(
    settings: Transfer,
    splits: Splits,
    classifiers: Sequence[Classifier],
    seed: int,
    once: Once,
) -> dict[str, Any]:
    """store.json's description of all images that models are run on, see `describe.answers`.

    Images are read once for all models, and for all transfers that share them.
    """

    def describe_them() -> dict[str, Any]:
        measured = {split: describe.split(getattr(splits, split)) for split in store_lib.MEASURED}
        return {"of_images": images_of(settings, splits, classifiers, seed), **measured}

    return once(("described", seed), describe_them)


def refuse_others(
    settings: Transfer,
    splits: Splits,
    classifiers: Sequence[Classifier],
    stores: Mapping[str, Store],
) -> None:
    """Raises ValueError unless teachers that are only a store were run on the training views.

    Also unless their logits for tune and validation, if any, are of the same images.
    """
    for name, store in stores.items():
        here = images_of(settings, splits, classifiers, settings.seeds[0], plain=store.plain)
        there = dict(store.description["images"])
        for images in (here, there):
            del images["data"]  # the name does not matter
        different = store_lib.differences(
            {"images": there, "versions": store.description["versions"]},
            {"images": here, "versions": describe.versions()},
        )
        for split in filter(store.has, store_lib.MEASURED):
            images = {split: describe.split(getattr(splits, split))}
            different += store_lib.differences({split: store.description[split]}, images)
        store_lib.refuse(store, different)
        views = count_views(settings, len(splits.train))
        lacking = [view for view in range(views) if not store.has(view_name(view))]
        if lacking and not store.plain:
            raise ValueError(
                f"'{name}' lacks view {lacking[0]}: training sees {views}, but it has "
                f"{len(store.complete())} (config.views)."
            )


def evaluated(store: Store, splits: Splits, *, calibrate: bool) -> Evaluated:
    """A teacher that is only a store, with its logits on tune and validation, if it has them."""
    form = Form(len(store.classes))
    found = {
        split: np.asarray(store_lib.read_rows(store, split, form)) if store.has(split) else None
        for split in store_lib.MEASURED
    }
    lacking = [f"{split} images" for split, logits in found.items() if logits is None]
    if lacking and parallel.is_first():
        _LOG.warning(
            "%s has no logits for the %s: results that need them are left blank.",
            store.name,
            " and ".join(lacking),
        )
    temperature = None
    if calibrate:
        temperature = calibration.temperature(found["tune"], splits.tune.label_N)
    return Evaluated(store, found["tune"], found["validation"], temperature, {})


def replayed(settings: Transfer, splits: Splits, store: Store, *, alone: bool) -> live.OfView:
    """The steps' `frozen` of a teacher that is only a store; `alone`: one view at a time."""
    if store.plain:
        rows_N = store_lib.read_rows(store, view_name(0), store.form)
        return live.all_at_once(rows_N[None], store.form, settings.parallel)
    return _read(settings, store, count_views(settings, len(splits.train)), alone=alone)


def stored(
    settings: Transfer,
    splits: Splits,
    model: Classifier,
    *,
    seed: int,
    images: Mapping[str, Any] | None,
    measured: Evaluated | None,
    alone: bool,
) -> live.OfView:
    """The steps' `frozen` of a model whose logits are stored.

    Args:
      settings: the transfer's settings.
      splits: the transfer's splits.
      model: the model to run.
      seed: of the views.
      images: `described` for the seed; None: the logits are kept in memory.
      measured: its logits on tune and validation, which are stored too.
      alone: only one view at a time is on the devices.
    """
    form, views = form_of(settings, len(model.classes)), count_views(settings, len(splits.train))
    asked = dict(
        augment=augment.make_augment(settings.augment, seed=seed),
        seed=seed,
        batch_size=settings.eval_batch_size,
        dtype=jnp.dtype(settings.dtype),
        layout=settings.parallel,
        form=form,
    )
    if images is None and not alone:
        kept = live.store(model, splits.train, views=views, **asked)
        return lambda view: kept
    answers = live.make_answers(model, splits.train, **asked)
    if images is None:
        in_memory = []
        for view in progress.bar(range(views), desc="stored", unit="view", leave=False):
            interruption.stop_if_asked()
            in_memory.append(answers(view))
        return live.one_at_a_time(in_memory.__getitem__, form, settings.parallel)
    assert settings.store is not None
    description = _description(settings, model, images)
    if parallel.is_first():
        store_lib.create(paths.of(settings.store), description)
    parallel.wait_for_all("store")
    store = store_lib.create(paths.of(settings.store), description)
    more = {} if measured is None else _measured(store, description, measured)
    filling.fill(store, answers, views, splits.train, measured=more)
    return _read(settings, store, views, alone=alone)


def _description(
    settings: Transfer, model: Classifier, images: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of store.json for a model's logits; `images` come from `described`."""
    return describe.answers(
        describe.model(model),
        classes=model.classes,
        form=form_of(settings, len(model.classes)),
        dtype=settings.dtype,
        **images,
    )


def known(
    settings: Transfer, splits: Splits, model: Classifier, images: Mapping[str, Any]
) -> Evaluated | None:
    """A model with its logits on tune and validation, if an earlier run stored them."""
    assert settings.store is not None
    folder, description = paths.of(settings.store), _description(settings, model, images)

    def find() -> Store | None:
        store = store_lib.find(folder, description)
        if store is None:
            return None
        for split in store_lib.MEASURED:
            if not store.has(split) or store.description[split] != description[split]:
                return None
        return store

    store = parallel.as_first_finds(find, f"config.store={folder}")
    if store is None:
        return None
    form = Form(len(model.classes))
    tune_NxC, validation_NxC = (
        np.asarray(store_lib.read_rows(store, split, form)) for split in store_lib.MEASURED
    )
    answers = evaluation.Answers(tune_NxC, validation_NxC, robustness={})
    return evaluation.judge(model, answers, splits, calibrate=settings.calibrate)


def _measured(
    store: Store, description: Mapping[str, Any], measured: Evaluated
) -> dict[str, np.ndarray]:
    """The logits on tune and validation, with which the store can teach without the model."""
    found = {"tune": measured.tune_NxC, "validation": measured.validation_NxC}
    return {
        split: logits_NxC
        for split, logits_NxC in found.items()
        # Otherwise the store is of other images.
        if logits_NxC is not None and store.description[split] == description[split]
    }


def _read(settings: Transfer, store: Store, views: int, *, alone: bool) -> live.OfView:
    def read(view: int) -> np.ndarray:
        return store_lib.read_rows(store, view_name(view), store.form)

    if alone:
        return live.one_at_a_time(read, store.form, settings.parallel)
    rows_VxN = np.stack([read(view) for view in range(views)])
    return live.all_at_once(rows_VxN, store.form, settings.parallel)
