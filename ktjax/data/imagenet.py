"""What the package knows of ImageNet without its images: lists of synsets, names of files.

This module imports nothing of ktjax.
"""

import functools
import re
from pathlib import Path

# The lists that come with the package, by the data set whose classes they are, in label order.
SYNSETS = {
    "imagenet2012": "imagenet_synsets.txt",
    "imagenet_a": "imagenet_a_synsets.txt",
    "imagenet_r": "imagenet_r_synsets.txt",
}


@functools.cache
def synsets(name: str = "imagenet2012") -> tuple[str, ...]:
    """The synsets of a data set in SYNSETS, in the order of its labels."""
    file = Path(__file__).parent / SYNSETS[name]
    return tuple(file.read_text(encoding="utf-8").split())


def imagenet_number(file: str) -> int | None:
    """Which of ImageNet's validation images this is, from 1 on, by its name; None: no such."""
    found = re.search(r"ILSVRC2012_val_(\d{8})\.", file)
    return int(found[1]) if found else None
