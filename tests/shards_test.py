"""Parquet files and WebDataset's archives of the hub's, converted and read."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from folders_test import image, put
from PIL import Image
from pyarrow import parquet as writer

from ktjax import data
from ktjax.data import convert, decode, shards

NAMES = ["tench", "goldfish, a fish"]


def parquet(path, rows, *, label="label", names=NAMES):
    """(image, label) as `datasets` writes them."""
    images = [{"bytes": content, "path": f"{i}.jpg"} for i, (content, _) in enumerate(rows)]
    table = pyarrow.table({"image": images, label: [answer for _, answer in rows]})
    features = {"image": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    facts = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(table.replace_schema_metadata({"huggingface": facts}), path)


def archive(path, rows):
    """(image, label) as WebDataset has them."""
    parts = {}
    for i, (content, label) in enumerate(rows):
        key = f"../../{path.stem}/{i:04}"
        parts[f"{key}.jpg"] = content
        parts[f"{key}.cls"] = label if isinstance(label, bytes) else str(label).encode()
    packed(path, parts)


def packed(path, parts):
    """{name: content}, and a link that leads elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("0009.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)


def rows(count, *, first=0):
    return [(image(first + i, "JPEG"), i % 2) for i in range(count)]


def loaded(folder, tmp_path):
    convert.convert(folder, tmp_path / "prepared")
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == {convert.VERSION}
    return data.load("tfds:prepared", data_dir=str(tmp_path))


def contents(source, classes):
    return {source.read(i): classes[source.label_N[i]] for i in range(len(source))}


def test_parquet(tmp_path, caplog):
    folder = tmp_path / "hub" / "data"
    parquet(folder / "train-00000-of-00002.parquet", rows(8))
    parquet(folder / "train-00001-of-00002.parquet", rows(8, first=8))
    parquet(folder / "validation-00000-of-00001.parquet", rows(4, first=16))
    parquet(folder / "test-00000-of-00001.parquet", [(image(99), -1)])
    put(tmp_path / "hub" / "README.md", b"# A data set")
    dataset = loaded(tmp_path / "hub", tmp_path)
    assert dataset.classes == tuple(NAMES) != tuple(sorted(NAMES))
    assert contents(dataset.validation, dataset.classes) == {
        content: NAMES[label] for content, label in rows(4, first=16)
    }
    assert len(dataset.train) + len(dataset.tune) == 16
    assert "1 files such as test-00000-of-00001.parquet" in caplog.text


def test_web_dataset_without_a_validation(tmp_path):
    archive(tmp_path / "wds" / "things-0000.tar", rows(12))
    archive(tmp_path / "wds" / "things-0001.tar", [*rows(12, first=12), (image(99, "JPEG"), -1)])
    dataset = loaded(tmp_path / "wds", tmp_path)
    assert dataset.classes == ("0", "1")
    every = {k: v for split in dataset[1:4] for k, v in contents(split, dataset.classes).items()}
    assert every == {content: str(label) for content, label in rows(24)}
    put(tmp_path / "wds" / "classnames.txt", "\n".join(NAMES).encode())
    place, _ = shards.unpack(tmp_path / "wds", tmp_path / "unpacked")
    assert data.load(f"folder:{place}").classes == tuple(sorted(NAMES))


def test_shards_that_cannot_be_are_told(tmp_path):
    put(tmp_path / "a" / "train.parquet", b"junk")
    put(tmp_path / "b" / "train.tar", b"junk")
    parquet(tmp_path / "c" / "train.parquet", rows(4), label="fine")
    archive(tmp_path / "d" / "train.tar", [(image(), "x\ud800".encode("utf-8", "surrogatepass"))])
    archive(tmp_path / "e" / "train.tar", [(image(), -1)])
    for name, message in (
        ("a", r"a/train.parquet is not a whole Parquet file"),
        ("b", r"b/train.tar is not a whole .tar file"),
        ("d", r"d/train.tar: the label of .*train/0000 cannot be read"),
        ("e", r"holds no image with a label"),
    ):
        with pytest.raises(ValueError, match=message):
            shards.unpack(tmp_path / name, tmp_path / f"out-{name}")
    place, _ = shards.unpack(tmp_path / "c", tmp_path / "out-c")  # its only column of labels
    assert data.folders.read(place).classes == tuple(sorted(NAMES))
    pixels = decode.decode((place / "00000-00000000.jpg").read_bytes())
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(rows(1)[0][0]))))


def test_images_beside_an_archive_are_no_shards(tmp_path):
    for i in range(6):
        put(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", image(i))
    archive(tmp_path / "images" / "images.tar", rows(2))
    assert not shards.holds(tmp_path / "images")
    archive(tmp_path / "flat" / "images.tar", rows(2))
    put(tmp_path / "flat" / "0.png", image())
    assert not shards.holds(tmp_path / "flat")


def listed(place):
    """[(content, label)] of what was unpacked."""
    lines = (place / "metadata.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [((place / row["file_name"]).read_bytes(), row["label"]) for row in found]


def test_shards_of_several_folders_that_are_called_the_same(tmp_path):
    for i, name in enumerate("ab"):
        parquet(tmp_path / "hub" / name / "train-0.parquet", [(image(i), i)])
    place, _ = shards.unpack(tmp_path / "hub", tmp_path / "out")
    assert listed(place) == [(image(0), NAMES[0]), (image(1), NAMES[1])]


@pytest.mark.parametrize(
    ("names", "labels", "expected", "told"),
    [
        ([["z", "y"]] * 2, [0, 1], ("z", "y"), None),
        ([["z", "y", "x"]] * 2, [0, 2], ("z", "x"), "left out without images: 1, such as 'y'"),
        ([["z", "y"], ["y", "z"]], [0, 1], (), "its files do not give each number one name"),
        ([["z", "z", "y"]] * 2, [0, 2], (), "its files do not give each number one name"),
        ([[], []], [0, 1], (), None),
        ([[], []], [0, 2], (), "some numbers are missing"),
    ],
    ids=["all", "one without images", "different", "twice", "numbers", "numbers with a gap"],
)
def test_classes_keep_their_order(names, labels, expected, told, tmp_path, caplog):
    for i, of_file in enumerate(names):
        content = [(image(10 * i + j, "JPEG"), label) for j, label in enumerate(labels)]
        parquet(tmp_path / "in" / f"train-{i}.parquet", content, names=of_file)
    assert shards.unpack(tmp_path / "in", tmp_path / "out").classes == expected
    assert ("config.classes=position" in caplog.text) == (told is not None)
    assert told is None or told in caplog.text


def test_samples_as_people_pack_them(tmp_path, caplog):
    parts = {
        **{"._0.jpg": b"Mac OS X", "0.jpg": image(0), "._0.cls": b"Mac OS X", "0.cls": b"1"},
        **{"1.JPG": image(1), "1.json": b'{"label": "cat"}', "2.jpg": image(2), "2.json": b"{}"},
        **{"3.jpg": image(3), "3.json": b'{"label": null}'},
        **{"4.left.png": image(4), "4.cls": b"3", "notes.txt": b"of nothing"},
    }
    packed(tmp_path / "in" / "x.tar", parts)
    place, _ = shards.unpack(tmp_path / "in", tmp_path / "out")
    assert listed(place) == [(image(0), 1), (image(1), "cat")]
    assert "x.tar: 1 samples without an image" in caplog.text
    assert "x.tar: 2 images without labels" in caplog.text


@pytest.mark.parametrize(
    ("noted", "labels", "message"),
    [
        ("{", [0, 1], "what `datasets` recorded of its columns is"),
        ('{"info": {"features": {"image": 3}}}', [0, 1], "what `datasets` recorded of its"),
        ("{}", [0.0, 1.0], "a label is neither a whole number nor a name: 0.0"),
        ("{}", ["", "b"], "a label is neither a whole number nor a name: ''"),
    ],
)
def test_columns_that_cannot_be(noted, labels, message, tmp_path):
    images = [{"bytes": image(i), "path": None} for i in range(2)]
    table = pyarrow.table({"image": images, "label": labels})
    path = tmp_path / "train.parquet"
    writer.write_table(table.replace_schema_metadata({"huggingface": noted}), path)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        shards.unpack(tmp_path, tmp_path / "out")


def test_a_damaged_page_names_the_file(tmp_path):
    parquet(tmp_path / "train.parquet", rows(4))
    content = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(content[:4] + bytes(60) + content[64:])
    with pytest.raises(ValueError, match=r"train.parquet is not a whole Parquet file"):
        shards.unpack(tmp_path, tmp_path / "out")


def test_names_of_classes_that_cannot_be(tmp_path):
    archive(tmp_path / "a" / "x.tar", rows(4))
    for names, message in (
        ("crane\ntench\ncrane", r"classnames.txt calls two classes 'crane', in lines 1 and 3"),
        ("tench", r"x.tar has the label 1, and names for only 1 classes"),
    ):
        put(tmp_path / "a" / "classnames.txt", names.encode())
        with pytest.raises(ValueError, match=message):
            shards.unpack(tmp_path / "a", tmp_path / names[:1])
    put(tmp_path / "a" / "classnames.txt", "crane\ntench".encode("utf-16"))
    with pytest.raises(ValueError, match=r"a/classnames.txt' is not UTF-8 text: save it as UTF-8"):
        shards.unpack(tmp_path / "a", tmp_path / "utf-16")
    packed(tmp_path / "b" / "x.tar", {"0.jpg": image(), "0.json": b'{"label": [1]}'})
    with pytest.raises(ValueError, match=r"neither a whole number nor a name: \[1\]"):
        shards.unpack(tmp_path / "b", tmp_path / "out-b")


def test_names_of_classes_that_windows_wrote(tmp_path):
    archive(tmp_path / "in" / "x.tar", [(image(0), 0), (image(1), 1), (image(2), b"\xef\xbb\xbf1")])
    text = "".join(f"{name}\r\n" for name in (*NAMES, "", ""))
    put(tmp_path / "in" / "classnames.txt", text.encode("utf-8-sig"))
    place, _ = shards.unpack(tmp_path / "in", tmp_path / "out")
    assert [label for _, label in listed(place)] == [NAMES[0], NAMES[1], NAMES[1]]
