"""Image folders with lists of labels beside the images.

The archives of CUB-200-2011, Stanford Cars, DomainNet, ImageNet and Tiny ImageNet as unpacked, and
`metadata.csv` or `metadata.jsonl` as on the Hugging Face hub.
"""

import csv
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ktjax import files, imagenet, spelling

METADATA = ("metadata.csv", "metadata.jsonl")
_ANNOTATIONS = "val_annotations.txt"
_LOG = logging.getLogger(__name__)


class Listed(NamedTuple):
    """The files of a split."""

    files: list[str]  # below the folder
    label_N: np.ndarray  # int32, -1 where unlabeled


class Folder(NamedTuple):
    """What a folder holds."""

    splits: Mapping[str, Listed]  # train, tune, validation, accept; or only `all`
    classes: tuple[str, ...]  # empty if nothing is labeled


def readable(name: str) -> str:
    """A file name, whatever its bytes, as text that can be written."""
    return os.fsencode(name).decode(errors="backslashreplace")


def of_archive(folder: Path) -> Folder | None:
    """The contents of a known archive with lists; None: it is not one."""
    found = (layout(folder) for layout in (_birds, _cars, _domainnet))
    return next((archive for archive in found if archive is not None), None)


def _of_rows(
    folder: Path, rows: Iterable[tuple[str, str, int]], classes: tuple[str, ...]
) -> Folder:
    """A Folder of these (split, file, label); ValueError names a missing file."""
    splits: dict[str, tuple[list[str], list[int]]] = {}
    for split, file, label in rows:
        if not _is_inside(PurePosixPath(file)) or not (folder / file).is_file():
            raise ValueError(f"'{folder}' lacks {file}, which its lists name.")
        files, labels = splits.setdefault(split, ([], []))
        files.append(file)
        labels.append(label)
    return Folder(
        {name: Listed(files, np.asarray(lab, np.int32)) for name, (files, lab) in splits.items()},
        classes,
    )


def _is_inside(place: PurePosixPath) -> bool:
    """Whether a path stays inside the folder that it is relative to."""
    return bool(place.parts) and not place.is_absolute() and ".." not in place.parts


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in files.read_lines(path) if line.strip()]


def _birds(folder: Path) -> Folder | None:
    """CUB-200-2011: lists of `<image id> <value>`."""
    names = ("images", "image_class_labels", "train_test_split", "classes")
    if not all((folder / f"{name}.txt").is_file() for name in names):
        return None
    images, labels, is_train, classes = (dict(_lines(folder / f"{n}.txt")) for n in names)
    numbers = {key: number for number, key in enumerate(classes)}
    rows = (
        ("train" if is_train[key] == "1" else "validation", f"images/{file}", numbers[labels[key]])
        for key, file in images.items()
    )
    return _of_rows(folder, rows, tuple(map(spelling.composed, classes.values())))


def _cars(folder: Path) -> Folder | None:
    """Stanford Cars: annotations as MATLAB files.

    The labels of the test images were published later, in a separate file.
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
    classes = tuple(
        spelling.composed(str(name)) for name in load(devkit / "cars_meta.mat", "class_names")
    )
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
    names = {label: spelling.composed(Path(file).parent.name) for _, file, label in rows}
    numbers = {label: i for i, label in enumerate(sorted(names))}  # lists of a subset skip some
    classes = tuple(names[label] for label in numbers)
    return _of_rows(folder, ((split, file, numbers[n]) for split, file, n in rows), classes)


def of_imagenet(listed: Listed, classes: tuple[str, ...]) -> Listed:
    """Labels ImageNet's validation images, whose archive has no classes, by number, from TFDS."""
    numbers = [imagenet.image_number(file) for file in listed.files]
    if not all(numbers) or not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return listed
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    synsets = path.read_text().split()
    label_of = {synset: label for label, synset in enumerate(classes)}
    names = [synsets[number - 1] for number in numbers]
    for file, name in zip(listed.files, names, strict=True):
        if name not in label_of:
            raise ValueError(f"{file} is of class {name}, which has no images in train.")
    return Listed(listed.files, np.asarray([label_of[name] for name in names], np.int32))


def of_tiny_imagenet(folder: Path, root: Path, classes: tuple[str, ...]) -> Listed | None:
    """Validation images of Tiny ImageNet, listed as `<file> <class> <box>`; None: of another set.

    ValueError: a file is missing, or train lacks its class.
    """
    path, images = folder / _ANNOTATIONS, folder / "images"
    if not (path.is_file() and images.is_dir()):
        return None
    label_of = {name: label for label, name in enumerate(classes)}
    below = images.relative_to(root)
    rows = []
    for file, given, *_ in _lines(path):
        name = spelling.composed(given)
        if name not in label_of:
            raise ValueError(f"{path}: {file} is of class {name}, which has no images in train.")
        rows.append(("validation", f"{below}/{file}", label_of[name]))
    return _of_rows(root, rows, classes).splits["validation"]


def of_metadata(folder: Path, splits: Mapping[str, Path]) -> Folder | None:
    """The labels in `metadata.csv` or `metadata.jsonl`, of the folder or of each of its splits.

    Rows have a `file_name`, relative to the list's folder, and a `label`, a name or a number.
    Classes are sorted by name or, if all names are numbers, by number.

    Returns:
      None if there is no such file, or if it has no labels, which is logged.

    Raises:
      ValueError: a line is wrong, which the message names; a file is missing; or only some of the
        splits have such lists.
    """
    if _metadata(folder) is not None:
        found = {"": folder}
    else:
        found = {split: path for split, path in splits.items() if _metadata(path) is not None}
    rows: list[tuple[str, str, str]] = []
    for split, path in found.items():
        for file, name in _labeled(_metadata(path), folder):
            part = PurePosixPath(file).parts[0]
            of = split or next((k for k, below in splits.items() if below.name == part), "all")
            rows.append((of, file, name))
    if not rows:
        return None
    there = {split for split, _, _ in rows}
    if there != set(splits or ("all",)) and (there != {"all"} or "" not in found):
        lacking = ", ".join(sorted(set(splits) - there)) or "some rows"
        raise ValueError(f"'{folder}': {' and '.join(METADATA)} say nothing about {lacking}.")
    names = {name for _, _, name in rows}
    learned = {name for split, _, name in rows if split == "train"}
    if learned and (strange := sorted(names - learned)):
        raise ValueError(f"'{folder}': train has no image of {', '.join(map(repr, strange[:5]))}.")
    if negative := sorted(name for name in names if re.fullmatch(r"-\d+", name)):
        raise ValueError(
            f"'{folder}' has the label {negative[0]}: labels must be names, or numbers from 0."
        )
    numbers = all(re.fullmatch(r"\d+", name) for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))
    if len(classes) < 2:
        raise ValueError(f"'{folder}' has labels of only one class, '{classes[0]}'.")
    label_of = {name: label for label, name in enumerate(classes)}
    return _of_rows(folder, ((of, file, label_of[name]) for of, file, name in rows), classes)


def _metadata(folder: Path) -> Path | None:
    there = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(there) > 1:
        raise ValueError(f"'{folder}' holds both {' and '.join(METADATA)}: keep one.")
    return there[0] if there else None


def _labeled(path: Path, root: Path) -> list[tuple[str, str]]:
    """(file relative to root, class name) for each row of a list; empty: it has no labels."""
    rows = list((_csv if path.suffix == ".csv" else _json)(path))
    if not any("label" in row for _, row in rows):
        _LOG.warning("%s has no column label, so classes are taken from directories.", path)
        return []
    found: dict[str, str] = {}
    below = path.parent.relative_to(root)
    for line, row in rows:
        file, name = row.get("file_name"), row.get("label")
        where = f"{path}, line {line}"
        if not isinstance(file, str) or not file:
            raise ValueError(f"{where}: no file_name.")
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise ValueError(f"{where}: label is {name!r}, and must be a name or a whole number.")
        place = PurePosixPath(file)
        if not _is_inside(place):
            raise ValueError(f"{where}: {file!r} is not a file in the folder.")
        file = str(below / place)
        if file in found:  # it could be trained and evaluated on
            raise ValueError(f"{where}: {file!r} is listed twice.")
        found[file] = spelling.composed(str(name))
    return list(found.items())


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a CSV file with the numbers of their lines."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file in UTF-8: {error}.") from None


def _json(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The same for a file with one JSON object per line."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object.")
        yield number, row
