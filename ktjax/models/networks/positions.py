"""Position embeddings for another image size."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Resize = Callable[..., jax.Array]  # resize(image_HxWxD, shape=)
bicubic = functools.partial(jax.image.resize, method="bicubic", antialias=True)
bilinear = functools.partial(jax.image.resize, method="bilinear", antialias=False)


def bilinear_corners(image_HxWxD: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Bilinear; the centers of the corner pixels stay in place (torch's align_corners)."""
    sides = zip(shape[:2], image_HxWxD.shape[:2], strict=True)
    scale = jnp.asarray([(new - 1) / (old - 1) for new, old in sides])
    return jax.image.scale_and_translate(
        image_HxWxD, shape, (0, 1), scale, (1 - scale) / 2, method="linear", antialias=False
    )


def resize_positions(
    table_1xLxD: np.ndarray, shape: tuple[int, ...], *, prefix: int, resize: Resize
) -> np.ndarray:
    """Position embeddings of a square grid for another square grid.

    Args:
      table_1xLxD: the embeddings: those of the prefix, then those of the grid, row by row.
      shape: the wanted shape, [1, L', D].
      prefix: how many tokens without a position come first; they keep their embeddings.
      resize: resizes an image.

    Returns:
      The embeddings in this shape; unchanged if a grid is not square or D differs.
    """
    old, new = (math.isqrt(max(length - prefix, 0)) for length in (table_1xLxD.shape[1], shape[1]))
    squares = prefix + old**2, prefix + new**2
    if squares != (table_1xLxD.shape[1], shape[1]) or table_1xLxD.shape[2] != shape[2]:
        return table_1xLxD
    first, rest = table_1xLxD[:, :prefix], table_1xLxD[:, prefix:]
    grid = rest.reshape(old, old, -1).astype(np.float32)
    grid = np.asarray(resize(grid, shape=(new, new, shape[2]))).astype(table_1xLxD.dtype)
    return np.concatenate([first, grid.reshape(1, new**2, shape[2])], axis=1)
