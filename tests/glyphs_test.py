"""The embedded data set: every image is a function of its number, and TFDS changes nothing."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktjax import data
from ktjax.data import glyphs, pipeline

SMALL = {"pretrain": 300, "tune": 100, "validation": 200}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(glyphs, "SPLITS", SMALL)


def numbers():
    """split -> the numbers of its images."""
    ends = np.cumsum([*glyphs.SPLITS.values()])
    return {
        split: np.arange(end - count, end)
        for (split, count), end in zip(glyphs.SPLITS.items(), ends, strict=True)
    }


@pytest.mark.smoke
@pytest.mark.parametrize("unseen_fonts", [False, True])
def test_an_image_is_the_same_alone_and_in_a_chunk(unseen_fonts):
    indices = np.arange(35_950, 35_990)
    images, labels = glyphs.render(indices, unseen_fonts=unseen_fonts)
    for i in (0, 7, 39):
        image, label = glyphs.render(indices[i : i + 1], unseen_fonts=unseen_fonts)
        np.testing.assert_array_equal(image[0], images[i])
        assert label[0] == labels[i] == indices[i] % 100


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 35_999), min_size=1, max_size=12))
def test_order_and_company_do_not_matter(indices):
    images, _ = glyphs.render(np.array(indices), unseen_fonts=True)
    mirrored, _ = glyphs.render(np.array(indices[::-1]), unseen_fonts=True)
    np.testing.assert_array_equal(images, mirrored[::-1])


def test_images_are_uint8_with_contrast():
    images, _ = glyphs.render(np.arange(100), unseen_fonts=False)
    assert images.shape == (100, 24, 24, 3)
    assert images.dtype == np.uint8
    assert images.std(axis=(1, 2, 3)).min() > 5


def test_different_numbers_are_different_images():
    same_class = np.arange(7, 30_000, 1000)
    images, labels = glyphs.render(same_class, unseen_fonts=False)
    assert set(labels.tolist()) == {7}
    assert len({image.tobytes() for image in images}) == len(same_class)


def test_splits_are_disjoint_and_balanced(small, tmp_path):
    dataset = data.load("glyphs", data_dir=str(tmp_path))
    sources = (dataset.train, dataset.tune, dataset.validation)
    images = [source.read(i) for source in sources for i in range(len(source))]
    assert len(set(images)) == len(images) == sum(SMALL.values())
    for source, count in zip(sources, SMALL.values(), strict=True):
        assert np.bincount(source.label_N).tolist() == [count // 100] * 100


def test_every_split_fills_all_classes_alike():
    assert {split: count % 100 for split, count in glyphs.SPLITS.items()} == {
        "pretrain": 0,
        "tune": 0,
        "validation": 0,
    }


def test_font_lists_do_not_overlap():
    fonts = glyphs.TRAIN_FONTS + glyphs.UNSEEN_FONTS
    assert len(set(fonts)) == len(fonts) == 15


def test_only_validation_draws_unseen_fonts(small, monkeypatch, tmp_path):
    # Masks that hold the number of their font, and pictures of nothing but the mask.
    drawn = {}
    render = glyphs.render

    def spy(indices, *, unseen_fonts):
        drawn.update(dict.fromkeys(np.asarray(indices).tolist(), unseen_fonts))
        return render(indices, unseen_fonts=unseen_fonts)

    monkeypatch.setattr(glyphs, "render", spy)
    data.load("glyphs", data_dir=str(tmp_path))
    for split, indices in numbers().items():
        assert {drawn.pop(i) for i in indices.tolist()} == {split == "validation"}
    assert not drawn


@pytest.mark.parametrize("unseen_fonts", [False, True])
def test_masks_of_unseen_fonts_are_read_where_asked_for(unseen_fonts, monkeypatch):
    masks = glyphs._masks().copy()
    masks[len(glyphs.TRAIN_FONTS) :] = 0
    indices = np.arange(200)
    images, _ = glyphs.render(indices, unseen_fonts=unseen_fonts)
    monkeypatch.setattr(glyphs, "_masks", lambda: masks)
    without, _ = glyphs.render(indices, unseen_fonts=unseen_fonts)
    assert (images != without).any() == unseen_fonts


@pytest.mark.smoke
def test_classes_and_groups():
    assert len(set(glyphs.CLASSES)) == len(glyphs.CLASSES) == 100
    assert len(set(glyphs.CLASS_GROUPS)) == 6
    assert len(glyphs.CLASS_GROUPS) == 100
    assert glyphs.CLASSES[10] == "latin capital letter a"
    assert glyphs.CLASS_GROUPS[9:11] == ("digit", "latin capital")


def test_every_font_draws_its_characters_apart():
    for font, masks in zip(glyphs.TRAIN_FONTS + glyphs.UNSEEN_FONTS, glyphs._masks(), strict=True):
        drawn = [
            mask for mask, g in zip(masks, glyphs.CLASS_GROUPS, strict=True) if glyphs._has(font, g)
        ]
        # A font without a character draws a box instead, the same one for each.
        assert len({mask.tobytes() for mask in drawn}) == len(drawn), font
        assert min(mask.sum() for mask in drawn) > 20, font


def test_reading_back_gives_the_pixels_of_render(small, tmp_path):
    dataset = data.load("glyphs", data_dir=str(tmp_path))
    splits = pipeline.read_splits(dataset, pipeline.Reading(24))
    for images, (split, indices) in zip(splits, numbers().items(), strict=True):
        rendered, labels = glyphs.render(indices, unseen_fonts=split == "validation")
        np.testing.assert_array_equal(images.image_NxHxWx3, rendered)
        np.testing.assert_array_equal(images.label_N, labels)


def test_preparing_twice_gives_the_same_bytes(small, tmp_path):
    def prepare(folder):
        data.load("glyphs", data_dir=str(folder))
        return {path.name: path.read_bytes() for path in folder.rglob("*.array_record*")}

    first, second = prepare(tmp_path / "first"), prepare(tmp_path / "second")
    assert len(first) == len(SMALL)
    assert first == second


def test_what_is_prepared_is_not_prepared_again(small, monkeypatch, tmp_path):
    data.load("glyphs", data_dir=str(tmp_path))
    monkeypatch.setattr(glyphs, "render", None)
    assert len(data.load("glyphs", data_dir=str(tmp_path)).train) == SMALL["pretrain"]


def test_tensorflow_is_not_imported(python, tmp_path):
    # A TensorFlow that can be found, so that a machine without one does not hide its use.
    (tmp_path / "tensorflow.py").write_text("")
    assert python(
        "import sys\n"
        f"sys.path.insert(0, {os.fspath(tmp_path)!r})\n"
        "from ktjax import data\n"
        "from ktjax.data import glyphs, pipeline\n"
        f"glyphs.SPLITS = {SMALL}\n"
        f"dataset = data.load('glyphs', data_dir={os.fspath(tmp_path)!r})\n"
        "images = pipeline.read(dataset.tune, pipeline.Reading(24), name='tune')\n"
        "print(len(images), 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    ) == ["100", "False", "False"]


def test_the_whole_data_set(glyphs_dir):
    dataset = data.load("glyphs", data_dir=glyphs_dir)
    assert dataset.classes == glyphs.CLASSES
    assert dataset.groups == glyphs.CLASS_GROUPS
    assert (len(dataset.train), len(dataset.tune), len(dataset.validation)) == (16000, 4000, 16000)
