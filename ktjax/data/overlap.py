"""Images that were copied or linked from train into a split that models are measured on."""

import os
from collections.abc import Iterator, Mapping

from ktjax.data import decode, sources
from ktjax.data.sources import Source

_LOOKED = 64  # images of a split
_COMPARED = 16  # images of train with the name of one of these


def sentences(train: Source, splits: Mapping[str, Source]) -> Iterator[str]:
    """A sentence about each of the splits that has images of train.

    Of each split some images, drawn uniformly, are looked for in train: with the same file name,
    the same label if train has labels, and the same contents, in whatever directory. Only files
    have names that tell.
    """
    if train.size is None:
        return
    labeled = train.labeled

    def called(source: Source, i: int) -> tuple[str, int]:
        return os.path.basename(source.where(i)), int(source.label_N[i]) if labeled else -1

    looked = {
        split: {i: called(source, i) for i in sources.drawn(len(source), _LOOKED).tolist()}
        for split, source in splits.items()
        if source.size is not None
    }
    there: dict[tuple[str, int], list[int]] = {
        name: [] for of_split in looked.values() for name in of_split.values()
    }
    for i in range(len(train) if there else 0):
        found = there.get(called(train, i))
        if found is not None and len(found) < _COMPARED:
            found.append(i)
    for split, of_split in looked.items():
        source = splits[split]
        shared = [i for i, name in of_split.items() if _is_one_of(train, there[name], source, i)]
        if shared:
            yield (
                f"{len(shared)} of {len(of_split)} images of {split} that were looked at are in "
                f"train, too, such as {source.where(shared[0])}: what is measured there says "
                "little about new images."
            )


def _is_one_of(train: Source, candidates: list[int], source: Source, i: int) -> bool:
    """Whether one of these images of train has the contents of another image."""
    assert train.size is not None and source.size is not None
    try:
        size, contents = source.size(i), source.read(i) if candidates else b""
        return any(train.size(j) == size and train.read(j) == contents for j in candidates)
    except (OSError, decode.DecodeError):  # reported when the image is needed
        return False
