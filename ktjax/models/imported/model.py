"""Imported models as Classifiers: folders of config.json, graph.json and safetensors."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from ktjax import files, paths
from ktjax.classifier import Classifier, Output, Variables, take
from ktjax.models.checkpoints import entries, weights
from ktjax.models.classes import class_names
from ktjax.models.imported import evaluate, graph, heads
from ktjax.models.imported.graph import Graph

GRAPH, TRAINING, CONSTANTS = weights.GRAPH, weights.TRAINING, weights.CONSTANTS
_LARGEST_FILE = 2**28  # bytes of a graph.json; those of timm's models have 2**20
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Imported:
    """A graph and everything but its parameters: `forward` and `definition` of a Classifier.

    Training runs the evaluation graph, too, unless there is one with dropout or stochastic depth;
    BatchNorm trains in both.

    Attributes:
      graph: the graph of evaluation.
      training: the graph of training; None: the same.
      fixed: the entries of model.safetensors that are not trained, whether the graph reads them or
        not: tables of indices, counters, heads that only torch's training uses.
      constants: the entries of constants.safetensors.
      facts: fields of config.json that an export keeps.
    """

    graph: Graph
    training: Graph | None
    fixed: Arrays = dataclasses.field(repr=False)
    constants: Arrays = dataclasses.field(repr=False)
    facts: Mapping[str, Any]

    @property
    def drops(self) -> bool:
        """Whether there is a graph with dropout or stochastic depth."""
        return self.training is not None

    @functools.cached_property
    def _program(self) -> evaluate.Program:
        return evaluate.program(self.graph, self.fixed, self.constants)

    @functools.cached_property
    def _training_program(self) -> evaluate.Program:
        return evaluate.program(self.training or self.graph, self.fixed, self.constants)

    def __call__(
        self,
        variables: Variables,
        x_BxHxWx3: jax.Array,
        *,
        train: bool,
        rngs: Mapping[str, jax.Array] | None,
        freeze_stats: bool,
    ) -> tuple[Output, Any]:
        """As Classifier.forward: prepared images in, Output and batch_stats out."""
        program = self._training_program if train else self._program
        key = rngs["dropout"] if train and rngs else None
        moves = train and not freeze_stats
        return evaluate.run(program, variables, x_BxHxWx3, train=moves, key=key)

    def export(
        self, classifier: Classifier, folder: Path, *, format: str, facts: Mapping[str, Any]
    ) -> None:
        """Writes a folder that `load_model` reads, with weights that torch loads by its names.

        Raises:
          ValueError: the format is transformers'.
        """
        if format == "hf":
            raise ValueError(
                f"{classifier.name} is an imported graph, which is written with torch's names: "
                "load model.safetensors into transformers' model with load_state_dict."
            )
        variables = jax.device_get(dict(classifier.variables))
        moving = {**variables["params"], **variables.get("batch_stats", {})}
        arrays = {
            name: np.asarray(self.fixed[name] if name in self.fixed else moving[name], tensor.dtype)
            for name, tensor in self.graph.weights.items()
        }
        arrays |= {name: arrays[first] for name, first in self.graph.tied.items()}
        write(
            folder,
            Folder(self.graph, self.training, arrays, self.constants),
            {
                "format": weights.TORCH,
                "architecture": classifier.architecture.removeprefix(weights.IMPORTED),
                "num_classes": len(classifier.classes),
                "origin": classifier.origin,
                **self.facts,
                **facts,
                "pretrained_cfg": self.facts["pretrained_cfg"]
                | weights.pretrained_cfg(classifier.input),
                "label_names": classifier.classes,
            },
        )

    def replace_head(
        self, classifier: Classifier, classes: Sequence[str], *, head: str, seed: int
    ) -> Classifier:
        """The classifier with a new last layer, as `ktjax.models.replace_head` says."""
        try:
            changed = self._with_classes(len(classes))
        except ValueError as error:
            raise ValueError(f"{classifier.name} cannot have a new head: {error}.") from error
        classifier = dataclasses.replace(classifier, origin=f"{classifier.origin}, new head")
        fresh = heads.fresh(changed.graph, head, seed)
        return changed._of(classifier, fresh, classes)

    def select(
        self, classifier: Classifier, place_C: np.ndarray, classes: Sequence[str]
    ) -> Classifier:
        """The classifier with some of the classes, as `ktjax.models.select` says."""
        try:
            of_head = heads.parameters(self.graph)
            changed = self._with_classes(len(classes))
        except ValueError as error:
            raise ValueError(f"{classifier.name} cannot lose classes: {error}.") from error
        params = classifier.variables["params"]
        of_classes = {name: take(params[name], place_C, 0) for name in of_head}
        return changed._of(classifier, of_classes, classes)

    def _with_classes(self, count: int) -> "Imported":
        """Graphs for another number of classes; ValueError if there can be none."""
        training = self.training and heads.with_classes(self.training, count)
        graph = heads.with_classes(self.graph, count)
        return dataclasses.replace(self, graph=graph, training=training)

    def _of(self, classifier: Classifier, head: Variables, classes: Sequence[str]) -> Classifier:
        """The classifier with these graphs, and the parameters of their last layer."""
        return dataclasses.replace(
            classifier,
            forward=self,
            definition=self,
            variables={
                **classifier.variables,
                "params": {**classifier.variables["params"], **head},
            },
            classes=tuple(classes),
            options={"graph": _digest(self.graph, self.training, self.constants)},
        )

    def head_of(self, classifier: Classifier) -> Variables:
        """Which variables belong to the last layers: a tree of bools."""
        try:
            of_head = heads.parameters(self.graph)
        except ValueError as error:
            raise ValueError(f"{classifier.name} has no head to train alone: {error}.") from error
        variables = dict(classifier.variables)
        return {
            kind: {name: kind == "params" and name in of_head for name in variables[kind]}
            for kind in variables
        }


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder of an imported model holds, besides config.json."""

    graph: Graph
    training: Graph | None
    entries: Arrays  # of model.safetensors
    constants: Arrays


def write(folder: Path, content: Folder, config: Mapping[str, Any]) -> None:
    """Writes a folder; config.json last, which marks it as complete."""
    text = files.as_json(config)
    paths.make_folder(folder)
    for name, arrays in ((weights.WEIGHTS, content.entries), (CONSTANTS, content.constants)):
        if arrays:
            arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}
            files.write_whole(folder / name, safetensors_numpy.save(arrays, {"format": "pt"}))
    files.write_whole(folder / GRAPH, _text(content.graph))
    if content.training is None:
        paths.delete(folder / TRAINING)  # from an earlier export
    else:
        files.write_whole(folder / TRAINING, _text(content.training))
    files.write_whole(folder / weights.CONFIG, text)


def _text(of: Graph) -> str:
    """graph.json, a line for each node."""
    content = graph.to_json(of)
    dump = functools.partial(json.dumps, allow_nan=False, separators=(",", ":"))
    nodes = ",\n".join(map(dump, content.pop("nodes")))
    start = dump(content)
    return f'{start[:-1]},"nodes":[\n{nodes}\n]}}\n'


def read_graph(path: Path) -> Graph:
    """Reads and checks a graph.json; ValueError if it is missing or invalid."""
    if not path.is_file():
        raise ValueError(f"'{path.parent}' has no {path.name}, which an imported model needs.")
    copy = paths.local(path)
    if copy.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} has {copy.stat().st_size:,} bytes, more than any model needs.")
    try:
        return _checked(copy.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is invalid: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{path} is invalid: {error}.") from error


@functools.lru_cache(maxsize=32)
def _checked(text: str) -> Graph:
    found = graph.from_json(json.loads(text))
    evaluate.check(found)
    return found


def blank(folder: Path, config: Mapping[str, Any], *, name: str) -> Classifier:
    """The Classifier in a folder, whose variables are shapes; weights are not read."""
    return _classifier(folder, config, name, *_graphs(folder), {}, {})


def _graphs(folder: Path) -> tuple[Graph, Graph | None]:
    """The graph of evaluation, and that of training; None: the same."""
    found = read_graph(folder / GRAPH)
    if evaluate.is_random(found):
        raise ValueError(f"{folder / GRAPH} is invalid: it draws random numbers in evaluation.")
    if not (folder / TRAINING).is_file():
        return found, None
    training = read_graph(folder / TRAINING)
    for field in ("size", "weights", "trained", "statistics", "tied", "num_classes"):
        if getattr(training, field) != getattr(found, field):
            raise ValueError(f"{folder}: {TRAINING} and {GRAPH} differ in {field}.")
    return found, training


def load(folder: Path, config: Mapping[str, Any], *, name: str) -> Classifier:
    """The Classifier in a folder, loaded without torch.

    Args:
      folder: as `write` writes it.
      config: what its config.json holds.
      name: what the user calls it.

    Raises:
      ValueError: the graph is invalid, or the weights do not fit it; all that do not are listed.
        Until then only names and shapes are read.
    """
    found, training = _graphs(folder)
    arrays = []
    for file, wanted in (
        (weights.WEIGHTS, found.weights | {k: found.weights[v] for k, v in found.tied.items()}),
        (CONSTANTS, {**found.constants, **(training.constants if training else {})}),
    ):
        path = folder / file
        if not wanted and not path.exists():
            arrays.append({})
            continue
        shapes = {key: tensor.shape for key, tensor in wanted.items()}
        there = entries.read_shapes(path)
        structs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in there.items()}
        entries.check_fit(path, structs, shapes, by=GRAPH)
        arrays.append(entries.read(path))
    return _classifier(folder, config, name, found, training, *arrays)


def _digest(of: Graph, training: Graph | None, constants: Arrays) -> str:
    """Distinguishes graphs with the same parameters."""
    digest = hashlib.sha256(_text(of).encode())
    if training is not None:
        digest.update(_text(training).encode())
    for key, array in sorted(constants.items()):
        digest.update(key.encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _classifier(
    folder: Path,
    config: Mapping[str, Any],
    name: str,
    found: Graph,
    training: Graph | None,
    arrays: Arrays,
    constants: Arrays,
) -> Classifier:
    if config["num_classes"] not in (found.num_classes, 0):  # 0: its head will be replaced
        raise ValueError(
            f"{folder / weights.CONFIG} says {config['num_classes']} classes, but {GRAPH} has "
            f"{found.num_classes}."
        )
    spec = weights.input_spec(config)
    if spec.size != found.size:
        raise ValueError(
            f"{folder / weights.CONFIG} says images of {spec.size[0]}x{spec.size[1]}, but {GRAPH} "
            f"is for {found.size[0]}x{found.size[1]}: import the model again with size=."
        )

    def variables(names: Sequence[str]) -> dict[str, Any]:
        if not arrays:
            of = {key: found.weights[key].shape for key in names}
            return {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in of.items()}
        return {key: jnp.asarray(arrays[key], jnp.float32) for key in names}

    moving = {*found.trained, *found.statistics, *found.tied}
    kept = ("versions", "model_args", "pretrained_cfg")
    definition = Imported(
        graph=found,
        training=training,
        fixed={key: array for key, array in arrays.items() if key not in moving},
        constants=constants,
        facts={key: config[key] for key in kept if key in config},
    )
    stats = variables(found.statistics)
    return Classifier(
        name=name,
        architecture=config["architecture"],
        forward=definition,
        variables={"params": variables(found.trained)} | ({"batch_stats": stats} if stats else {}),
        input=spec,
        classes=class_names(config),
        origin=config["origin"],
        options={"graph": _digest(found, training, constants)},
        definition=definition,
    )
