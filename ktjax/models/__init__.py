"""name -> Classifier: architectures, the embedded zoo and exported folders."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models import convnext, mlp, mlp_mixer, resnet, vision_transformer, weights
from ktjax.models.classifier import Classifier, InputSpec, Variables, linen_forward


class Architecture(NamedTuple):
    """How to build a network, and the input that it is made for."""

    build: Callable[..., nn.Module]  # build(num_classes=...)
    input: InputSpec


def _tiny(size: int) -> InputSpec:
    return InputSpec(size=(size, size), interpolation="bilinear")


MODELS = {
    "tiny_mlp_narrow": Architecture(mlp.tiny_mlp_narrow, _tiny(12)),
    "tiny_mlp": Architecture(mlp.tiny_mlp, _tiny(16)),
    "tiny_mixer": Architecture(mlp_mixer.tiny_mixer, _tiny(24)),
    "tiny_resnet_narrow": Architecture(resnet.tiny_resnet_narrow, _tiny(24)),
    "tiny_resnet": Architecture(resnet.tiny_resnet, _tiny(24)),
    "tiny_resnet_wide": Architecture(resnet.tiny_resnet_wide, _tiny(24)),
    "tiny_resnet_gn": Architecture(resnet.tiny_resnet_gn, _tiny(24)),
    "tiny_convnext": Architecture(convnext.tiny_convnext, _tiny(24)),
    "tiny_vit": Architecture(vision_transformer.tiny_vit, _tiny(24)),
}

# The weights of the embedded zoo, one exported folder each, lie in the package.
ZOO = Path(__file__).parent / "glyphs"


def zoo() -> tuple[str, ...]:
    """The names of the embedded zoo."""
    return tuple(f"glyphs/{folder.name}" for folder in sorted(ZOO.iterdir()) if folder.is_dir())


def create(architecture: str, *, classes: Sequence[str], seed: int) -> Classifier:
    """A Classifier of the table, with freshly drawn weights.

    Raises:
      ValueError: the architecture is not in MODELS; lists the nearest names.
    """
    blank, init = _blank(architecture, classes)
    variables = jax.jit(init)(jax.random.key(seed))
    return dataclasses.replace(blank, variables=variables, origin=f"random weights, seed {seed}")


def load(name: str) -> Classifier:
    """Loads a pretrained Classifier.

    Args:
      name: `glyphs/<name>` of the embedded zoo, or a folder that ktjax exported (config.json and
        model.safetensors).

    Raises:
      ValueError: no such model, with the nearest names; or a folder whose weights do not fit.
    """
    folder = locate(name)
    return weights.fill(blank(name), folder, name=name, config=weights.read_config(folder))


def blank(name: str) -> Classifier:
    """What `load(name)` gives, but for the weights, which it does not read: variables are shapes.

    Raises:
      ValueError: no such model, with the nearest names.
    """
    config = weights.read_config(locate(name))
    shapes, _ = _blank(config["architecture"], config["label_names"])
    return dataclasses.replace(shapes, name=name, origin=config["origin"])


def family(architecture: str) -> str:
    """The kind of network: the name of the file that builds it."""
    return MODELS[architecture].build.func.__module__.rpartition(".")[2]


def locate(name: str) -> Path:
    """The folder that `load(name)` reads; raises as `load` does, without reading the weights."""
    if name in zoo():
        return ZOO / name.removeprefix("glyphs/")
    if weights.is_export(Path(name)):
        return Path(name)
    if name in MODELS:
        raise ValueError(
            f"'{name}' is an architecture, not a pretrained model: train it with "
            f"configs/pretrain.py:model={name}, then give the folder that this exports."
        )
    raise ValueError(
        f"No model '{name}': neither a folder with config.json and model.safetensors, nor in the "
        f"embedded zoo, nor an architecture. Nearest: {_nearest(name, (*zoo(), *MODELS))}."
    )


def check_architecture(name: str) -> None:
    """Raises ValueError, with the nearest names, unless MODELS has the architecture."""
    if name not in MODELS:
        raise ValueError(f"No architecture '{name}'. Nearest: {_nearest(name, MODELS)}.")


def _blank(
    architecture: str, classes: Sequence[str]
) -> tuple[Classifier, Callable[[jax.Array], Variables]]:
    """A Classifier whose variables have shapes only, and what draws them: init(key)."""
    check_architecture(architecture)
    build, spec = MODELS[architecture]
    module = build(num_classes=len(classes))
    init = functools.partial(module.init, x=jnp.zeros((1, *spec.size, 3)))
    blank = Classifier(
        name=architecture,
        architecture=architecture,
        forward=linen_forward(module),
        variables=jax.eval_shape(init, jax.random.key(0)),
        input=spec,
        classes=tuple(classes),
        origin="",
    )
    return blank, init


def _nearest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known)


def check_classes(classifier: Classifier, classes: Sequence[str], data: str) -> None:
    """Raises ValueError unless the classifier answers with the classes of the data set."""
    if classifier.classes == tuple(classes):
        return
    if len(classifier.classes) != len(classes):
        raise ValueError(
            f"{classifier.name} has {len(classifier.classes)} classes, {data} has {len(classes)}."
        )
    at = next(i for i, c in enumerate(classes) if c != classifier.classes[i])
    raise ValueError(
        f"{classifier.name} has other classes than {data}: class {at} is "
        f"'{classifier.classes[at]}' there and '{classes[at]}' here."
    )
