"""A view is a function of (seed, view, index) alone, and does what its name says."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import augment

SIDE = 24
IMAGES = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
INDEX = np.array([3, 14, 15, 92, 65, 35, 89, 79], np.int32)


@functools.cache
def compiled(recipe, seed):
    return jax.jit(augment.make_augment(recipe, seed=seed))


def views(images=IMAGES, index=INDEX, *, recipe="shift_colour", seed=0, view=0):
    return np.asarray(compiled(recipe, seed)(images, index, jnp.int32(view)))


# The one has all operations, the other draws in its own way; the recipes differ in their numbers.
BOTH = pytest.mark.parametrize("recipe", ["shift_colour", "vicreg"])


@pytest.mark.smoke
@BOTH
@pytest.mark.parametrize("at", [[6], [5, 0, 1, 2, 3, 4, 6, 7]])
def test_company_and_position_do_not_matter(at, recipe):
    np.testing.assert_array_equal(
        views(IMAGES[at], INDEX[at], recipe=recipe), views(recipe=recipe)[at]
    )


def test_same_arguments_give_the_same_bits():
    before = views(view=5)
    compiled.cache_clear()
    np.testing.assert_array_equal(before, views(view=5))


@BOTH
@pytest.mark.parametrize("other", [{"view": 1}, {"seed": 1}, {"index": INDEX + 1}])
def test_views_seeds_and_indices_differ(other, recipe):
    changed = (views(recipe=recipe) != views(recipe=recipe, **other)).any(axis=(1, 2, 3))
    # vicreg leaves some images as they are.
    assert changed.all() if recipe == "shift_colour" else changed.any()


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
    gray = np.full((20, SIDE, SIDE, 3), 128, np.uint8)
    seen = views(gray, np.arange(20)).astype(int)
    assert (seen == seen[:, :1, :1]).all()
    assert np.abs(seen - 128).max() <= 32
    assert (seen[:, 0, 0].max(axis=1) > seen[:, 0, 0].min(axis=1)).mean() > 0.9


# The operations, from their definitions: in float64, before they are rounded.


def luma(image):
    return (image.astype(int) @ [299, 587, 114] + 500) // 1000


def brightness(image, factor):
    return np.clip(factor * image.astype(float), 0, 255)


def contrast(image, factor):
    mean = luma(image).mean()
    return np.clip(mean + factor * (image - mean), 0, 255)


def saturation(image, factor):
    gray = luma(image)[..., None]
    return np.clip(gray + factor * (image.astype(float) - gray), 0, 255)


def hue(image, turn):
    def pixel(rgb):
        h, s, v = colorsys.rgb_to_hsv(*(rgb / 255))
        return colorsys.hsv_to_rgb((h + turn) % 1, s, v)

    return 255 * np.apply_along_axis(pixel, 2, image)


def blur(image, sigma):
    """All 13 x 13 taps of a two-dimensional Gaussian; the image goes on as in a mirror."""
    away = np.arange(-6, 7)
    weight = np.exp(-(away[:, None] ** 2 + away**2) / (2 * sigma**2))
    weight /= weight.sum()
    padded = np.pad(image, ((6, 6), (6, 6), (0, 0)), "reflect").astype(float)
    rows, columns, _ = image.shape
    return sum(
        weight[i, j] * padded[i : i + rows, j : j + columns] for i in range(13) for j in range(13)
    )


def grayscale(image):
    return luma(image)[..., None].repeat(3, axis=2)


def solarize(image):
    return np.where(image >= 128, 255 - image, image)


# The first amount changes nothing.
ADJUSTMENTS = {
    "adjust_brightness": (brightness, [1, 0.2, 0.99, 1.8]),
    "adjust_contrast": (contrast, [1, 0.2, 0.7, 1.8]),
    "adjust_saturation": (saturation, [1, 0.2, 0.7, 1.8]),
    "adjust_hue": (hue, [0, -0.2, 0.01, 0.2, 0.5]),
    "gaussian_blur": (blur, [0.1, 0.7, 2.0]),
}
# Random colors, and what divisions could stumble over: grays, black, white, pure colors.
COLORS = np.concatenate([IMAGES[0], IMAGES[1] // 128 * 255, IMAGES[2][..., :1].repeat(3, axis=2)])


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjustments_are_what_their_definitions_say(name):
    expected, amounts = ADJUSTMENTS[name]
    options = {"radius": 6} if name == "gaussian_blur" else {}
    adjust = jax.jit(functools.partial(getattr(augment, name), **options))
    for amount in amounts:
        image = adjust(COLORS, jnp.float32(amount))
        assert image.dtype == jnp.uint8
        # Rounded to whole numbers.
        assert np.abs(np.asarray(image) - expected(COLORS, amount)).max() < 0.501
        changed = (np.asarray(image) != COLORS).mean()
        assert changed == 0 if amount == amounts[0] else changed > 0.1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (augment.mirror, np.fliplr),
        (augment.grayscale, grayscale),
        (augment.solarize, solarize),
    ],
)
def test_changes_without_an_amount(change, expected):
    image = change(jnp.asarray(COLORS))
    assert image.dtype == jnp.uint8
    np.testing.assert_array_equal(image, expected(COLORS))


# Recipe -> what happens with which probability; of colors by how much.
STEPS = {
    "minimal": [(0.5, "mirror", None)],
    "very_weak": [
        (0.5, "mirror", None),
        (0.8, "color", (0.2, 0.2, 0.2, 0.05)),
        (0.1, "grayscale", None),
    ],
    "weak": [
        (0.5, "mirror", None),
        (0.8, "color", (0.4, 0.4, 0.2, 0.1)),
        (0.2, "grayscale", None),
        (0.1, "solarize", None),
    ],
    "default": [
        (0.5, "mirror", None),
        (0.8, "color", (0.8, 0.8, 0.8, 0.2)),
        (0.2, "grayscale", None),
    ],
    "vicreg": [
        (0.5, "mirror", None),
        (0.8, "color", (0.4, 0.4, 0.2, 0.1)),
        (0.2, "grayscale", None),
        (0.5, "blur", None),
        (0.1, "solarize", None),
    ],
}
CHANGES = {"mirror": np.fliplr, "grayscale": grayscale, "solarize": solarize}


@functools.partial(jax.jit, static_argnums=1)
def draws(keys, count):
    """What recipes of so many steps draw, of each image: from 0 to 1, but for the order."""

    def of_step(key):
        order_key, amount_key = jax.random.split(key)
        order = jax.random.permutation(order_key, 4)
        return order, jax.random.uniform(amount_key, (4,)), jax.random.uniform(key)

    def of_image(key):
        coin_key, *own_keys = jax.random.split(key, count + 1)
        order, amounts, sigma = jax.vmap(of_step)(jnp.stack(own_keys))
        coin = jax.random.uniform(coin_key, (count,))
        return {"coin": coin, "order": order, "amounts": amounts, "sigma": sigma}

    return jax.vmap(of_image)(keys)


def recipe_by_hand(image, steps, drawn):
    """Rounded after each operation."""
    for i, (probability, step, strengths) in enumerate(steps):
        if drawn["coin"][i] >= probability:
            continue
        if step == "color":
            adjust = [brightness, contrast, saturation, hue]
            for at in drawn["order"][i]:
                within = strengths[at] * (2 * drawn["amounts"][i][at] - 1)
                image = adjust[at](image, within if at == 3 else 1 + within).round()
        elif step == "blur":
            image = blur(image, 0.1 + 1.9 * drawn["sigma"][i]).round()
        else:
            image = CHANGES[step](image)
    return image


@pytest.mark.parametrize("recipe", STEPS)
def test_recipes_are_what_numpy_makes_of_the_same_draws(recipe):
    count, side = 200, 8
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    index = np.arange(count)
    key = jax.random.fold_in(jax.random.key(7), 3)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(index)
    drawn = jax.device_get(draws(keys, len(STEPS[recipe])))
    seen = views(images, index, recipe=recipe, seed=7, view=3).astype(int)
    expected = np.stack(
        [
            recipe_by_hand(images[n], STEPS[recipe], {k: v[n] for k, v in drawn.items()})
            for n in range(count)
        ]
    )
    # What lies in the middle of two whole numbers may be rounded either way, and be amplified.
    assert (seen != expected).mean() < 1e-3
    assert np.abs(seen - expected).max() <= 5
    # All orders of the four adjustments were among them.
    assert len({tuple(order) for order in drawn["order"][:, -1].tolist()}) == 24
