"""TFDS's ArrayRecord: what folders are converted to, and what is read of it."""

import os

import numpy as np
import pytest
from image_files import COUNTS, contents, encoded, fill, jpeg, prepare, write

from ktjax import data, progress
from ktjax.data import __main__ as command
from ktjax.data import convert, sources


def test_converted_folder_holds_the_same_bytes(tmp_path, capsys):
    folder = fill(tmp_path / "images", COUNTS)
    command.main(["convert", str(folder), str(tmp_path / "prepared" / "animals")])
    assert "data=tfds:animals" in capsys.readouterr().out
    dataset = data.load("tfds:animals", data_dir=str(tmp_path / "prepared"))
    plain = data.load(f"folder:{folder}")
    assert dataset.classes == plain.classes
    both = [sorted(x for source in d[1:4] for x in contents(source)) for d in (dataset, plain)]
    assert both[0] == both[1]
    for a, b in zip(dataset[1:4], plain[1:4], strict=True):
        assert np.bincount(a.label_N).tolist() == np.bincount(b.label_N).tolist()
    # In a random order, as a reader in sequence wants them.
    assert (
        np.diff(data.load("tfds:animals", data_dir=str(tmp_path / "prepared")).train.label_N) < 0
    ).any()


def test_converted_splits_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_SHARD_BYTES", 4000)
    fill(tmp_path / "images" / "train", {"a": 20, "b": 30})
    fill(tmp_path / "images" / "val", {"a": 4, "b": 6})
    path = convert.convert(tmp_path / "images", tmp_path / "pair")
    assert len(list(path.glob("*train.array_record*"))) > 2
    dataset = data.load("tfds:pair", data_dir=str(tmp_path))
    plain = data.load(f"folder:{tmp_path}/images")
    assert contents(dataset.validation) == contents(plain.validation)
    assert np.bincount(dataset.train.label_N).tolist() == [18, 27]


def test_converted_pool_without_labels(tmp_path):
    for i in range(7):
        write(tmp_path / "flat" / f"{i}.jpg", i)
    convert.convert(tmp_path / "flat", tmp_path / "pool")
    labeled = fill(tmp_path / "labeled", COUNTS)
    dataset = data.load("tfds:pool", data_dir=str(tmp_path), eval_data=f"folder:{labeled}")
    assert dataset.train.label_N.tolist() == [-1] * 7
    assert sorted(dataset.train.read(i) for i in range(7)) == sorted(
        encoded(i, "jpeg") for i in range(7)
    )


@pytest.mark.parametrize(
    ("out", "message"),
    [("Animals", "lowercase letters"), ("taken", "exists: delete it"), ("fine", "No folder")],
)
def test_conversion_refuses(out, message, tmp_path):
    (tmp_path / "taken" / convert.VERSION).mkdir(parents=True)
    folder = tmp_path if out == "fine" else fill(tmp_path / "images", COUNTS)
    with pytest.raises(SystemExit, match=message):
        command.main(
            ["convert", f"{folder}/x" if out == "fine" else str(folder), str(tmp_path / out)]
        )


def test_labels_are_read_once_and_not_believed_of_other_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    folder = fill(tmp_path / "images", {"a": 10, "b": 10})
    path = convert.convert(folder, tmp_path / "animals")
    first = data.load("tfds:animals", data_dir=str(tmp_path))
    assert "labels of train: " in capsys.readouterr().err  # of ImageNet it takes minutes
    (kept,) = path.glob("ktjax_labels_*.npy")
    label_N = np.load(kept)
    np.save(kept, 1 - label_N)
    again = data.load("tfds:animals", data_dir=str(tmp_path))
    np.testing.assert_array_equal(again.train.label_N, first.train.label_N)
    np.testing.assert_array_equal(np.load(kept), label_N)
    monkeypatch.setattr(sources, "_AT_ONCE", None)  # nothing is read in parts any more
    data.load("tfds:animals", data_dir=str(tmp_path))


def test_tensorflow_is_not_imported(python, tmp_path):
    fill(tmp_path / "images", COUNTS)
    (tmp_path / "tensorflow.py").write_text("")
    assert python(
        "import sys\n"
        f"folder = {os.fspath(tmp_path)!r}\n"
        "sys.path.insert(0, folder)\n"
        "from ktjax import data\n"
        "from ktjax.data import convert\n"
        "convert.convert(f'{folder}/images', f'{folder}/animals')\n"
        "dataset = data.load('tfds:animals', data_dir=folder)\n"
        "dataset.train.read(0)\n"
        "print(len(dataset.train), 'tensorflow' in sys.modules)"
    ) == ["57", "False"]


def test_data_without_labels_in_its_records_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    image = tfds.features.Image(encoding_format="jpeg")
    examples = {"train": [{"image": jpeg(0)}], "test": [{"image": jpeg(1)}]}
    prepare("images_alone", "1.0.0", examples, tmp_path, {"image": image})
    with pytest.raises(ValueError, match="has no feature `label` with class names: .*image"):
        data.load("tfds:images_alone", data_dir=str(tmp_path))


def test_a_file_that_is_too_large_is_named(tmp_path, monkeypatch):
    fill(tmp_path / "images", {"a": 3, "b": 3})
    with (tmp_path / "images" / "b" / "large.png").open("wb") as file:
        file.truncate(5000)
    monkeypatch.setattr(sources, "_MAX_BYTES", 4000)
    with pytest.raises(ValueError, match=r"/b/large.png' cannot be an image: it has 5,000 bytes"):
        convert.convert(tmp_path / "images", tmp_path / "prepared")


def test_validation_alone_is_enough_for_who_does_not_train(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
    }
    examples = [{"image": jpeg(i), "label": i % 2} for i in range(10)]
    prepare("held", "1.0.0", {"validation": examples}, tmp_path, features)
    with pytest.raises(ValueError, match="has only validation, .*config.eval_data"):
        data.load("tfds:held", data_dir=str(tmp_path))
    found = data.load_validation("tfds:held", data_dir=str(tmp_path))
    assert [len(found.train), len(found.tune), len(found.validation)] == [0, 0, 10]
    # Of one split to be parted it is what models that were trained there have not seen.
    prepare("whole", "1.0.0", {"train": examples}, tmp_path, features)
    found = data.load_validation("tfds:whole", data_dir=str(tmp_path))
    assert len(found.validation) == 2


def test_data_that_cannot_be_read_at_random_says_how_to_prepare_it(tmp_path):
    path = convert.convert(fill(tmp_path / "images", COUNTS), tmp_path / "animals")
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        ValueError, match="is not prepared as ArrayRecord.*--file_format=array_record"
    ):
        data.load("tfds:animals", data_dir=str(tmp_path))
