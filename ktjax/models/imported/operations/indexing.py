"""Operations that take or put elements at an array of indices."""

import jax
import jax.numpy as jnp


def _index(x, indices):
    """As NumPy; None takes a whole axis."""
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _index_put(x, indices, values, accumulate=False):
    at = x.at[tuple(slice(None) if index is None else index for index in indices)]
    values = jnp.asarray(values).astype(x.dtype)
    return at.add(values) if accumulate else at.set(values)


def _index_select(x, dim, index):
    return jnp.take(x, jnp.atleast_1d(index), axis=dim)


def _embedding(table, index, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    """Rows of a table; the options only concern its gradient, which is the plain one."""
    del padding_idx, scale_grad_by_freq, sparse
    return jnp.take(table, index, axis=0)


def _gather(x, dim, index, *, sparse_grad=False):
    """`index` may be shorter than `x` along the other axes."""
    del sparse_grad
    dim = dim % x.ndim
    cut = [slice(None) if axis == dim else slice(n) for axis, n in enumerate(index.shape)]
    return jnp.take_along_axis(x[tuple(cut)], index, axis=dim)


def _places(x, dim, index):
    """Where each element of `index`, along `dim`, points to."""
    places = list(jnp.indices(index.shape))
    places[dim] = index
    return x.at[tuple(places)]


def _scatter(x, dim, index, source):
    if jnp.ndim(source):
        source = source[tuple(slice(n) for n in index.shape)]
    return _places(x, dim, index).set(jnp.asarray(source).astype(x.dtype))


def _scatter_add(x, dim, index, source):
    source = source[tuple(slice(n) for n in index.shape)]
    return _places(x, dim, index).add(source.astype(x.dtype))


def _slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    where = (slice(None),) * (dim % x.ndim) + (slice(start, end, step),)
    return x.at[where].set(source.astype(x.dtype))


def _select_scatter(x, source, dim, index):
    where = (slice(None),) * (dim % x.ndim) + (index,)
    return x.at[where].set(source.astype(x.dtype))


def _unfold(x, dim, size, step):
    """Windows along an axis; their elements are a new last axis."""
    windows = _windows(x.shape[dim], size, step, 1)
    return jnp.moveaxis(jnp.take(x, windows, axis=dim), dim % x.ndim + 1, -1)


def _windows(length: int, kernel: int, stride: int, dilation: int) -> jax.Array:
    """The positions in each window, [windows, kernel]."""
    number = (length - dilation * (kernel - 1) - 1) // stride + 1
    starts = jnp.arange(number, dtype=jnp.int32)[:, None] * stride
    return starts + jnp.arange(kernel, dtype=jnp.int32)[None] * dilation


def _im2col(x, kernel, dilation, padding, stride):
    """[B, C, H, W] -> [B, C * kernel elements, windows]."""
    vertical, horizontal = padding
    x = jnp.pad(x, ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)))
    rows, columns = (_windows(x.shape[2 + i], kernel[i], stride[i], dilation[i]) for i in range(2))
    x = jnp.take(jnp.take(x, rows, axis=2), columns, axis=4)  # B, C, rows, kernel, columns, kernel
    batch, channels = x.shape[:2]
    x = x.transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, channels * kernel[0] * kernel[1], -1)


def _col2im(x, output_size, kernel, dilation, padding, stride):
    """Adds up what windows overlap: the transpose of im2col."""
    channels = x.shape[1] // (kernel[0] * kernel[1])
    whole = jax.ShapeDtypeStruct((x.shape[0], channels, *output_size), x.dtype)

    def windows(image):
        return _im2col(image, kernel, dilation, padding, stride)

    return jax.linear_transpose(windows, whole)(x)[0]


OPERATIONS = {
    "_unsafe_index": _index,
    "col2im": _col2im,
    "embedding": _embedding,
    "gather": _gather,
    "im2col": _im2col,
    "index": _index,
    "index_put": _index_put,
    "index_select": _index_select,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter,
    "unfold": _unfold,
}
