"""Your own models as Classifiers: Linen and NNX modules, and functions of parameters.

They take prepared images [B, height, width, 3], float, and return logits [B, C], or logits and the
features [B, D] that the head reads, which objectives that compare features need. A transfer takes
Classifiers besides names, `transfer.run(config, workdir, models={"mine": classifier})`, and exports
what it trained as weights that `load_weights` puts back into such a Classifier.
"""

import collections
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import unfreeze
from safetensors import numpy as safetensors_numpy

from ktjax import files, parallel, paths
from ktjax.classifier import Classifier, Forward, InputSpec, Output, Variables
from ktjax.models import traces
from ktjax.models.checkpoints import entries, fields, weights
from ktjax.models.classes import numbered

_KEPT = ("params", "batch_stats")  # the collections that training uses


@dataclasses.dataclass(frozen=True)
class Own:
    """An architecture that only its owner has: `definition` of a Classifier."""

    drops: bool  # computes something else in training, BatchNorm aside

    def export(
        self, classifier: Classifier, folder: Path, *, format: str, facts: Mapping[str, Any]
    ) -> None:
        """Writes weights, by their paths, and a config.json that says whose they are.

        Raises:
          ValueError: the format is timm's or transformers'.
        """
        if format != "ktjax":
            raise ValueError(
                f"{classifier.name} is your own module: there is no format {format} for it."
            )
        config = {
            "format": weights.OWN,
            "architecture": classifier.architecture,
            "num_classes": len(classifier.classes),
            "origin": classifier.origin,
            **facts,
            "model_args": {},
            "pretrained_cfg": weights.pretrained_cfg(classifier.input),
            "label_names": classifier.classes,
        }
        text = files.as_json(config)
        paths.make_folder(folder)
        arrays = safetensors_numpy.save(_flat(classifier.variables))
        files.write_whole(folder / weights.WEIGHTS, arrays)
        files.write_whole(folder / weights.CONFIG, text)

    def replace_head(
        self, classifier: Classifier, classes: Sequence[str], *, head: str, seed: int
    ) -> Classifier:
        """Only its owner knows where the head is."""
        del classes, head, seed
        raise ValueError(f"{classifier.name} is your own module: give it the head that you want.")

    def select(
        self, classifier: Classifier, place_C: np.ndarray, classes: Sequence[str]
    ) -> Classifier:
        """Likewise."""
        del place_C, classes
        raise ValueError(
            f"{classifier.name} is your own module: give it the classes of the data, in their "
            "order."
        )

    def head_of(self, classifier: Classifier) -> Variables:
        """Likewise."""
        raise ValueError(
            f"{classifier.name} is your own module, and ktjax does not know where its head is."
        )


def from_linen(
    module: nn.Module,
    variables: Variables,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | int,
    interpolation: str = "bicubic",
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    name: str | None = None,
) -> Classifier:
    """A Classifier of a Linen module.

    If `module(x)` takes `train`, or else `deterministic`, this says whether it trains; dropout
    draws from the key `dropout`. BatchNorm normalizes with its own device's images unless it has
    `axis_name=ktjax.parallel.AXIS`; its running statistics become the mean over all devices. With
    frozen statistics the module runs as in evaluation, so without dropout.

    Args:
      module: takes prepared images [B, height, width, 3].
      variables: from `module.init` or training: `params`, `batch_stats` and any others, which stay
        as they are.
      size: height and width of the images.
      mean, std: what images are normalized with, for values from 0 to 1.
      classes: their names, or how many there are.
      interpolation, crop_pct, crop_mode: how images are resized and cropped, in timm's terms.
      name: its name; None: that of its class.

    Raises:
      ValueError: it does not return logits for that many classes.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"from_linen takes a Linen module, not a {type(module).__name__}.")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError("variables must have 'params', as those that module.init returns.")
    variables = nn.meta.unbox(dict(variables))  # without the names of mesh axes, which are Flax's
    constant = {kind: value for kind, value in variables.items() if kind not in _KEPT}
    flags = inspect.signature(type(module).__call__).parameters

    def told(train: bool) -> dict[str, bool]:
        if "train" in flags:
            return {"train": train}
        return {"deterministic": not train} if "deterministic" in flags else {}

    def forward(variables, x, *, train, rngs, freeze_stats):
        stats = variables.get("batch_stats", {})
        train = train and not (freeze_stats and stats)
        at = {**constant, **variables}
        if not (train and stats):
            return _output(module.apply(at, x, rngs=rngs, **told(train))), stats
        given, updates = module.apply(at, x, rngs=rngs, mutable=["batch_stats"], **told(True))
        return _output(given), _over_devices(updates["batch_stats"])

    kept = {kind: variables[kind] for kind in _KEPT if variables.get(kind)}
    called = type(module).__name__
    return _checked(
        f"linen:{called}",
        forward,
        kept,
        _spec(size, mean, std, interpolation, crop_pct, crop_mode),
        classes,
        name or called,
    )


def from_nnx(
    module: nnx.Module,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | int,
    interpolation: str = "bicubic",
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    name: str | None = None,
) -> Classifier:
    """A Classifier of an NNX module, called as `module(x)`; the module itself is not changed.

    `module.train()` and `module.eval()` say whether it trains; frozen statistics leave dropout on.
    Otherwise as `from_linen`. In `variables` a parameter's name is its path, `layers.0.kernel`;
    `update_nnx` copies them back into such a module.
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(f"from_nnx takes an NNX module, not a {type(module).__name__}.")
    graph, params, stats, others = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    structures = [jax.tree.structure(state) for state in (params, stats)]
    names = [_names(state) for state in (params, stats)]
    called = type(module).__name__
    for of_kind in names:
        _check_apart(name or called, of_kind)

    def again(variables: Variables) -> nnx.Module:
        kinds = zip(_KEPT, structures, names, strict=True)
        states = [
            jax.tree.unflatten(structure, [variables.get(kind, {})[n] for n in paths])
            for kind, structure, paths in kinds
        ]
        return nnx.merge(graph, *states, jax.tree.map(lambda x: x, others))

    def forward(variables, x, *, train, rngs, freeze_stats):
        at = again(variables)
        if train:
            at.train()
            if freeze_stats:
                at.set_attributes(use_running_average=True, raise_if_not_found=False)
            if rngs is not None:
                nnx.reseed(at, **{"default": rngs["dropout"], **rngs})
        else:
            at.eval()
        given = at(x)
        after = jax.tree.leaves(nnx.state(at, nnx.BatchStat))
        found = dict(zip(names[1], after, strict=True))
        moved = train and not freeze_stats
        return _output(given), _over_devices(found) if moved else variables.get("batch_stats", {})

    leaves = [dict(zip(_names(s), jax.tree.leaves(s), strict=True)) for s in (params, stats)]
    kept = {kind: values for kind, values in zip(_KEPT, leaves, strict=True) if values}
    return _checked(
        f"nnx:{called}",
        forward,
        kept,
        _spec(size, mean, std, interpolation, crop_pct, crop_mode),
        classes,
        name or called,
    )


def update_nnx(module: nnx.Module, classifier: Classifier) -> None:
    """Copies the classifier's weights into a module like the one that `from_nnx` took."""
    for kind, kinds in zip(_KEPT, (nnx.Param, nnx.BatchStat), strict=True):
        state = nnx.state(module, kinds)
        found = classifier.variables.get(kind, {})
        leaves = [found[name] for name in _names(state)]
        nnx.update(module, jax.tree.unflatten(jax.tree.structure(state), leaves))


def from_function(
    apply: Callable[[Any, jax.Array], Any],
    params: Any,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | int,
    interpolation: str = "bicubic",
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    name: str = "function",
) -> Classifier:
    """A Classifier of a pure function `apply(params, x)`, without randomness or state.

    `params` is a dict of dicts of arrays. Otherwise as `from_linen`.
    """

    def forward(variables, x, *, train, rngs, freeze_stats):
        del train, rngs, freeze_stats
        return _output(apply(variables["params"], x)), {}

    kept = {"params": params}
    return _checked(
        f"function:{name}",
        forward,
        kept,
        _spec(size, mean, std, interpolation, crop_pct, crop_mode),
        classes,
        name,
    )


def load_weights(classifier: Classifier, folder: str | Path) -> Classifier:
    """The classifier with the weights that a job exported.

    Raises:
      ValueError: they do not fit (all that do not are listed), or are for other classes.
    """
    folder = paths.of(folder)
    path = folder / weights.WEIGHTS
    if not path.exists() or not (folder / weights.CONFIG).exists():
        raise ValueError(f"'{folder}' holds no student: name its folder, WORKDIR/students/RUN.")
    config = files.read_object(folder / weights.CONFIG)
    named = config.get("label_names") or classifier.classes
    if list(named) != list(classifier.classes):
        raise ValueError(
            f"'{folder}' has different classes from {classifier.name}, or another order: "
            f"{', '.join(named[:5])}, not {', '.join(classifier.classes[:5])}."
        )
    found = entries.read(path)
    flat = _flat(classifier.variables)
    shapes = {name: array.shape for name, array in flat.items()}
    entries.check_fit(path, found, shapes, by=classifier.name)
    # Names are not split again: Haiku's have slashes of their own, and empty dicts have none.
    structure = jax.tree.structure(dict(classifier.variables))
    variables = jax.tree.unflatten(structure, [found[name] for name in flat])
    return dataclasses.replace(classifier, variables=variables, origin=config["origin"])


def _flat(variables: Variables) -> dict[str, np.ndarray]:
    """Arrays by their paths, in the order of `jax.tree.leaves`."""
    leaves = _leaves(jax.device_get(dict(variables)))
    return {name: np.asarray(leaf, order="C") for name, leaf in leaves}


def _leaves(variables: Variables) -> list[tuple[str, Any]]:
    """What is in dicts of dicts, each with its path, joined by "/"."""
    found = jax.tree_util.tree_leaves_with_path(
        variables, is_leaf=lambda node: not isinstance(node, Mapping)
    )
    return [("/".join(str(key.key) for key in path), leaf) for path, leaf in found]


def _check_apart(model: str, names: Sequence[str]) -> None:
    """Raises ValueError if two weights would have one name in files."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{model}: two weights would be called '{twice[0]}': rename one.")


def _names(state: Any) -> list[str]:
    """The names of the leaves of an NNX state, in their order."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    return [
        ".".join(str(getattr(key, "key", getattr(key, "idx", ""))) for key in path).strip(".")
        for path in paths
    ]


def _output(given: Any) -> Output:
    """Logits, or logits and features."""
    if isinstance(given, Output):
        return given
    if not isinstance(given, jax.Array) and not (isinstance(given, tuple) and len(given) == 2):
        what = f"{type(given).__name__}{f' of {len(given)}' if isinstance(given, tuple) else ''}"
        raise ValueError(f"A model must return logits, or (logits, features), not a {what}.")
    return Output(*given) if isinstance(given, tuple) else Output(given, None)


def _over_devices(stats: Any) -> Any:
    """The mean over all devices, if a step runs on several."""
    return jax.lax.pmean(stats, parallel.AXIS) if parallel.is_mapped() else stats


def _spec(
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    crop_pct: float,
    crop_mode: str,
) -> InputSpec:
    size, mean, std, _ = fields.given(size=size, mean=mean, std=std)
    spec = InputSpec(size, mean, std, interpolation, crop_pct, crop_mode)
    described = weights.pretrained_cfg(spec)
    fields.check_input(described, "The input")
    weights.check_cfg(described, "The input")
    return spec


def _checked(
    architecture: str,
    forward: Forward,
    variables: Variables,
    spec: InputSpec,
    classes: Sequence[str] | int,
    name: str,
) -> Classifier:
    """The Classifier, if it returns what Classifiers do."""
    classes = fields.given(classes=classes).classes
    variables = unfreeze(dict(variables))  # as training returns them
    leaves = _leaves(variables)
    _check_apart(name, [path for path, _ in leaves])
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise ValueError(
                f"{name}: weights must be dicts of dicts of arrays, but '{path}' is a "
                f"{type(leaf).__name__}."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name}: '{path}' is {leaf.dtype}, which cannot be trained: parameters and "
                "batch_stats are floating-point numbers, and other constants belong in the "
                "function, or in another collection of a Linen module."
            )
    if not jax.tree.leaves(variables.get("params")):
        raise ValueError(f"{name} has no weights.")
    # As for weights from files: what is measured is what trains.
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    names = numbered(classes) if isinstance(classes, int) else classes
    model = Classifier(
        name=name,
        architecture=architecture,
        forward=forward,
        variables=variables,
        input=spec,
        classes=names,
        origin=f"own {name}",
        definition=Own(drops=False),
    )
    function, given = traces.answers(model, train=False)
    if given.logits.shape != (2, len(names)):
        raise ValueError(
            f"{name} returns logits of shape {list(given.logits.shape)} for 2 images, but there "
            f"are {len(names)} classes."
        )
    # Stored answers, and runs to be resumed, are of this function and no other.
    definition = Own(drops=traces.drops(model, function))
    return dataclasses.replace(model, options={"function": function}, definition=definition)
