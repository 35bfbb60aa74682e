"""torch's operations in JAX: a table of functions by ATen's names, and what takes their arguments.

A name has its overload where that says more than the kinds of the arguments; `find` looks for the
name with its overload, then without.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ktjax.models.imported.operations import (
    creation,
    elementwise,
    fourier,
    indexing,
    norms,
    pooling,
    products,
    random,
    reductions,
    resizing,
    shapes,
    sizes,
)

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **creation.OPERATIONS,
    **elementwise.OPERATIONS,
    **fourier.OPERATIONS,
    **indexing.OPERATIONS,
    **norms.OPERATIONS,
    **pooling.OPERATIONS,
    **products.OPERATIONS,
    **random.OPERATIONS,
    **reductions.OPERATIONS,
    **resizing.OPERATIONS,
    **shapes.OPERATIONS,
    **sizes.OPERATIONS,
}


def find(op: str) -> Callable[..., Any] | None:
    """The function of an operation; None: there is none."""
    if op in OPERATIONS:
        return OPERATIONS[op]
    return None if op.startswith("python.") else OPERATIONS.get(op.partition(".")[0])


def draws(op: str) -> bool:
    """Whether an operation takes a key, `drop_key`."""
    return op.partition(".")[0] in random.DRAWING
