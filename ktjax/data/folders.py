"""Folders of image files: one directory per class, flat and unlabeled, or as archives unpack.

What the archives of CUB-200-2011, Stanford Cars, DomainNet and ImageNet hold is recognized by the
lists that lie beside their images.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktjax.data import imagenet

EXTENSIONS = (".png", ".jpg", ".jpeg")
_OTHERS = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".ppm", ".tif", ".tiff", ".webp")
# Names that people give the folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "tune": ("tune", "minival"),
    "validation": ("validation", "val", "valid", "test"),
}
_LOG = logging.getLogger(__name__)


class Listed(NamedTuple):
    """The files of a split."""

    files: list[str]  # below the folder
    label_N: np.ndarray  # int32, -1 where unlabeled


class Folder(NamedTuple):
    """What a folder holds."""

    splits: Mapping[str, Listed]  # train, tune, validation; or `all`, where it has no splits
    classes: tuple[str, ...]  # empty where nothing is labeled


def read(folder: Path) -> Folder:
    """Lists the images of a folder, in sorted order.

    Raises:
      ValueError: no images, fewer than two classes, or splits of other classes.
    """
    for layout in (_birds, _cars, _domainnet):
        found = layout(folder)
        if found is not None:
            return found
    below = _splits(folder)
    if not below or _is_class(folder, list(below.values())):
        files, classes = _list(folder, folder)
        return Folder({"all": files}, classes)
    splits, known = {}, {}
    for split, path in below.items():
        splits[split], classes = _list(path, folder)
        if classes:
            known[split] = classes
    classes = known.get("train") or next(iter(known.values()), ())
    for others in known.values():
        if others != classes:
            differ = ", ".join(sorted(set(classes) ^ set(others)))
            raise ValueError(f"The splits of '{folder}' differ in classes: {differ}.")
    if classes and "validation" in splits and "validation" not in known:
        splits["validation"] = _imagenet_validation(splits["validation"], classes)
    return Folder(splits, classes)


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of splits, which people write in any case; ValueError if two are of one split."""
    there: dict[str, list[Path]] = {}
    for path in sorted(_seen(folder)):
        if path.is_dir():
            there.setdefault(path.name.lower(), []).append(path)
    found = {}
    for split, names in SPLIT_NAMES.items():
        paths = next((there[name] for name in names if name in there), [])
        if len(paths) > 1:
            raise ValueError(
                f"'{folder}' holds both {paths[0].name} and {paths[1].name}: keep one."
            )
        if paths:
            found[split] = paths[0]
    return found


def _is_class(folder: Path, splits: list[Path]) -> bool:
    """Whether the one folder with the name of a split is a class, such as trains beside buses."""
    if len(splits) > 1 or not _images(splits[0], folder)[0]:
        return False
    known = {name for names in SPLIT_NAMES.values() for name in names}
    others = (path for path in _seen(folder) if path.is_dir() and path.name.lower() not in known)
    return any(_images(path, folder)[0] for path in others)


def _list(folder: Path, root: Path) -> tuple[Listed, tuple[str, ...]]:
    """The images of a folder with one directory per class, or with none, and the classes."""
    loose, left_out = _images(folder, root)
    files, labels, classes = [], [], []
    for directory in sorted(path for path in _seen(folder) if path.is_dir()):
        images, others = _images(directory, root)
        left_out += others
        if images:
            _check_name(directory)
            labels += [len(classes)] * len(images)
            classes.append(directory.name)
            files += images
    if left_out:  # the user may not have meant a data set without them
        _LOG.warning(
            "%d images are left out, as they are neither PNG nor JPEG: %s, for one.",
            *(len(left_out), root / min(left_out)),
        )
    if loose and classes:
        raise ValueError(
            f"'{folder}' holds images both beside and in directories of classes: {loose[0]}."
        )
    if loose:
        return Listed(loose, np.full(len(loose), -1, np.int32)), ()
    if len(classes) < 2:
        raise ValueError(
            f"'{folder}' holds images of {len(classes)} classes: it wants one directory per class "
            f"with {', '.join(EXTENSIONS)} files, of two classes or more."
        )
    return Listed(files, np.asarray(labels, np.int32)), tuple(classes)


def _check_name(directory: Path) -> None:
    """Raises ValueError where a class has a name that no results.json could hold."""
    try:
        directory.name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The class {os.fsencode(directory.name)!r} has a name that is not UTF-8: rename the "
            "folder."
        ) from None


def _images(folder: Path, root: Path) -> tuple[list[str], list[str]]:
    """Names below the root of the images in a directory: those we read, those of other formats."""
    paths = list(_seen(folder))  # listed once: a network's file system takes its time
    ours, others = (
        sorted(str(path.relative_to(root)) for path in paths if path.suffix.lower() in extensions)
        for extensions in (EXTENSIONS, _OTHERS)
    )
    return ours, others


def _seen(folder: Path) -> Iterator[Path]:
    """Files that are not hidden: macOS and notebooks leave `._1.jpg`, `.ipynb_checkpoints`."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _of_rows(
    folder: Path, rows: Iterable[tuple[str, str, int]], classes: tuple[str, ...]
) -> Folder:
    """A Folder of these (split, file, label); ValueError names a file that is not there."""
    splits: dict[str, tuple[list[str], list[int]]] = {}
    for split, file, label in rows:
        if not (folder / file).is_file():
            raise ValueError(f"'{folder}' lacks {file}, which its lists name.")
        files, labels = splits.setdefault(split, ([], []))
        files.append(file)
        labels.append(label)
    return Folder(
        {name: Listed(files, np.asarray(lab, np.int32)) for name, (files, lab) in splits.items()},
        classes,
    )


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _birds(folder: Path) -> Folder | None:
    """CUB-200-2011: lists of `<image id> <what>`."""
    names = ("images", "image_class_labels", "train_test_split", "classes")
    if not all((folder / f"{name}.txt").is_file() for name in names):
        return None
    images, labels, is_train, classes = (dict(_lines(folder / f"{n}.txt")) for n in names)
    numbers = {key: number for number, key in enumerate(classes)}
    rows = (
        ("train" if is_train[key] == "1" else "validation", f"images/{file}", numbers[labels[key]])
        for key, file in images.items()
    )
    return _of_rows(folder, rows, tuple(classes.values()))


def _cars(folder: Path) -> Folder | None:
    """Stanford Cars: annotations as MATLAB files.

    The labels of the test images were published later, as a file that lies beside the others.
    """
    devkit = folder / "devkit"
    if not (devkit / "cars_meta.mat").is_file():
        return None
    from scipy import io

    def load(path: Path, name: str) -> Any:
        return np.atleast_1d(io.loadmat(path, squeeze_me=True)[name])

    answers = "cars_test_annos_withlabels.mat"
    places = [path for path in (folder / answers, devkit / answers) if path.is_file()]
    if not places:
        raise ValueError(f"'{folder}' lacks {answers}, the labels of cars_test.")
    classes = tuple(str(name) for name in load(devkit / "cars_meta.mat", "class_names"))
    rows = [
        (split, f"{below}/{row['fname']}", int(row["class"]) - 1)
        for split, below, path in (
            ("train", "cars_train", devkit / "cars_train_annos.mat"),
            ("validation", "cars_test", places[0]),
        )
        for row in load(path, "annotations")
    ]
    return _of_rows(folder, rows, classes)


def _domainnet(folder: Path) -> Folder | None:
    """A domain of DomainNet: `<domain>_train.txt` and `<domain>_test.txt` of `<file> <label>`."""
    lists = sorted(folder.glob("*_train.txt"))
    domains = [path.name.removesuffix("_train.txt") for path in lists]
    domains = [d for d in domains if (folder / d).is_dir() and (folder / f"{d}_test.txt").is_file()]
    if not domains:
        return None
    if len(domains) > 1:
        raise ValueError(f"'{folder}' holds several domains, {', '.join(domains)}: keep one.")
    (domain,) = domains
    rows = [
        (split, file, int(label))
        for split, name in (("train", "train"), ("validation", "test"))
        for file, label in _lines(folder / f"{domain}_{name}.txt")
    ]
    names = {label: Path(file).parent.name for _, file, label in rows}
    return _of_rows(folder, rows, tuple(names[label] for label in sorted(names)))


def _imagenet_validation(listed: Listed, classes: tuple[str, ...]) -> Listed:
    """ImageNet's archive of validation images has no classes: TFDS knows these by number."""
    numbers = [imagenet.imagenet_number(file) for file in listed.files]
    if not all(numbers) or not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return listed
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    synsets = path.read_text().split()
    label_of = {synset: label for label, synset in enumerate(classes)}
    names = [synsets[number - 1] for number in numbers]
    for file, name in zip(listed.files, names, strict=True):
        if name not in label_of:
            raise ValueError(f"{file} is of class {name}, of which train has no images.")
    return Listed(listed.files, np.asarray([label_of[name] for name in names], np.int32))
