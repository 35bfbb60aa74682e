"""Random access to encoded images and their labels: TFDS data sets and image folders."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_EXTENSIONS = (".png", ".jpg", ".jpeg")
# Names that people give the folders of a split.
_TRAIN = ("train", "training")
_VALIDATION = ("validation", "val", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Source:
    """One split.

    Attributes:
      label_N: int32, -1 where unlabelled.
      read: position -> the encoded image.
      where: position -> the name of the image in error messages.
    """

    label_N: np.ndarray
    read: Callable[[int], bytes]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, count: int) -> "Source":
        """`count` images drawn evenly (all, if there are fewer), in their order."""
        generator = np.random.Generator(np.random.Philox(key=[len(self), count]))
        index = np.sort(generator.permutation(len(self))[:count])
        return Source(
            label_N=self.label_N[index],
            read=lambda i: self.read(index[i]),
            where=lambda i: self.where(index[i]),
        )


def from_tfds(builder: Any, split: str) -> Source:
    """A split of a prepared TFDS builder with `image` and `label`, read without TensorFlow."""
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split, decoders=skip)
    # The labels lie in the same records as the images: in parts, which fit into memory.
    labels = []
    for start in range(0, len(records), 4096):
        positions = range(start, min(start + 4096, len(records)))
        labels += [example["label"] for example in records.__getitems__(list(positions))]
    return Source(
        label_N=np.asarray(labels, np.int32),
        read=lambda i: records[i]["image"],
        where=lambda i: f"{builder.name}/{split}[{i}]",
    )


def from_folder(folder: Path) -> tuple[Source, Source, Source, tuple[str, ...]]:
    """train, tune, validation and the class names of a folder with one directory per class.

    With `train` and `validation` folders above the classes these are the splits; otherwise a fifth
    of each class is validation. A tenth of each class of train is tune.

    Raises:
      ValueError: one split without the other, splits of other classes, fewer than two classes, or
        a class of fewer than 3 images, or of fewer than 2 in a `train` folder.
    """
    train = _first_folder(folder, _TRAIN)
    validation = _first_folder(folder, _VALIDATION)
    if (train is None) != (validation is None):
        raise ValueError(
            f"'{folder}' has a folder for one split only: name both, {'|'.join(_TRAIN)} and "
            f"{'|'.join(_VALIDATION)}, or none."
        )
    if train is not None and validation is not None:
        files, labels, classes = _list(train)
        held_files, held_labels, held_classes = _list(validation)
        if held_classes != classes:
            differ = ", ".join(sorted(set(classes) ^ set(held_classes)))
            raise ValueError(f"The splits of '{folder}' differ in classes: {differ}.")
        _check_counts(labels, classes, least=2)
    else:
        files, labels, classes = _list(folder)
        _check_counts(labels, classes, least=3)
        rest, held = stratified(labels, fraction=0.2, seed=1234)
        held_files, held_labels = [files[i] for i in held], labels[held]
        files, labels = [files[i] for i in rest], labels[rest]
    rest, tune = stratified(labels, fraction=0.1, seed=1234)
    return (
        _of_files([files[i] for i in rest], labels[rest]),
        _of_files([files[i] for i in tune], labels[tune]),
        _of_files(held_files, held_labels),
        classes,
    )


def stratified(label_N: np.ndarray, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept and held out: of each class the same fraction, to one sample, at least one."""
    held = []
    for label in np.unique(label_N):
        members = np.flatnonzero(label_N == label)
        count = max(1, round(len(members) * fraction))
        # One generator per class: a class's share does not depend on the other classes.
        generator = np.random.Generator(np.random.Philox(key=[seed, int(label)]))
        held.append(generator.permutation(members)[:count])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(label_N)), held), held


def _check_counts(label_N: np.ndarray, classes: Sequence[str], *, least: int) -> None:
    """Each split needs an image of every class."""
    few = [name for name, n in zip(classes, np.bincount(label_N), strict=True) if n < least]
    if few:
        raise ValueError(f"Classes of fewer than {least} images: {', '.join(few)}.")


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _list(folder: Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """Files, labels and classes; both in sorted order."""
    files, labels, classes = [], [], []
    for directory in sorted(p for p in folder.iterdir() if p.is_dir()):
        images = sorted(p for p in directory.iterdir() if p.suffix.lower() in _EXTENSIONS)
        if images:
            labels += [len(classes)] * len(images)
            classes.append(directory.name)
            files += images
    if len(classes) < 2:
        raise ValueError(
            f"'{folder}' holds images of {len(classes)} classes: it wants one directory per class "
            f"with {', '.join(_EXTENSIONS)} files, of two classes or more."
        )
    return files, np.asarray(labels, np.int32), tuple(classes)


def _of_files(files: Sequence[Path], label_N: np.ndarray) -> Source:
    return Source(label_N, lambda i: files[i].read_bytes(), lambda i: str(files[i]))
