"""torch's dtypes as JAX has them, and torch's rules of broadcasting."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported.graph import Dtype

# Without jax_enable_x64 there are no 64-bit types.
_NARROW = {"float64": "float32", "int64": "int32", "complex128": "complex64"}


def of_torch(dtype: Dtype | None, default: Any) -> Any:
    """The JAX dtype for torch's; the default if none is given."""
    return default if dtype is None else jnp.dtype(_NARROW.get(dtype.name, dtype.name))


def of_number(value: Any) -> Any:
    """The dtype of a tensor that is made of a Python number."""
    return {bool: jnp.bool_, int: jnp.int32, float: jnp.float32}[type(value)]


def is_floating(x: Any) -> bool:
    """Whether an array holds real numbers."""
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def with_axes(x: Any, ndim: int) -> Any:
    """An array with axes of length 1 before its own; scalars stay."""
    if not jnp.ndim(x) or jnp.ndim(x) == ndim:
        return x
    return jnp.reshape(x, (1,) * (ndim - jnp.ndim(x)) + jnp.shape(x))


def broadcasting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays that torch would broadcast; its options are keywords."""

    @functools.wraps(function)
    def operation(*args: Any, **options: Any) -> Any:
        ndim = max(map(jnp.ndim, args))
        return function(*(with_axes(x, ndim) for x in args), **options)

    return operation


def in_float32(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function of an array, computed in float32 at least; its result has the array's dtype."""

    @functools.wraps(function)
    def operation(x: jax.Array, *args: Any, **options: Any) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return function(wide, *args, **options).astype(x.dtype)

    return operation
