"""Resizing on the host has Pillow's bits, whatever the sizes, and whatever part is wanted."""

import numba
import numpy as np
import pytest
from PIL import Image

from ktjax.data import resample, resize

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def by_pillow(image, size, interpolation, box=None):
    """Rows, then columns: Pillow 13 would choose."""
    height, width, _ = image.shape
    top, left, bottom, right = box or (0, 0, height, width)
    resample = FILTERS[interpolation]
    narrow = Image.fromarray(image).resize((size[1], height), resample, (left, 0, right, height))
    return np.asarray(narrow.resize(size[::-1], resample, (0, top, size[1], bottom)))


@pytest.mark.smoke
@pytest.mark.parametrize("interpolation", FILTERS)
def test_any_size_has_the_bits_of_pillow(interpolation):
    rng = np.random.default_rng(0)
    for number in range(200):
        height, width, *size = (int(side) for side in rng.integers(1, 150, 4))
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        if number % 3 == 0:
            image = (image // 128) * 255  # where a sum leaves the range
        box = None
        if number % 2:
            top, left = rng.uniform(0, height / 2), rng.uniform(0, width / 2)
            box = (top, left, rng.uniform(top + 0.3, height), rng.uniform(left + 0.3, width))
        if number % 5 == 0:
            size = [height, width]
        resized = resize.resize(image, tuple(size), interpolation=interpolation, box=box)
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, by_pillow(image, size, interpolation, box))


@pytest.mark.parametrize("interpolation", resize.INTERPOLATIONS)
@pytest.mark.parametrize("size", [(40, 31), (150, 170), (90, 70)])
def test_a_crop_is_a_part_of_the_whole(interpolation, size):
    image = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
    whole = resize.resize(image, size, interpolation=interpolation)
    for top, left, rows, columns in [(0, 0, 9, 31), (7, 4, 20, 3), (39, 30, 1, 1)]:
        part = resize.resize(
            image, size, interpolation=interpolation, crop=(top, left, rows, columns)
        )
        np.testing.assert_array_equal(part, whole[top : top + rows, left : left + columns])


def test_views_of_an_image_are_as_good_as_copies_of_it():
    image = np.random.default_rng(2).integers(0, 256, (50, 60, 3), np.uint8)
    image.flags.writeable = False
    for view in (image, image[3:40, ::-1], image.transpose(1, 0, 2)):
        resized = resize.resize(view, (20, 30), interpolation="bicubic")
        np.testing.assert_array_equal(resized, by_pillow(view, (20, 30), "bicubic"))


def test_an_image_of_the_size_is_left_alone():
    image = np.zeros((5, 7, 3), np.uint8)
    assert np.shares_memory(resize.resize(image, (5, 7), interpolation="bicubic"), image)


def test_where_nothing_can_be_written_it_is_compiled_all_the_same(monkeypatch):
    njit = numba.njit

    def no_folder(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", no_folder)
    assert resample._compiled(lambda x: x + 1)(1) == 2
