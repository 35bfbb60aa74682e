"""Pooling over windows of [..., H, W]."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ktjax.models.networks import pooling

_MOST_BINS = 4096


def _pair(value: int | Sequence[int], default: Sequence[int] = (), sides: int = 2) -> list[int]:
    """One number for each side: torch takes one for all, or none for the default."""
    value = [value] if isinstance(value, int) else list(value) or list(default)
    return value * (sides // len(value))


def _padding(
    sides: Sequence[int], kernel: list[int], stride: list[int], padding: list[int], ceil: bool
) -> list[tuple[int, int]]:
    """The padding of each side; with `ceil` a window may reach beyond it, but not begin there."""
    pads = []
    for side, k, s, p in zip(sides, kernel, stride, padding, strict=True):
        windows = (side + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
        if ceil and (windows - 1) * s >= side + p:
            windows -= 1
        pads.append((p, max(p, (windows - 1) * s + k - side - p)))
    return pads


def _windowed(
    x: jax.Array,
    start: float,
    operation: Callable,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int] = (),
) -> jax.Array:
    lead = (1,) * (x.ndim - len(kernel))
    return jax.lax.reduce_window(
        x,
        np.asarray(start, x.dtype),  # concrete, or JAX does not recognize its gradient
        operation,
        (*lead, *kernel),
        (*lead, *stride),
        [(0, 0)] * len(lead) + list(pads),
        window_dilation=(*lead, *(dilation or (1,) * len(kernel))),
    )


def _avg_pool(
    x,
    kernel,
    stride=(),
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    n = 1 if isinstance(kernel, int) else len(kernel)
    kernel = _pair(kernel, sides=n)
    stride, padding = _pair(stride, kernel, n), _pair(padding, sides=n)
    sides = x.shape[-n:]
    pads = _padding(sides, kernel, stride, padding, ceil_mode)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    total = _windowed(wide, 0, jax.lax.add, kernel, stride, pads)
    if divisor_override is not None:
        return (total / divisor_override).astype(x.dtype)
    counted = jnp.ones(sides, wide.dtype)
    if count_include_pad:  # but not what `ceil_mode` adds
        counted = jnp.pad(counted, [(p, p) for p in padding], constant_values=1)
        pads = [(0, after - p) for (_, after), p in zip(pads, padding, strict=True)]
    count = _windowed(counted, 0, jax.lax.add, kernel, stride, pads)
    return (total / count.reshape((1,) * (x.ndim - n) + count.shape)).astype(x.dtype)


def _max_pool(x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
    kernel = _pair(kernel)
    stride, padding, dilation = _pair(stride, kernel), _pair(padding), _pair(dilation)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    pads = _padding(x.shape[-2:], reach, stride, padding, ceil_mode)
    if x.ndim == 4 and max(dilation) == 1 and jnp.issubdtype(x.dtype, jnp.floating):
        pooled = pooling.max_pool(x.transpose(0, 2, 3, 1), kernel, stride, pads)
        return pooled.transpose(0, 3, 1, 2), None
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    y = _windowed(x, least, jax.lax.max, kernel, stride, pads, dilation)
    return y, None  # the positions are not used


def _bins(side: int, bins: int) -> list[tuple[int, int]]:
    """Where the bins of adaptive pooling begin and end; they may overlap."""
    if bins > _MOST_BINS:
        raise ValueError(f"{bins:,} bins, more than {_MOST_BINS:,}")
    return [(i * side // bins, -(-(i + 1) * side // bins)) for i in range(bins)]


def _adaptive_avg_pool(x, size):
    """Means over as many bins as `size` says, of each of the last axes."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, bins in zip(range(-len(size), 0), size, strict=True):
        side = x.shape[axis]
        if bins == 1:
            y = y.mean(axis, keepdims=True)
            continue
        share = np.zeros((bins, side), np.float32)
        for i, (begin, end) in enumerate(_bins(side, bins)):
            share[i, begin:end] = 1 / (end - begin)
        product = jnp.tensordot(
            y, jnp.asarray(share), ((axis % x.ndim,), (1,)), precision="highest"
        )
        y = jnp.moveaxis(product, -1, axis)
    return y.astype(x.dtype)


def _adaptive_max_pool(x, size):
    y = x
    for axis, bins in zip(range(-len(size), 0), size, strict=True):
        parts = [
            jax.lax.slice_in_dim(y, begin, end, axis=axis % x.ndim).max(axis, keepdims=True)
            for begin, end in _bins(x.shape[axis], bins)
        ]
        y = jnp.concatenate(parts, axis)
    return y, None


OPERATIONS = {
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "adaptive_avg_pool1d": _adaptive_avg_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "avg_pool1d": _avg_pool,
    "avg_pool2d": _avg_pool,
    "max_pool2d_with_indices": _max_pool,
}
