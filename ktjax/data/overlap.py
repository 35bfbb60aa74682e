"""Images that were copied or linked from train into a split that models are measured on."""

import os
from collections.abc import Mapping

from ktjax.data import decode, sources
from ktjax.data.sources import Source

_LOOKED = 64  # images of a split


def found(train: Source, splits: Mapping[str, Source]) -> list[str]:
    """A sentence about each of the splits that has images of train.

    Of each split some images, drawn uniformly, are looked for in train: with the same file name,
    label and contents, in whatever directory. Only files have names that tell.
    """
    if train.size is None:
        return []
    looked = {
        split: [_Named(source, i) for i in sources.drawn(len(source), _LOOKED)]
        for split, source in splits.items()
        if source.size is not None
    }
    wanted = {image.name for images in looked.values() for image in images}
    there: dict[tuple[int, str], list[_Named]] = {}
    for image in (_Named(train, i) for i in range(len(train) if wanted else 0)):
        if image.name in wanted:
            there.setdefault(image.name, []).append(image)
    sentences = []
    for split, images in looked.items():
        shared = [one for one in images if any(map(one.is_copy, there.get(one.name, ())))]
        if shared:
            sentences.append(
                f"{len(shared)} of {len(images)} images of {split} that were looked at are in "
                f"train, too, such as {shared[0].where}: what is measured there says little about "
                "new images."
            )
    return sentences


class _Named:
    """An image of a source, with its label and file name."""

    def __init__(self, source: Source, position: int):
        self._source, self._position = source, position
        self.where = source.where(position)
        self.name = (int(source.label_N[position]), os.path.basename(self.where))

    def is_copy(self, other: "_Named") -> bool:
        """Whether both files have the same contents."""
        mine, others = self._contents(), other._contents()
        return mine is not None and mine == others

    def _contents(self) -> bytes | None:
        try:
            return self._source.read(self._position)
        except (OSError, decode.DecodeError):  # reported when the image is needed
            return None
