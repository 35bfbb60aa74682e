"""Operations on each element: arithmetic, comparisons, activations.

Where a function has a kink, its gradient there is torch's.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported.graph import Dtype
from ktjax.models.imported.operations.dtypes import (
    broadcasting,
    in_float32,
    is_floating,
    of_torch,
    with_axes,
)
from ktjax.models.networks import layers


def _add(x, y, *, alpha=1):
    return jnp.add(x, y if alpha == 1 else alpha * y)


def _sub(x, y, *, alpha=1):
    return jnp.subtract(x, y if alpha == 1 else alpha * y)


def _rsub(x, y, alpha=1):
    return broadcasting(_sub)(y, x, alpha=alpha)


def _div(x, y, *, rounding_mode=None):
    if rounding_mode is None:
        return jnp.divide(x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    quotient = jnp.trunc(jnp.divide(x, y))
    return quotient.astype(jnp.result_type(x, y))


def _pow(x, y):
    # An integer power is a product, and needs no logarithm.
    if isinstance(y, float) and y.is_integer() and abs(y) < 64 and is_floating(x):
        y = int(y)
    return jnp.power(x, y)


def _multiply_add(x, a, b, *, value=1):
    return x + value * (a * b)


def _divide_add(x, a, b, *, value=1):
    return x + value * (a / b)


def clamp(x: jax.Array, low: Any = None, high: Any = None) -> jax.Array:
    """Limits; a value at a limit passes its gradient on, as torch's clamp does."""
    if low is not None:
        low = with_axes(low, x.ndim)
        x = jnp.where(x < low, jnp.asarray(low, x.dtype), x)
    if high is not None:
        high = with_axes(high, x.ndim)
        x = jnp.where(x > high, jnp.asarray(high, x.dtype), x)
    return x


def _hardtanh(x, low=-1.0, high=1.0):
    """As clamp, but a value at a limit has no gradient."""
    return jnp.where((x > low) & (x < high), x, jax.lax.stop_gradient(jnp.clip(x, low, high)))


def _hardsigmoid(x):
    return _hardtanh(x + 3, 0.0, 6.0) / 6


def _hardswish(x):
    return x * _hardsigmoid(x)


def _leaky_relu(x, slope=0.01):
    return jnp.where(x > 0, x, x * slope)


def _prelu(x, weight):
    return jnp.where(x > 0, x, x * weight)


def _elu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    negative = jnp.expm1(jnp.where(x > 0, 0, x) * input_scale)
    return scale * jnp.where(x > 0, x, alpha * negative)


def _gelu(x, *, approximate="none"):
    return jax.nn.gelu(x) if approximate == "tanh" else layers.gelu(x)


def _softplus(x, beta=1.0, threshold=20.0):
    scaled = x * beta
    return jnp.where(scaled > threshold, x, jax.nn.softplus(scaled) / beta)


def _mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


def _masked_fill(x, mask, value):
    shape = jnp.broadcast_shapes(jnp.shape(x), jnp.shape(mask))
    ndim = len(shape)
    return jnp.where(with_axes(mask, ndim), jnp.asarray(value, x.dtype), with_axes(x, ndim))


def _where(condition, x, y):
    return jnp.where(condition, x, y)


def _to_copy(x, *, dtype: Dtype | None = None):
    x = jnp.asarray(x)
    return x.astype(of_torch(dtype, x.dtype))


def _copy(x, source):
    source = jnp.asarray(source).astype(x.dtype)
    return jnp.broadcast_to(with_axes(source, x.ndim), x.shape)


def _same(x):
    return x


_OF_ONE = {
    "abs": jnp.abs,
    "alias": _same,
    "ceil": jnp.ceil,
    "clone": _same,
    "contiguous": _same,
    "conj": jnp.conj,
    "_conj": jnp.conj,
    "cos": jnp.cos,
    "detach": jax.lax.stop_gradient,
    "erf": jax.lax.erf,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "imag": jnp.imag,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "lift_fresh_copy": _same,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logical_not": jnp.logical_not,
    "bitwise_not": jnp.bitwise_not,
    "neg": jnp.negative,
    "real": jnp.real,
    "reciprocal": jnp.reciprocal,
    "relu": jax.nn.relu,
    "round": jnp.round,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "trunc": jnp.trunc,
}

_OF_SEVERAL = {
    "add": _add,
    "addcdiv": _divide_add,
    "addcmul": _multiply_add,
    "atan2": jnp.arctan2,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "div": _div,
    "eq": jnp.equal,
    "floor_divide": jnp.floor_divide,
    "fmod": jnp.fmod,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": jnp.less,
    "max.other": jnp.maximum,
    "maximum": jnp.maximum,
    "min.other": jnp.minimum,
    "minimum": jnp.minimum,
    "mul": jnp.multiply,
    "ne": jnp.not_equal,
    "pow": _pow,
    "_prelu_kernel": _prelu,
    "remainder": jnp.remainder,
    "sub": _sub,
    "where": _where,
}

OPERATIONS = {
    **_OF_ONE,
    **{name: broadcasting(function) for name, function in _OF_SEVERAL.items()},
    "_to_copy": _to_copy,
    "clamp": clamp,
    "clamp_max": lambda x, high: clamp(x, None, high),
    "clamp_min": clamp,
    "copy": _copy,
    "elu": _elu,
    "gelu": _gelu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "masked_fill": _masked_fill,
    "mish": in_float32(_mish),
    "relu6": lambda x: _hardtanh(x, 0.0, 6.0),
    "rsub": _rsub,
    "softplus": _softplus,
}
