"""Operations over axes: sums, extrema, sorting, softmax."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported.operations.dtypes import in_float32, of_torch

Dims = int | tuple[int, ...] | None


def _axes(dims: Dims) -> Any:
    """No axes means all axes."""
    return None if dims is None or dims == () else dims


def _sum(x, dims=None, keepdim=False, *, dtype=None):
    x = x.astype(of_torch(dtype, x.dtype))
    return jnp.sum(x, _axes(dims), keepdims=keepdim)


def _mean(x, dims=None, keepdim=False, *, dtype=None):
    x = x.astype(of_torch(dtype, x.dtype))
    return jnp.mean(x, _axes(dims), keepdims=keepdim)


def _prod(x, dim=None, keepdim=False, *, dtype=None):
    x = x.astype(of_torch(dtype, x.dtype))
    return jnp.prod(x, dim, keepdims=keepdim)


def _amax(x, dims=(), keepdim=False):
    return jnp.max(x, _axes(dims), keepdims=keepdim)


def _amin(x, dims=(), keepdim=False):
    return jnp.min(x, _axes(dims), keepdims=keepdim)


def _extreme(argument):
    """max or min: over all, or along an axis with its position, which alone has the gradient."""

    def operation(x, dim=None, keepdim=False):
        if dim is None:
            return x.reshape(-1)[argument(x)]
        place = jnp.expand_dims(argument(x, axis=dim), dim)
        value = jnp.take_along_axis(x, place, axis=dim)
        return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))

    return operation


def _argmax(x, dim=None, keepdim=False):
    return jnp.argmax(x, dim, keepdims=keepdim)


def _argmin(x, dim=None, keepdim=False):
    return jnp.argmin(x, dim, keepdims=keepdim)


def _argsort(x, dim=-1, descending=False, *, stable=True):
    return jnp.argsort(x, dim, stable=stable is not False, descending=descending)


def _sort(x, dim=-1, descending=False):
    place = jnp.argsort(x, dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, place, axis=dim), place


def _sort_stable(x, *, stable=None, dim=-1, descending=False):
    del stable  # it always is
    return _sort(x, dim, descending)


def _topk(x, k, dim=-1, largest=True, is_sorted=True):
    del is_sorted  # it always is
    value, place = _sort(x, dim, largest)
    return tuple(jax.lax.slice_in_dim(a, 0, k, axis=dim) for a in (value, place))


def _cumsum(x, dim, *, dtype=None):
    return jnp.cumsum(x, dim, dtype=of_torch(dtype, None))


def _var(x, dims=None, keepdim=False, *, correction=None):
    correction = 1 if correction is None else correction
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    found = jnp.var(wide, _axes(dims), ddof=correction, keepdims=keepdim)
    return found.astype(x.dtype)


def _var_biased(x, dims=None, unbiased=True, keepdim=False):
    return _var(x, dims, keepdim, correction=int(unbiased))


def _var_mean(x, dims=None, keepdim=False, *, correction=None):
    return _var(x, dims, keepdim, correction=correction), _mean(x, dims, keepdim)


def _std(x, dims=None, keepdim=False, *, correction=None):
    return jnp.sqrt(_var(x, dims, keepdim, correction=correction))


def _vector_norm(x, order=2, dims=None, keepdim=False, *, dtype=None):
    x = x.astype(of_torch(dtype, x.dtype))
    wide = jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    axes = _axes(dims)
    if math.isinf(order):
        found = (jnp.max if order > 0 else jnp.min)(wide, axes, keepdims=keepdim)
    elif order == 0:
        found = jnp.sum(wide != 0, axes, keepdims=keepdim)
    elif order == 1:
        found = jnp.sum(wide, axes, keepdims=keepdim)
    else:
        powers = jnp.square(wide) if order == 2 else wide**order
        total = jnp.sum(powers, axes, keepdims=keepdim)
        # The gradient at zero is zero, as in torch.
        some = total > 0
        found = jnp.where(some, jnp.where(some, total, 1) ** (1 / order), 0)
    return found.astype(x.dtype)


def _any(x, dims=None, keepdim=False):
    return jnp.any(x, _axes(dims), keepdims=keepdim)


def _all(x, dims=None, keepdim=False):
    return jnp.all(x, _axes(dims), keepdims=keepdim)


@in_float32
def _logsumexp(x, dims, keepdim=False):
    return jax.nn.logsumexp(x, _axes(dims), keepdims=keepdim)


@in_float32
def softmax(x: jax.Array, dim: int) -> jax.Array:
    """Softmax along an axis."""
    return jax.nn.softmax(x, axis=dim)


def _softmax(x, dim, half_to_float=False):
    del half_to_float
    return softmax(x, dim)


@in_float32
def safe_softmax(x: jax.Array, dim: int) -> jax.Array:
    """Softmax; zeros where everything is -inf."""
    none = jnp.all(jnp.isneginf(x), axis=dim, keepdims=True)
    return jnp.where(none, 0.0, jax.nn.softmax(jnp.where(none, 0.0, x), axis=dim))


def _safe_softmax(x, dim, dtype=None):
    return safe_softmax(x.astype(of_torch(dtype, x.dtype)), dim)


@in_float32
def _log_softmax(x, dim, half_to_float=False):
    del half_to_float
    return jax.nn.log_softmax(x, axis=dim)


OPERATIONS = {
    "_log_softmax": _log_softmax,
    "_safe_softmax": _safe_softmax,
    "_softmax": _softmax,
    "all": _all,
    "amax": _amax,
    "amin": _amin,
    "any": _any,
    "argmax": _argmax,
    "argmin": _argmin,
    "argsort": _argsort,
    "cumsum": _cumsum,
    "linalg_vector_norm": _vector_norm,
    "logsumexp": _logsumexp,
    "max": _extreme(jnp.argmax),
    "mean": _mean,
    "min": _extreme(jnp.argmin),
    "norm": _vector_norm,
    "prod": _prod,
    "sort": _sort,
    "sort.stable": _sort_stable,
    "std": _std,
    "sum": _sum,
    "topk": _topk,
    "var": _var,
    "var.dim": _var_biased,
    "var_mean": _var_mean,
}
