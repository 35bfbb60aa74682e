"""Folders as people have them: every format and name, nested, with lists, cut off; what is told."""

import io
import json
import os
import re

import numpy as np
import pytest
from image_files import files, fill, load
from PIL import Image, ImageFile

from ktjax import data
from ktjax.data import convert, decode, folders, pipeline, sources


def image(number=0, kind="PNG", side=12):
    """A picture of its own, with structure."""
    rows = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rows).save(buffer, kind)
    return buffer.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def of(dataset, source):
    """{file name: class} of a split."""
    names = (os.path.basename(file) for file in files(source))
    return dict(zip(names, (dataset.classes[i] for i in source.label_N), strict=True))


def everything(dataset):
    return {k: v for split in dataset[1:4] for k, v in of(dataset, split).items()}


# What is an image.

KINDS = {
    "a.jfif": "JPEG", "b.jpe": "JPEG", "c.bmp": "BMP", "d.webp": "WEBP", "e.TIF": "TIFF",
    "f.gif": "GIF", "g.avif": "AVIF", "h.tiff": "TIFF",
}  # fmt: skip


def test_formats_are_taken_by_content_and_recursively(tmp_path, caplog):
    fill(tmp_path, {"plain": 3})
    for name, kind in KINDS.items():
        put(tmp_path / "odd" / name, image(kind=kind))
    for kind in set(KINDS.values()):  # without a name that says so, at any depth
        put(tmp_path / "odd" / "deep" / "er" / f"{kind.lower()} image", image(kind=kind))
    put(tmp_path / "odd" / "a.png", image(kind="JPEG"))
    (tmp_path / "odd" / "deep" / "loop").symlink_to(tmp_path / "odd")
    dataset = load(tmp_path)
    count = len(KINDS) + len(set(KINDS.values())) + 1
    assert [*everything(dataset).values()].count("odd") == count
    assert all(
        decode.decode(split.read(i)).shape[2] == 3
        for split in dataset[1:4]
        for i in range(len(split))
    )
    assert not caplog.messages


def test_what_is_left_out_is_counted_by_cause_in_one_line(tmp_path, caplog):
    fill(tmp_path, {"a": 9, "b": 9})
    for name in ("a/x.heic", "a/deep/y.HEIC", "b/notes.txt", "b/BMW.txt", "__MACOSX/readme.txt"):
        put(tmp_path / name, b"BM is how bitmaps begin, and so does this")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "README").write_text("beside the classes: no word about it")
    assert len(everything(load(tmp_path))) == 9
    (message,) = caplog.messages
    for part in (
        "unsupported formats: 2 ('a/deep/y.HEIC', for one)",
        "not images: 2 ('b/BMW.txt', for one)",
        "not regular files: 1 ('b/pipe.png')",
        "directories without images: 1 ('__MACOSX')",
    ):
        assert part in message


def test_names_of_any_bytes(tmp_path):
    fill(tmp_path / "images", {"a": 9, "b": 9})
    put(tmp_path / "images" / "a" / "new\nline.png", image(1))
    put(tmp_path / "images" / "b" / f"{'x' * 240}.png", image(2))
    odd = os.fsencode(tmp_path / "images" / "b") + b"/\xe9.jpg"
    os.rename(tmp_path / "images" / "b" / "000.png", odd)
    assert sum(map(len, load(tmp_path / "images")[1:4])) == 20
    convert.convert(tmp_path / "images", tmp_path / "packed")
    dataset = data.load("tfds:packed", data_dir=str(tmp_path))
    assert sum(map(len, dataset[1:4])) == 20
    with open(odd, "wb"):
        pass
    source = sources.of_files(tmp_path / "images", ["b/\udce9.jpg"], np.zeros(1, np.int32))
    stream = pipeline.Stream(source, pipeline.Reading(size=8))
    with pytest.raises(ValueError, match=r"Image .*/b/\\xe9.jpg does not decode: it is em") as told:
        stream.take(np.arange(1))
    assert str(told.value).encode()


@pytest.mark.parametrize("name", ["new\nline", " space", " ", "return\rs"])
def test_names_of_classes_that_would_become_others_are_not_converted(name, tmp_path):
    listed(tmp_path / "in", [("0.png", name), ("1.png", "b")], "jsonl")
    with pytest.raises(ValueError, match=re.escape(f"would change {name!r}: rename it")):
        convert.convert(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_class_that_nothing_is_left_of_is_refused(tmp_path):
    fill(tmp_path, {"a": 9, "b": 9})
    put(tmp_path / "c" / "x.heic", b"")
    with pytest.raises(
        ValueError, match=r"class '.*/c' has no readable image .unsupported formats"
    ):
        load(tmp_path)


def test_one_class_is_refused_and_what_may_be_meant_is_said(tmp_path):
    fill(tmp_path / "unpacked", {"a": 9, "b": 9})
    with pytest.raises(
        ValueError, match=r"only one class, 'unpacked': .* Did you mean folder:.*/unpacked\?$"
    ):
        load(tmp_path)
    put(tmp_path / "shards" / "train-0.parquet", b"")
    with pytest.raises(ValueError, match=r"no images, but train-0.parquet: `python -m ktjax.data "):
        load(tmp_path / "shards")


def test_directories_that_repeat_below_all_classes_are_told(tmp_path, caplog):
    fill(tmp_path, {"fold1/a": 5, "fold1/b": 5, "fold2/a": 5, "fold2/b": 5})
    assert load(tmp_path).classes == ("fold1", "fold2")
    assert "contain the same directories (a, b)" in caplog.text


# Layouts.


def make_tiny_imagenet(folder):
    for i in range(8):
        name = ("n01443537", "n01629819")[i % 2]
        put(folder / "train" / name / "images" / f"{name}_{i}.JPEG", image(i, "JPEG"))
        put(folder / "train" / name / f"{name}_boxes.txt", b"n01443537_0.JPEG\t0\t10\t63\t58\n")
        put(folder / "test" / "images" / f"test_{i}.JPEG", image(i, "JPEG"))
    lines = []
    for i in range(4):
        put(folder / "val" / "images" / f"val_{i}.JPEG", image(i, "JPEG"))
        lines.append(f"val_{i}.JPEG\t{('n01443537', 'n01629819')[i // 2]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n01443537\nn01629819\n")


def test_tiny_imagenet_as_it_unpacks(tmp_path):
    make_tiny_imagenet(tmp_path)
    dataset = data.load(f"folder:{tmp_path}", minival=0.25)
    assert dataset.classes == ("n01443537", "n01629819")
    assert of(dataset, dataset.validation) == {
        f"val_{i}.JPEG": dataset.classes[i // 2] for i in range(4)
    }
    assert all(name.startswith(label) for name, label in of(dataset, dataset.train).items())
    with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_3.JPEG\tn9\t0\t0\t0\t0\n")
    with pytest.raises(ValueError, match=r"val_3.JPEG is of class n9, which has no images in"):
        load(tmp_path)


def test_a_test_set_without_labels_is_not_measured_on(tmp_path, caplog):
    fill(tmp_path / "train", {"a": 10, "b": 10})
    put(tmp_path / "test" / "0.png", image())
    dataset = load(tmp_path)
    assert len(dataset.validation) == 4
    assert "/test has no labels and is left out" in caplog.text
    (tmp_path / "test").rename(tmp_path / "val")
    with pytest.raises(
        ValueError, match=r"/val' has no labels: it needs .* or metadata.csv or met"
    ):
        load(tmp_path)


def listed(folder, rows, kind):
    """Rows (file, label) as the Hugging Face hub's imagefolder has them."""
    for i, (file, _) in enumerate(rows):
        put(folder / file, image(i))
    if kind == "csv":
        text = "\n".join(["file_name,label", *(f'"{file}",{label}' for file, label in rows)])
    else:
        lines = (json.dumps({"file_name": file, "label": label}) for file, label in rows)
        text = "\n".join(lines)
    (folder / f"metadata.{kind}").write_text(text)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lists_of_labels(kind, tmp_path):
    rows = [(f"images/{i}, or so.png", ("cat", "Dog")[i % 2]) for i in range(10)]
    listed(tmp_path / "flat", rows, kind)
    dataset = load(tmp_path / "flat")
    assert dataset.classes == ("Dog", "cat")
    assert everything(dataset) == {file.removeprefix("images/"): name for file, name in rows}
    # Beside each split; numbers are in their order.
    for split, numbers in (("train", [10, 9, 2] * 3), ("test", [2, 10])):
        rows = [(f"{i}{split}.png", number) for i, number in enumerate(numbers)]
        listed(tmp_path / "splits" / split, rows, kind)
    dataset = load(tmp_path / "splits")
    assert dataset.classes == ("2", "9", "10")
    assert of(dataset, dataset.validation) == {"0test.png": "2", "1test.png": "10"}
    # Beside all splits, one list.
    rows = [(f"{split}/{i}.png", i % 2) for split in ("train", "val") for i in range(6)]
    listed(tmp_path / "one", rows, kind)
    dataset = load(tmp_path / "one")
    assert len(dataset.validation) == 6 and dataset.classes == ("0", "1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "gone.png", "label": 1}', "lacks gone.png, which its lists name"),
        ('{"file_name": "../x.png", "label": 1}', "line 7: '../x.png' is not a file in the folder"),
        ('{"file_name": "/etc/passwd", "label": 1}', "line 7: '/etc/passwd' is not a file in"),
        ('{"file_name": ".", "label": 1}', "line 7: '.' is not a file in the folder"),
        ('{"file_name": "./0.png", "label": 1}', "line 7: '0.png' is listed twice"),
        ('{"label": 1}', "line 7: no file_name"),
        ('{"file_name": "0.png"}', "line 7: label is None, and must be a name or a whole num"),
        ('{"file_name": "0.png", "label": [1, 2]}', r"line 7: label is \[1, 2\], and must be"),
        ("[" * 9999, "line 7: not a JSON object"),
        ("5", "line 7: not a JSON object"),
    ],
)
def test_lists_that_cannot_be(line, message, tmp_path):
    listed(tmp_path, [(f"{i}.png", i % 2) for i in range(6)], "jsonl")
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(f"\n{line}")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("file", ["/etc/hosts", "real/../../outside.png"])
def test_lists_of_archives_name_no_files_elsewhere(file, tmp_path):
    folder = tmp_path / "in"
    put(tmp_path / "outside.png", image())
    for i in range(6):
        put(folder / "real" / "ab"[i % 2] / f"{i}.png", image(i))
    lines = [f"real/{'ab'[i % 2]}/{i}.png {(7, 20)[i % 2]}\n" for i in range(6)]
    put(folder / "real_train.txt", "".join(lines).encode())
    put(folder / "real_test.txt", "".join(lines).encode())
    dataset = load(folder)  # numbers are those of the whole data set
    assert of(dataset, dataset.validation) == {f"{i}.png": "ab"[i % 2] for i in range(6)}
    put(folder / "real_test.txt", f"{file} 0\n".encode())
    with pytest.raises(ValueError, match=f"lacks {file}, which its lists name"):
        load(folder)


def test_lists_without_labels_leave_directories_as_classes(tmp_path, caplog):
    fill(tmp_path, {"a": 9, "b": 9})
    (tmp_path / "metadata.csv").write_text("file_name,text\na/000.png,a caption\n")
    assert load(tmp_path).classes == ("a", "b")
    assert "metadata.csv has no column label" in caplog.text


def test_images_that_a_list_does_not_name_are_counted(tmp_path, caplog):
    listed(tmp_path, [(f"{i}.png", i % 2) for i in range(10)], "csv")
    load(tmp_path)
    assert not caplog.messages
    put(tmp_path / "deep" / "10.png", image(10))
    load(tmp_path)
    assert "not in the lists: 1 ('deep/10.png')" in caplog.text


def test_of_two_splits_for_one_the_second_is_told(tmp_path, caplog):
    for split in ("train", "val", "test", "notes"):
        fill(tmp_path / split, {"a": 4, "b": 4} if split != "notes" else {})
    assert len(load(tmp_path).validation) == 8
    (message,) = caplog.messages
    assert message.endswith("beside the splits: 1 ('test').")


def test_a_minival_without_labels_is_refused(tmp_path):
    for split in ("train", "val"):
        fill(tmp_path / split, {"a": 4, "b": 4})
    put(tmp_path / "tune" / "0.png", image())
    with pytest.raises(ValueError, match="/tune' has no labels: it needs one directory per class"):
        load(tmp_path)


def test_numbers_as_names_keep_the_order_of_torchvision(tmp_path):
    assert load(fill(tmp_path, {"10": 3, "2": 3, "1": 3})).classes == ("1", "10", "2")


# Files that were cut off.


def cut(kind="JPEG", share=0.6):
    whole = image(3, kind, side=64)
    return whole[: int(len(whole) * share)]


def by_pillow(encoded):
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_was_cut_off_is_padded_as_pillow_does(kind):
    encoded = cut(kind)
    with pytest.raises(decode.DecodeError, match="truncated"):
        decode.decode(encoded)
    padded = decode.decode(encoded, pad=True)
    np.testing.assert_array_equal(padded, by_pillow(encoded))
    whole = decode.decode(image(3, kind, side=64))
    assert (padded[:16] == whole[:16]).all() and (padded != whole).any()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(decode.DecodeError):  # nothing of it is there
        decode.decode(encoded[:20], pad=True)


def test_padded_images_are_the_same_in_many_threads(tmp_path):
    """And in other processes: stream_test.py."""
    for i in range(24):
        content = cut(share=0.3 + i / 48) if i % 3 else image(i, "JPEG", side=64)
        put(tmp_path / "ab"[i % 2] / f"{i}.jpg", content)
    train = load(tmp_path).train
    index = np.arange(len(train))
    how = pipeline.Reading(size=16, crop_scale=(0.5, 1), pad=True)
    first, second = (pipeline.Stream(train, how._replace(threads=n)) for n in (1, 8))
    np.testing.assert_array_equal(first.take(index), second.take(index))
    np.testing.assert_array_equal(*(s.views(index, seed=0, view=1) for s in (first, second)))
    with pytest.raises(ValueError, match=r"jpg does not decode: .* pad keeps what there is of"):
        pipeline.Stream(train, pipeline.Reading(size=16)).take(index)


@pytest.mark.parametrize("name", ["test", "val", "minival"])
def test_images_without_classes_beside_classes_are_no_class(tmp_path, name):
    fill(tmp_path, {"cat": 9, "dog": 9, name: 9})
    with pytest.raises(ValueError, match=f"holds images in {name}, the name of a split, beside"):
        folders.read(tmp_path)


def test_splits_of_other_labels_are_refused(tmp_path):
    for split, labels in (("train", "cat dog"), ("validation", "Cat dog")):
        fill(tmp_path / split, {"a": 2})
        files = sorted(path.name for path in (tmp_path / split / "a").iterdir())
        lines = [f"a/{f},{label}" for f, label in zip(files, labels.split(), strict=True)]
        (tmp_path / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(ValueError, match="train has no image of 'Cat'"):
        folders.read(tmp_path)


def test_negative_labels_are_refused(tmp_path):
    fill(tmp_path, {"a": 2})
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    lines = [f"a/{f},{label}" for f, label in zip(files, (-1, 0), strict=True)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(ValueError, match="has the label -1: labels must be names, or numbers"):
        folders.read(tmp_path)
