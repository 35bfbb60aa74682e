"""Position embeddings for another image size."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Resize = Callable[..., jax.Array]  # resize(image_HxWxD, shape=)
Grid = tuple[int, int]  # rows, columns; or height, width of an image


class Entry(NamedTuple):
    """An entry of a file, for a network that may be made for images of another size.

    A network's `adapt` gives it the wanted shape, or returns it as it is.
    """

    name: str  # timm's
    array: np.ndarray
    shape: tuple[int, ...]  # wanted
    before: Grid  # height and width of the images that the file is for
    after: Grid  # and that the network is for


bicubic = functools.partial(jax.image.resize, method="bicubic", antialias=True)
bilinear = functools.partial(jax.image.resize, method="bilinear", antialias=False)


def bilinear_corners(image_HxWxD: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Bilinear; the centers of the corner pixels stay in place (torch's align_corners)."""
    sides = zip(shape[:2], image_HxWxD.shape[:2], strict=True)
    scale = jnp.asarray([(new - 1) / (old - 1) for new, old in sides])
    return jax.image.scale_and_translate(
        image_HxWxD, shape, (0, 1), scale, (1 - scale) / 2, method="linear", antialias=False
    )


def resized(
    entry: Entry, grid_of: Callable[[Grid], Grid], *, prefix: int, resize: Resize
) -> np.ndarray:
    """Position embeddings for images of another size, as timm resizes them; others are unchanged.

    Those of as many places in other rows are resized, too, as in timm's set_input_size.

    Args:
      entry: of a file. The embeddings are `pos_embed`, [1, L, D]: those of the prefix, then those
        of the grid, row by row. If it has another number of places than images of `entry.before`,
        they are taken for those of a square, or else left unchanged.
      grid_of: rows and columns of the places of an image, by its height and width.
      prefix: how many tokens without a position come first; they keep their embeddings.
      resize: resizes an image.
    """
    table_1xLxD = entry.array
    if entry.name != "pos_embed" or table_1xLxD.ndim != 3 or table_1xLxD.shape[2] != entry.shape[2]:
        return table_1xLxD
    before, after = grid_of(entry.before), grid_of(entry.after)
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


def in_rows(entry: Entry, grid_of: Callable[[Grid], Grid]) -> np.ndarray:
    """The entry of a network with layers over all places of an image, unchanged.

    ValueError if as many places are in other rows: the layers would mix them up. Another number of
    places does not fit such layers anyway.
    """
    before, after = grid_of(entry.before), grid_of(entry.after)
    if before != after and math.prod(before) == math.prod(after):
        old, new = (f"{rows}x{columns}" for rows, columns in (before, after))
        raise ValueError(
            f"The layers of this network span the {old} places of an image, row by row: size= may "
            f"not make them {new}."
        )
    return entry.array
