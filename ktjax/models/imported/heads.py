"""New last layers of a graph, for other classes."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported import evaluate
from ktjax.models.imported.graph import (
    Call,
    Dim,
    Graph,
    Node,
    Shape,
    Tensor,
    Weight,
    inputs,
)

_SHAPING = ("view", "_unsafe_view", "reshape", "expand")  # operations with sizes as arguments


def parameters(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The parameters of the last layers, with their shapes, whose first axis is the classes.

    Raises:
      ValueError: the graph does not end in linear layers or convolutions with weights of their own.
    """
    found = {}
    for call in graph.calls:
        if call.name not in graph.heads:
            continue
        refs = [ref for ref in call.args[1:3] if ref is not None]
        if call.op not in ("linear", "convolution") or not all(
            isinstance(ref, Weight) and ref.name in graph.trained for ref in refs
        ):
            raise ValueError(f"its last product, {call.name}, is not a layer with parameters")
        found |= {ref.name: graph.weights[ref.name].shape for ref in refs}
    if not found:
        raise ValueError("it has no last layer that the logits come from")
    if any(shape[0] != graph.num_classes for shape in found.values()):
        raise ValueError(f"its last layer, {', '.join(found)}, has no output per class")
    return found


def fresh(graph: Graph, head: str, seed: int) -> dict[str, jax.Array]:
    """New parameters for the last layers of a graph: zeros, or drawn as torch does by default.

    Those of each layer are uniform within 1 / sqrt(fan-in), the bias included.
    """
    shapes = parameters(graph)
    if head == "zero":
        return {name: jnp.zeros(shape) for name, shape in shapes.items()}
    drawn = {}
    for call in graph.calls:
        if call.name in graph.heads:
            names = [ref.name for ref in call.args[1:3] if ref is not None]
            bound = 1 / math.sqrt(math.prod(shapes[names[0]][1:]))
            for name in names:
                key = jax.random.fold_in(jax.random.key(seed), len(drawn))
                drawn[name] = jax.random.uniform(key, shapes[name], minval=-bound, maxval=bound)
    return drawn


def with_classes(graph: Graph, count: int) -> Graph:
    """The graph with last layers for that many classes.

    Raises:
      ValueError: as `parameters`; or what follows the last layers only fits the original classes.
    """
    of_head = parameters(graph)
    weights = dict(graph.weights)
    for name, shape in of_head.items():
        weights[name] = Tensor((count, *shape[1:]), weights[name].dtype)
    after, calls = set(graph.heads), []
    for call in graph.calls:
        if any(isinstance(ref, Node) and ref.name in after for ref in inputs(call)):
            after.add(call.name)
            if call.op in _SHAPING:
                args = _replaced(call.args[1:], graph.num_classes, count)
                call = call._replace(args=(call.args[0], *args))
        calls.append(call._replace(shape=None) if call.name in after else call)
    changed = graph._replace(weights=weights, calls=tuple(calls))
    try:
        changed = _shaped(changed)
    except Exception as error:  # from any operation
        raise ValueError("what follows its last layer only fits its own classes") from error
    if changed.num_classes != count:
        raise ValueError("its logits do not come straight from its last layer")
    return changed


def _replaced(argument: Any, old: int, new: int) -> Any:
    if type(argument) is tuple:  # and not a reference
        return tuple(_replaced(part, old, new) for part in argument)
    return new if argument == old and isinstance(argument, int) else argument


def _shaped(graph: Graph) -> Graph:
    """The graph with its missing shapes filled in."""
    found = [_shapes(graph, batch) for batch in (3, 5)]

    def filled(call: Call) -> Call:
        if call.shape is not None or call.dtype is None:
            return call
        return call._replace(shape=_shape(*(shapes[call.name] for shapes in found)))

    return graph._replace(calls=tuple(map(filled, graph.calls)))


def _shapes(graph: Graph, batch: int) -> dict[str, tuple[int, ...]]:
    """The shape of each node's output, if that is an array."""
    shapes = {}

    def visit(call: Call, value: Any) -> None:
        if isinstance(value, jax.Array):
            shapes[call.name] = value.shape

    evaluate.shapes(graph, batch, visit=visit)
    return shapes


def _shape(of_three: tuple[int, ...], of_five: tuple[int, ...]) -> Shape:
    """The shape for any batch, from those for three and for five."""

    def dim(three: int, five: int) -> Dim:
        return three if three == five else (three // 3,)

    return tuple(map(dim, of_three, of_five))
