"""What the package knows of ImageNet without its images: synsets, their words, names of files."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

# The lists that come with the package, by the data set whose classes they are, in label order.
SYNSETS = {
    "imagenet2012": "synsets.txt",
    "imagenet_a": "a_synsets.txt",
    "imagenet_r": "r_synsets.txt",
}


@functools.cache
def synsets(name: str = "imagenet2012") -> tuple[str, ...]:
    """The synsets of a data set in SYNSETS, in the order of its labels."""
    file = Path(__file__).parent / SYNSETS[name]
    return tuple(file.read_text(encoding="utf-8").split())


@functools.cache
def words() -> tuple[str, ...]:
    """What ImageNet-1k's classes are called, in label order: WordNet's lemmas of their synsets.

    As in the list that the authors of the paper, and most people, embed: `tench, Tinca tinca`. Two
    classes are called `crane`, the bird and the machine.
    """
    file = Path(__file__).parent / "words.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


def in_words(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, those that are synsets of ImageNet-1k (`n01440764`) in words."""
    known = dict(zip(synsets(), words(), strict=True))
    return tuple(known.get(name, name) for name in classes)


def image_number(file: str) -> int | None:
    """Which of ImageNet's validation images this is, from 1 on, by its name; None: no such."""
    found = re.search(r"ILSVRC2012_val_(\d{8})\.", file)
    return int(found[1]) if found else None
