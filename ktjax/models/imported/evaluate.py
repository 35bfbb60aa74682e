"""Runs a graph in JAX, and checks one without running it.

torch's float32 becomes the compute dtype, such as bfloat16, as after `module.to(bfloat16)`; but
values that depend on neither image nor parameters, such as a table of sines, stay in float32.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ktjax.classifier import Output
from ktjax.models.imported import operations
from ktjax.models.imported.graph import (
    BATCH_NORM,
    IMAGE,
    PRODUCTS,
    Call,
    Constant,
    Dtype,
    Graph,
    Node,
    Tensor,
    Weight,
    concrete,
    inputs,
)
from ktjax.models.imported.operations import dtypes, norms
from ktjax.models.networks import layers

Values = dict[str, Any]


class Program(NamedTuple):
    """A graph with everything known before it is run."""

    graph: Graph
    fixed: Mapping[str, Any]  # weights that are neither parameters nor running statistics
    constants: Mapping[str, Any]
    live: frozenset[str]  # the nodes that depend on the image or on parameters
    last: Mapping[str, int]  # where a node is read last
    reads: tuple[tuple[str, bool], ...]  # what heads read; and whether channels come first there


def program(graph: Graph, fixed: Mapping[str, Any], constants: Mapping[str, Any]) -> Program:
    """The program of a graph."""
    moving, live, last = {*graph.trained, *graph.statistics}, {IMAGE}, {}
    for place, call in enumerate(graph.calls):
        for ref in inputs(call):
            if isinstance(ref, Node):
                last[ref.name] = place
            name = graph.tied.get(ref.name, ref.name)
            if ref.name in live if isinstance(ref, Node) else name in moving:
                live.add(call.name)
    heads = [call for call in graph.calls if call.name in graph.heads]
    read = {call.args[PRODUCTS[call.op]].name: call.op == "convolution" for call in heads}
    read = read or {graph.logits: False}
    forever = dict.fromkeys((*read, graph.logits), len(graph.calls))
    return Program(graph, fixed, constants, frozenset(live), last | forever, tuple(read.items()))


def run(
    program: Program,
    variables: Mapping[str, Any],
    x_BxHxWx3: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
    visit: Callable[[Call, Any], None] | None = None,
) -> tuple[Output, Any]:
    """Runs a program.

    Args:
      program: to run.
      variables: by torch's names, `params` and `batch_stats`.
      x_BxHxWx3: prepared images.
      train: BatchNorm uses the batch's statistics, over all devices, and updates the running ones.
      key: the random key of a training graph; None: nothing is drawn.
      visit: is called with each node and its value.

    Returns:
      The Output, and `batch_stats` afterwards.
    """
    graph = program.graph
    updates = dict(variables.get("batch_stats", {}))
    weights = {**program.fixed, **variables["params"], **updates}
    values: Values = {IMAGE: jnp.moveaxis(x_BxHxWx3, -1, 1)}
    for place, call in enumerate(graph.calls):
        read = _reader(program, call, values, weights, x_BxHxWx3.dtype)
        if call.op == BATCH_NORM and train:
            names = [graph.tied.get(ref.name, ref.name) for ref in call.args[3:5]]
            x, weight, bias = map(read, call.args[:3])
            value = _train_batch_norm(x, weight, bias, call.args[5:], names, updates)
        else:
            function = operations.find(call.op)
            assert function is not None  # by `check_operations`
            options = {name: read(argument) for name, argument in call.kwargs.items()}
            if operations.draws(call.op):
                options["drop_key"] = None if key is None else jax.random.fold_in(key, place)
            value = function(*map(read, call.args), **options)
        if visit is not None:
            visit(call, value)
        values[call.name] = value
        for ref in inputs(call):
            if isinstance(ref, Node) and program.last[ref.name] == place:
                values.pop(ref.name, None)  # frees memory where nothing is compiled
    return Output(values[graph.logits], _features(program, values)), updates


def _reader(
    program: Program, call: Call, values: Values, weights: Mapping[str, Any], dtype: Any
) -> Callable[[Any], Any]:
    """Turns a node's arguments into those of its function."""
    graph, live = program.graph, call.name in program.live

    def own(value: Any) -> Any:
        """A float32 value in the compute dtype of the node."""
        return _cast(value, dtype) if live else value

    def read(argument: Any) -> Any:
        if isinstance(argument, Node):
            value = values[argument.name]
            return value if argument.name in program.live else own(value)
        if isinstance(argument, Weight):
            name = graph.tied.get(argument.name, argument.name)
            return own(_narrow(weights[name])) if name in program.fixed else weights[name]
        if isinstance(argument, Constant):
            return own(_narrow(program.constants[argument.name]))
        if isinstance(argument, Dtype):
            return Dtype(dtype.name) if live and argument.name in _FLOATING else argument
        return tuple(map(read, argument)) if isinstance(argument, tuple) else argument

    return read


_FLOATING = ("float64", "float32")


def _cast(value: Any, dtype: Any) -> Any:
    """Casts arrays of real numbers to this dtype."""
    if isinstance(value, tuple):
        return tuple(_cast(part, dtype) for part in value)
    is_array = isinstance(value, jax.Array | np.ndarray)
    return value.astype(dtype) if is_array and dtypes.is_floating(value) else value


def _narrow(value: Any) -> Any:
    """A constant in JAX's 32 bits."""
    return jnp.asarray(value, dtypes.of_torch(Dtype(value.dtype.name), None))


def _train_batch_norm(
    x: jax.Array,
    weight: Any,
    bias: Any,
    momentum_and_eps: tuple[float, float],
    names: list[str],
    updates: dict[str, Any],
) -> tuple[jax.Array, None, None]:
    """BatchNorm with the batch's statistics; moves the running ones in `updates`, as torch does."""
    momentum, eps = momentum_and_eps
    mean, var, count = layers.batch_statistics(x, (0, *range(2, x.ndim)))
    unbiased = var * (count / jnp.maximum(count - 1, 1))
    for name, new in zip(names, (mean, unbiased), strict=True):
        updates[name] = (1 - momentum) * updates[name] + momentum * new
    return norms.batch_norm(x, weight, bias, mean, var, eps), None, None


def _features(program: Program, values: Values) -> jax.Array:
    """The input of the head, [B, D]; of several heads, their inputs side by side."""
    parts = []
    for name, channels_first in program.reads:
        x = values[name]
        axes = tuple(range(2, x.ndim) if channels_first else range(1, x.ndim - 1))
        parts.append(x.mean(axes) if axes else x)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def check(graph: Graph) -> None:
    """Raises ValueError unless every node gives what the graph says; allocates nothing.

    Also raises ValueError for operations that ktjax lacks, all of which are listed.
    """
    check_operations(graph)
    batch = 3

    def visit(call: Call, value: Any) -> None:
        if call.shape is None:
            return
        wanted = concrete(call.shape, batch)
        dtype = dtypes.of_torch(Dtype(call.dtype or "float32"), None)
        if jnp.shape(value) != wanted or jnp.result_type(value) != dtype:
            raise ValueError(
                f"{call.name} ({call.op}) gives {jnp.result_type(value)} {list(jnp.shape(value))} "
                f"for a batch of {batch}, but the file says {dtype} {list(wanted)}"
            )

    try:
        output = shapes(graph, batch, visit=visit)
    except ValueError:
        raise
    except Exception as error:  # from any operation, on any arguments
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"a node cannot be computed: {lines[0]:.300}") from error
    if output.logits.ndim != 2 or output.logits.shape[0] != batch:
        raise ValueError(f"its logits have the shape {list(output.logits.shape)}, not [B, C]")


def is_random(graph: Graph) -> bool:
    """Whether a graph draws anything."""
    return any(
        bool(drop_rate(call)) if "attention" in call.op else True
        for call in graph.calls
        if operations.draws(call.op)
    )


def drop_rate(call: Call) -> Any:
    """The dropout rate of an attention node: a positional or keyword argument."""
    place = 3 if call.op.startswith("_") else 4
    given = call.args[place] if len(call.args) > place else 0.0
    return call.kwargs.get("dropout_p", given)


def shapes(graph: Graph, batch: int, *, visit: Callable[[Call, Any], None]) -> Output:
    """The Output for a batch, as shapes; `visit` sees each node. Computes and allocates nothing."""

    def of(names: Iterable[str]) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: _struct(graph.weights[name]) for name in names}

    moving = {*graph.trained, *graph.statistics}
    fixed = of(name for name in graph.weights if name not in moving)
    constants = {name: _struct(tensor) for name, tensor in graph.constants.items()}
    variables = {"params": of(graph.trained), "batch_stats": of(graph.statistics)}

    def forward(variables: Any, fixed: Any, constants: Any, image: Any) -> Any:
        at = program(graph, fixed, constants)
        return run(at, variables, image, train=False, visit=visit)[0]

    image = jax.ShapeDtypeStruct((batch, *graph.size, 3), jnp.float32)
    return jax.eval_shape(forward, variables, fixed, constants, image)


def _struct(tensor: Tensor) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tensor.shape, dtypes.of_torch(Dtype(tensor.dtype), None))


def check_operations(graph: Graph) -> None:
    """Raises ValueError with all operations that ktjax lacks, and the modules that use them."""
    unknown: dict[str, list[str]] = {}
    for call in graph.calls:
        if operations.find(call.op) is None:
            unknown.setdefault(call.op, []).append(call.module or "the model itself")
    if unknown:
        listed = "; ".join(
            f"{op} in {', '.join(dict.fromkeys(unknown[op]))}" for op in sorted(unknown)
        )
        raise ValueError(f"ktjax lacks these operations of torch: {listed}")
