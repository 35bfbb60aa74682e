"""The graph of an imported model: reads graph.json, and refuses an invalid one.

A graph is a list of operations of torch's ATen library, each with its arguments and the shape of
its output when torch exported it. It is data: operations are names in a table of functions
(operations/), nothing in a file is ever run or looked up elsewhere.

    {"schema": 1, "image": [3, 224, 224], "nodes": [
      {"name": "conv", "op": "convolution", "args": [{"node": "image"}, {"weight": "w"}, ...],
       "kwargs": {}, "shape": [{"batch": 1}, 64, 112, 112], "dtype": "float32", "module": "stem"},
      ...], "logits": "linear", "heads": ["linear"], "weights": {...}, "constants": {...}}
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SCHEMA = 1
IMAGE = "image"  # the nodes' name for the input, [B, 3, height, width]
# The normalization whose statistics, arguments 3 and 4, training computes and updates.
BATCH_NORM = "_native_batch_norm_legit_no_training"
# Which argument of a product is the data, if another one is weights.
PRODUCTS = {"linear": 0, "convolution": 0, "mm": 0, "matmul": 0, "addmm": 1}
# Of one image or weight: no classifier has more, and more would not fit into memory.
LARGEST = 2**31
_DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64")
_DTYPES += ("int64", "int32", "int16", "int8", "uint8", "bool")
# A number of elements: itself, or a multiple of the batch.
Dim = int | tuple[int]
Shape = tuple[Dim, ...]


class Node(NamedTuple):
    """A reference to the output of another node, or to the image."""

    name: str


class Weight(NamedTuple):
    """A reference to an entry of model.safetensors."""

    name: str


class Constant(NamedTuple):
    """A reference to an entry of constants.safetensors."""

    name: str


class Dtype(NamedTuple):
    """An argument that is a dtype."""

    name: str


class Tensor(NamedTuple):
    """What is known about a weight or constant."""

    shape: tuple[int, ...]
    dtype: str


class Call(NamedTuple):
    """A node: an operation, and its output."""

    name: str
    op: str  # ATen's, with its overload unless that is `default`
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: Shape | None  # None: the output is a number, or several arrays
    dtype: str | None
    module: str  # where the torch module computes it


class Graph(NamedTuple):
    """An image classifier as torch exported it, without its weights."""

    size: tuple[int, int]  # height, width of the image
    weights: Mapping[str, Tensor]  # the entries of model.safetensors, in torch's order
    trained: tuple[str, ...]  # which of the weights are parameters
    statistics: tuple[str, ...]  # which are BatchNorm's running means and variances
    tied: Mapping[str, str]  # another name of a weight -> its name
    constants: Mapping[str, Tensor]
    calls: tuple[Call, ...]
    logits: str  # the node with the logits
    heads: tuple[str, ...]  # the last products with weights before them, which read the features

    @property
    def num_classes(self) -> int:
        """How many classes the logits have."""
        shape = next(call.shape for call in self.calls if call.name == self.logits)
        assert shape is not None
        return shape[-1]


def references(argument: Any) -> Iterator[Node | Weight | Constant]:
    """What an argument, or a tuple of them, refers to."""
    if isinstance(argument, Node | Weight | Constant):
        yield argument
    elif isinstance(argument, tuple) and not isinstance(argument, Dtype):
        for part in argument:
            yield from references(part)


def inputs(call: Call) -> list[Node | Weight | Constant]:
    """What a node reads."""
    return list(references((*call.args, *call.kwargs.values())))


def concrete(shape: Shape, batch: int) -> tuple[int, ...]:
    """A shape for a batch of this size."""
    return tuple(dim if isinstance(dim, int) else dim[0] * batch for dim in shape)


def to_json(graph: Graph) -> dict[str, Any]:
    """What graph.json holds."""
    return {
        "schema": SCHEMA,
        "image": [3, *graph.size],
        "weights": {name: list(tensor) for name, tensor in graph.weights.items()},
        "trained": list(graph.trained),
        "statistics": list(graph.statistics),
        "tied": dict(graph.tied),
        "constants": {name: list(tensor) for name, tensor in graph.constants.items()},
        "nodes": [
            {
                "name": call.name,
                "op": call.op,
                "args": _argument_to_json(call.args),
                "kwargs": {k: _argument_to_json(v) for k, v in call.kwargs.items()},
                "shape": None if call.shape is None else [_dim_to_json(d) for d in call.shape],
                "dtype": call.dtype,
                "module": call.module,
            }
            for call in graph.calls
        ],
        "logits": graph.logits,
        "heads": list(graph.heads),
    }


def _dim_to_json(dim: Dim) -> Any:
    return dim if isinstance(dim, int) else {"batch": dim[0]}


def _argument_to_json(argument: Any) -> Any:
    if isinstance(argument, Node | Weight | Constant | Dtype):
        return {type(argument).__name__.lower(): argument.name}
    if isinstance(argument, tuple):
        return [_argument_to_json(part) for part in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": str(argument)}
    return argument


def from_json(content: Any) -> Graph:
    """The graph from the content of graph.json.

    Raises:
      ValueError: the file is not as `to_json` writes it, or has a node that reads a later one (a
        cycle), a duplicate name, or a size that no model has. Nothing is allocated.
    """
    found = _fields(content, dict, "the file", *_FIELDS)
    if found["schema"] != SCHEMA:
        raise ValueError(f"it has schema {found['schema']!r:.40}, but ktjax reads {SCHEMA}")
    channels, height, width = _ints(found["image"], "image", length=3)
    if channels != 3:
        raise ValueError(f"its images have {channels} channels, not 3")
    weights, constants = (_tensors(found[k], k) for k in ("weights", "constants"))
    tied = _strings(found["tied"], "tied")
    known = {Weight: {*weights, *tied}, Constant: set(constants), Node: {IMAGE}}
    calls = []
    for number, node in enumerate(_is(found["nodes"], list, "nodes")):
        call = _call(node, f"node {number}")
        for reference in inputs(call):
            if reference.name not in known[type(reference)]:
                kind = type(reference).__name__.lower()
                raise ValueError(
                    f"{call.name} reads the {kind} '{reference.name:.80}', which does not exist "
                    "before it"
                )
        if call.name in known[Node]:
            raise ValueError(f"two nodes are called '{call.name}'")
        known[Node].add(call.name)
        calls.append(call)
    lists = {
        k: tuple(_strings(dict(enumerate(_is(found[k], list, k))), k).values()) for k in _LISTS
    }
    for what, names, among in (
        ("logits", (_is(found["logits"], str, "logits"),), known[Node] - {IMAGE}),
        ("heads", lists["heads"], known[Node] - {IMAGE}),
        ("trained", lists["trained"], weights),
        ("statistics", lists["statistics"], weights),
        ("tied", tied.values(), weights),
    ):
        for name in names:
            if name not in among:
                raise ValueError(f"{what} names '{name:.80}', which does not exist")
    for call in calls:
        _check_special(call, lists["heads"])
        if call.name == found["logits"] and not (call.shape and isinstance(call.shape[-1], int)):
            raise ValueError(f"{call.name}, the logits, has no number of classes")
    return Graph(
        size=(height, width),
        weights=weights,
        tied=tied,
        constants=constants,
        calls=tuple(calls),
        logits=found["logits"],
        **lists,
    )


def _check_special(call: Call, heads: tuple[str, ...]) -> None:
    """Raises ValueError unless a node has the arguments that are read beyond its operation."""
    fits = True
    if call.op == BATCH_NORM:
        fits = len(call.args) == 7 and all(isinstance(ref, Weight) for ref in call.args[3:5])
        fits = fits and all(isinstance(number, float) for number in call.args[5:])
    if call.name in heads:
        data = PRODUCTS.get(call.op, len(call.args))
        fits = len(call.args) > data and isinstance(call.args[data], Node)
    if not fits:
        raise ValueError(f"{call.name} ({call.op}) has arguments other than its own")


_LISTS = ("trained", "statistics", "heads")
_FIELDS = ("schema", "image", "weights", "tied", "constants", "nodes", "logits", *_LISTS)


def _is(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{what} is not a {kind.__name__}, but {value!r:.60}")
    return value


def _fields(value: Any, kind: type, what: str, *names: str) -> dict[str, Any]:
    found = _is(value, kind, what)
    lacking, other = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    if lacking or other:
        verb, fields = ("lacks", lacking) if lacking else ("has the unknown", other)
        raise ValueError(f"{what} {verb} {', '.join(fields):.200}")
    return found


def _strings(value: Any, what: str) -> dict[Any, str]:
    return {k: _is(v, str, what) for k, v in _is(value, dict, what).items()}


def _ints(value: Any, what: str, *, length: int | None = None) -> tuple[int, ...]:
    found = tuple(_is(v, int, what) for v in _is(value, list, what))
    if length is not None and len(found) != length:
        raise ValueError(f"{what} has {len(found)} numbers, not {length}")
    if any(v < 0 for v in found) or math.prod(found) >= LARGEST:
        raise ValueError(f"{what} is of the absurd size {list(found)!r:.80}")
    return found


def _tensors(value: Any, what: str) -> dict[str, Tensor]:
    found = {}
    for name, entry in _is(value, dict, what).items():
        where = f"{what} '{name:.80}'"
        if len(_is(entry, list, where)) != 2:
            raise ValueError(f"{where} is not of a shape and a dtype")
        shape, dtype = entry
        found[name] = Tensor(_ints(shape, where), _dtype(dtype, where))
    return found


def _dtype(value: Any, what: str) -> str:
    if value not in _DTYPES:
        raise ValueError(f"{what} has the dtype {value!r:.40}, not one of {', '.join(_DTYPES)}")
    return value


def _call(value: Any, what: str) -> Call:
    found = _fields(value, dict, what, "name", "op", "args", "kwargs", "shape", "dtype", "module")
    name = _is(found["name"], str, what)
    shape = found["shape"]
    if shape is not None:
        shape = tuple(_dim(dim, name) for dim in _is(shape, list, name))
        if math.prod(concrete(shape, 1)) >= LARGEST:
            raise ValueError(f"{name} is of the absurd size {found['shape']!r:.80}")
    return Call(
        name=name,
        op=_is(found["op"], str, name),
        args=_argument(_is(found["args"], list, name), name),
        kwargs={k: _argument(v, name) for k, v in _is(found["kwargs"], dict, name).items()},
        shape=shape,
        dtype=None if found["dtype"] is None else _dtype(found["dtype"], name),
        module=_is(found["module"], str, name),
    )


def _dim(value: Any, what: str) -> Dim:
    if isinstance(value, dict):
        return _ints([_fields(value, dict, what, "batch")["batch"]], what)
    return _ints([value], what)[0]


_REFERENCES = {kind.__name__.lower(): kind for kind in (Node, Weight, Constant, Dtype)}
_NOT_FINITE = {str(value): value for value in (math.inf, -math.inf, math.nan)}


def _argument(value: Any, what: str) -> Any:
    """An operation's argument: a number, string, None, reference, or a tuple of them."""
    if isinstance(value, list):
        return tuple(_argument(part, what) for part in value)
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, name),) = value.items()
        if kind in _REFERENCES and isinstance(name, str):
            reference = _REFERENCES[kind](name)
            return Dtype(_dtype(name, what)) if kind == "dtype" else reference
        if kind == "float" and name in _NOT_FINITE:
            return _NOT_FINITE[name]
    raise ValueError(f"{what} has the argument {value!r:.80}, which is of an unknown kind")
