"""Position embeddings for another image size."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Resize = Callable[..., jax.Array]  # resize(image_HxWxD, shape=)
Grid = tuple[int, int]  # rows, columns; or height, width of an image
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
    table_1xLxD: np.ndarray, before: Grid, after: Grid, *, prefix: int, resize: Resize
) -> np.ndarray:
    """Position embeddings of one grid for another, as timm resizes them.

    Those of as many places in other rows are resized, too, as in timm's set_input_size.

    Args:
      table_1xLxD: the embeddings: those of the prefix, then those of the grid, row by row.
      before: rows and columns of the grid that they are said to be of; if that has another number
        of places, they are taken for those of a square.
      after: those of the wanted grid.
      prefix: how many tokens without a position come first; they keep their embeddings.
      resize: resizes an image.

    Returns:
      The embeddings of the new grid; unchanged if the old one is not known.
    """
    count, depth = table_1xLxD.shape[1] - prefix, table_1xLxD.shape[2]
    if math.prod(before) != count:
        before = (math.isqrt(max(count, 0)),) * 2
    if before == after or math.prod(before) != count:
        return table_1xLxD
    first, rest = table_1xLxD[:, :prefix], table_1xLxD[:, prefix:]
    grid = rest.reshape(*before, depth).astype(np.float32)
    grid = np.asarray(resize(grid, shape=(*after, depth))).astype(table_1xLxD.dtype)
    return np.concatenate([first, grid.reshape(1, -1, depth)], axis=1)


def patches(size: Grid, side: int) -> Grid:
    """How many whole square patches of this side an image has, by its height and width."""
    return size[0] // side, size[1] // side


def check_rows(before: Grid, after: Grid) -> None:
    """Raises ValueError if as many places are in other rows: layers over all would mix them up.

    Another number of places does not fit such layers anyway.
    """
    if before != after and math.prod(before) == math.prod(after):
        old, new = (f"{rows}x{columns}" for rows, columns in (before, after))
        raise ValueError(
            f"The layers of this network span the {old} places of an image, row by row: size= may "
            f"not make them {new}."
        )
