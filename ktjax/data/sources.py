"""Random access to encoded images and their labels; stratified parts of them."""

import dataclasses
import functools
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ktjax import batches, paths, progress
from ktjax.data import decode

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 2**30  # of an image file
_SIZES, _CONTENTS = 2**15, 2**9  # images that a fingerprint looks at
_AT_ONCE = 4096  # records whose labels are read together: their images must fit into memory


@dataclasses.dataclass(frozen=True)
class Source:
    """One split.

    Attributes:
      label_N: int32, -1 where unlabeled.
      read: position -> the encoded image.
      where: position -> the name of the image, in messages and to recognize it.
      draw: positions [B] -> uint8 [B, H, W, 3], the same images decoded; None: they are stored.
      size: position -> size of the encoded image in bytes; None: unknown until it is read.
      kept: the file that keeps all drawn images for the next time; None: nothing does.
    """

    label_N: np.ndarray
    read: Callable[[int], bytes]
    where: Callable[[int], str]
    draw: Callable[[np.ndarray], np.ndarray] | None = None
    size: Callable[[int], int] | None = None
    kept: Path | None = None

    def __len__(self) -> int:
        return len(self.label_N)

    @property
    def labeled(self) -> bool:
        """Whether every image has a label."""
        return batches.are_labeled(self.label_N)

    def select(self, index_N: np.ndarray) -> "Source":
        """The images at these positions."""
        draw, size = self.draw, self.size
        return Source(
            label_N=self.label_N[index_N],
            read=lambda i: self.read(index_N[i]),
            where=lambda i: self.where(index_N[i]),
            draw=None if draw is None else lambda index_B: draw(index_N[index_B]),
            size=None if size is None else lambda i: size(index_N[i]),
        )

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """Identifies the images: number, labels, names, sizes, and the contents of some files.

        Sizes are of _SIZES images drawn uniformly, contents of _CONTENTS; of all, if there are no
        more. Images that are drawn when they are read have neither.
        """
        found: dict[str, Any] = {"images": len(self), "labels": _digest([self.label_N.tobytes()])}
        found["names"] = _digest(os.fsencode(f"{self.where(i)}\0") for i in range(len(self)))
        if self.size is not None:
            sizes = (_size(self.size, i) for i in drawn(len(self), _SIZES))
            found["sizes"] = _digest(f"{size} ".encode() for size in sizes)
        if self.draw is None:
            probes = drawn(len(self), _CONTENTS)
            found["contents"] = _digest(hashlib.sha256(self._peek(i)).digest() for i in probes)
        return found

    def _peek(self, i: int) -> bytes:
        try:
            return self.read(i)
        except (OSError, decode.DecodeError) as error:  # reported when the image is needed
            return type(error).__name__.encode()

    def take(self, count: int) -> "Source":
        """`count` images drawn uniformly (all, if there are fewer), in their order."""
        return self.select(drawn(len(self), count))


def _size(size: Callable[[int], int], i: int) -> int:
    try:
        return size(i)
    except OSError:  # likewise
        return -1


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def drawn(total: int, count: int) -> np.ndarray:
    """`count` of `total` positions (all, if there are fewer), sorted; the same every time."""
    generator = np.random.Generator(np.random.Philox(key=[total, count]))
    return np.sort(generator.permutation(total)[:count])


def read_file(path: str | os.PathLike) -> bytes:
    """The contents of a file.

    DecodeError if it cannot be an image: a pipe, a device, or more than _MAX_BYTES.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise decode.DecodeError("not a regular file")
    if found.st_size > _MAX_BYTES:
        raise decode.DecodeError(f"it has {found.st_size:,} bytes, more than {_MAX_BYTES:,}")
    return Path(path).read_bytes()


def of_files(root: Path, files: Sequence[str], label_N: np.ndarray) -> Source:
    """Image files, by their names below `root`."""
    # Strings, not Paths: a million of those would take a gigabyte.
    return Source(
        label_N,
        lambda i: read_file(os.path.join(root, files[i])),
        lambda i: os.path.join(root, files[i]),
        size=lambda i: os.path.getsize(os.path.join(root, files[i])),
    )


def stratified(label_N: np.ndarray, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions kept, positions held out): the same fraction of each class, to within one sample.

    At least one sample of each class is held out, and one is kept if there are two.
    """
    counts = {
        label: max(1, min(round(size * fraction), size - 1))
        for label, size in _sizes(label_N).items()
    }
    held = _draw(label_N, counts, seed=seed)
    return np.setdiff1d(np.arange(len(label_N)), held), held


def halves(label_N: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions of one half, of the other): as many of each class.

    The odd sample of a class goes to the first half and to the other in turn.
    """
    sizes = _sizes(label_N)
    odd = [label for label, size in sizes.items() if size % 2]
    counts = {label: size // 2 for label, size in sizes.items()}
    counts |= {label: counts[label] + 1 for label in odd[1::2]}
    other = _draw(label_N, counts, seed=seed)
    return np.setdiff1d(np.arange(len(label_N)), other), other


def subset(
    label_N: np.ndarray, candidates: np.ndarray, *, fraction: float, seed: int
) -> np.ndarray:
    """Some of the `candidates`: a fraction of all samples of each class, to within one sample.

    Candidates are the positions left after holding out others. That makes the subset smaller only
    if a class has too few left.
    """
    counts = {label: max(1, round(size * fraction)) for label, size in _sizes(label_N).items()}
    return candidates[_draw(label_N[candidates], counts, seed=seed)]


def _sizes(label_N: np.ndarray) -> dict[int, int]:
    labels, sizes = np.unique(label_N, return_counts=True)
    return dict(zip(labels.tolist(), sizes.tolist(), strict=True))


def _draw(label_N: np.ndarray, counts: Mapping[int, int], *, seed: int) -> np.ndarray:
    """Sorted positions: from each class as many as `counts` says, or all that it has."""
    drawn = [np.zeros(0, np.int64)]
    by_class = np.argsort(label_N, kind="stable")
    labels, starts = np.unique(label_N[by_class], return_index=True)
    for label, members in zip(labels.tolist(), np.split(by_class, starts[1:]), strict=True):
        # One generator per class: what a class gets does not depend on the other classes. Images
        # without a label are a class of their own, -1.
        generator = np.random.Generator(np.random.Philox(key=[seed, label % 2**63]))
        drawn.append(generator.permutation(members)[: counts[label]])
    return np.sort(np.concatenate(drawn))


def prepared(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of a data set that is on disk, whether or not TFDS has code for it.

    Raises TFDS's errors: there is no such data set below `data_dir`, or no such name.
    """
    import tensorflow_datasets as tfds

    if data_dir is not None:  # TFDS takes a leading ~ for the name of a folder
        data_dir = str(paths.on_disk(data_dir, "config.data_dir"))
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)


def from_tfds(builder: Any, split: str) -> Source:
    """A split of a prepared TFDS builder with `image` and `label`, read without TensorFlow.

    Labels are in the same records as images, so they are read once and kept beside the records.

    Raises:
      ValueError: it has no image, no label, or is not prepared as ArrayRecord.
    """
    return of_records(builder, split, _labels(builder, split))


def of_records(builder: Any, split: str, label_N: np.ndarray) -> Source:
    """The images of a prepared TFDS builder, with labels from elsewhere; raises as `from_tfds`."""
    read = tfds_reader(builder, split, ("image",))
    return Source(
        label_N=label_N,
        read=lambda i: read([i])[0]["image"],
        where=lambda i: f"{builder.info.full_name}/{split}[{i}]",
    )


def tfds_reader(
    builder: Any, split: str, names: Sequence[str]
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """`read(positions)` gives these features of the records; images stay encoded.

    Raises:
      ValueError: there is no such feature, or the data set is not prepared as ArrayRecord.
    """
    import tensorflow_datasets as tfds

    missing = [name for name in names if name not in builder.info.features]
    if missing:
        raise ValueError(
            f"'{builder.name}' has no feature {' or '.join(missing)}: it has "
            f"{', '.join(builder.info.features)}."
        )
    # Other features (masks, say) are not decoded.
    features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})
    skip = {"image": tfds.decode.SkipDecoding()} if "image" in names else None
    try:
        records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"'{builder.data_path}' is not prepared as ArrayRecord, the only format with random "
            f"access: run tfds build {builder.name} --file_format=array_record, or tfds "
            "convert_format."
        ) from error

    def read(positions: Sequence[int]) -> list[dict[str, Any]]:
        return [
            features.deserialize_example_np(record, decoders=skip)
            for record in records.__getitems__(list(positions))
        ]

    return read


def _labels(builder: Any, split: str) -> np.ndarray:
    """The labels of a split: int32 [N]."""
    count = builder.info.splits[split].num_examples
    read = tfds_reader(builder, split, ("label",))

    def at(positions: Sequence[int]) -> list[int]:
        return [int(example["label"]) for example in read(positions)]

    path = builder.data_path / f"ktjax_labels_{split}.npy"
    probes = np.unique(np.linspace(0, count - 1, 16).astype(int)).tolist()
    try:
        with path.open("rb") as file:
            kept_N = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        kept_N = np.zeros(0, np.int32)
    if len(kept_N) == count and kept_N[probes].tolist() == at(probes):
        return kept_N  # the probes show that the labels belong to these records
    label_N = np.empty(count, np.int32)
    with progress.bar(total=count, desc=f"labels of {split}", unit="image", leave=False) as bar:
        for start in range(0, count, _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, count))
            label_N[part] = at(part)
            bar.update(len(part))
    try:
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, label_N)
        part.replace(path)
    except OSError as error:
        _LOG.warning(
            "%s cannot be written (%s): every start reads all records for their labels.",
            path,
            error.strerror,
        )
    return label_N
