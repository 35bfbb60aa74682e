"""What folders of splits and classes may be called."""

import os
import shutil
import unicodedata

import pytest
from image_files import contents, files, fill, write
from small_jobs import make_images

from ktjax import data
from ktjax.data import convert


def test_splits_in_any_case(tmp_path):
    for split, per_class in (("Train", 4), ("VAL", 2)):
        make_images(tmp_path / split, per_class=per_class)
    found = data.load(f"folder:{tmp_path}", minival=0.25)
    assert (len(found.train), len(found.tune), len(found.validation)) == (12, 4, 8)
    make_images(tmp_path / "train", per_class=1)
    with pytest.raises(ValueError, match="holds both Train and train: keep one"):
        data.load(f"folder:{tmp_path}")


def test_images_that_decide_are_a_split_beside_train(tmp_path, caplog):
    for split, per_class in (("train", 5), ("val", 2), ("tune", 3), ("accept", 4)):
        make_images(tmp_path / split, per_class=per_class)
    found = data.load(f"folder:{tmp_path}")
    assert [len(split) for split in (*found[1:4], found.accept)] == [20, 12, 8, 16]
    assert not caplog.messages and not found.held_out
    convert.convert(tmp_path, tmp_path / "prepared" / "photos")
    again = data.load("tfds:photos", data_dir=str(tmp_path / "prepared"))
    assert contents(again.accept) == contents(found.accept)
    shutil.rmtree(tmp_path / "accept")
    write(tmp_path / "accept" / "0.jpg")
    with pytest.raises(ValueError, match="/accept' has no labels: it needs one directory per clas"):
        data.load(f"folder:{tmp_path}")


def test_a_class_may_be_called_accept(tmp_path):
    fill(tmp_path, {"accept": 9, "reject": 9, "unsure": 9})
    assert data.load(f"folder:{tmp_path}").classes == ("accept", "reject", "unsure")
    shutil.rmtree(tmp_path / "unsure")
    fill(tmp_path, {"test": 9})  # it has no labels
    with pytest.raises(ValueError, match="holds images in test, the name of a split, beside class"):
        data.load(f"folder:{tmp_path}")


def test_a_class_whose_name_is_not_utf_8(tmp_path):
    make_images(tmp_path / "images", per_class=5)
    place = os.fsencode(tmp_path / "images")
    os.rename(place + b"/rows", place + b"/\xe9t\xe9")
    with pytest.raises(ValueError, match=r"class b'\\xe9t\\xe9' has a name that is not UTF-8"):
        data.load(f"folder:{tmp_path / 'images'}")


def test_a_class_whose_accents_are_written_in_two_ways(tmp_path):
    """macOS may split them, and both forms look the same."""
    whole, split = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path / "train", {split: 4, "cafz": 4, whole: 4})
    fill(tmp_path / "test", {whole: 3, "cafz": 3})
    found = data.load(f"folder:{tmp_path}", minival=0.25)
    assert found.classes == ("cafz", whole)
    assert [len(part) for part in found[1:4]] == [9, 3, 6]
    for part in found[1:4]:
        for name, label in zip(files(part), part.label_N, strict=True):
            assert ("/cafz/" in name) == (label == 0)
    for gone in ("test/cafz", f"train/{whole}"):
        shutil.rmtree(tmp_path / gone)
    with pytest.raises(ValueError, match=f"test' holds images of only one class, '{whole}'"):
        data.load(f"folder:{tmp_path}")  # as it is a class of train, they have labels
    shutil.rmtree(tmp_path / "train" / "cafz")
    fill(tmp_path / "train" / split, {"fold1": 1, "fold2": 1})
    with pytest.raises(ValueError, match=f"Did you mean folder:{tmp_path}/train/{split}"):
        data.load(f"folder:{tmp_path}/train")


def test_labels_whose_accents_are_written_in_two_ways(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    rows = []
    for i in range(9):
        write(tmp_path / f"{i}.jpg", i)
        rows.append(f"{i}.jpg,{('tea', *forms)[i % 3]}\n")
    text = f"file_name,label\n{''.join(rows)}"
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig")
    assert data.load(f"folder:{tmp_path}").classes == (forms[0], "tea")
