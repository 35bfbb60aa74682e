"""What folders of splits and classes may be called."""

import os

import pytest
from small_jobs import make_images

from ktjax import data


def test_splits_in_any_case(tmp_path):
    for split, per_class in (("Train", 4), ("VAL", 2)):
        make_images(tmp_path / split, per_class=per_class)
    found = data.load(f"folder:{tmp_path}", minival=0.25)
    assert (len(found.train), len(found.tune), len(found.validation)) == (12, 4, 8)
    make_images(tmp_path / "train", per_class=1)
    with pytest.raises(ValueError, match="holds both Train and train: keep one"):
        data.load(f"folder:{tmp_path}")


def test_a_class_whose_name_is_not_utf_8(tmp_path):
    make_images(tmp_path / "images", per_class=5)
    place = os.fsencode(tmp_path / "images")
    os.rename(place + b"/rows", place + b"/\xe9t\xe9")
    with pytest.raises(ValueError, match=r"class b'\\xe9t\\xe9' has a name that is not UTF-8"):
        data.load(f"folder:{tmp_path / 'images'}")
