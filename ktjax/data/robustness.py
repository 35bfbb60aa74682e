"""Robustness test sets with ImageNet-1k's classes.

ImageNet-V2, ReaL, A, R and Sketch. A and R have images of 200 of the classes, and the prediction is
restricted to these (Hendrycks et al. 2021, both). In ReaL any of an image's labels is right; images
without a label do not count (Beyer et al. 2020).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ktjax import paths, progress
from ktjax.data import folders, sources
from ktjax.data.sources import Source, drawn
from ktjax.imagenet import image_number, synsets


class RobustnessSet(NamedTuple):
    """Images, which answers to each are right, and which answers are allowed."""

    source: Source
    right_NxC: np.ndarray  # bool
    among_C: np.ndarray  # bool

    def select(self, index_N: np.ndarray) -> "RobustnessSet":
        """The images at these positions."""
        return RobustnessSet(self.source.select(index_N), self.right_NxC[index_N], self.among_C)

    def take(self, count: int) -> "RobustnessSet":
        """`count` images drawn uniformly (all, if there are fewer), in their order."""
        return self.select(drawn(len(self.source), count))


class _Known(NamedTuple):
    tfds: str  # its name in TFDS, and its split there
    split: str
    synsets: str  # the list of its classes, in imagenet.SYNSETS
    origin: str


_ALL = "imagenet2012"
SETS = {
    "imagenet_v2": _Known(
        "imagenet_v2/matched-frequency",
        "test",
        _ALL,
        "imagenetv2-matched-frequency.tar.gz from huggingface.co/datasets/vaishaal/ImageNetV2",
    ),
    "imagenet2012_real": _Known(
        "imagenet2012_real",
        "validation",
        _ALL,
        "ILSVRC2012_img_val.tar from image-net.org, and beside the images real.json from "
        "github.com/google-research/reassessed-imagenet",
    ),
    "imagenet_a": _Known(
        "imagenet_a",
        "test",
        "imagenet_a",
        "imagenet-a.tar from github.com/hendrycks/natural-adv-examples",
    ),
    "imagenet_r": _Known(
        "imagenet_r",
        "test",
        "imagenet_r",
        "imagenet-r.tar from github.com/hendrycks/imagenet-r",
    ),
    "imagenet_sketch": _Known(
        "imagenet_sketch",
        "test",
        _ALL,
        "ImageNet-Sketch.zip from github.com/HaohanWang/ImageNet-Sketch",
    ),
}


def load(name: str, *, data_dir: str | None) -> RobustnessSet:
    """Opens a set of SETS, from `data_dir/<name>`: prepared by TFDS, or its folder of images.

    ValueError, with where to get it, if it is missing.
    """
    import tensorflow_datasets as tfds

    known = SETS[name]
    among_C = np.isin(synsets(), synsets(known.synsets))
    try:
        builder = sources.prepared(known.tfds, data_dir)
    except tfds.core.DatasetNotFoundError:
        default = tfds.core.constants.DATA_DIR
        folder = paths.on_disk(data_dir or default, "config.data_dir") / name
        if not folder.is_dir():
            raise ValueError(
                f"There is no '{name}' in {folder.parent} (config.data_dir). Its files: "
                f"{known.origin}. Unpack the images to {folder}, or prepare it where TensorFlow "
                f"is installed: `tfds build {known.tfds} --file_format=array_record`."
            ) from None
        if name == "imagenet2012_real":
            return _real_of_folder(folder, among_C)
        return _of_folder(folder, name, known.synsets, among_C)
    if name == "imagenet2012_real":
        return _real(builder, known.split, among_C)
    source = sources.from_tfds(builder, known.split)
    classes = builder.info.features["label"].names
    return _of_labels(source, [_class(c) for c in classes], among_C)


def accuracy(robustness: RobustnessSet, logits_NxC: np.ndarray) -> float:
    """Share of images whose largest logit, among the classes of the set, is right; in percent."""
    answer_N = np.where(robustness.among_C, logits_NxC, -np.inf).argmax(axis=1)
    return 100 * float(np.mean(robustness.right_NxC[np.arange(len(answer_N)), answer_N]))


def _of_folder(folder: Path, name: str, among: str, among_C: np.ndarray) -> RobustnessSet:
    """Opens a folder with a directory for each synset or, as in ImageNet-V2, each class number."""
    found = folders.read(folder)
    known = {*synsets(among), *map(str, np.flatnonzero(among_C))}
    strange = sorted({*found.classes} - known)
    if strange or not found.classes or "all" not in found.splits:
        what = f"not {strange[0]}" if strange else "and nothing else"
        raise ValueError(
            f"'{folder}' must hold a directory for each class of {name}, named by its synset or "
            f"number, {what}."
        )
    listed = found.splits["all"]
    source = sources.of_files(folder, listed.files, listed.label_N)
    return _of_labels(source, [_class(name) for name in found.classes], among_C)


def _real_of_folder(folder: Path, among_C: np.ndarray) -> RobustnessSet:
    """ImageNet's validation images, in class directories or not, and ReaL's list of labels."""
    path = folder / "real.json"
    if not path.is_file():
        raise ValueError(f"'{folder}' lacks real.json: {SETS['imagenet2012_real'].origin}.")
    labels_of = json.loads(path.read_text(encoding="utf-8"))
    files = [file for split in folders.read(folder).splits.values() for file in split.files]
    numbers = [image_number(file) for file in files]
    for file, number in zip(files, numbers, strict=True):
        if number is None or number > len(labels_of):
            raise ValueError(f"'{folder}': {file} is not a validation image in real.json.")
    right_NxC = _right([labels_of[number - 1] for number in numbers], among_C)
    return _counted(sources.of_files(folder, files, _first(right_NxC)), right_NxC, among_C)


def _class(name: str) -> int:
    return int(name) if name.isdecimal() else synsets().index(name)


def _of_labels(source: Source, classes: Sequence[int], among_C: np.ndarray) -> RobustnessSet:
    label_N = np.asarray(classes)[source.label_N]
    right_NxC = np.zeros((len(source), len(among_C)), bool)
    right_NxC[np.arange(len(source)), label_N] = True
    return RobustnessSet(source, right_NxC, among_C)


def _real(builder: object, split: str, among_C: np.ndarray) -> RobustnessSet:
    read = sources.tfds_reader(builder, split, ("real_label",))
    positions = range(builder.info.splits[split].num_examples)
    bar = progress.bar(positions, desc="labels of imagenet2012_real", unit="image", leave=False)
    right_NxC = _right([read([i])[0]["real_label"] for i in bar], among_C)
    return _counted(sources.of_records(builder, split, _first(right_NxC)), right_NxC, among_C)


def _right(labels_of_N: Sequence[Sequence[int]], among_C: np.ndarray) -> np.ndarray:
    """Which answers are right for images with any number of labels: bool [N, C]."""
    right_NxC = np.zeros((len(labels_of_N), len(among_C)), bool)
    for right_C, labels in zip(right_NxC, labels_of_N, strict=True):
        right_C[np.asarray(labels, int)] = True
    return right_NxC


def _first(right_NxC: np.ndarray) -> np.ndarray:
    return right_NxC.argmax(axis=1).astype(np.int32)


def _counted(source: Source, right_NxC: np.ndarray, among_C: np.ndarray) -> RobustnessSet:
    """The set without images that have no right answer."""
    counted = np.flatnonzero(right_NxC.any(axis=1))
    return RobustnessSet(source, right_NxC, among_C).select(counted)
