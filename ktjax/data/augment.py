"""Random augmentation on the device: a view of an image is a function of (seed, view, index) alone.

So a later pass, a resumed run or another number of devices sees the same pixels. What goes in and
comes out is uint8: every model normalises its own input.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# augment(image_BxHxWx3, index_B, view) -> image_BxHxWx3, all uint8
Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def shift_colour(key: jax.Array, image_HxWx3: jax.Array) -> jax.Array:
    """Moves by up to a tenth of the side, then changes contrast and brightness. Never mirrors."""
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
    return jnp.clip((x - mean) * contrast + mean + brightness, 0, 255).round().astype(jnp.uint8)


# name -> what is done to one image
RECIPES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "none": lambda key, image: image,
    "shift_colour": shift_colour,
}


def make_augment(recipe: str, *, seed: int) -> Augment:
    """The augmentation named in RECIPES, for one seed."""

    def augment(image_BxHxWx3: jax.Array, index_B: jax.Array, view: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), view)
        keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(index_B)
        return jax.vmap(RECIPES[recipe])(keys_B, image_BxHxWx3)

    return augment
