"""The windows of an image: for each place in a window, the pixels that all windows have there."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]
NONE: Padding = ((0, 0), (0, 0))
ONE: Padding = ((1, 1), (1, 1))  # pixel on each side


def taps(
    x_BxHxWxC: jax.Array, sides: Sequence[int], strides: Sequence[int], pads: Padding
) -> Iterator[tuple[int, int, jax.Array]]:
    """For each place in a window: row, column, and the pixels there [B, rows, columns, C].

    `sides` and `strides` are those of the windows, which see zeros around the image.
    """
    around = ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0))
    x = jax.lax.pad(x_BxHxWxC, jnp.zeros((), x_BxHxWxC.dtype), around)
    counts = [
        (size - side) // stride + 1
        for size, side, stride in zip(x.shape[1:3], sides, strides, strict=True)
    ]
    for i in range(sides[0]):
        for j in range(sides[1]):
            last = [at + (n - 1) * s + 1 for at, n, s in zip((i, j), counts, strides, strict=True)]
            start, end = (0, i, j, 0), (x.shape[0], *last, x.shape[3])
            yield i, j, jax.lax.slice(x, start, end, (1, *strides, 1))


def flat(
    x_BxHxWxC: jax.Array, sides: Sequence[int], strides: Sequence[int], pads: Padding
) -> jax.Array:
    """The pixels of each window, one after another [B, rows, columns, side * side * C]."""
    if tuple(sides) != tuple(strides) or pads != NONE:
        return jnp.concatenate([x for _, _, x in taps(x_BxHxWxC, sides, strides, pads)], axis=-1)
    batch, *size, channels = x_BxHxWxC.shape
    (high, wide), (rows, columns) = sides, (n // side for n, side in zip(size, sides, strict=True))
    x = x_BxHxWxC[:, : rows * high, : columns * wide]
    x = x.reshape(batch, rows, high, columns, wide, channels).swapaxes(2, 3)
    return x.reshape(batch, rows, columns, high * wide * channels)


def joined(grid: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """The image of windows that touch, from the pixels [B, rows, columns, C] at each place."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    batch, rows, high, columns, wide, channels = y.shape
    return y.reshape(batch, rows * high, columns * wide, channels)
