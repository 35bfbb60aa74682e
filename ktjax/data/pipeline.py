"""Sources -> batches: uint8 images of one size, in an order that is a function of (seed, step).

A split lies in memory as a whole, decoded once: the data sets of today are small. The order of an
epoch is addressed by the step, so a resumed run needs to know nothing but its step.
"""

import functools
import io
import itertools
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

import grain
import numpy as np
import PIL
import tqdm
from PIL import Image

from ktjax.data import Dataset
from ktjax.data.sources import Source

Batch = dict[str, np.ndarray]


class Images(NamedTuple):
    """A decoded split."""

    image_NxHxWx3: np.ndarray  # uint8
    label_N: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.label_N)


class Splits(NamedTuple):
    """The decoded splits of a data set."""

    train: Images
    tune: Images
    validation: Images


def decode(encoded: bytes, *, size: int, where: str) -> np.ndarray:
    """An image as uint8 [size, size, 3]: shorter side resized to `size`, then the centre.

    Raises:
      ValueError: it does not decode; names it.
    """
    try:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"Image {where} does not decode: of no known format.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"Image {where} does not decode: {str(error).rstrip('.')}.") from error
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def read(source: Source, *, size: int, name: str) -> Images:
    """Decodes a whole split, with a progress bar called `name`."""

    def one(i: int) -> np.ndarray:
        return decode(source.read(i), size=size, where=source.where(i))

    images = np.empty((len(source), size, size, 3), np.uint8)
    with futures.ThreadPoolExecutor() as pool:
        decoded = pool.map(one, range(len(source)))
        bar = tqdm.tqdm(decoded, f"read {name}", len(source), unit="image", leave=False)
        for i, image in enumerate(bar):
            images[i] = image
    return Images(images, source.label_N)


def read_splits(dataset: Dataset, *, size: int, limit: int | None) -> Splits:
    """train, tune and validation, decoded; of each at most `limit` images."""

    def one(source: Source, name: str) -> Images:
        source = source.take(limit) if limit else source
        return read(source, size=size, name=f"{dataset.name} {name}")

    return Splits(
        train=one(dataset.train, "train"),
        tune=one(dataset.tune, "tune"),
        validation=one(dataset.validation, "validation"),
    )


def train_batches(
    images: Images,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    rows: np.ndarray | slice = slice(None),
) -> Iterator[Batch]:
    """Endless shuffled batches from `first_step` on; every image at most once per epoch.

    Of each batch only the `rows` are made: what other processes make has the same order.

    An epoch has `len(images) // batch_size` steps: what does not fill a batch waits for an epoch
    whose order puts it elsewhere.
    """
    steps = len(images) // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return generator.permutation(len(images))

    def batch(step: int) -> Batch:
        epoch, at = divmod(step, steps)
        index = order(epoch)[at * batch_size : (at + 1) * batch_size]
        return _batch(images, index[rows], np.ones(batch_size, bool)[rows])

    dataset = grain.MapDataset.range(first_step, np.iinfo(np.int32).max).map(batch)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def grouped(batches: Iterator[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """So many batches at a time, stacked along a new first axis."""
    for size in sizes:
        group = list(itertools.islice(batches, size))
        yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}


def eval_batches(
    images: Images, *, batch_size: int, rows: np.ndarray | slice = slice(None)
) -> Iterator[Batch]:
    """Every image once, in order; the last batch is padded, `mask` tells with what.

    Of each batch only the `rows` are made.
    """
    for start in range(0, len(images), batch_size):
        index = np.arange(start, start + batch_size)[rows]
        mask = index < len(images)
        yield _batch(images, np.minimum(index, len(images) - 1), mask)


def _batch(images: Images, index: np.ndarray, mask: np.ndarray) -> Batch:
    return {
        "image": images.image_NxHxWx3[index],
        "label": images.label_N[index],
        "index": index.astype(np.int32),
        "mask": mask,
    }
