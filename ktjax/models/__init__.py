"""name -> Classifier: architectures, pretrained models, the embedded zoo, exported folders."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.classifier import Classifier, InputSpec, Variables, linen_forward
from ktjax.models.checkpoints import catalogue, hf, hub, weights
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
    vision_transformer,
    vision_transformer_relpos,
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
    "vision_transformer": vision_transformer,
    "vision_transformer_relpos": vision_transformer_relpos,
    "deit": deit,
    "swin_transformer": swin_transformer,
    "xcit": xcit,
    "pit": pit,
    "mlp_mixer": mlp_mixer,
}


def _made_for(architecture: str) -> InputSpec:
    spec = catalogue.TIMM["architectures"][architecture]
    size, mean, std, interpolation, crop_pct = spec["input"]
    return InputSpec((size, size), tuple(mean), tuple(std), interpolation, crop_pct)


_TIMM = {
    name: Architecture(family, build, _made_for(name))
    for family, module in FAMILIES.items()
    for name, build in module.VARIANTS.items()
}
# transformers' classifiers: their configs say how large they are, and what their input is.
_HF = {
    name: Architecture(kind.family, kind.build, InputSpec((224, 224)))
    for name, kind in hf.KINDS.items()
}
MODELS = _TINY | _TIMM | _HF

_NARROW = {"depth": 2, "embed_dim": 32, "num_heads": 2}
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

# The weights of the embedded zoo, one exported folder each, lie in the package.
ZOO = Path(__file__).parent / "glyphs"
HEADS = ("zero", "random")  # how a new head begins
# timm's names for how features are pooled, where a network of ours knows one way only.
_POOLS = ("avg", "token")


def zoo() -> tuple[str, ...]:
    """The names of the embedded zoo."""
    return tuple(f"glyphs/{folder.name}" for folder in sorted(ZOO.iterdir()) if folder.is_dir())


def create(
    architecture: str,
    *,
    classes: Sequence[str],
    seed: int,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> Classifier:
    """A Classifier of the table, with freshly drawn weights.

    Args:
      architecture: a name in MODELS.
      classes: their names.
      seed: of the weights.
      size: height and width of the input; None: what the architecture is made for.
      **options: attributes of the network, by timm's names: `drop_rate`, `drop_path_rate`.

    Raises:
      ValueError: the architecture is not in MODELS; lists the nearest names.
    """
    shapes, module = _blank(architecture, classes, size, options)
    variables = jax.jit(functools.partial(_init, module, shapes.input))(jax.random.key(seed))
    return dataclasses.replace(shapes, variables=variables, origin=f"random weights, seed {seed}")


def load(
    name: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | int | None = None,
    head: str | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Classifier:
    """Loads a pretrained Classifier.

    Args:
      name: one of
        `timm/<architecture>.<tag>`, a repository of timm's on the Hugging Face hub (cached;
        HF_HUB_OFFLINE is respected);
        `hf:<organisation>/<repository>`, a classifier of transformers' on the hub;
        `glyphs/<name>` of the embedded zoo;
        a folder with config.json and model.safetensors, which ktjax, timm or transformers wrote;
        a workdir of ktjax that holds one model (of several, the folder of one);
        a .safetensors file with timm's names.
      architecture: of a .safetensors file, which does not say it.
      classes: their names, or how many they are, instead of those that config.json has.
      head: the last layer is a new one for `classes`: `zero`, or drawn as timm does, `random`;
        None: it is that of the checkpoint.
      size: height and width of the input, if not the checkpoint's. Position embeddings of timm's
        families are resized.
      seed: of a random head.
      **options: attributes of the network, by timm's names: `drop_rate`, `drop_path_rate`.

    Raises:
      ValueError: no such model, with the nearest names; or weights that do not fit.
    """
    if head is not None:
        _check_head(head)
    name = str(name)
    found = locate(name, architecture=architecture)
    known = hub.class_names(found.config)
    classes = hub.numbered(classes) if isinstance(classes, int) else classes
    shapes, module = _described(name, found, known if head else classes or known, size, options)
    entries = weights.read_entries(found.path)
    try:
        model = weights.fill(
            shapes,
            entries,
            layout=weights.layout_of(
                found.config["format"], shapes.architecture, found.config["model_args"]
            ),
            adapt=getattr(module, "adapt", None),
            where=found.path,
        )
    except ValueError as error:
        if head is not None or classes is None:
            raise
        hint = "Where a checkpoint is of other classes, head='zero' gives it a new last layer."
        raise ValueError(f"{error}\n{hint}") from None
    return model if head is None else replace_head(model, classes or known, head=head, seed=seed)


def replace_head(
    classifier: Classifier, classes: Sequence[str], *, head: str, seed: int = 0
) -> Classifier:
    """The classifier with a new last layer for other classes.

    Args:
      classifier: of an architecture in MODELS.
      classes: their names.
      head: `zero`, or drawn as timm does, `random`.
      seed: of what is drawn.

    Raises:
      ValueError: no such kind of head.
    """
    _check_head(head)
    shapes, module = _blank(
        classifier.architecture, classes, classifier.input.size, classifier.options
    )
    if head == "zero":
        new = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes.variables)
    else:
        new = jax.jit(functools.partial(_init, module, shapes.input))(jax.random.key(seed))
    variables = jax.tree.map(
        lambda of_head, a, b: a if of_head else b,
        head_of(classifier),
        new,
        dict(classifier.variables),
    )
    return dataclasses.replace(
        classifier,
        variables=variables,
        forward=shapes.forward,
        classes=tuple(classes),
        origin=f"{classifier.origin}, new head",
    )


def head_of(classifier: Classifier) -> Variables:
    """Which variables are the head's, the last layer: a tree of bools."""
    classes = (*classifier.classes, "one more")
    more, _ = _blank(classifier.architecture, classes, classifier.input.size, classifier.options)
    # The head is what depends on the number of classes.
    return jax.tree.map(lambda a, b: a.shape != b.shape, dict(classifier.variables), more.variables)


def _check_head(head: str) -> None:
    if head not in HEADS:
        raise ValueError(f"No head '{head}'. Known: {', '.join(HEADS)}.")


def blank(name: str) -> Classifier:
    """What `load(name)` gives, but for the weights, which it does not read: variables are shapes.

    Raises:
      ValueError: no such model, with the nearest names.
    """
    found = locate(name)
    return _described(name, found, hub.class_names(found.config), None, {})[0]


def family(architecture: str) -> str:
    """The kind of network: the name of the file that builds it."""
    return MODELS[architecture].family


def locate(name: str, *, architecture: str | None = None) -> hub.Checkpoint:
    """The checkpoint that `load(name)` reads; raises as `load` does, but reads no weights."""
    if name in zoo():
        return hub.folder(ZOO / name.removeprefix("glyphs/"))
    if name.startswith("timm/"):
        check_architecture(name.removeprefix("timm/").partition(".")[0])
        return hub.repository(name, (weights.CONFIG,))
    if name.startswith("hf:"):
        return hub.repository(name.removeprefix("hf:"), (weights.CONFIG, hf.PREPROCESSOR))
    path = Path(name)
    if weights.is_export(path):
        return hub.folder(path)
    written = [(path / kind).rglob(weights.WEIGHTS) for kind in ("models", "students")]
    inside = sorted(file.parent for files in written for file in files)
    if len(inside) > 1:
        raise ValueError(f"'{name}' holds several models: name one, {', '.join(map(str, inside))}.")
    if inside:
        return hub.folder(inside[0])
    if path.suffix == ".safetensors" and path.is_file():
        if architecture is None:
            raise ValueError(f"'{name}' does not say its architecture: give architecture=...")
        check_architecture(architecture)
        return hub.bare(path, architecture, MODELS[architecture].input)
    if path.suffix in hub.PICKLED or (path / "pytorch_model.bin").is_file():
        raise ValueError(
            f"'{name}' is a pickle, which ktjax never opens. Convert it where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')."
        )
    if "." in name and name.partition(".")[0] in _TIMM:
        raise ValueError(f"No model '{name}': timm's checkpoint is called 'timm/{name}'.")
    if name in MODELS:
        tags = catalogue.TIMM["architectures"][name]["checkpoints"] if name in _TIMM else ()
        timms = f"; or take one of timm's: {', '.join(f'timm/{name}.{tag}' for tag in tags)}"
        raise ValueError(
            f"'{name}' is an architecture, not a pretrained model: train it with "
            f"configs/pretrain.py:model={name}, then give the folder that this exports"
            f"{timms if tags else ''}."
        )
    raise ValueError(
        f"No model '{name}': neither a folder with config.json and model.safetensors, nor in the "
        f"embedded zoo, nor an architecture. Nearest: {_nearest(name, (*zoo(), *MODELS))}; "
        "`python -m ktjax.models` lists all."
    )


def check_architecture(name: str) -> None:
    """Raises ValueError, with the nearest names, unless MODELS has the architecture."""
    if name not in MODELS:
        raise ValueError(
            f"No architecture '{name}'. Nearest: {_nearest(name, MODELS)}; "
            "`python -m ktjax.models` lists all."
        )


def _described(
    name: str,
    found: hub.Checkpoint,
    classes: Sequence[str],
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> tuple[Classifier, nn.Module]:
    """The Classifier of a checkpoint, whose variables have shapes only, and its network."""
    spec = weights.input_spec(found.config)
    if size is not None:
        spec = dataclasses.replace(spec, size=size)
    architecture = found.config["architecture"]
    stored = {
        k: tuple(v) if isinstance(v, list) else v for k, v in found.config["model_args"].items()
    }
    check_architecture(architecture)
    if "global_pool" in stored and "global_pool" not in _options(architecture):
        pool = stored.pop("global_pool")
        if pool not in _POOLS:
            raise ValueError(f"{name} pools features by '{pool}', which {architecture} does not.")
    shapes, module = _blank(architecture, classes, spec.size, {**stored, **options})
    origin = found.config["origin"]
    return dataclasses.replace(shapes, name=name, input=spec, origin=origin), module


def _blank(
    architecture: str,
    classes: Sequence[str],
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> tuple[Classifier, nn.Module]:
    """A Classifier whose variables have shapes only, and its network."""
    check_architecture(architecture)
    known = _options(architecture)
    for option in options:
        if option not in known:
            raise ValueError(
                f"{architecture} has no option '{option}'. Nearest: {_nearest(option, known)}; "
                f"known: {', '.join(sorted(known))}."
            )
    _, build, spec = MODELS[architecture]
    spec = spec if size is None else dataclasses.replace(spec, size=size)
    module = build(num_classes=len(classes), **options)
    shapes = Classifier(
        name=architecture,
        architecture=architecture,
        forward=linen_forward(module),
        variables=jax.eval_shape(functools.partial(_init, module, spec), jax.random.key(0)),
        input=spec,
        classes=tuple(classes),
        origin="",
        options=options,
    )
    return shapes, module


def _options(architecture: str) -> set[str]:
    """The options that a user may set, attributes of the network or fields of a config."""
    if architecture in hf.KINDS:
        return {*hf.KINDS[architecture].options, "drop_rate", "drop_path_rate", "remat"}
    attributes = inspect.signature(MODELS[architecture].build).parameters
    return set(attributes) - {"num_classes", "parent", "name"}


def _init(module: nn.Module, spec: InputSpec, key: jax.Array) -> Variables:
    return module.init(key, jnp.zeros((1, *spec.size, 3)))


def _nearest(name: str, known: Iterable[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0))


def has_classes(classifier: Classifier, classes: Sequence[str]) -> bool:
    """Whether the classifier answers with these classes; those of ImageNet have several names."""
    same = classifier.classes == tuple(classes)
    return same or (hub.is_imagenet(classifier.classes) and hub.is_imagenet(classes))


def check_classes(classifier: Classifier, classes: Sequence[str], data: str) -> None:
    """Raises ValueError unless the classifier answers with the classes of the data set."""
    if has_classes(classifier, classes):
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
