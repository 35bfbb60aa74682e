"""A folder of images, Parquet files or archives -> ArrayRecord that TFDS and ktjax read.

Images are not re-encoded. One file of a thousand images reads faster than a thousand files, and is
easier to copy. TensorFlow is not needed.
"""

import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from ktjax import paths, progress
from ktjax.data import decode, folders, lists, shards, sources

VERSION = "1.0.0"
_SHARD_BYTES = 2**28
_SEED = 1234


def convert(folder: str | Path, out: str | Path) -> Path:
    """Writes the images of a folder to `out/1.0.0`; `data=tfds:<name of out>` reads it.

    The splits are those of the folder; without any, all images become `train`. Records are in
    random order, the same every time.

    Args:
      folder: as for `folder:PATH`, see `ktjax.data.folders`; or Parquet files or WebDataset
        archives from the Hugging Face hub, see `shards`, which need twice their space meanwhile.
        Their classes keep the recorded order.
      out: `DATA_DIR/NAME`, with a lowercase name, as TFDS requires.

    Returns:
      The folder written.

    Raises:
      ValueError: the name is invalid, the output exists already, the folder holds no data set, a
        file cannot be an image, or TFDS would change the name of a class.
    """
    folder, out = paths.on_disk(folder, "folder"), paths.on_disk(out, "out")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", out.name):
        raise ValueError(
            f"'{out}' must end with a name of lowercase letters, digits and underscores: the NAME "
            "in data=tfds:NAME."
        )
    if not folder.is_dir():
        raise ValueError(f"No folder '{folder}'.")
    final = out / VERSION
    if final.exists():
        raise ValueError(f"'{final}' exists: delete it, or choose another name.")
    if shards.holds(folder):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix="unpacked-") as unpacked:
            place, classes = shards.unpack(folder, Path(unpacked))
            return _convert(place, _ordered(folders.read(place), classes), out, final)
    return _convert(folder, folders.read(folder), out, final)


def _ordered(found: lists.Folder, classes: tuple[str, ...]) -> lists.Folder:
    """The same labeled images with the classes in this order, if it is one."""
    if not classes:
        return found
    label_C = np.asarray([classes.index(name) for name in found.classes], np.int32)
    splits = {
        split: lists.Listed(listed.files, label_C[listed.label_N])
        for split, listed in found.splits.items()
    }
    return lists.Folder(splits, classes)


def _convert(folder: Path, found: lists.Folder, out: Path, final: Path) -> Path:
    """`convert` of a folder of images, as it was read."""
    for name in found.classes:
        if [name] != name.strip().splitlines():
            raise ValueError(
                f"TFDS stores class names as lines of text, which would change {name!r}: rename it."
            )
    import tensorflow_datasets as tfds

    # TFDS requires at least one class.
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=found.classes or ("unknown",)),
            "file_name": tfds.features.Text(),
        }
    )
    part = out / f"{VERSION}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    splits = []
    for split, listed in found.splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=part,
            dataset_name=out.name,
            split="train" if split == "all" else split,
            filetype_suffix="array_record",
        )
        splits.append(_write(template, features, folder, listed))
    tfds.folder_dataset.write_metadata(
        data_dir=str(part),
        features=features,
        split_infos=splits,
        filename_template=splits[0].filename_template,
        check_data=False,
    )
    os.replace(part, final)
    return final


def _write(template: Any, features: Any, folder: Path, listed: lists.Listed) -> Any:
    """Writes the shards of a split, and returns TFDS's description of it."""
    import tensorflow_datasets as tfds

    order = np.random.Generator(np.random.Philox(key=_SEED)).permutation(len(listed.files))
    sizes = [(folder / listed.files[i]).stat().st_size for i in order]
    shard_of = np.cumsum([0, *sizes[:-1]]) // _SHARD_BYTES
    numbers = np.unique(shard_of)
    bar = progress.bar(
        total=len(order), desc=f"convert {template.split}", unit="image", leave=False
    )
    with bar:
        for shard, number in enumerate(numbers):
            path = template.sharded_filepath(shard_index=shard, num_shards=len(numbers))
            # One record per group, so that each can be read by itself.
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            for i in order[shard_of == number]:
                image = folder / listed.files[i]
                try:
                    encoded = sources.read_file(image)
                except decode.DecodeError as error:
                    raise ValueError(f"'{image}' cannot be an image: {error}.") from None
                example = {
                    "image": io.BytesIO(encoded),
                    "label": int(listed.label_N[i]),
                    "file_name": lists.readable(listed.files[i]),
                }
                writer.write(features.serialize_example(example))
                bar.update()
            writer.close()
    return tfds.core.SplitInfo(
        name=template.split,
        shard_lengths=[int((shard_of == number).sum()) for number in numbers],
        num_bytes=int(sum(sizes)),
        filename_template=template,
    )
