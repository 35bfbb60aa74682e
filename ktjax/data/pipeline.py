"""Sources -> batches: uint8 images of one size, in an order that is a function of (seed, step).

A small split is decoded once and kept, a large one is decoded anew for every batch; batches are the
same. The step determines the order of an epoch, and (seed, view, index) the view of an image, so a
resumed run needs only its step.
"""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from ktjax import arrays, batches, progress
from ktjax.batches import Batch
from ktjax.data import Dataset, decode, lists
from ktjax.data.sources import Source

_AT_ONCE = 256  # images that are decoded together
NO_FILL = (0, 0, 0)  # where there are no borders


class Reading(NamedTuple):
    """How encoded images become the images of a batch."""

    size: int  # side in pixels
    crop_pct: float = 1.0  # share of the shorter side that is kept, in timm's terms
    interpolation: str = "bicubic"
    crop_mode: str = "center"  # of InputSpec
    fill: tuple[int, int, int] = NO_FILL  # border color of the crop mode `border`
    # Smallest and largest share of the area that a training view shows; None: views are the same
    # images as for evaluation.
    crop_scale: tuple[float, float] | None = None
    upright: bool = False  # images are rotated as their EXIF says
    pad: bool = False  # the missing part of truncated files is filled
    cache_gb: float = 2.0  # a split is kept in memory if it is at most this large, decoded
    threads: int = 16  # per decoding process
    processes: int = 0  # that decode for training; 0: this one does


@dataclasses.dataclass(frozen=True)
class Images:
    """A decoded split."""

    image_NxHxWx3: np.ndarray  # uint8
    label_N: np.ndarray  # int32, -1 where unlabeled

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, index_B: np.ndarray) -> np.ndarray:
        """Images for evaluation: uint8 [B, H, W, 3]."""
        return self.image_NxHxWx3[index_B]

    def views(self, index_B: np.ndarray, *, seed: int, view: int) -> np.ndarray:
        """Images for training: uint8 [B, H, W, 3]."""
        del seed, view  # nothing is cropped
        return self.take(index_B)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A split of encoded images, decoded on demand."""

    source: Source
    reading: Reading

    @property
    def label_N(self) -> np.ndarray:
        """int32, -1 where unlabeled."""
        return self.source.label_N

    def __len__(self) -> int:
        return len(self.source)

    @functools.cached_property
    def drawn(self) -> bool:
        """Whether the source draws images ready for evaluation: nothing is left to resize."""
        source, size = self.source, self.reading.size
        if source.draw is None or not len(source) or self.reading.crop_pct != 1:
            return False
        return source.draw(np.zeros(1, int)).shape[1:] == (size, size, 3)

    def take(self, index_B: np.ndarray) -> np.ndarray:
        """Images for evaluation: uint8 [B, H, W, 3]; ValueError names a bad one."""
        reading = self.reading
        if self.drawn and self.source.draw is not None:
            return self.source.draw(index_B)
        return self._each(
            index_B,
            lambda encoded, index: decode.eval_crop(
                decode.decode(encoded, upright=reading.upright, pad=reading.pad),
                size=(reading.size, reading.size),
                crop_pct=reading.crop_pct,
                interpolation=reading.interpolation,
                crop_mode=reading.crop_mode,
                fill=reading.fill,
            ),
        )

    def views(self, index_B: np.ndarray, *, seed: int, view: int) -> np.ndarray:
        """Images for training, a function of (seed, view, index): uint8 [B, H, W, 3]."""
        reading = self.reading
        if reading.crop_scale is None:
            return self.take(index_B)
        return self._each(
            index_B,
            lambda encoded, index: decode.random_resized_crop(
                encoded,
                size=(reading.size, reading.size),
                generator=np.random.default_rng([seed, view, index]),
                scale=reading.crop_scale,
                interpolation=reading.interpolation,
                upright=reading.upright,
                pad=reading.pad,
            ),
        )

    def _each(
        self, index_B: np.ndarray, image_of: Callable[[bytes, int], np.ndarray]
    ) -> np.ndarray:
        size = self.reading.size
        images = np.empty((len(index_B), size, size, 3), np.uint8)

        def one(row: int) -> None:
            index = int(index_B[row])
            try:
                images[row] = image_of(self.source.read(index), index)
            except decode.DecodeError as error:
                raise ValueError(
                    f"{_undecodable(self.source, index, error)} config.on_bad_image=skip leaves "
                    "such images out; pad keeps what there is of truncated ones."
                ) from error

        # A batch is padded with one image repeated, which is decoded once.
        _, first, same_B = np.unique(index_B, return_index=True, return_inverse=True)
        threads = self.reading.threads * max(1, self.reading.processes)
        list(_pool(threads).map(one, first.tolist()))
        return images if len(first) == len(index_B) else images[first[same_B]]


# Either kind of split; batches are made from it.
Split = Images | Stream


class Splits(NamedTuple):
    """The splits of a data set, ready for making batches."""

    train: Split
    tune: Split
    validation: Split


def _undecodable(source: Source, index: int, error: Exception) -> str:
    return f"Image {lists.readable(source.where(index))} does not decode: {error}."


@functools.cache
def _pool(threads: int) -> futures.ThreadPoolExecutor:
    """The threads that decode all splits of this process."""
    return futures.ThreadPoolExecutor(threads, "decode")


def read(source: Source, reading: Reading, *, name: str) -> Images:
    """Decodes a whole split, with a progress bar called `name`; ValueError names a bad image."""
    stream = Stream(source, reading)
    kept = source.kept if stream.drawn else None
    if (there := _kept(kept, len(source), reading.size)) is not None:
        return Images(there, source.label_N)
    images = np.empty((len(source), reading.size, reading.size, 3), np.uint8)
    parts = [
        np.arange(start, min(start + _AT_ONCE, len(source)))
        for start in range(0, len(source), _AT_ONCE)
    ]
    # The threads decode the images of one part, or draw a part each.
    taken = (_pool(reading.threads).map if stream.drawn else map)(stream.take, parts)
    with progress.bar(total=len(source), desc=f"read {name}", unit="image", leave=False) as bar:
        for index, image_BxHxWx3 in zip(parts, taken, strict=True):
            images[index] = image_BxHxWx3
            bar.update(len(index))
    if kept is not None:
        with contextlib.suppress(OSError):  # the disk is full, or read-only
            arrays.save(kept, images)
    return Images(images, source.label_N)


def _kept(path: Path | None, count: int, size: int) -> np.ndarray | None:
    """The images that an earlier job drew, mapped into memory; None: they must be drawn."""
    if path is None:
        return None
    try:
        images = np.asarray(arrays.load(path))
    except (OSError, ValueError):  # missing, or not complete: drawn anew and written again
        return None
    wanted = (count, size, size, 3)
    return images if images.shape == wanted and images.dtype == np.uint8 else None


def open_split(source: Source, reading: Reading, *, name: str) -> Split:
    """A split in memory, if it is small enough and not cropped at random; else streamed."""
    fits = len(source) * reading.size**2 * 3 <= reading.cache_gb * 2**30
    if fits and reading.crop_scale is None:
        return read(source, reading, name=name)
    return Stream(source, reading)


def read_splits(dataset: Dataset, reading: Reading) -> Splits:
    """train, tune and validation; only train is cropped at random."""
    whole = reading._replace(crop_scale=None)
    return Splits(
        train=open_split(dataset.train, reading, name=f"{dataset.name} train"),
        tune=open_split(dataset.tune, whole, name=f"{dataset.name} tune"),
        validation=open_split(dataset.validation, whole, name=f"{dataset.name} validation"),
    )


def decodable(source: Source, *, threads: int, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(positions of the images that decode, a sentence about each that does not).

    Checked once, beforehand, so that batches stay a function of the step, and predictions exact.
    """

    def one(index: int) -> str | None:
        try:
            decode.decode(source.read(index))
        except (decode.DecodeError, OSError) as error:  # such as a file without read permission
            return _undecodable(source, index, error)
        return None

    wrong = []
    with progress.bar(total=len(source), desc=f"check {name}", unit="image", leave=False) as bar:
        for start in range(0, len(source), _AT_ONCE):
            wrong += _pool(threads).map(one, range(start, min(start + _AT_ONCE, len(source))))
            bar.update(len(wrong) - start)
    good_N = np.flatnonzero([sentence is None for sentence in wrong])
    return good_N, tuple(sentence for sentence in wrong if sentence is not None)


def turned(source: Source, *, threads: int, most: int = 2_000) -> tuple[int, int]:
    """(how many images EXIF says to rotate, of how many checked, spread evenly)."""
    if source.draw is not None:
        return 0, len(source)
    looked = np.unique(np.linspace(0, max(len(source) - 1, 0), min(len(source), most)).astype(int))

    def one(index: int) -> bool:
        with contextlib.suppress(decode.DecodeError):  # reported when it is decoded
            return decode.orientation(source.read(index)) != 1
        return False

    return sum(_pool(threads).map(one, looked.tolist())), len(looked)


def train_batches(
    images: Split,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    rows: np.ndarray | slice = slice(None),
    views: int | None = None,
) -> Iterator[Batch]:
    """Endless shuffled batches from `first_step` on; every image at most once per epoch.

    Only the `rows` of each batch are made. Other processes make the others, in the same order.

    An epoch has `len(images) // batch_size` steps: images that do not fill a batch wait for an
    epoch with another order. The view of an image is the number of the epoch, modulo `views` if
    given.
    """
    steps = len(images) // batch_size

    def batch(step: int) -> Batch:
        epoch, at = divmod(step, steps)
        order_N = _order(len(images), seed, epoch)
        index = order_N[at * batch_size : (at + 1) * batch_size][rows]
        view = epoch if views is None else epoch % views
        image = images.views(index, seed=seed, view=view)
        return batches.batch_of(images, image, index, np.ones(len(index), bool))

    numbers = range(first_step, np.iinfo(np.int32).max)
    if not isinstance(images, Stream) or not images.reading.processes:
        return batches.ahead(batch, numbers)
    processes = images.reading.processes
    images = dataclasses.replace(images, reading=images.reading._replace(processes=0))
    return _in_processes(batch, numbers, processes=processes)


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(count)


def grouped(single: Iterator[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """Groups of batches of these sizes, each stacked along a new first axis."""
    for size in sizes:
        group = list(itertools.islice(single, size))
        yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}


def _in_processes(
    batch: Callable[[int], Batch], numbers: range, *, processes: int
) -> Iterator[Batch]:
    """The batches with these numbers, in order, made ahead of time by other processes."""
    # Grain takes a quarter of a second to import: only done when needed.
    import grain

    # Grain's elements are whole batches, so its workers share these and lose no image.
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(batch).to_iter_dataset(ahead)
    # Grain reads absl's flags, which are not parsed in a notebook or a test.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=processes)
    return _told(dataset.mp_prefetch(options, worker_init_fn=_follow_parent))


def _told(made: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; raises ChildProcessError if a process that makes them died."""
    iterator = iter(made)
    try:
        yield from iterator
    except RuntimeError as error:  # Grain has no exception class for it
        if "terminated unexpectedly" not in str(error):
            raise
        raise ChildProcessError(
            "A decoding process (config.decode_processes) was killed, maybe because it ran out of "
            "memory. Start the job again to resume from its latest checkpoint."
        ) from error
    finally:
        iterator.close()


def _follow_parent(worker: int, workers: int) -> None:
    """Makes a decoding process end when its parent ends, for whatever reason, and not before.

    Ctrl-C and schedulers signal all processes; the parent needs batches until it has saved.
    """
    del worker, workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
