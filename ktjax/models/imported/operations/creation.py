"""Operations that create arrays."""

import jax.numpy as jnp

from ktjax.models.imported.operations.dtypes import of_number, of_torch


def _arange(*limits, dtype=None):
    default = jnp.float32 if any(isinstance(n, float) for n in limits) else jnp.int32
    return jnp.arange(*limits, dtype=of_torch(dtype, default))


def _linspace(start, end, steps, *, dtype=None):
    return jnp.linspace(start, end, steps, dtype=of_torch(dtype, jnp.float32))


def _empty_permuted(size, order, *, dtype=None):
    """Whose order in memory changes no values."""
    del order
    return jnp.zeros(size, of_torch(dtype, jnp.float32))


def _full(size, value, *, dtype=None):
    return jnp.full(size, value, of_torch(dtype, of_number(value)))


def _full_like(x, value, *, dtype=None):
    return jnp.full(x.shape, value, of_torch(dtype, x.dtype))


def _new_full(x, size, value, *, dtype=None):
    return jnp.full(size, value, of_torch(dtype, x.dtype))


def _of(value):
    """full, full_like, new_full with this value."""

    def new(size, *, dtype=None):
        return jnp.full(size, value, of_torch(dtype, jnp.float32))

    def like(x, *, dtype=None):
        return _full_like(x, value, dtype=dtype)

    def of_size(x, size, *, dtype=None):
        return _new_full(x, size, value, dtype=dtype)

    return new, like, of_size


def _scalar_tensor(value, *, dtype=None):
    return jnp.asarray(value, of_torch(dtype, jnp.float32))


def _eye(n, m=None, *, dtype=None):
    return jnp.eye(n, m, dtype=of_torch(dtype, jnp.float32))


def _meshgrid(arrays, *, indexing="ij"):
    return tuple(jnp.meshgrid(*arrays, indexing=indexing))


_ZEROS, _ONES = _of(0), _of(1)
OPERATIONS = {
    "arange": _arange,
    "empty": _ZEROS[0],
    "empty_like": _ZEROS[1],
    "empty_permuted": _empty_permuted,
    "eye": _eye,
    "full": _full,
    "full_like": _full_like,
    "linspace": _linspace,
    "meshgrid": _meshgrid,
    "new_empty": _ZEROS[2],
    "new_full": _new_full,
    "new_ones": _ONES[2],
    "new_zeros": _ZEROS[2],
    "ones": _ONES[0],
    "ones_like": _ONES[1],
    "scalar_tensor": _scalar_tensor,
    "zeros": _ZEROS[0],
    "zeros_like": _ZEROS[1],
}
