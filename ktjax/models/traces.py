"""Tells functions apart by what JAX traces of them."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ktjax.classifier import Classifier, Output


def answers(model: Classifier, *, train: bool) -> tuple[str, Output]:
    """The digest of how a classifier answers two of its images, and the shapes of the answers.

    In training BatchNorm's statistics are frozen.
    """
    rngs = {"dropout": jax.random.key(0)} if train else None

    def run(variables, image):
        return model.apply(variables, image, train=train, rngs=rngs, freeze_stats=True)[0]

    image = jax.ShapeDtypeStruct((2, *model.input.size, 3), np.uint8)
    traced, given = jax.make_jaxpr(run, return_shape=True)(model.variables, image)
    return digest(traced), given


def drops(model: Classifier, evaluated: str) -> bool:
    """Whether a classifier computes something else in training than in evaluation.

    Assumed if its training cannot be traced: it may be a teacher, which is never trained.
    """
    try:
        return answers(model, train=True)[0] != evaluated
    except Exception:  # modules raise any kind
        return True


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
