"""Random augmentation on the device: a view of an image is a function of (seed, view, index) alone.

So a later pass, a resumed run or a different number of devices sees the same pixels. Input and
output are uint8: every model normalizes its own input. Each operation rounds, as Pillow's do, so
that its sums are over integers: their bits depend neither on order nor on the batch size.

Random crops are made by the data pipeline: what is cropped away need not be decoded.
"""

import functools
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp

# augment(image_BxHxWx3, index_B, view) -> image_BxHxWx3, all uint8
Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# views(image_BxHxWx3, index_B, view, key) -> image_BxHxWx3: the same for any seed
Views = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
# A change to one image: (key, image_HxWx3) -> image_HxWx3, uint8
Operation = Callable[[jax.Array, jax.Array], jax.Array]


def shift_colour(key: jax.Array, image_HxWx3: jax.Array) -> jax.Array:
    """Shifts by up to a tenth of the side, then changes contrast and brightness. Never mirrors."""
    shift_key, contrast_key, brightness_key = jax.random.split(key, 3)
    height, width, _ = image_HxWx3.shape
    pad = max(height, width) // 10
    padded = jnp.pad(image_HxWx3, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    corner = jax.random.randint(shift_key, (2,), 0, 2 * pad + 1)
    x = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image_HxWx3.shape)
    x = x.astype(jnp.float32)
    contrast = jax.random.uniform(contrast_key, (), minval=0.6, maxval=1.4)
    brightness = jax.random.uniform(brightness_key, (1, 1, 3), minval=-32, maxval=32)
    mean = x.mean(axis=(0, 1), keepdims=True)
    return _whole((x - mean) * contrast + mean + brightness)


def mirror(image_HxWx3: jax.Array) -> jax.Array:
    """Flips left and right."""
    return image_HxWx3[:, ::-1]


def grayscale(image_HxWx3: jax.Array) -> jax.Array:
    """The luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, in all channels."""
    weight = jnp.array([299, 587, 114])[None, None]
    luma = (jnp.sum(image_HxWx3 * weight, axis=2, keepdims=True) + 500) // 1000
    return jnp.broadcast_to(luma.astype(jnp.uint8), image_HxWx3.shape)


def solarize(image_HxWx3: jax.Array) -> jax.Array:
    """Inverts values of 128 and above."""
    return jnp.where(image_HxWx3 < 128, image_HxWx3, 255 - image_HxWx3)


def adjust_brightness(image_HxWx3: jax.Array, factor: jax.Array) -> jax.Array:
    """`factor` times the image."""
    return _whole(factor * image_HxWx3)


def adjust_contrast(image_HxWx3: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance from the image's mean luma by `factor`."""
    luma = grayscale(image_HxWx3)[..., 0]
    mean = jnp.sum(luma.astype(jnp.int32)) / luma.size
    return _whole(mean + factor * (image_HxWx3 - mean))


def adjust_saturation(image_HxWx3: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance from the pixel's luma by `factor`."""
    luma = grayscale(image_HxWx3).astype(jnp.float32)
    return _whole(luma + factor * (image_HxWx3 - luma))


def adjust_hue(image_HxWx3: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the HSV hue by `turn` times 360 degrees."""
    return _whole(255 * dm_pix.adjust_hue(image_HxWx3.astype(jnp.float32) / 255, turn))


def gaussian_blur(image_HxWx3: jax.Array, sigma: jax.Array, *, radius: int) -> jax.Array:
    """Convolution with a Gaussian of `sigma` pixels, truncated at `radius`; edges are mirrored."""
    weight = jnp.exp(-(jnp.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weight /= weight.sum()
    x = image_HxWx3.astype(jnp.float32)
    for axis in (0, 1):
        size = x.shape[axis]
        padded = jnp.pad(
            x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], "reflect"
        )
        # A sum of shifted images: a convolution with a different kernel per image is slow.
        x = sum(
            weight[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * radius + 1)
        )
    return _whole(x)


def distort_color(
    key: jax.Array,
    image_HxWx3: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """SimCLR's color distortion (Chen et al. 2020, appendix A), in random order.

    Args:
      key: for the factors and the order.
      image_HxWx3: uint8.
      brightness, contrast, saturation: the factor is uniform within this distance of 1.
      hue: the rotation is uniform within this distance of 0.
    """
    order_key, amount_key = jax.random.split(key)
    width_4 = jnp.array([brightness, contrast, saturation, hue])
    amount_4 = jnp.array([1, 1, 1, 0]) + width_4 * jax.random.uniform(amount_key, (4,), minval=-1)
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)

    def adjust(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.switch(which, adjustments, image, amount_4[which]), None

    order_4 = jax.random.permutation(order_key, 4)
    return jax.lax.scan(adjust, image_HxWx3, order_4)[0]


def blur(key: jax.Array, image_HxWx3: jax.Array) -> jax.Array:
    """A Gaussian blur whose sigma is uniform between 0.1 and 2 pixels (SimCLR, VICReg)."""
    sigma = jax.random.uniform(key, (), minval=0.1, maxval=2.0)
    return gaussian_blur(image_HxWx3, sigma, radius=6)


def _whole(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 255).round().astype(jnp.uint8)


def _ignoring_key(change: Callable[[jax.Array], jax.Array]) -> Operation:
    return lambda key, image: change(image)


def _sometimes(*steps: tuple[float, Operation]) -> Operation:
    """Applies the operations in turn, each with its probability."""

    probabilities = [probability for probability, _ in steps]

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        coin_key, *keys = jax.random.split(key, len(steps) + 1)
        happens = jax.random.uniform(coin_key, (len(steps),)) < jnp.array(probabilities)
        for i, (_, step) in enumerate(steps):
            image = jnp.where(happens[i], step(keys[i], image), image)
        return image

    return apply


_mirror, _grayscale, _solarize = map(_ignoring_key, (mirror, grayscale, solarize))
_full = functools.partial(distort_color, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
_half = functools.partial(distort_color, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
_quarter = functools.partial(distort_color, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)

# name -> the change to one image. Those from `minimal` on are the paper's (the protocol is in
# section 5, probabilities and strengths in the authors' code, distillation/data.py). In that code
# `vicreg` equals `weak`, except for a crop range that nothing reads; here it has VICReg's blur,
# which the authors' config/augmentations/vicreg.yaml lists.
RECIPES: dict[str, Operation] = {
    "none": lambda key, image: image,
    "shift_colour": shift_colour,
    "minimal": _sometimes((0.5, _mirror)),
    "very_weak": _sometimes((0.5, _mirror), (0.8, _quarter), (0.1, _grayscale)),
    "weak": _sometimes((0.5, _mirror), (0.8, _half), (0.2, _grayscale), (0.1, _solarize)),
    "default": _sometimes((0.5, _mirror), (0.8, _full), (0.2, _grayscale)),
    "vicreg": _sometimes(
        (0.5, _mirror), (0.8, _half), (0.2, _grayscale), (0.5, blur), (0.1, _solarize)
    ),
}


def make_views(recipe: str) -> Views:
    """The augmentation named in RECIPES, for a key that is `jax.random.key(seed)`."""

    def views(
        image_BxHxWx3: jax.Array, index_B: jax.Array, view: jax.Array, key: jax.Array
    ) -> jax.Array:
        key = jax.random.fold_in(key, view)
        keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(index_B)
        return jax.vmap(RECIPES[recipe])(keys_B, image_BxHxWx3)

    return views


def make_augment(recipe: str, *, seed: int) -> Augment:
    """The same for one seed."""
    views = make_views(recipe)

    def augment(image_BxHxWx3: jax.Array, index_B: jax.Array, view: jax.Array) -> jax.Array:
        return views(image_BxHxWx3, index_B, view, jax.random.key(seed))

    return augment
