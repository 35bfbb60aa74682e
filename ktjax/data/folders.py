"""Folders of image files: one directory per class, flat and unlabeled, or with lists of labels.

Files are recognized as images by extension or content, and a class has all images below its
directory, as in torchvision and timm. Classes are sorted by name, as there: `10` comes before `2`.
Files that are left out are counted by cause.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ktjax import imagenet, spelling
from ktjax.data import decode, lists
from ktjax.data.lists import Folder, Listed

# fmt: off
# Files with these extensions are not inspected before they are decoded.
EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
)
# Image formats that are not supported.
_OTHERS = (
    ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".psd", ".raw", ".svg", ".dng",
    ".cr2", ".nef", ".arw",
)
# fmt: on
_ARCHIVES = (".parquet", ".tar", ".zip", ".tgz", ".gz", ".arrow", ".tfrecord")
_NO_IMAGE, _FORMAT, _NO_FILE = "not images", "unsupported formats", "not regular files"
_EMPTY = "directories without images"
# Common names of the folders of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "tune": ("tune", "minival"),
    "validation": ("validation", "val", "valid", "test"),
    "accept": ("accept",),  # beside train only: a class may be called so
}
_LOG = logging.getLogger(__name__)


def roots(folder: Path) -> list[Path]:
    """The directories in which everything counts as an image of a class."""
    below = list(_splits(folder).values())
    return [folder] if not below or _is_class(folder, below) else below


def read(folder: Path) -> Folder:
    """Lists the images of a folder, in sorted order.

    Raises:
      ValueError: there are no images, fewer than two classes, a class without readable images,
        splits with different classes, or tune, validation or accept without labels.
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
        _LOG.warning("%s has no labels and is left out: part of train is held out.", unlabeled)
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
            raise ValueError(f"The splits of '{folder}' have different classes: {differ}.")
    if "validation" in splits and "validation" not in known and (classes or "train" not in splits):
        labeled = lists.of_imagenet(splits["validation"], classes or imagenet.synsets())
        if labeled is not splits["validation"]:
            splits["validation"], classes = labeled, classes or imagenet.synsets()
    for split in splits.keys() & {"tune", "validation", "accept"}:
        if classes and splits[split].label_N.min() < 0:
            raise ValueError(
                f"'{below[split]}' has no labels: it needs one directory per class, or "
                f"{' or '.join(lists.METADATA)} with the columns file_name and label."
            )
    if unlabeled is not None and set(splits) == {"train"}:
        splits = {"all": splits["train"]}
    return Folder(splits, classes)


def _say_unlisted(folder: Path, found: Folder) -> None:
    """Warns about images that the lists do not name."""
    listed = {file for split in found.splits.values() for file in split.files}
    others = [file for file in _images(folder, folder)[0] if file not in listed]
    if others:
        _LOG.warning("Left out of %s, %s.", folder, _by_cause({"not in the lists": others}))


def _say_unused(folder: Path, splits: Mapping[str, Path]) -> None:
    """Warns about directories of images that are not splits: only one of val/ and test/ is used."""
    unused = []
    for path in directories(folder):
        if path not in splits.values():
            places = (path, *directories(path)[:8])  # there may be a million annotations
            unused += [path.name] * any(map(holds_images, places))
    if unused:
        _LOG.warning("Left out of %s, %s.", folder, _by_cause({"beside the splits": unused}))


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of splits, in upper or lower case; ValueError if two are for the same split."""
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
    if "train" not in found:
        found.pop("accept", None)
    return found


def _is_class(folder: Path, splits: list[Path]) -> bool:
    """Whether the one folder named like a split is a class, such as `train` beside `bus`."""
    if len(splits) > 1 or not holds_images(splits[0]):
        return False
    alone = SPLIT_NAMES.keys() - {"accept"}
    known = {name for split in alone for name in SPLIT_NAMES[split]}
    others = (path for path in directories(folder) if path.name.lower() not in known)
    classes = sum(holds_images(path) for path in others)
    if classes > 1 and splits[0].name.lower() not in SPLIT_NAMES["train"]:
        raise ValueError(
            f"'{folder}' holds images in {splits[0].name}, the name of a split, beside class "
            "directories: move it elsewhere if it has no labels, or rename it if it is a class."
        )
    return classes > 0


def _is_unlabeled_test(splits: Mapping[str, Path]) -> bool:
    """Whether validation is a test set without labels, flat or in one directory."""
    path = splits.get("validation")
    if path is None or path.name.lower() != "test" or "train" not in splits:
        return False
    names, classes = (
        {spelling.composed(below.name) for below in directories(at)}
        for at in (path, splits["train"])
    )
    return bool(classes) and len(names) < 2 and not names & classes


def _list(folder: Path, root: Path) -> tuple[Listed, tuple[str, ...]]:
    """The images of a folder with one directory per class, or with none, and the classes."""
    loose, others = _images(folder, root, deep=False)
    left_out = {_FORMAT: others[_FORMAT]}  # other files beside the classes do not matter
    # Archives from macOS may write accents in another form: one class can have directories of both.
    files_of: dict[str, list[str]] = {}
    classes: list[Path] = []
    for directory in directories(folder):
        images, others = _images(directory, root)
        if images:
            _check_name(directory)
            files_of.setdefault(spelling.composed(directory.name), []).extend(images)
            classes.append(directory)
        elif others[_FORMAT] or others[_NO_FILE]:
            raise ValueError(
                f"The class '{directory}' has no readable image ({_by_cause(others)})."
            )
        else:
            others = {_EMPTY: [str(directory.relative_to(root))]}
        for cause, names in others.items():
            left_out.setdefault(cause, []).extend(names)
    if any(left_out.values()):  # the user may not have meant a data set without them
        _LOG.warning("Left out of %s, %s.", folder, _by_cause(left_out))
    if loose and classes:
        raise ValueError(
            f"'{folder}' holds images both in class directories and next to them: {loose[0]}."
        )
    if loose:
        return Listed(loose, np.full(len(loose), -1, np.int32)), ()
    if len(files_of) < 2:
        raise ValueError(_no_classes(folder, classes))
    _say_repeated(folder, classes)
    names = sorted(files_of)
    label_N = np.repeat(np.arange(len(names), dtype=np.int32), [len(files_of[n]) for n in names])
    return Listed([file for name in names for file in files_of[name]], label_N), tuple(names)


def _by_cause(left_out: Mapping[str, Sequence[str]]) -> str:
    """Counts of what was left out, each with an example."""
    return "; ".join(
        f"{cause}: {len(names)} ({min(names)!r}{', for one' if len(names) > 1 else ''})"
        for cause, names in left_out.items()
        if names
    )


def _no_classes(folder: Path, classes: Sequence[Path]) -> str:
    """Why a folder is not a data set, and what the user may have meant."""
    wanted = "it needs one directory per class, for at least two classes"
    if classes:
        text = f"'{folder}' holds images of only one class, '{classes[0].name}'"
        below = [path.name for path in directories(classes[0])]
        hint = f" Did you mean folder:{classes[0]}?" if len(below) > 1 else ""
        return f"{text}: {wanted}.{hint}"
    packed = sorted(path.name for path in seen(folder) if path.suffix.lower() in _ARCHIVES)
    if packed:
        return (
            f"'{folder}' holds no images, but {packed[0]}: `python -m ktjax.data convert FOLDER "
            "OUT` takes Parquet and WebDataset .tar files from the Hugging Face hub; unpack other "
            "archives."
        )
    return f"'{folder}' holds no images: {wanted}."


def _say_repeated(folder: Path, classes: Sequence[Path]) -> None:
    """Warns if the directories below look more like the classes: these may be folds or cameras."""
    below = [{path.name for path in directories(at)} for at in classes[:8]]
    common = sorted(set.intersection(*below))
    if len(common) > 1:
        _LOG.warning(
            "All classes of %s, such as %s, contain the same directories (%s), whose images are "
            "merged.",
            folder,
            classes[0].name,
            ", ".join(common[:4]),
        )


def _check_name(directory: Path) -> None:
    """Raises ValueError if results.json could not hold the name of the class."""
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
    """Sorted names, relative to root, of the images in a directory; cause -> names of the others.

    `deep` also searches the directories below and follows links, but not in circles.
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
    """Why a file is not read; None: it is an image."""
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
    """Whether the folder itself holds images, judging by their names."""
    with os.scandir(folder) as entries:
        return any(
            entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
            for entry in entries
        )


def directories(folder: Path) -> list[Path]:
    """The directories in a folder that are not hidden, sorted."""
    return sorted(path for path in seen(folder) if path.is_dir())


def seen(folder: Path) -> Iterator[Path]:
    """Entries that are not hidden: macOS and notebooks leave `._1.jpg`, `.ipynb_checkpoints`."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))
