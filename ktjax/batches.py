"""The core's view of data: splits that give images by index, and batches of them."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Protocol

import numpy as np

# image uint8 [B, H, W, 3]; label int32 [B], -1 where unlabeled; index int32 [B], the position in
# the split; mask bool [B], False where a sample is padding
Batch = dict[str, np.ndarray]

_THREADS, _AHEAD = 2, 4


class Split(Protocol):
    """The images of a split, all of one size, and their labels."""

    @property
    def label_N(self) -> np.ndarray:
        """int32, -1 where unlabeled."""

    def __len__(self) -> int: ...

    def take(self, index_B: np.ndarray) -> np.ndarray:
        """Images as used for evaluation: uint8 [B, H, W, 3]."""

    def views(self, index_B: np.ndarray, *, seed: int, view: int) -> np.ndarray:
        """Images as used for training, a function of (seed, view, index): uint8 [B, H, W, 3]."""


def are_labeled(label_N: np.ndarray) -> bool:
    """Whether every image has a label."""
    return bool((label_N >= 0).all())


def batch_of(images: Split, image: np.ndarray, index: np.ndarray, mask: np.ndarray) -> Batch:
    """The batch of these images, which are at positions `index` of the split."""
    return {
        "image": image,
        "label": images.label_N[index],
        "index": index.astype(np.int32),
        "mask": mask,
    }


def eval_batches(
    images: Split,
    *,
    batch_size: int,
    rows: np.ndarray | slice = slice(None),
    view: int | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Every image once, in order; the last batch is padded, and `mask` marks the padding.

    Only these `rows` of each batch are made. With `view` they are the views that training with
    `seed` sees, otherwise the images as used for evaluation.
    """

    def batch(number: int) -> Batch:
        index = np.arange(number * batch_size, (number + 1) * batch_size)[rows]
        mask = index < len(images)
        index = np.minimum(index, len(images) - 1)
        still = view is None
        image = images.take(index) if still else images.views(index, seed=seed, view=view)
        return batch_of(images, image, index, mask)

    # Always in threads: processes take seconds to start, and an evaluation is short.
    return ahead(batch, range(-(-len(images) // batch_size)))


def ahead(batch: Callable[[int], Batch], numbers: Iterable[int]) -> Iterator[Batch]:
    """The batches with these numbers, in order, prefetched in threads."""
    pool = futures.ThreadPoolExecutor(_THREADS, "batches")
    try:
        under_way: collections.deque[futures.Future[Batch]] = collections.deque()
        for number in numbers:
            under_way.append(pool.submit(batch, number))
            if len(under_way) > _AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
