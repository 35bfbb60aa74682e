"""The embedded data set: every image is a function of its number, and reading changes nothing."""

import dataclasses
import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktjax import arrays, data
from ktjax.data import glyphs, pipeline

SMALL = {
    "pretrain": (range(0, 300), range(700, 800)),
    "tune": (range(300, 400),),
    "validation": (range(400, 600),),
    "accept": (range(600, 700),),
    "unlabeled": (range(800, 900),),
    "few": (range(900, 1000),),
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(glyphs, "SPLITS", SMALL)


def numbers(split):
    """The numbers of a split's images."""
    return np.concatenate([np.asarray(part) for part in glyphs.SPLITS[split]])


def splits(dataset):
    """split of glyphs -> its source."""
    return {
        "pretrain": dataset.train,
        "tune": dataset.tune,
        "validation": dataset.validation,
        "accept": dataset.accept,
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


def test_splits_are_disjoint_and_balanced():
    every = np.concatenate([numbers(split) for split in glyphs.SPLITS])
    assert len(set(every.tolist())) == len(every) == every.max() + 1
    assert all(len(numbers(split)) % 100 == 0 for split in glyphs.SPLITS)
    for split, source in splits(data.load("glyphs")).items():
        assert np.bincount(source.label_N).tolist() == [len(numbers(split)) // 100] * 100


def test_where_labels_are_scarce():
    unlabeled, few = data.load("glyphs_unlabeled"), data.load("glyphs_few")
    assert (len(unlabeled.train), len(few.train)) == (32_000, 1_000)
    assert set(unlabeled.train.label_N.tolist()) == {-1}
    assert np.bincount(few.train.label_N).tolist() == [10] * 100
    for source in (unlabeled.train, few.train):
        image, _ = glyphs.render(
            numbers("unlabeled" if source is unlabeled.train else "few")[7:8], unseen_fonts=False
        )
        np.testing.assert_array_equal(source.draw(np.array([7])), image)
    for dataset in (unlabeled, few):
        np.testing.assert_array_equal(
            dataset.validation.label_N, data.load("glyphs").validation.label_N
        )
        assert len(dataset.tune) == 40_000 and dataset.classes == glyphs.CLASSES


def test_the_first_images_and_those_of_validation_keep_their_numbers():
    assert glyphs.SPLITS["pretrain"][0] == range(0, 16_000)
    assert glyphs.SPLITS["tune"][0] == range(16_000, 20_000)
    assert glyphs.SPLITS["validation"] == (range(20_000, 36_000),)


def test_validation_has_the_bits_that_it_always_had(validation):
    """Of the first release, whose images TFDS kept as PNG; float32 sines may differ elsewhere."""
    digest = hashlib.sha256(validation.image_NxHxWx3[:1000].tobytes()).hexdigest()
    assert digest == "63931c32d52f9f1b547d7040d175b5c96044482e5040714b5c76d63929c9c880"


def test_font_lists_do_not_overlap():
    fonts = glyphs.TRAIN_FONTS + glyphs.UNSEEN_FONTS
    assert len(set(fonts)) == len(fonts) == 15


def test_only_validation_draws_unseen_fonts(small, monkeypatch):
    drawn = {}
    render = glyphs.render

    def spy(indices, *, unseen_fonts):
        drawn.update(dict.fromkeys(np.asarray(indices).tolist(), unseen_fonts))
        return render(indices, unseen_fonts=unseen_fonts)

    monkeypatch.setattr(glyphs, "render", spy)
    for split, source in splits(data.load("glyphs")).items():
        pipeline.read(source, pipeline.Reading(24), name=split)
        assert {drawn.pop(i) for i in numbers(split).tolist()} == {split == "validation"}
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
    assert glyphs.CLASSES[9:11] == ("digit 9", "capital A")
    assert glyphs.CLASS_GROUPS[9:11] == ("digit", "latin capital")


def test_every_font_draws_its_characters_apart():
    for font, masks in zip(glyphs.TRAIN_FONTS + glyphs.UNSEEN_FONTS, glyphs._masks(), strict=True):
        drawn = [
            mask for mask, g in zip(masks, glyphs.CLASS_GROUPS, strict=True) if glyphs._has(font, g)
        ]
        # A font without a character draws a box instead, the same one for each.
        assert len({mask.tobytes() for mask in drawn}) == len(drawn), font
        assert min(mask.sum() for mask in drawn) > 20, font


def test_reading_gives_the_pixels_of_render(small):
    for split, source in splits(data.load("glyphs")).items():
        rendered, labels = glyphs.render(numbers(split), unseen_fonts=split == "validation")
        images = pipeline.read(source, pipeline.Reading(24, threads=3), name=split)
        np.testing.assert_array_equal(images.image_NxHxWx3, rendered)
        np.testing.assert_array_equal(images.label_N, labels)


def test_a_split_that_was_read_is_not_drawn_again(small, monkeypatch):
    first = pipeline.read(data.load("glyphs").tune, pipeline.Reading(24), name="tune")
    render, asked = glyphs.render, []

    def counted(indices, *, unseen_fonts):
        asked.extend(indices.tolist())
        return render(indices, unseen_fonts=unseen_fonts)

    monkeypatch.setattr(glyphs, "render", counted)

    def again(source, **how):
        asked.clear()
        images = pipeline.read(source, pipeline.Reading(24, **how), name="tune")
        return images.image_NxHxWx3, len(set(asked))

    image_NxHxWx3, drawn = again(data.load("glyphs").tune)
    np.testing.assert_array_equal(image_NxHxWx3, first.image_NxHxWx3)
    assert drawn == 1  # of which the size is seen
    # A part of it, other images of that name, and what does not suit as it is drawn.
    assert again(data.load("glyphs").tune.take(5))[1] == 5
    monkeypatch.setattr(glyphs, "SPLITS", SMALL | {"tune": (range(1000, 1100),)})
    image_NxHxWx3, drawn = again(data.load("glyphs").tune)
    assert drawn == 100
    assert (image_NxHxWx3 != first.image_NxHxWx3).any()
    assert again(data.load("glyphs").tune, crop_pct=0.9)[1] == 100


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace(path):
    arrays.save(path, np.zeros((100, 24, 24), np.uint8))


@pytest.mark.parametrize("harm", [damage, cut, replace])
def test_what_was_kept_and_is_not_whole_is_drawn_anew(small, harm):
    source = data.load("glyphs").tune
    first = pipeline.read(source, pipeline.Reading(24), name="tune").image_NxHxWx3
    harm(source.kept)
    for _ in range(2):
        images = pipeline.read(source, pipeline.Reading(24), name="tune")
        np.testing.assert_array_equal(images.image_NxHxWx3, first)
    np.testing.assert_array_equal(arrays.load(source.kept), first)  # and is written again


def test_a_disk_that_takes_nothing_is_no_obstacle(small, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source = data.load("glyphs").tune
    images = pipeline.read(source, pipeline.Reading(24), name="tune")
    rendered, _ = glyphs.render(numbers("tune"), unseen_fonts=False)
    np.testing.assert_array_equal(images.image_NxHxWx3, rendered)


@pytest.mark.parametrize("reading", [pipeline.Reading(24), pipeline.Reading(20, crop_pct=0.9)])
def test_what_is_drawn_is_what_its_file_decodes_to(small, reading):
    source = data.load("glyphs").validation.select(np.arange(3, 40, 5))
    stored = dataclasses.replace(source, draw=None)
    index_B = np.array([4, 1, 1])
    np.testing.assert_array_equal(
        pipeline.Stream(source, reading).take(index_B),
        pipeline.Stream(stored, reading).take(index_B),
    )
    assert pipeline.Stream(source, reading).drawn == (reading.size == 24)


def test_tensorflow_is_not_imported(python, tmp_path):
    # A TensorFlow that can be found, so that a machine without one does not hide its use.
    (tmp_path / "tensorflow.py").write_text("")
    assert python(
        "import sys\n"
        f"sys.path.insert(0, {os.fspath(tmp_path)!r})\n"
        "from ktjax import data\n"
        "from ktjax.data import glyphs, pipeline\n"
        "glyphs.SPLITS = {name: (range(100),) for name in glyphs.SPLITS}\n"
        "dataset = data.load('glyphs')\n"
        "images = pipeline.read(dataset.tune, pipeline.Reading(24), name='tune')\n"
        "print(len(images), 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    ) == ["100", "False", "False"]


def test_the_whole_data_set():
    dataset = data.load("glyphs")
    assert dataset.classes == glyphs.CLASSES
    assert dataset.groups == glyphs.CLASS_GROUPS
    counts = {split: len(source) for split, source in splits(dataset).items()}
    assert counts == {"pretrain": 64_000, "tune": 40_000, "validation": 16_000, "accept": 20_000}
