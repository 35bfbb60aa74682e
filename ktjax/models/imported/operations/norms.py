"""Normalizations. BatchNorm's running statistics are arguments, updated by evaluate.py."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.networks import norms


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _scaled(x: jax.Array, weight: Any, bias: Any, shape: Sequence[int]) -> jax.Array:
    """x * weight + bias, with these reshaped."""
    x = x if weight is None else x * _wide(weight).reshape(shape)
    return x if bias is None else x + _wide(bias).reshape(shape)


def _standardized(x: jax.Array, axes: tuple[int, ...], eps: float) -> tuple[jax.Array, ...]:
    """As `norms.standardized`, whose gradient is no faster over several axes (and takes memory)."""
    mean = x.mean(axes, keepdims=True)
    centered = x - mean
    rstd = jax.lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + eps)
    return centered * rstd, mean, rstd


def _layer_norm(x, shape, weight, bias, eps):
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    y, mean, rstd = norms.standardized(_wide(x), axes, eps)
    ones = (1,) * (x.ndim - len(shape))
    return _scaled(y, weight, bias, (*ones, *shape)).astype(x.dtype), mean, rstd


def _group_norm(x, weight, bias, batch, channels, positions, groups, eps):
    del batch, positions  # they are the array's
    grouped = _wide(x).reshape(x.shape[0], groups, channels // groups, -1)
    y, mean, rstd = _standardized(grouped, (2, 3), eps)
    y = _scaled(y.reshape(x.shape), weight, bias, (1, channels, *(1,) * (x.ndim - 2)))
    return y.astype(x.dtype), mean[..., 0, 0], rstd[..., 0, 0]


def _rms_norm(x, shape, weight, eps):
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    wide = _wide(x)
    eps = jnp.finfo(jnp.float32).eps if eps is None else eps
    rstd = jax.lax.rsqrt(jnp.square(wide).mean(axes, keepdims=True) + eps)
    ones = (1,) * (x.ndim - len(shape))
    return _scaled(wide * rstd, weight, None, (*ones, *shape)).astype(x.dtype), rstd


def batch_norm(
    x: jax.Array, weight: Any, bias: Any, mean_C: jax.Array, var_C: jax.Array, eps: float
) -> jax.Array:
    """BatchNorm of [B, C, ...] with these statistics."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    gain = jax.lax.rsqrt(_wide(var_C) + eps)
    centered = _wide(x) - _wide(mean_C).reshape(shape)
    return _scaled(centered * gain.reshape(shape), weight, bias, shape).astype(x.dtype)


def _batch_norm(x, weight, bias, mean, var, momentum, eps):
    del momentum
    return batch_norm(x, weight, bias, mean, var, eps), None, None


def _own_statistics(x, weight, bias, training, momentum, eps):
    """With the batch's own statistics, not kept: for standardized weights, say."""
    del training, momentum
    axes = (0, *range(2, x.ndim))
    y, mean, rstd = _standardized(_wide(x), axes, eps)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    y = _scaled(y, weight, bias, shape).astype(x.dtype)
    return y, mean.reshape(-1), rstd.reshape(-1)


def _functional(x, weight, bias, mean, var, training, momentum, eps):
    """A BatchNorm that is in training mode although the module is evaluated."""
    if not training:
        return _batch_norm(x, weight, bias, mean, var, momentum, eps)
    return _own_statistics(x, weight, bias, training, momentum, eps)


OPERATIONS = {
    "_fused_rms_norm": _rms_norm,
    "_native_batch_norm_legit.no_stats": _own_statistics,
    "_native_batch_norm_legit_functional": _functional,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
