"""Folders of image files: one directory per class, flat and unlabeled, or with lists of labels.

Files are images by their content, whatever they are called, and classes are all that lies below
their directories, as for torchvision and timm. Classes are in the order of their names, as there:
`10` stands before `2`. What is left out is counted by cause.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ktjax.data import decode, lists
from ktjax.data.lists import Folder, Listed

# fmt: off
# Files with these names are not looked at before they are decoded.
EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
)
# Images that are not read.
_OTHERS = (
    ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".psd", ".raw", ".svg", ".dng",
    ".cr2", ".nef", ".arw",
)
# fmt: on
_ARCHIVES = (".parquet", ".tar", ".zip", ".tgz", ".gz", ".arrow", ".tfrecord")
_NO_IMAGE, _FORMAT, _NO_FILE = "no images", "of formats that are not read", "no regular files"
_EMPTY = "directories without images"
# Names that people give the folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "tune": ("tune", "minival"),
    "validation": ("validation", "val", "valid", "test"),
}
_LOG = logging.getLogger(__name__)


def read(folder: Path) -> Folder:
    """Lists the images of a folder, in sorted order.

    Raises:
      ValueError: no images, fewer than two classes, a class that nothing is left of, splits of
        other classes, or validation without labels.
    """
    below = _splits(folder)
    found = lists.of_archive(folder)
    if found is not None:
        return found
    found = lists.of_metadata(folder, below)
    if found is not None:
        _say_unlisted(folder, found)
        return found
    if not below or _is_class(folder, list(below.values())):
        files, classes = _list(folder, folder)
        return Folder({"all": files}, classes)
    _say_unused(folder, below)
    unlabeled = below.pop("validation") if _is_unlabeled_test(below) else None
    if unlabeled is not None:
        _LOG.warning("%s has no labels and is left out: a part of train is held out.", unlabeled)
    splits, known = {}, {}
    for split, path in below.items():
        listed = None
        if split == "validation" and "train" in known:
            listed = lists.of_tiny_imagenet(path, folder, known["train"])
        splits[split], classes = _list(path, folder) if listed is None else (listed, ())
        if classes:
            known[split] = classes
    classes = known.get("train") or next(iter(known.values()), ())
    for others in known.values():
        if others != classes:
            differ = ", ".join(sorted(set(classes) ^ set(others)))
            raise ValueError(f"The splits of '{folder}' differ in classes: {differ}.")
    if classes and "validation" in splits and "validation" not in known:
        splits["validation"] = lists.of_imagenet(splits["validation"], classes)
    for split in set(splits) & {"tune", "validation"}:
        if classes and splits[split].label_N.min() < 0:
            raise ValueError(
                f"'{below[split]}' has no labels: it wants one directory per class, or "
                f"{' or '.join(lists.METADATA)} with the columns file_name and label."
            )
    if unlabeled is not None and set(splits) == {"train"}:
        splits = {"all": splits["train"]}
    return Folder(splits, classes)


def _say_unlisted(folder: Path, found: Folder) -> None:
    """Warns of images that a list does not name."""
    listed = {file for split in found.splits.values() for file in split.files}
    others = [file for file in _images(folder, folder)[0] if file not in listed]
    if others:
        _LOG.warning("Left out of %s, %s.", folder, _by_cause({"not in the lists": others}))


def _say_unused(folder: Path, splits: Mapping[str, Path]) -> None:
    """Warns of directories with images beside the splits: of val/ and test/ one is taken."""
    unused = []
    for path in directories(folder):
        if path not in splits.values():
            places = (path, *directories(path)[:8])  # annotations may lie there by the million
            unused += [path.name] * any(map(holds_images, places))
    if unused:
        _LOG.warning("Left out of %s, %s.", folder, _by_cause({"beside the splits": unused}))


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of splits, which people write in any case; ValueError if two are of one split."""
    there: dict[str, list[Path]] = {}
    for path in directories(folder):
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
    if len(splits) > 1 or not holds_images(splits[0]):
        return False
    known = {name for names in SPLIT_NAMES.values() for name in names}
    others = (path for path in directories(folder) if path.name.lower() not in known)
    classes = sum(holds_images(path) for path in others)
    if classes > 1 and splits[0].name.lower() not in SPLIT_NAMES["train"]:
        raise ValueError(
            f"'{folder}' holds images in {splits[0].name}, the name of a split, beside "
            "directories of classes: put it elsewhere if its labels are not known; or, if it is a "
            "class, give it another name."
        )
    return classes > 0


def _is_unlabeled_test(splits: Mapping[str, Path]) -> bool:
    """Whether validation is a test set whose answers are not told, flat or in one directory."""
    path = splits.get("validation")
    if path is None or path.name.lower() != "test" or "train" not in splits:
        return False
    names, classes = ({below.name for below in directories(at)} for at in (path, splits["train"]))
    return bool(classes) and len(names) < 2 and not names & classes


def _list(folder: Path, root: Path) -> tuple[Listed, tuple[str, ...]]:
    """The images of a folder with one directory per class, or with none, and the classes."""
    loose, others = _images(folder, root, deep=False)
    left_out = {_FORMAT: others[_FORMAT]}  # what else lies beside classes is nobody's image
    files, labels, classes = [], [], []
    for directory in directories(folder):
        images, others = _images(directory, root)
        if images:
            _check_name(directory)
            labels += [len(classes)] * len(images)
            classes.append(directory.name)
            files += images
        elif others[_FORMAT] or others[_NO_FILE]:
            raise ValueError(
                f"The class '{directory}' has no image that is read ({_by_cause(others)})."
            )
        else:
            others = {_EMPTY: [str(directory.relative_to(root))]}
        for cause, names in others.items():
            left_out.setdefault(cause, []).extend(names)
    if any(left_out.values()):  # the user may not have meant a data set without them
        _LOG.warning("Left out of %s, %s.", folder, _by_cause(left_out))
    if loose and classes:
        raise ValueError(
            f"'{folder}' holds images both beside and in directories of classes: {loose[0]}."
        )
    if loose:
        return Listed(loose, np.full(len(loose), -1, np.int32)), ()
    if len(classes) < 2:
        raise ValueError(_no_classes(folder, classes))
    _say_repeated(folder, classes)
    return Listed(files, np.asarray(labels, np.int32)), tuple(classes)


def _by_cause(left_out: Mapping[str, Sequence[str]]) -> str:
    """Counts of what was left out, each with an example."""
    return "; ".join(
        f"{cause}: {len(names)} ({min(names)!r}{', for one' if len(names) > 1 else ''})"
        for cause, names in left_out.items()
        if names
    )


def _no_classes(folder: Path, classes: Sequence[str]) -> str:
    """Why a folder is no data set, and what may be meant."""
    wanted = "it wants one directory per class, of two classes or more"
    if classes:
        text = f"'{folder}' holds images of one class, '{classes[0]}', so nothing can be told apart"
        below = [path.name for path in directories(folder / classes[0])]
        hint = f" Maybe folder:{folder / classes[0]} is meant." if len(below) > 1 else ""
        return f"{text}: {wanted}.{hint}"
    packed = sorted(path.name for path in seen(folder) if path.suffix.lower() in _ARCHIVES)
    if packed:
        return (
            f"'{folder}' holds no images but {packed[0]}: `python -m ktjax.data convert FOLDER "
            "OUT` takes Parquet files and WebDataset's .tar files of the Hugging Face hub; other "
            "archives are to be unpacked."
        )
    return f"'{folder}' holds images of no class: {wanted}."


def _say_repeated(folder: Path, classes: Sequence[str]) -> None:
    """Warns where what lies below the classes looks more like classes: folds, sites, cameras."""
    below = [{path.name for path in directories(folder / name)} for name in classes[:8]]
    common = sorted(set.intersection(*below))
    if len(common) > 1:
        _LOG.warning(
            "All classes of %s, such as %s, have the same directories (%s), whose images are taken "
            "together.",
            *(folder, classes[0], ", ".join(common[:4])),
        )


def _check_name(directory: Path) -> None:
    """Raises ValueError where a class has a name that no results.json could hold."""
    try:
        directory.name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The class {os.fsencode(directory.name)!r} has a name that is not UTF-8: rename the "
            "folder."
        ) from None


def _images(
    folder: Path, root: Path, *, deep: bool = True
) -> tuple[list[str], dict[str, list[str]]]:
    """Sorted names, below the root, of the images in a directory; cause -> names of the others.

    A `deep` look goes below it, too, also where links lead, but not in circles.
    """
    images: list[str] = []
    others: dict[str, list[str]] = {_NO_IMAGE: [], _FORMAT: [], _NO_FILE: []}

    def look(place: str, name: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(place)
        if real in above:
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # `._1.jpg` of macOS, `.ipynb_checkpoints`
                    continue
                below = f"{name}{entry.name}"
                if entry.is_dir():
                    if deep:
                        look(entry.path, f"{below}/", (*above, real))
                    continue
                why_not = _why_not(entry)
                (images if why_not is None else others[why_not]).append(below)

    prefix = str(folder.relative_to(root))
    look(str(folder), "" if prefix == "." else f"{prefix}/", ())
    return sorted(images), others


def _why_not(entry: os.DirEntry) -> str | None:
    """Why a file is not read, None: it is an image."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if not entry.is_file():
        return _NO_FILE if suffix in EXTENSIONS else _NO_IMAGE
    if suffix in EXTENSIONS:
        return None
    if suffix in _OTHERS:
        return _FORMAT
    try:
        with open(entry.path, "rb") as file:
            return None if decode.is_image(file.read(decode.HEAD)) else _NO_IMAGE
    except OSError:
        return _NO_IMAGE


def holds_images(folder: Path) -> bool:
    """Whether images lie in the folder itself, by their names."""
    with os.scandir(folder) as entries:
        return any(
            entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
            for entry in entries
        )


def directories(folder: Path) -> list[Path]:
    """Those that are not hidden, sorted."""
    return sorted(path for path in seen(folder) if path.is_dir())


def seen(folder: Path) -> Iterator[Path]:
    """What is not hidden: macOS and notebooks leave `._1.jpg`, `.ipynb_checkpoints`."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))
