"""Operations that move elements without changing them."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported.operations.dtypes import with_axes

_MOST_PARTS = 65_536


def _along(ndim: int, axis: int, index: Any) -> tuple[Any, ...]:
    """The index that is `index` along one axis."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} of {ndim}")
    return (slice(None),) * (axis % ndim) + (index,)


def _view(x, shape):
    return jnp.reshape(x, shape)


def _expand(x, shape, *, implicit=False):
    del implicit
    x = with_axes(jnp.asarray(x), len(shape))
    wanted = zip(shape, jnp.shape(x) or (1,) * len(shape), strict=True)
    return jnp.broadcast_to(x, [have if want == -1 else want for want, have in wanted])


def _slice(x, dim=0, start=None, end=None, step=1):
    return x[_along(x.ndim, dim, slice(start, end, step))]


def _select(x, dim, index):
    if not -x.shape[dim] <= index < x.shape[dim]:
        raise ValueError(f"index {index} of {x.shape[dim]}")
    return x[_along(x.ndim, dim, index)]


def _split_with_sizes(x, sizes, dim=0):
    if sum(sizes) != x.shape[dim] or min(sizes) < 0:
        raise ValueError(f"{x.shape[dim]} elements into {sizes!r:.80}")
    ends = itertools.accumulate(sizes)
    return tuple(
        jax.lax.slice_in_dim(x, end - size, end, axis=dim)
        for end, size in zip(ends, sizes, strict=True)
    )


def _split(x, size, dim=0):
    total = x.shape[dim]
    _check_parts(-(-total // size))
    return _split_with_sizes(x, [min(size, total - start) for start in range(0, total, size)], dim)


def _chunk(x, chunks, dim=0):
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _check_parts(number: int) -> None:
    """Raises ValueError if a loop over parts would take forever."""
    if number > _MOST_PARTS:
        raise ValueError(f"{number:,} parts, more than {_MOST_PARTS:,}")


def _unbind(x, dim=0):
    _check_parts(x.shape[dim])
    return tuple(_select(x, dim, i) for i in range(x.shape[dim]))


def _cat(arrays, dim=0):
    arrays = [a for a in arrays if a.shape != (0,)] or list(arrays)[:1]  # torch skips these
    return jnp.concatenate(arrays, axis=dim)


def _stack(arrays, dim=0):
    return jnp.stack(arrays, axis=dim)


def _squeeze(x, dims=None):
    dims = range(x.ndim) if dims is None else (dims,) if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(dim for dim in dims if x.shape[dim] == 1))


def _unsqueeze(x, dim):
    return jnp.expand_dims(x, dim)


def _transpose(x, first, second):
    return jnp.swapaxes(x, first, second)


def _flip(x, dims):
    return jnp.flip(x, dims)


def _roll(x, shifts, dims=()):
    shifts = (shifts,) if isinstance(shifts, int) else shifts
    dims = (dims,) if isinstance(dims, int) else dims
    return jnp.roll(x, shifts, dims) if dims else jnp.roll(x, shifts[0])


def _repeat_interleave(x, repeats, dim=None, *, output_size=None):
    del output_size
    return jnp.repeat(x, repeats, axis=dim)


def _as_strided(x, size, stride, storage_offset=None):
    """Only for dense arrays in order, the only ones for which JAX has an equivalent."""
    position = jnp.full((1,) * len(size), storage_offset or 0, jnp.int32)
    for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
        shape = [1] * len(size)
        shape[axis] = length
        position = position + jnp.arange(length, dtype=jnp.int32).reshape(shape) * step
    return x.reshape(-1)[position]


def _diagonal(x, offset=0, dim1=0, dim2=1):
    return jnp.diagonal(x, offset, dim1, dim2)


def _tril(x, diagonal=0):
    return jnp.tril(x, diagonal)


def _triu(x, diagonal=0):
    return jnp.triu(x, diagonal)


def _pad(x, pad, value=0.0):
    """Constant padding; the pairs in `pad` begin with the last axis, and may be negative."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(*width, 0) for width in widths])


def _pad_mode(mode: str):
    def pad_as(x, pad):
        pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
        if max(pad) >= max(x.shape):
            raise ValueError(f"padding by {max(pad)} of {x.shape}")
        return jnp.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs, mode=mode)

    return pad_as


def _pixel_shuffle(x, factor):
    *lead, channels, height, width = x.shape
    x = x.reshape(*lead, channels // factor**2, factor, factor, height, width)
    n = len(lead)
    x = x.transpose(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, channels // factor**2, height * factor, width * factor)


def _pixel_unshuffle(x, factor):
    *lead, channels, height, width = x.shape
    x = x.reshape(*lead, channels, height // factor, factor, width // factor, factor)
    n = len(lead)
    x = x.transpose(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*lead, channels * factor**2, height // factor, width // factor)


def _channel_shuffle(x, groups):
    batch, channels, *sides = x.shape
    x = x.reshape(batch, groups, channels // groups, *sides)
    return jnp.swapaxes(x, 1, 2).reshape(batch, channels, *sides)


OPERATIONS = {
    "_unsafe_view": _view,
    "as_strided": _as_strided,
    "cat": _cat,
    "channel_shuffle": _channel_shuffle,
    "chunk": _chunk,
    "constant_pad_nd": _pad,
    "diagonal": _diagonal,
    "expand": _expand,
    "flip": _flip,
    "native_channel_shuffle": _channel_shuffle,
    "permute": jnp.transpose,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "reflection_pad1d": _pad_mode("reflect"),
    "reflection_pad2d": _pad_mode("reflect"),
    "repeat": jnp.tile,
    "repeat_interleave.self_int": _repeat_interleave,
    "replication_pad2d": _pad_mode("edge"),
    "reshape": _view,
    "roll": _roll,
    "select": _select,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split_with_sizes,
    "squeeze": _squeeze,
    "stack": _stack,
    "t": jnp.transpose,
    "transpose": _transpose,
    "tril": _tril,
    "triu": _triu,
    "unbind": _unbind,
    "unsqueeze": _unsqueeze,
    "view": _view,
}
