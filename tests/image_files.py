"""Files of images and data sets as tests write them, and what a source reads of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ktjax import data

COUNTS = {"zebra": 10, "ant": 50, "Bee": 20}


def encoded(number, suffix):
    """A picture of its own color; sizes vary."""
    buffer = io.BytesIO()
    size = (8 + number % 5, 20 - number % 7)
    Image.new("RGB", size, (number % 256, 100, 200)).save(buffer, suffix.replace("jpg", "jpeg"))
    return buffer.getvalue()


def jpeg(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "jpeg")
    buffer.seek(0)
    return buffer


def write(path, number=0, kind="jpeg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number, kind))


def fill(folder, counts):
    """A directory of PNG and JPEG files for each class of {class: count}."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            suffix = ("png", "jpg", "jpeg")[i % 3]
            (folder / name / f"{i:03}.{suffix}").write_bytes(encoded(i, suffix))
    return folder


def load(folder):
    return data.load(f"folder:{folder}")


def files(source):
    return [source.where(i) for i in range(len(source))]


def contents(source):
    """(label, bytes) of every image, in any order."""
    return sorted((int(source.label_N[i]), source.read(i)) for i in range(len(source)))


def prepare(name, version, splits, data_dir, features):
    """A TFDS data set of these examples, written as TFDS would, without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    folder = Path(data_dir) / name / version
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    infos = []
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=name.partition("/")[0],
            split=split,
            filetype_suffix="array_record",
        )
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(features.serialize_example(example))
        writer.close()
        infos.append(tfds.core.SplitInfo(split, [len(examples)], 0, template))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=infos,
        filename_template=infos[0].filename_template,
        check_data=False,
    )
