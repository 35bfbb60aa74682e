"""Python's operators on sizes, which depend on the batch, and on outputs that are tuples."""

import math
import operator
from collections.abc import Callable


def _size(x, dim):
    return x.shape[dim]


def _number_of_elements(x):
    return math.prod(x.shape)


def _of_integers(function: Callable[..., int]) -> Callable[..., int]:
    """Only for integers no larger than sizes are: a file may say anything."""

    def operation(*args: int) -> int:
        if not all(isinstance(number, int) for number in args):
            raise ValueError(f"sizes are integers, not {args!r:.60}")
        found = function(*args)
        if abs(found) >= 2**63:
            raise ValueError(f"the absurd size {found:.3g}")
        return found

    return operation


_ON_SIZES = {
    "add": operator.add,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "mul": operator.mul,
    "neg": operator.neg,
    "sub": operator.sub,
    "sym_max": max,
    "sym_min": min,
}
OPERATIONS = {
    **{f"python.{name}": _of_integers(function) for name, function in _ON_SIZES.items()},
    "python.getitem": operator.getitem,
    "sym_numel": _number_of_elements,
    "sym_size.int": _size,
}
