"""Tells functions apart by what JAX traces of them."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def digest(traced: core.ClosedJaxpr) -> str:
    """The SHA-256 of a function's operations, and of the constants in it."""
    operations = re.sub(r"0x[0-9a-f]+", "", str(traced))  # addresses differ between processes
    found = hashlib.sha256(operations.encode())
    for constant in _constants(traced):
        if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            constant = jax.random.key_data(constant)
        found.update(np.ascontiguousarray(constant).tobytes())
    return found.hexdigest()


def _constants(traced: Any) -> Iterator[Any]:
    """Those of a function and of all that it calls."""
    yield from traced.consts
    for equation in traced.jaxpr.eqns:
        for part in jax.tree.leaves([*equation.params.values()], is_leaf=_is_traced):
            if _is_traced(part):
                yield from _constants(part)


def _is_traced(part: Any) -> bool:
    return isinstance(part, core.ClosedJaxpr)
