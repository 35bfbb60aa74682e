"""The architectures: how to build each, the input it is made for, the options it takes."""

import dataclasses
import functools
import inspect
import json
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax import spelling
from ktjax.classifier import Classifier, Forward, InputSpec, Variables, linen_forward
from ktjax.models.checkpoints import catalogue, hf_kinds
from ktjax.models.networks import (
    convnext,
    deit,
    efficientnet,
    mlp_mixer,
    mobilenetv3,
    pit,
    regnet,
    resnet,
    resnetv2,
    swin_transformer,
    tiny,
    vision_transformer_relpos,
    vision_transformer_variants,
    xcit,
)


class Architecture(NamedTuple):
    """How to build a network, and the input that it is made for."""

    family: str  # the kind of network
    build: Callable[..., nn.Module]  # build(num_classes=..., **options)
    input: InputSpec


def _tiny(family: str, build: Callable[..., nn.Module], size: int) -> Architecture:
    return Architecture(family, build, InputSpec(size=(size, size), interpolation="bilinear"))


_TINY = {
    "tiny_mlp_narrow": _tiny("mlp", tiny.tiny_mlp_narrow, 12),
    "tiny_mlp": _tiny("mlp", tiny.tiny_mlp, 16),
    "tiny_mixer": _tiny("mlp_mixer", tiny.tiny_mixer, 24),
    "tiny_resnet_narrow": _tiny("resnet", tiny.tiny_resnet_narrow, 24),
    "tiny_resnet": _tiny("resnet", tiny.tiny_resnet, 24),
    "tiny_resnet_wide": _tiny("resnet", tiny.tiny_resnet_wide, 24),
    "tiny_resnet_gn": _tiny("resnet", tiny.tiny_resnet_gn, 24),
    "tiny_convnext": _tiny("convnext", tiny.tiny_convnext, 24),
    "tiny_vit": _tiny("vision_transformer", tiny.tiny_vit, 24),
}

# timm's families: each file has a table VARIANTS of its architectures, by timm's names.
FAMILIES = {
    "resnet": resnet,
    "resnetv2": resnetv2,
    "regnet": regnet,
    "convnext": convnext,
    "efficientnet": efficientnet,
    "mobilenetv3": mobilenetv3,
    "vision_transformer": vision_transformer_variants,
    "vision_transformer_relpos": vision_transformer_relpos,
    "deit": deit,
    "swin_transformer": swin_transformer,
    "xcit": xcit,
    "pit": pit,
    "mlp_mixer": mlp_mixer,
}


def _made_for(architecture: str) -> InputSpec:
    spec = catalogue.TIMM["architectures"][architecture]
    size, mean, std, interpolation, crop_pct, *crop_mode = spec["input"]
    return InputSpec((size, size), tuple(mean), tuple(std), interpolation, crop_pct, *crop_mode)


_TIMM = {
    name: Architecture(family, build, _made_for(name))
    for family, module in FAMILIES.items()
    for name, build in module.VARIANTS.items()
}
# transformers' classifiers: their configs say how large they are, and what their input is.
_KINDS = hf_kinds.KINDS | hf_kinds.ZERO_SHOT
_HF = {
    name: Architecture(kind.family, kind.build, InputSpec((224, 224)))
    for name, kind in _KINDS.items()
}
MODELS = _TINY | _TIMM | _HF
_FORWARDS: dict[tuple[Any, int, str], Forward] = {}  # by build, number of classes and options
# Networks and the shapes of their variables, also by size: a job describes a model, then loads it.
_NETWORKS: dict[tuple[Any, int, str, tuple[int, int]], tuple[nn.Module, Variables]] = {}

_NARROW = {"depth": 2, "embed_dim": 32, "num_heads": 2}
_CONVOLUTIONS = ("resnet", "resnetv2", "regnet", "convnext", "efficientnet", "mobilenetv3")
_ATTENTION = ("vision_transformer", "vision_transformer_relpos", "deit", "beit")
_ATTENTION += ("swin_transformer", "xcit", "pit")
_BIASES = (
    dict.fromkeys(_CONVOLUTIONS, "convolution")
    | dict.fromkeys(_ATTENTION, "attention")
    | dict.fromkeys(("mlp", "mlp_mixer"), "MLP")
)
# A tiny network of each family, for tests: an architecture, and options that make it smaller.
TESTING: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("test_resnet", {}),
    "resnetv2": ("resnetv2_18", {"depths": (1, 1), "widths": (32, 64)}),
    "regnet": ("regnety_002", {"depths": (1, 1), "widths": (16, 32)}),
    "convnext": ("test_convnext", {"depths": (1, 1), "dims": (24, 32)}),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "vision_transformer": ("test_vit", {"depth": 2}),
    "vision_transformer_relpos": ("test_vit_relpos", {"depth": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", _NARROW),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {"embed_dim": 32, "depths": (2, 2)}),
    "xcit": ("xcit_nano_12_p16_224", _NARROW),
    "pit": ("pit_ti_224", {"base_dims": (16, 16), "depth": (1, 1), "heads": (1, 2)}),
    "mlp_mixer": ("mixer_s32_224", {"num_blocks": 2, "embed_dim": 32}),
}


def create(
    architecture: str,
    *,
    classes: Sequence[str],
    seed: int,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> Classifier:
    """A Classifier of an architecture, with freshly drawn weights.

    Args:
      architecture: a name in MODELS.
      classes: the names of its classes.
      seed: what the weights are drawn from.
      size: height and width of the input; None: what the architecture is made for.
      **options: attributes of the network, by timm's names: `drop_rate`, `drop_path_rate`.

    Raises:
      ValueError: the architecture is not in MODELS; lists the nearest names.
    """
    shapes, module = skeleton(architecture, classes, size, options)
    variables = draw(module, shapes.input, seed=seed)
    return dataclasses.replace(shapes, variables=variables, origin=f"random weights, seed {seed}")


def family(architecture: str) -> str:
    """The kind of network: one of FAMILIES, or `mlp` and `beit`, which timm does not have.

    For an architecture that is not in MODELS: where it comes from, such as `torch`.
    """
    known = MODELS.get(architecture)
    return architecture.partition(":")[0] if known is None else known.family


def inductive_bias(architecture: str) -> str | None:
    """How the network combines pixels: by convolution, attention or MLP; None: it is not known."""
    return _BIASES.get(family(architecture))


def check_architecture(name: str) -> None:
    """Raises ValueError, with the nearest names, unless MODELS has the architecture."""
    if name not in MODELS:
        raise ValueError(
            f"No architecture '{name}'. Nearest: {spelling.nearest(name, MODELS)}; "
            "`python -m ktjax.models` lists all."
        )


def skeleton(
    architecture: str,
    classes: Sequence[str],
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> tuple[Classifier, nn.Module]:
    """A Classifier whose variables are shapes only, and its network.

    Args:
      architecture: a name in MODELS.
      classes: the names of its classes.
      size: height and width of the input; None: what the architecture is made for.
      options: attributes of the network, by timm's names.

    Raises:
      ValueError: no such architecture, or it has no such option, with the nearest names; or no
        network can be built with these options, or they could not be exported.
    """
    check_architecture(architecture)
    known = options_of(architecture)
    for option in options:
        if option not in known:
            near = spelling.nearest(option, known)
            raise ValueError(
                f"{architecture} has no option '{option}'. Nearest: {near}; "
                f"known: {', '.join(sorted(known))}."
            )
    options = _kept(architecture, options)
    _, build, spec = MODELS[architecture]
    spec = spec if size is None else dataclasses.replace(spec, size=size)
    key = (build, len(classes), repr(sorted(options.items())))
    try:
        if (*key, spec.size) not in _NETWORKS:
            module = build(num_classes=len(classes), **options)
            begin = functools.partial(_initialize, module, spec)
            _NETWORKS[*key, spec.size] = module, jax.eval_shape(begin, jax.random.key(0))
    except Exception as error:
        if not options or type(error) is ValueError:
            raise
        # The options may come from a file and be anything, so a network may fail in any way.
        told = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{architecture} cannot be built with {reprlib.repr(options)}: {type(error).__name__}: "
            f"{told[0][:300]}"
        ) from error
    module, variables = _NETWORKS[*key, spec.size]
    shapes = Classifier(
        name=architecture,
        architecture=architecture,
        # The same function for the same network: what JAX compiles of it once is compiled.
        forward=_FORWARDS.setdefault(key, linen_forward(module)),
        variables=jax.tree.map(lambda shape: shape, variables),  # a caller's own dictionaries
        input=spec,
        classes=tuple(classes),
        origin="",
        options=options,
    )
    return shapes, module


def _kept(architecture: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options as the config.json of an export keeps them: NumPy's numbers as Python's.

    Raises:
      ValueError: JSON cannot hold one.
    """
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    for name, value in plain.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                f"{architecture} cannot have {name}={reprlib.repr(value)}: options are numbers, "
                "text and lists, which config.json can hold."
            ) from None
    return plain


def options_of(architecture: str) -> set[str]:
    """The options a user may set: attributes of the network, or fields of a config.

    None, if MODELS lacks the architecture: a graph cannot be changed.
    """
    if architecture not in MODELS:
        return set()
    if architecture in _KINDS:
        return {*_KINDS[architecture].options, "drop_rate", "drop_path_rate", "remat"}
    attributes = inspect.signature(MODELS[architecture].build).parameters
    return set(attributes) - {"num_classes", "parent", "name"}


def draw(module: nn.Module, spec: InputSpec, *, seed: int) -> Variables:
    """Freshly drawn variables of a network."""
    key = jax.random.key(seed)
    options = None
    if jax.default_backend() == "cpu" and not isinstance(key, jax.core.Tracer):
        # This runs once, so optimizing it does not pay: half the time, the same bits. (Level 0,
        # which does not fuse products and sums, changes bits.)
        options = {"xla_backend_optimization_level": 1}
    return jax.jit(functools.partial(_initialize, module, spec), compiler_options=options)(key)


def _initialize(module: nn.Module, spec: InputSpec, key: jax.Array) -> Variables:
    return module.init(key, jnp.zeros((1, *spec.size, 3)))
