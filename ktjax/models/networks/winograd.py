"""3x3 convolutions by Winograd's minimal filtering, which needs 16 products where 36 are usual.

Each 2x2 patch of the output comes from a 4x4 tile of the image. Tiles, kernel and patches are
transformed so that the convolution becomes 16 products of matrices [tiles, I] and [I, O], one for
each place in a tile. Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
arXiv 1509.09308, section 4.1, F(2x2, 3x3), with the kernel's gradient by the transposed transforms.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ktjax.models.networks import windows

# A 4x4, 3x3 or 2x2 arrangement of arrays of the same shape.
Grid = Sequence[Sequence[jax.Array]]


def convolve(x_BxHxWxI: jax.Array, kernel_3x3xIxO: jax.Array) -> jax.Array:
    """A 3x3 convolution with stride 1 that keeps the size: [B, H, W, O]."""
    return _convolve(x_BxHxWxI, kernel_3x3xIxO, axis=2)


def input_gradient(dy_BxHxWxO: jax.Array, kernel_3x3xIxO: jax.Array) -> jax.Array:
    """Its gradient by the image: the convolution with the kernel turned round, from O to I."""
    return _convolve(dy_BxHxWxO, jnp.flip(kernel_3x3xIxO, (0, 1)), axis=3)


def kernel_gradient(x_BxHxWxI: jax.Array, dy_BxHxWxO: jax.Array) -> jax.Array:
    """Its gradient by the kernel: [3, 3, I, O]."""
    tile_4x4 = _on_both(_of_tile, _tiles(x_BxHxWxI))
    dy_4x4 = _on_both(_of_patch, _patches(dy_BxHxWxO))
    product_4x4 = _products(tile_4x4, dy_4x4, axes=(0, 0))
    return jnp.stack([jnp.stack(row) for row in _on_both(_to_kernel, product_4x4)])


def count_tiles(x_BxHxWxC: jax.Array) -> int:
    """How many tiles an image batch has."""
    batch, height, width, _ = x_BxHxWxC.shape
    return batch * -(-height // 2) * -(-width // 2)


def _convolve(x: jax.Array, kernel_3x3xIxO: jax.Array, *, axis: int) -> jax.Array:
    """The convolution that sums over this axis of the kernel."""
    tile_4x4 = _on_both(_of_tile, _tiles(x))
    kernel_4x4 = _on_both(_of_kernel, [[kernel_3x3xIxO[i, j] for j in range(3)] for i in range(3)])
    product_4x4 = _products(tile_4x4, kernel_4x4, axes=(1, axis - 2))
    return _image(_on_both(_to_patch, product_4x4), shape=x.shape[:3])


def _products(one_4x4: Grid, other_4x4: Grid, *, axes: tuple[int, int]) -> Grid:
    """The products of two grids' matrices, summed over these axes."""
    summed = (((axes[0],), (axes[1],)), ((), ()))
    return [
        [jax.lax.dot_general(one, other, summed) for one, other in zip(*rows, strict=True)]
        for rows in zip(one_4x4, other_4x4, strict=True)
    ]


def _on_both(transform: Callable[[Sequence], list], grid: Grid) -> list[list[jax.Array]]:
    """A transform of the columns of a grid, then of its rows."""
    columns = [transform(column) for column in zip(*grid, strict=True)]
    return [transform(row) for row in zip(*columns, strict=True)]


# The paper's B^T, G and A^T; those of gradients are their transposes.


def _of_tile(d: Sequence) -> list:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_kernel(g: Sequence) -> list:
    ends, middle = (g[0] + g[2]) / 2, g[1] / 2
    return [g[0], ends + middle, ends - middle, g[2]]


def _to_patch(m: Sequence) -> list:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _of_patch(y: Sequence) -> list:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _to_kernel(u: Sequence) -> list:
    both = (u[1] + u[2]) / 2
    return [u[0] + both, (u[1] - u[2]) / 2, both + u[3]]


def _tiles(x: jax.Array) -> Grid:
    """The pixels [tiles, C] at each place of the tiles, which overlap by two."""
    _, height, width, _ = x.shape
    return _at_places(x, 4, ((1, 1 + height % 2), (1, 1 + width % 2)))


def _patches(y: jax.Array) -> Grid:
    """The pixels [tiles, C] at each place of the 2x2 patches."""
    _, height, width, _ = y.shape
    return _at_places(y, 2, ((0, height % 2), (0, width % 2)))


def _at_places(x: jax.Array, side: int, pads: windows.Padding) -> Grid:
    """The pixels at each place of square windows, two apart."""
    # Otherwise XLA would compute what x comes from again for each place.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    found = [
        pixels.reshape(-1, x.shape[-1])
        for _, _, pixels in windows.taps(x, (side, side), (2, 2), windows.NONE)
    ]
    return [found[i : i + side] for i in range(0, len(found), side)]


def _image(patch_2x2: Grid, *, shape: Sequence[int]) -> jax.Array:
    """The image [B, H, W, C] of these patches."""
    batch, height, width = shape
    tiles = (batch, -(-height // 2), -(-width // 2), -1)
    y = windows.joined([[pixels.reshape(tiles) for pixels in row] for row in patch_2x2])
    return y[:, :height, :width]
