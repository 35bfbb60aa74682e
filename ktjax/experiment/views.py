"""Writes the exact images that a transfer sees, for external teachers: see targets/pack.py."""

import io
import json
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from numpy.lib import format as npy

from ktjax import augment, batches, files, models, parallel, paths, progress
from ktjax.experiment import accept, inputs, stores, transform
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe, pack
from ktjax.targets import store as store_lib
from ktjax.targets.store import MEASURED, PLAIN, PREFIX, differences, view_name

_LOG = logging.getLogger(__name__)


def write(settings: Transfer, folder: str | Path) -> Path:
    """Writes the views of a transfer, and the plain images of its splits; resumable.

    A folder with fewer views of the same images gets the others. Several processes may write to one
    at the same time.

    If train has no labels, tune and validation of config.eval_data are left out: the pool is for
    others, and these images are those of the party that writes it.

    How images are read follows from the settings and, where they leave it open, from the models
    that are not stores: with `image_size`, `crop_pct` and `interpolation` set, no model matters.

    Raises:
      ValueError: the settings have several seeds, or the folder holds other images.
    """
    folder = paths.on_disk(folder, "--workdir")
    inputs.check(settings)
    if settings.classes == "shared":
        raise ValueError("config.classes=shared: views cover all classes of the data.")
    if len(settings.seeds) > 1:
        raise ValueError(
            f"config.seeds={settings.seeds}: views need a single seed; write others elsewhere."
        )
    names = (settings.student, *settings.teachers)
    classifiers = [
        models.load(name, templates=settings.templates)
        for name in names
        if not name.startswith(PREFIX)
    ]
    loaded = inputs.load(settings)
    if settings.export == "no_regret":
        loaded = accept.with_accept(settings, loaded)  # of tune it takes half
    loaded = inputs.without_bad(settings, loaded)
    how = transform.of_models(settings, classifiers)
    splits = inputs.open_splits(settings, loaded, how)
    (seed,) = settings.seeds
    of_views = stores.images_of(settings, splits, classifiers, seed)
    of_plain = stores.images_of(settings, splits, classifiers, seed, plain=True)
    measured = _measured(settings, splits)
    description = {
        "views": max(_views(folder), stores.count_views(settings, len(splits.train))),
        "classes": list(loaded.dataset.classes),
        "images": of_views,
        PLAIN: of_plain,
        "versions": describe.versions(),
        **dict.fromkeys(MEASURED),
        **{split: describe.split(images) for split, images in measured.items()},
    }
    count = (description["views"] + 1) * len(splits.train) + sum(map(len, measured.values()))
    needed = count * of_views["size"] ** 2 * 3
    _check(folder, description)
    store_lib.check_space(folder, needed - sum(one.stat().st_size for one in folder.glob("*.npy")))
    _LOG.warning(
        "%s images of %d pixels, %d views of %s: %.2f GB. config.views bounds the views.",
        f"{count:,}",
        of_views["size"],
        description["views"],
        f"{len(splits.train):,}",
        needed / 1e9,
    )
    folder.mkdir(parents=True, exist_ok=True)
    store_lib.delete_abandoned(folder)
    description["views"] = max(description["views"], _views(folder))  # others may write, too
    files.write_json(folder / pack.POOL, description)
    change = augment.make_augment(settings.augment, seed=seed)

    def augmented(view: int) -> Iterator[np.ndarray]:
        size = settings.eval_batch_size
        forward = parallel.compile_forward(lambda at, b: change(b["image"], b["index"], at))
        rows = parallel.local_rows(size)
        on_host = batches.eval_batches(
            splits.train, batch_size=size, rows=rows, view=view, seed=seed
        )
        for batch in parallel.to_devices(on_host):
            yield jax.device_get(forward(view, batch)).reshape(-1, *batch["image"].shape[2:])

    def as_they_are(images: batches.Split) -> Iterator[np.ndarray]:
        for start in range(0, len(images), settings.eval_batch_size):
            stop = min(start + settings.eval_batch_size, len(images))
            yield images.take(np.arange(start, stop))

    shape = (len(splits.train), of_views["size"], of_views["size"], 3)
    for view in progress.bar(range(description["views"]), desc="views", unit="view", leave=False):
        _write(folder / f"{view_name(view)}.npy", shape, augmented(view))
    _write(folder / f"{PLAIN}.npy", shape, as_they_are(splits.train))
    for split, images in measured.items():
        _write(folder / f"{split}.npy", (len(images), *shape[1:]), as_they_are(images))
    labels = io.BytesIO()
    np.save(labels, splits.train.label_N)
    files.write_whole(folder / f"{pack.LABELS}.npy", labels.getvalue())
    return folder


def _measured(settings: Transfer, splits: inputs.Splits) -> dict[str, batches.Split]:
    """The splits in MEASURED that go into the pool: not a party's own labeled images."""
    if settings.eval_data is not None and not splits.labeled:
        return {}
    return {split: getattr(splits, split) for split in MEASURED}


def _views(folder: Path) -> int:
    """How many views of its images the folder has, or is to have."""
    return pack.read_pool(folder)["views"] if (folder / pack.POOL).exists() else 0


def _check(folder: Path, description: dict) -> None:
    """Raises ValueError if the folder holds other images."""
    if not (folder / pack.POOL).exists():
        return
    found = pack.read_pool(folder) | {"views": description["views"]}
    if different := differences(found, json.loads(json.dumps(description))):
        raise ValueError(f"'{folder}' holds other images: {'; '.join(different)}.")


def _write(path: Path, shape: tuple[int, ...], parts: Iterator[np.ndarray]) -> None:
    """Writes images part by part; the last part may end in padding."""
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        images = npy.open_memmap(part, "w+", np.uint8, shape)
        start = 0
        for taken in parts:
            taken = taken[: shape[0] - start]
            images[start : start + len(taken)] = taken
            start += len(taken)
        assert start == shape[0]
        images.flush()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # left behind if it is interrupted
