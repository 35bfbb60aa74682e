"""name -> Dataset: the splits a job needs, as sources of (bytes, label)."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ktjax.data import sources
from ktjax.data.sources import Source


class Dataset(NamedTuple):
    """A data set.

    Attributes:
      name: as the user gave it.
      train: what is learned from.
      tune: the minival, of the same distribution as train; hyperparameters are chosen on it.
      validation: for reporting only.
      classes: the names of the classes, in label order.
      groups: for each class the name of its semantic group; all the same where there are none.
    """

    name: str
    train: Source
    tune: Source
    validation: Source
    classes: tuple[str, ...]
    groups: tuple[str, ...]


def _glyphs(data_dir: str | None) -> Dataset:
    # TFDS takes a third of a second to import, for nobody who reads folders.
    from ktjax.data import glyphs

    builder = glyphs.Glyphs(data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    train, tune, validation = (
        sources.from_tfds(builder, split) for split in ("pretrain", "tune", "validation")
    )
    return Dataset("glyphs", train, tune, validation, glyphs.CLASSES, glyphs.CLASS_GROUPS)


# name -> load(data_dir); `folder:PATH` stands beside them
DATASETS: dict[str, Callable[[str | None], Dataset]] = {"glyphs": _glyphs}
_FOLDER = "folder:"


def check(name: str) -> None:
    """Raises ValueError, with the nearest names, unless `load` knows the data set."""
    if name.startswith(_FOLDER):
        path = name.removeprefix(_FOLDER)
        if not os.path.isdir(path):
            raise ValueError(f"No folder '{path}': data=folder:PATH wants one directory per class.")
    elif name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4) or sorted(DATASETS)
        raise ValueError(f"No data set '{name}'. Known: {', '.join(near)}, folder:PATH.")


def load(name: str, *, data_dir: str | None = None) -> Dataset:
    """Opens a data set, preparing it on first use.

    Args:
      name: `glyphs`, or `folder:PATH` with one directory of PNG or JPEG files per class (and
        `train` and `validation` folders above them, or else a seeded stratified split is made).
      data_dir: where prepared data sets are kept; None: the default of TFDS.

    Raises:
      ValueError: no such data set, or a folder without images.
    """
    check(name)
    if not name.startswith(_FOLDER):
        return DATASETS[name](data_dir)
    train, tune, validation, classes = sources.from_folder(Path(name.removeprefix(_FOLDER)))
    return Dataset(name, train, tune, validation, classes, ("",) * len(classes))
