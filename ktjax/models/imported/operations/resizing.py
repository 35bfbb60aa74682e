"""Resizing of [..., H, W]: along each side a product with a matrix of weights."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LARGEST = 8192  # pixels of a side: the matrix of a resize grows with its square


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: np.ndarray, *, a: float) -> np.ndarray:
    """Keys' cubic kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


_CUBIC = functools.partial(_cubic, a=-0.75)
_CUBIC_ANTIALIASED = functools.partial(_cubic, a=-0.5)  # as Pillow
Kernel = Callable[[np.ndarray], np.ndarray]


def _weights(
    side: int, size: int, kernel: Kernel, reach: int, align: bool, scale: float | None
) -> np.ndarray:
    """[size, side], for positions beyond the edge that read the edge."""
    step = _step(side, size, align, scale)
    center = np.arange(size) * step if align else (np.arange(size) + 0.5) * step - 0.5
    if reach == 1 and not align:
        center = np.maximum(center, 0)
    first = np.floor(center).astype(int)
    weights = np.zeros((size, side))
    for offset in range(1 - reach, 1 + reach):
        position = first + offset
        place = np.clip(position, 0, side - 1)
        np.add.at(weights, (np.arange(size), place), kernel(center - position))
    return weights


def _step(side: int, size: int, align: bool, scale: float | None) -> float:
    if align:
        return (side - 1) / (size - 1) if size > 1 else 0.0
    return 1 / scale if scale else side / size


def _antialiased(
    side: int, size: int, kernel: Kernel, reach: int, align: bool, scale: float | None
) -> np.ndarray:
    """[size, side] of weights that widen if the side gets smaller, as Pillow's do."""
    step = _step(side, size, align, scale)
    widened = max(step, 1.0)
    center = step * (np.arange(size) + 0.5)
    first = np.maximum((center - reach * widened + 0.5).astype(int), 0)
    last = np.minimum((center + reach * widened + 0.5).astype(int), side)
    position = np.arange(side)
    weights = kernel((position[None] + 0.5 - center[:, None]) / widened)
    weights *= (position[None] >= first[:, None]) & (position[None] < last[:, None])
    return weights / weights.sum(1, keepdims=True)


def _nearest(side: int, size: int, scale: float | None) -> np.ndarray:
    step = np.float32(_step(side, size, False, scale))
    place = np.floor(np.arange(size, dtype=np.float32) * step).astype(int)
    return np.minimum(place, side - 1)


def _sizes(
    x: jax.Array, size: Sequence[int] | None, scales: Sequence[float | None] | None
) -> tuple[Sequence[int], Sequence[float | None]]:
    """The new sides, and the factors that torch computes positions with."""
    if size is not None:
        return size, scales or (None, None)
    assert scales is not None
    return [int(side * scale) for side, scale in zip(x.shape[-2:], scales, strict=True)], scales


def _resized(
    x: jax.Array, sizes: Sequence[int], scales: Sequence[Any], weights: Callable[..., np.ndarray]
) -> jax.Array:
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, size, scale in zip((-2, -1), sizes, scales, strict=True):
        side = x.shape[axis]
        if max(size, side) > _LARGEST:
            raise ValueError(f"{side:,} to {size:,} pixels, more than {_LARGEST:,}")
        if size == side and not scale:
            continue
        matrix = jnp.asarray(weights(side, size, scale=scale), jnp.float32)
        product = jnp.tensordot(y, matrix, ((axis % x.ndim,), (1,)), precision="highest")
        y = jnp.moveaxis(product, -1, axis)
    return y.astype(x.dtype)


def _smooth(make: Callable[..., np.ndarray], kernel: Kernel, reach: int):
    """(the operation with a size, the one with a size or factors: torch's overload `vec`)."""

    def by_size(x, size, align_corners, scale_h=None, scale_w=None):
        weights = functools.partial(make, kernel=kernel, reach=reach, align=align_corners)
        return _resized(x, size, (scale_h, scale_w), weights)

    def by_either(x, size, align_corners, factors):
        sizes, scales = _sizes(x, size, factors)
        return by_size(x, sizes, align_corners, *scales)

    return by_size, by_either


def _nearest_by_size(x, size, scale_h=None, scale_w=None):
    for axis, length, scale in zip((-2, -1), size, (scale_h, scale_w), strict=True):
        x = jnp.take(x, _nearest(x.shape[axis], length, scale), axis=axis)
    return x


def _nearest_by_either(x, size, factors):
    sizes, scales = _sizes(x, size, factors)
    return _nearest_by_size(x, sizes, *scales)


_BILINEAR = _smooth(_weights, _linear, 1)
_BICUBIC = _smooth(_weights, _CUBIC, 2)
_BILINEAR_AA = _smooth(_antialiased, _linear, 1)
_BICUBIC_AA = _smooth(_antialiased, _CUBIC_ANTIALIASED, 2)
OPERATIONS = {
    "_upsample_bicubic2d_aa": _BICUBIC_AA[0],
    "_upsample_bicubic2d_aa.vec": _BICUBIC_AA[1],
    "_upsample_bilinear2d_aa": _BILINEAR_AA[0],
    "_upsample_bilinear2d_aa.vec": _BILINEAR_AA[1],
    "upsample_bicubic2d": _BICUBIC[0],
    "upsample_bicubic2d.vec": _BICUBIC[1],
    "upsample_bilinear2d": _BILINEAR[0],
    "upsample_bilinear2d.vec": _BILINEAR[1],
    "upsample_nearest2d": _nearest_by_size,
    "upsample_nearest2d.vec": _nearest_by_either,
}
