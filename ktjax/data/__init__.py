"""name -> Dataset: the splits a job needs, as sources of (bytes, label)."""

import difflib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktjax import paths, spelling
from ktjax.data import folders, sources
from ktjax.data.sources import Source

FOLDER, _TFDS = "folder:", "tfds:"
_SEED = 1234  # decides what is held out where a data set lacks a split
_HELD_OUT = 0.2
_MINIVAL = 0.1
SPLITS = ("train", "tune", "validation")  # the fields of a Dataset


class Dataset(NamedTuple):
    """A data set.

    Attributes:
      name: as the user gave it.
      train: what models are trained on.
      tune: the minival, from the same distribution as train; for choosing hyperparameters.
      validation: for reporting only.
      accept: like tune, but nothing is chosen on it: it only decides whether a student is better
        than before. None: there is none.
      classes: the names of the classes, in label order.
      groups: the name of each class's semantic group; all the same if there are none.
      measured: the name of the data set that tune and validation come from.
      skipped: split -> a sentence about each image that was left out.
      held_out: whether tune was held out of train; False: a larger `minival` makes it no larger.
    """

    name: str
    train: Source
    tune: Source
    validation: Source
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    measured: str
    skipped: Mapping[str, tuple[str, ...]] = {}
    accept: Source | None = None
    held_out: bool = True


class Parts(NamedTuple):
    """The splits a data set comes with, by the fields of a Dataset; or only `all`."""

    splits: dict[str, Source]
    classes: tuple[str, ...]  # empty if nothing is labeled
    groups: tuple[str, ...]  # as in Dataset


class Known(NamedTuple):
    """A data set that ktjax knows by name."""

    tfds: str  # its name in TFDS
    origin: str  # where its files come from, and what they look like
    fetched: bool = True  # whether TFDS can still prepare it, if it has a builder


# Each is in `data_dir/<name>`, prepared by TFDS or `python -m ktjax.data convert`, or as a folder
# of images; glyphs is drawn whenever it is read.
DATASETS = {
    "glyphs": Known("glyphs", "It is drawn when it is read"),
    "glyphs_unlabeled": Known("glyphs", "It is drawn when it is read"),
    "glyphs_few": Known("glyphs", "It is drawn when it is read"),
    "imagenet2012": Known(
        "imagenet2012",
        "Download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, unpack "
        "them to train/<synset>/ (the archive holds one per synset) and val/",
    ),
    "caltech_birds2011": Known(
        "caltech_birds2011",
        "Download CUB_200_2011.tgz from data.caltech.edu/records/65de6-vp158 and unpack it: the "
        "folder CUB_200_2011 with images/, images.txt, classes.txt, train_test_split.txt and "
        "image_class_labels.txt",
    ),
    "caltech256": Known(
        "caltech256",
        "Download 256_ObjectCategories.tar from data.caltech.edu/records/nyy15-4j048 and unpack "
        "it: a folder with one directory per class, from 001.ak47 on (257.clutter is not a class: "
        "delete it)",
    ),
    "cars196": Known(
        "cars196",
        "The authors' page is gone; mirrors have cars_train.tgz, cars_test.tgz, car_devkit.tgz "
        "and cars_test_annos_withlabels.mat: unpack them to a folder with cars_train/, cars_test/, "
        "devkit/ and cars_test_annos_withlabels.mat",
        fetched=False,
    ),
    "domainnet_infograph": Known(
        "domainnet/infograph",
        "Download infograph.zip, infograph_train.txt and infograph_test.txt from "
        "ai.bu.edu/M3SDA and unpack them: a folder with infograph/<class>/ and the two lists",
    ),
}


def check(name: str, field: str = "data") -> None:
    """Raises ValueError, with the nearest names, unless `load` knows the data set."""
    if name.startswith(FOLDER):
        path = name.removeprefix(FOLDER)
        if not path:
            raise ValueError(f"{field}=folder: lacks the path of a folder of images.")
        if not paths.on_disk(path, field).is_dir():
            raise ValueError(f"No folder '{path}': {field}=folder:PATH must be a folder of images.")
    elif not name.startswith(_TFDS) and name not in DATASETS:
        if name and Path(name).is_dir():
            raise ValueError(f"'{name}' is a folder: {field}=folder:{name} reads its images.")
        near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4) or sorted(DATASETS)
        known = ", ".join(dict.fromkeys([*near, "glyphs"]))
        raise ValueError(f"No data set '{name}'. Known: {known}, tfds:NAME, folder:PATH.")


def identity(name: str) -> str:
    """Text that all names of one data set share."""
    if not name.startswith(FOLDER):
        return name
    return f"{FOLDER}{paths.on_disk(name.removeprefix(FOLDER), 'data').resolve()}"


def check_apart(name: str, workdir: Path) -> None:
    """Raises ValueError if the workdir lies among the data set's images.

    Its pictures would become images of a class, at the latest when the data set is read again.
    """
    if not name.startswith(FOLDER) or paths.is_remote(workdir):
        return
    folder = paths.on_disk(name.removeprefix(FOLDER), "data")
    for root in folders.roots(folder):
        if workdir.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"'{workdir}' lies among the images of '{root}', and its pictures would become a "
                "class: use a --workdir elsewhere."
            )


def load(
    name: str,
    *,
    data_dir: str | None = None,
    eval_data: str | None = None,
    minival: float = _MINIVAL,
    train_fraction: float = 1.0,
    subset_seed: int = 1234,
) -> Dataset:
    """Opens a data set.

    Missing splits are held out: validation, a fifth of each class; tune, a share of each class of
    train or, if train has no labels, a fifth of each class of validation.

    Args:
      name: an entry of DATASETS; `tfds:NAME`, any data set that TFDS has prepared as ArrayRecord
        with `image` and `label`; `folder:PATH`, a folder of images: one directory per class, or
        `metadata.csv` or `metadata.jsonl` with labels or, for training without labels, neither;
        if there are splits, these are below `train` and `validation` (and `tune`, `accept`).
      data_dir: where prepared data sets are kept; None: TFDS's default.
      eval_data: the data set whose tune, validation and classes are used instead, for a `name`
        that is a pool of unlabeled images. Images in both are not trained on.
      minival: the share of each class of train that is held out as tune, if there is no tune split.
      train_fraction: the share of each class of train to train on, to within one sample.
      subset_seed: decides which samples these are.

    Raises:
      ValueError: there is no such data set (the message says where to get it), or its splits
        cannot be used.
    """
    parts = _open(name, data_dir)
    classes, groups, accept = parts.classes, parts.groups, parts.splits.get("accept")
    if eval_data is None:
        pool, kept, tune, validation = _part(name, parts.splits, classes, minival=minival)
        held_out = pool.labeled and "tune" not in parts.splits
    else:
        measured = load(eval_data, data_dir=data_dir, minival=minival)
        if classes and classes != measured.classes:
            raise ValueError(f"'{name}' and eval_data='{eval_data}' have different classes.")
        tune, validation = measured.tune, measured.validation
        classes, groups, accept = measured.classes, measured.groups, measured.accept
        held_out = measured.held_out
        pool = next((parts.splits[k] for k in ("train", "all") if k in parts.splits), None)
        if pool is None:
            raise ValueError(f"'{name}' has only {', '.join(parts.splits)}: nothing to train on.")
        kept = _without(pool, (tune, validation, accept))
        if not len(kept):
            raise ValueError(f"All images of '{name}' are evaluated on: eval_data='{eval_data}'.")
    if train_fraction < 1:
        kept = sources.subset(pool.label_N, kept, fraction=train_fraction, seed=subset_seed)
    train = pool if len(kept) == len(pool) else pool.select(kept)
    return Dataset(
        *(name, train, tune, validation, classes, groups),
        measured=eval_data or name,
        accept=accept,
        held_out=held_out,
    )


def load_validation(name: str, *, data_dir: str | None = None) -> Dataset:
    """Like `load`, for callers that only read validation: train and tune may lack classes."""
    parts = _open(name, data_dir)
    train, tune, validation = map(parts.splits.get, SPLITS)
    if validation is None or (train is not None and not train.labeled):
        pool, kept, tune, validation = _part(name, parts.splits, parts.classes, minival=_MINIVAL)
        train = pool.select(kept)
    elif train is None:
        train = validation.select(np.zeros(0, int))
        tune = train if tune is None else tune
    elif tune is None:  # also of a class with one image, which `load` refuses
        kept, held = sources.stratified(train.label_N, fraction=_MINIVAL, seed=_SEED)
        train, tune = train.select(kept), train.select(held)
    return Dataset(name, train, tune, validation, parts.classes, parts.groups, measured=name)


def _without(pool: Source, others: Sequence[Source | None]) -> np.ndarray:
    """The positions of the pool's images that none of the others has, whatever links lead there."""
    real = functools.cache(os.path.realpath)  # of folders: it asks the disk about each one above

    def names(source: Source) -> Iterator[str]:
        for name in map(source.where, range(len(source))):
            if source.size is None:  # not a file
                yield name
                continue
            folder, file = os.path.split(name)
            path = os.path.join(real(folder), file)
            yield os.path.realpath(path) if os.path.islink(path) else path

    held = {name for source in others if source is not None for name in names(source)}
    return np.asarray([i for i, name in enumerate(names(pool)) if name not in held], np.int64)


def _part(
    name: str, splits: Mapping[str, Source], classes: Sequence[str], *, minival: float
) -> tuple[Source, np.ndarray, Source, Source]:
    """(pool, which positions in it are train, tune, validation)."""
    if "all" in splits:
        pool = splits["all"]
        if not pool.labeled:
            raise ValueError(
                f"'{name}' has no labels, which tune and validation need: set config.eval_data to "
                "a data set that has them, or put the images into train/ beside a validation/ with "
                "one directory per class."
            )
        _check_counts(pool.label_N, classes, least=3)
        rest, held = sources.stratified(pool.label_N, fraction=_HELD_OUT, seed=_SEED)
        pool, validation = pool.select(rest), pool.select(held)
    elif "train" in splits and "validation" in splits:
        pool, validation = splits["train"], splits["validation"]
    else:
        train, validation = ("|".join(folders.SPLIT_NAMES[k]) for k in ("train", "validation"))
        raise ValueError(
            f"'{name}' has only {' and '.join(splits)}, and training needs both {train} and "
            f"{validation}, or images without splits; or set config.eval_data to a labeled data "
            "set to evaluate on."
        )
    kept = np.arange(len(pool))
    if "tune" in splits:
        return pool, kept, splits["tune"], validation
    if pool.labeled:
        if "all" not in splits:
            _check_counts(pool.label_N, classes, least=2)
        kept, held = sources.stratified(pool.label_N, fraction=minival, seed=_SEED)
        return pool, kept, pool.select(held), validation
    _check_counts(
        validation.label_N[validation.label_N >= 0],  # that all have labels is checked later
        classes,
        least=2,
        of=" of validation, from which tune is taken as train has no labels",
    )
    rest, held = sources.stratified(validation.label_N, fraction=_HELD_OUT, seed=_SEED)
    return pool, kept, validation.select(held), validation.select(rest)


def _check_counts(label_N: np.ndarray, classes: Sequence[str], *, least: int, of: str = "") -> None:
    """Raises ValueError unless every class has an image for each split."""
    counts = np.bincount(label_N, minlength=len(classes))
    few = [name for name, n in zip(classes, counts, strict=True) if 0 < n < least]
    if few:
        raise ValueError(f"Classes with fewer than {least} images{of}: {', '.join(few)}.")


def _open(name: str, data_dir: str | None) -> Parts:
    check(name)
    if name.startswith(FOLDER):
        return _of_folder(paths.on_disk(name.removeprefix(FOLDER), "data"))
    if name.startswith("glyphs"):
        # It imports Matplotlib, and TFDS takes a third of a second: imported only when needed.
        from ktjax.data import glyphs

        names = {"train": glyphs.TRAIN[name]} | {k: k for k in ("tune", "validation", "accept")}
        splits = {ours: glyphs.source(theirs) for ours, theirs in names.items()}
        return Parts(splits, glyphs.CLASSES, glyphs.CLASS_GROUPS)
    import tensorflow_datasets as tfds

    known = name in DATASETS
    candidates = (DATASETS[name].tfds, name) if known else (name.removeprefix(_TFDS),)
    for candidate in candidates:
        try:
            builder = sources.prepared(candidate, data_dir)
        except tfds.core.DatasetNotFoundError:
            continue
        except ValueError:
            raise ValueError(
                f"TFDS does not accept the name '{candidate}': it takes tfds:NAME or "
                "tfds:NAME/CONFIG, optionally followed by :VERSION."
            ) from None
        return _of_tfds(builder)
    root = paths.on_disk(data_dir or tfds.core.constants.DATA_DIR, "config.data_dir")
    if known and (root / name).is_dir():
        return _of_folder(root / name)
    raise ValueError(_missing(name, candidates[0], root))


def _missing(name: str, tfds_name: str, root: Path) -> str:
    """Where a data set comes from, and how to prepare it."""
    import tensorflow_datasets as tfds

    with_tfds = f"`tfds build {tfds_name} --file_format=array_record --data_dir={root}`"
    in_tfds = tfds_name.partition("/")[0] in tfds.list_builders(with_community_datasets=False)
    if name in DATASETS:
        by_tfds = (
            f"; or, where TensorFlow is installed, {with_tfds}"
            if in_tfds and DATASETS[name].fetched
            else ""
        )
        return (
            f"There is no '{name}' in {root} (config.data_dir). {DATASETS[name].origin}; then "
            f"`python -m ktjax.data convert FOLDER {root / name}`, or data=folder:FOLDER{by_tfds}."
        )
    if in_tfds:
        return (
            f"'{name}' is not prepared in {root} (config.data_dir): run {with_tfds} where "
            "TensorFlow is installed."
        )
    near = spelling.nearest(tfds_name, tfds.list_builders(with_community_datasets=False))
    return (
        f"There is no '{tfds_name}' in {root} (config.data_dir), and TFDS does not know it. "
        f"Nearest in TFDS: {near}."
    )


def _of_folder(folder: Path) -> Parts:
    found = folders.read(folder)
    splits = {
        split: sources.of_files(folder, listed.files, listed.label_N)
        for split, listed in found.splits.items()
    }
    return Parts(splits, found.classes, ("",) * len(found.classes))


def _of_tfds(builder: Any) -> Parts:
    """Validation is `validation`, or `test` if there is none (ImageNet's test has no labels)."""
    features = builder.info.features
    if "label" not in features or not hasattr(features["label"], "names"):
        raise ValueError(
            f"'{builder.data_path}' has no feature `label` with class names: it has "
            f"{', '.join(features)}."
        )
    names = list(builder.info.splits)
    held = next((name for name in ("validation", "test") if name in names), None)
    if "train" in names and held:
        chosen = {"train": "train", "validation": held}
        chosen |= {name: name for name in ("tune", "accept") if name in names}
    elif len(names) == 1:
        chosen = {"validation" if held else "all": names[0]}
    else:
        raise ValueError(
            f"'{builder.data_path}' has the splits {', '.join(names)}: it needs train and "
            "validation or test, or only one split."
        )
    splits = {ours: sources.from_tfds(builder, theirs) for ours, theirs in chosen.items()}
    labeled = any(source.label_N.max() >= 0 for source in splits.values())
    classes = tuple(map(spelling.composed, features["label"].names)) if labeled else ()
    return Parts(splits, classes, ("",) * len(classes))
