"""Room on a disk for the stores of a study: how much of them is there already."""

import contextlib
from collections.abc import Collection
from pathlib import Path

from ktjax import paths
from ktjax.data.sources import Source
from ktjax.experiment import stores
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe
from ktjax.targets import store as store_lib
from ktjax.targets.store import Store, view_name


def stored_bytes(settings: Transfer, train: Source, models: Collection[str]) -> int:
    """The size of what config.store, on a disk, has of these models for the settings.

    Nothing is decoded or loaded: stores of other weights of a model are counted too.
    """
    assert settings.store is not None
    views = map(view_name, range(stores.count_views(settings, len(train))))
    arrays = [f"{name}.npy" for name in (*views, *store_lib.MEASURED)]
    folders = [path.parent for path in paths.of(settings.store).glob(f"*/{store_lib.DESCRIPTION}")]
    found = 0
    for folder in folders:
        with contextlib.suppress(ValueError, LookupError, TypeError):  # of no use to this study
            store = store_lib.open_store(folder)
            if _may_be_of(settings, train, models, store):
                found += sum(_size(folder / array) for array in arrays)
    return found


def _may_be_of(settings: Transfer, train: Source, models: Collection[str], store: Store) -> bool:
    """Whether a store may be of these models and of the settings' images."""
    images = store.description["images"]
    if settings.on_bad_image == "skip":  # which some of them may turn out to be
        same = images["examples"] <= len(train)
    else:
        same = images["labels"] == describe.labels(train.label_N)
    told = (settings.augment, settings.image_size, settings.crop_pct, settings.interpolation)
    return (
        same
        and store.description["model"]["name"] in models
        and store.form == stores.form_of(settings, len(store.classes))
        and images["seed"] in settings.seeds
        and tuple(images[k] for k in ("augment", "size", "crop_pct", "interpolation")) == told
        and store.description["dtype"] == settings.dtype
        and store.description["versions"] == describe.versions()
    )


def _size(file: Path) -> int:
    """The size of a file in bytes; 0 if there is none, or no more."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
