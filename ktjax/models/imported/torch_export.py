"""torch module -> graph: the only place that imports torch, once per model.

`torch.export` traces the module in evaluation mode with a dynamic batch size, and decomposes it to
core ATen operations. Linear layers and attention stay whole. A module with dropout or stochastic
depth is traced in training mode as well (torch_training.py).
"""

import copy
import importlib
import logging
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ktjax.models.imported import evaluate, torch_training
from ktjax.models.imported.graph import (
    BATCH_NORM,
    IMAGE,
    PRODUCTS,
    Call,
    Constant,
    Dim,
    Dtype,
    Graph,
    Node,
    Shape,
    Tensor,
    Weight,
    inputs,
)

_LOG = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]
_KEPT_WHOLE = ("linear", "scaled_dot_product_attention")
# Keyword arguments of torch's operations that change no values.
_EMPTY = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "requires_grad")


class Exported(NamedTuple):
    """A torch module as data."""

    graph: Graph
    training: Graph | None  # with dropout and stochastic depth, if there are any
    weights: Arrays  # by torch's names: the whole state_dict
    constants: Arrays
    versions: dict[str, str]


def export(module: Any, size: tuple[int, int]) -> Exported:
    """Exports a torch.nn.Module that takes float images [B, 3, height, width] and returns logits.

    Raises:
      ValueError: torch is not installed; or the module has data-dependent control flow, is for one
        batch size only, returns something other than logits [B, C], or has operations that ktjax
        lacks, all of which are listed.
    """
    torch = _torch()
    module = copy.deepcopy(module).cpu().float()
    module.train().eval()  # in training mode timm's attention drops what it caches in evaluation
    program = _program(_only_logits(module), size)
    weights, constants = _arrays(module, program)
    graph = _graph(program, size, weights, constants)
    evaluate.check(graph)
    if evaluate.is_random(graph):
        raise ValueError("The module draws random numbers even in evaluation mode.")
    constants = {name: constants[name] for name in graph.constants}  # those that are read
    if torch_training.averages_all(module):
        _LOG.warning(
            "%s has BatchNorm with momentum=None, whose running statistics will not move with "
            "config.batch_norm=train: give it a momentum, such as 0.1.",
            type(module).__name__,
        )
    training = None
    if torch_training.drops(module, size):
        training, more = _training(module, program, size, graph, weights, constants)
        constants |= more
    return Exported(graph, training, weights, constants, {"torch": torch.__version__})


def _training(
    module: Any, program: Any, size: tuple[int, int], graph: Graph, weights: Arrays, known: Arrays
) -> tuple[Graph | None, dict[str, np.ndarray]]:
    """The graph of training mode, and its additional constants.

    If there is none, None, and the log says why: in training mode the module may have other
    outputs, or control flow that depends on random numbers.
    """
    try:
        trained = _program(_only_logits(torch_training.in_training(module)), size)
        torch_training.check_same(program, trained, size)
        _, found = _arrays(module, trained)
        # Constants of the same name may differ.
        own = {
            name: f"training.{name}"
            for name, array in found.items()
            if name not in known or not np.array_equal(known[name], array)
        }
        found = {own.get(name, name): array for name, array in found.items()}
        training = _graph(trained, size, weights, found, rename=own)
        calls = torch_training.with_drawn_masks(training.calls)
        training = training._replace(
            calls=calls, trained=graph.trained, statistics=graph.statistics
        )
        evaluate.check(training)
    except ValueError as error:
        _LOG.warning(
            "%s is trained as in evaluation, without dropout and stochastic depth: %s",
            type(module).__name__,
            error,
        )
        return None, {}
    if not evaluate.is_random(training):
        return None, {}
    return training, {name: found[name] for name in training.constants}


def _torch() -> Any:
    """torch; ValueError with what to install, if it is not there."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            "Importing a torch module needs torch: pip install 'ktjax[torch]'."
        ) from error


def _only_logits(module: Any) -> Any:
    """The module, returning logits instead of the object that transformers' models return."""
    torch = _torch()

    class OnlyLogits(torch.nn.Module):
        """Calls the module."""

        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, image):
            output = self.module(image)
            logits = getattr(output, "logits", output)
            return getattr(logits, "last_hidden_state", logits)  # PPLCNet's name for them

    return OnlyLogits()


_PREFIX = "module."  # of the wrapped module's names


def _program(module: Any, size: tuple[int, int]) -> Any:
    torch = _torch()

    image = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a module caches something: for this trace only
            program = torch.export.export(
                module, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            table = torch.export.default_decompositions()
            for name in _KEPT_WHOLE:
                table.pop(getattr(torch.ops.aten, name).default, None)
            program = program.run_decompositions(table)
    except Exception as error:  # torch raises many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"torch.export cannot trace this {type(module.module).__name__} with images of "
            f"{size[0]}x{size[1]} and a batch of any size: {' '.join(lines[:3])[:600]}"
        ) from error
    return program


def _arrays(module: Any, program: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All of the state_dict, and the constants that the graph reads."""
    weights = {name: tensor.numpy(force=True) for name, tensor in module.state_dict().items()}
    constants = {}
    for spec in program.graph_signature.input_specs:
        name = spec.target
        if name is None or name.removeprefix(_PREFIX) in weights:
            continue
        tensor = program.constants[name]
        constants[name.removeprefix(_PREFIX)] = tensor.numpy(force=True)
    return weights, constants


def _tied(weights: Arrays) -> dict[str, str]:
    """Further names of arrays that have one already."""
    first: dict[int, str] = {}
    tied = {}
    for name, array in weights.items():
        address = array.__array_interface__["data"][0]
        if array.size and address in first and weights[first[address]].shape == array.shape:
            tied[name] = first[address]
        else:
            first.setdefault(address, name)
    return tied


def _graph(
    program: Any,
    size: tuple[int, int],
    weights: Arrays,
    constants: Arrays,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Graph:
    tied = _tied(weights)
    references: dict[str, Any] = {}
    parameters = set()
    for spec in program.graph_signature.input_specs:
        name = None if spec.target is None else spec.target.removeprefix(_PREFIX)
        if name is None:
            references[spec.arg.name] = Node(IMAGE)
        elif name in weights:
            name = tied.get(name, name)
            references[spec.arg.name] = Weight(name)
            if spec.kind.name == "PARAMETER":
                parameters.add(name)
        else:
            references[spec.arg.name] = Constant(rename.get(name, name))
    calls = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            calls.append(_call(node, references))
            references[node.name] = Node(node.name)
    output = _output(program)
    calls = _needed(calls, output)
    used = {ref.name for call in calls for ref in inputs(call) if isinstance(ref, Weight)}
    moved = [call.args[i] for call in calls if call.op == BATCH_NORM for i in (3, 4)]
    statistics = {ref.name for ref in moved if isinstance(ref, Weight)}
    read = {ref.name for call in calls for ref in inputs(call) if isinstance(ref, Constant)}
    return Graph(
        size=size,
        weights={k: Tensor(v.shape, v.dtype.name) for k, v in weights.items() if k not in tied},
        trained=tuple(name for name in weights if name in parameters & used),
        statistics=tuple(name for name in weights if name in statistics),
        tied=tied,
        constants={k: Tensor(v.shape, v.dtype.name) for k, v in constants.items() if k in read},
        calls=tuple(calls),
        logits=output,
        heads=_heads(calls, output),
    )


def _output(program: Any) -> str:
    """The name of the node with the logits."""
    specs = program.graph_signature.output_specs
    given = [spec.arg.name for spec in specs if spec.kind.name == "USER_OUTPUT"]
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [getattr(nodes[name].meta.get("val"), "shape", ()) for name in given]
    if len(given) != 1 or len(shapes[0]) != 2:
        shown = ", ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"The module returns {len(given)} tensors ({shown}), not one of logits [B, C]: wrap it "
            "in a module that returns the logits."
        )
    return given[0]


def _needed(calls: list[Call], output: str) -> list[Call]:
    """The nodes that the output depends on."""
    needed = {output}
    for call in reversed(calls):
        if call.name in needed:
            needed |= {ref.name for ref in inputs(call) if isinstance(ref, Node)}
    return [call for call in calls if call.name in needed]


def _call(node: Any, references: Mapping[str, Any]) -> Call:
    value = node.meta.get("val")
    stack = list(node.meta.get("nn_module_stack", {}).values())
    shape = dtype = None
    if hasattr(value, "shape"):
        shape, dtype = _shape(value.shape, node.name), _dtype_name(value.dtype)
    return Call(
        name=node.name,
        op=_operation(node.target),
        args=tuple(_argument(part, references, node) for part in node.args),
        kwargs={
            k: _argument(v, references, node) for k, v in node.kwargs.items() if k not in _EMPTY
        },
        shape=shape,
        dtype=dtype,
        module=_place(stack),
    )


def _place(stack: list[Any]) -> str:
    """The path of the module that computes a node, as torch.export records it."""
    path = stack[-1][0] if stack else ""
    return path.removeprefix(_PREFIX) if path.startswith(_PREFIX) else ""


def _operation(target: Any) -> str:
    """The name of an operation: ATen's, or that of Python's operator on sizes."""
    if hasattr(target, "_schema"):  # torch.ops.NAMESPACE.NAME.OVERLOAD
        namespace, name, overload = str(target).split(".")
        name = name if namespace == "aten" else f"{namespace}::{name}"
        return name if overload == "default" else f"{name}.{overload}"
    return f"python.{getattr(target, '__name__', str(target))}"


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(shape: Any, where: str) -> Shape:
    return tuple(_dim(dim, where) for dim in shape)


def _dim(dim: Any, where: str) -> Dim:
    """A number, or how many times the batch."""
    if isinstance(dim, int):
        return dim
    expression = dim.node.expr
    (symbol,) = expression.free_symbols
    at = [int(expression.subs({symbol: batch})) for batch in (2, 3, 5)]
    if at != [at[0] // 2 * batch for batch in (2, 3, 5)]:
        raise ValueError(f"{where} has {expression} elements, not a multiple of the batch.")
    return (at[0] // 2,)


def _argument(value: Any, references: Mapping[str, Any], node: Any) -> Any:
    torch = _torch()

    if isinstance(value, torch.fx.Node):
        if value.name not in references:
            raise ValueError(f"{node.name} reads {value.name}, which is part of another graph.")
        return references[value.name]
    if isinstance(value, list | tuple):
        return tuple(_argument(part, references, node) for part in value)
    if isinstance(value, torch.dtype):
        return Dtype(_dtype_name(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None
    raise ValueError(f"{node.name} of {node.target} has an argument that is a {type(value)}.")


def _heads(calls: list[Call], output: str) -> tuple[str, ...]:
    """The last products with weights on the paths from the image to the logits.

    None, if one of them depends on another, as in the blocks of a network without a head.
    """
    by_name = {call.name: call for call in calls}
    of_image = {IMAGE}
    for call in calls:
        if of_image & _nodes(call):
            of_image.add(call.name)

    def last(names: set[str]) -> set[str]:
        """The last products before these nodes."""
        heads, todo, seen = set(), set(names), {IMAGE}
        while todo:
            name = todo.pop()
            seen.add(name)
            call = by_name[name]
            if _is_head(call, of_image):
                heads.add(name)
            else:
                todo |= (_nodes(call) & of_image) - seen
        return heads

    heads = last({output})
    before = set().union(*(_nodes(by_name[name]) & of_image for name in heads)) - {IMAGE}
    seen = set()
    while before:
        name = before.pop()
        seen.add(name)
        before |= (_nodes(by_name[name]) & of_image) - seen - {IMAGE}
    return () if heads & seen else tuple(call.name for call in calls if call.name in heads)


def _nodes(call: Call) -> set[str]:
    return {ref.name for ref in inputs(call) if isinstance(ref, Node)}


def _is_head(call: Call, of_image: set[str]) -> bool:
    """Whether a node multiplies what depends on the image by weights."""
    if call.op not in PRODUCTS:
        return False
    data = call.args[PRODUCTS[call.op]]
    others = [ref for ref in inputs(call) if ref != data]
    from_weights = [ref for ref in others if isinstance(ref, Weight) or ref.name not in of_image]
    return isinstance(data, Node) and data.name in of_image and bool(from_weights)
