"""A view is a function of (seed, view, index) alone, and does what its name says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax.data import augment

SIDE = 24
IMAGES = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
INDEX = np.array([3, 14, 15, 92, 65, 35, 89, 79], np.int32)


@functools.cache
def compiled(recipe, seed):
    return jax.jit(augment.make_augment(recipe, seed=seed))


def views(images=IMAGES, index=INDEX, *, recipe="shift_colour", seed=0, view=0):
    return np.asarray(compiled(recipe, seed)(images, index, jnp.int32(view)))


@pytest.mark.smoke
@pytest.mark.parametrize("at", [[6], [5, 0, 1, 2, 3, 4, 6, 7]])
def test_company_and_position_do_not_matter(at):
    np.testing.assert_array_equal(views(IMAGES[at], INDEX[at]), views()[at])


def test_same_arguments_give_the_same_bits():
    before = views(view=5)
    compiled.cache_clear()
    np.testing.assert_array_equal(before, views(view=5))


@pytest.mark.parametrize("other", [{"view": 1}, {"seed": 1}, {"index": INDEX + 1}])
def test_views_seeds_and_indices_differ(other):
    changed = (views() != views(**other)).any(axis=(1, 2, 3))
    assert changed.all()


@pytest.mark.parametrize("recipe", augment.RECIPES)
def test_uint8_of_the_same_shape(recipe):
    image = views(recipe=recipe)
    assert (image.dtype, image.shape) == (np.uint8, IMAGES.shape)


def test_none_is_the_identity():
    np.testing.assert_array_equal(views(recipe="none"), IMAGES)


def shift_colour_by_hand(key, image):
    """shift_colour in plain NumPy, on the draws of the same key."""
    shift_key, contrast_key, brightness_key = jax.random.split(key, 3)
    down, right = np.asarray(jax.random.randint(shift_key, (2,), 0, 2 * (SIDE // 10) + 1))
    contrast = np.float64(jax.random.uniform(contrast_key, (), minval=0.6, maxval=1.4))
    brightness = np.asarray(jax.random.uniform(brightness_key, (3,), minval=-32, maxval=32))
    at = np.arange(SIDE) - SIDE // 10
    rows, columns = np.clip(at + down, 0, SIDE - 1), np.clip(at + right, 0, SIDE - 1)
    moved = image[rows][:, columns].astype(np.float64)
    mean = moved.mean(axis=(0, 1))
    return np.clip(mean + (moved - mean) * contrast + brightness, 0, 255)


@pytest.mark.parametrize("seed", range(6))
def test_shift_colour_is_what_numpy_makes_of_the_same_draws(seed):
    key = jax.random.key(seed)
    expected = shift_colour_by_hand(key, IMAGES[seed])
    image = np.asarray(jax.jit(augment.shift_colour)(key, IMAGES[seed]))
    assert np.abs(image - expected).max() < 0.501  # rounded to whole numbers


def corners(side, count):
    """Where the pixel in the middle of a black image goes, in many views."""
    image = np.zeros((count, side, side, 3), np.uint8)
    image[:, side // 2, side // 2] = 255
    moved = views(image, np.arange(count)).astype(int).sum(axis=3).reshape(count, -1)
    return np.stack(np.unravel_index(moved.argmax(axis=1), (side, side)), axis=1) - side // 2


@pytest.mark.parametrize("side", [8, 20, 24])
def test_shifts_by_at_most_a_tenth_of_the_side(side):
    steps = list(range(-(side // 10), side // 10 + 1))
    for shifts in corners(side, 200).T:
        assert sorted(set(shifts.tolist())) == steps


def test_never_mirrors():
    # Darker from left to right and from top to bottom: in every view, or it was mirrored.
    ramp = 200 - 4 * np.add.outer(np.arange(SIDE), np.arange(SIDE))
    image = np.repeat(ramp[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
    seen = views(np.stack([image] * 200), np.arange(200)).astype(int)
    assert (np.diff(seen, axis=1) <= 0).all()
    assert (np.diff(seen, axis=2) <= 0).all()
    assert (seen[:, 0, 0] > seen[:, -1, -1]).all()


def test_every_channel_has_its_own_brightness():
    grey = np.full((20, SIDE, SIDE, 3), 128, np.uint8)
    seen = views(grey, np.arange(20)).astype(int)
    assert (seen == seen[:, :1, :1]).all()
    assert np.abs(seen - 128).max() <= 32
    assert (seen[:, 0, 0].max(axis=1) > seen[:, 0, 0].min(axis=1)).mean() > 0.9
