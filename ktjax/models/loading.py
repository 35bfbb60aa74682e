"""name -> pretrained Classifier: where its weights are, how they are read."""

import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from ktjax import files, paths, spelling
from ktjax.classifier import Classifier
from ktjax.models import heads, imported, registry, zero_shot
from ktjax.models.checkpoints import catalogue, entries, fields, hf, hub, repositories, weights
from ktjax.models.classes import class_names, numbered

# The weights of the embedded zoo, one exported folder each, are in the package.
ZOO = Path(__file__).parent / "glyphs"
# timm's names for how features are pooled, where our network supports only one way.
_POOLS = ("avg", "token")
_OF_OTHERS = (
    "If the weights do not have timm's names (torchvision's differ, except for ResNets), load them "
    "in the library they are from, and ktjax.import_torch(module, FOLDER, ...) makes a folder."
)
_LOG = logging.getLogger(__name__)


def zoo() -> tuple[str, ...]:
    """The names of the embedded zoo."""
    return tuple(f"glyphs/{folder.name}" for folder in sorted(ZOO.iterdir()) if folder.is_dir())


def load(
    name: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | int | None = None,
    head: str | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
    templates: Sequence[str] = zero_shot.TEMPLATES,
    **options: Any,
) -> Classifier:
    """Loads a pretrained Classifier.

    Args:
      name: one of
        `timm/<architecture>.<tag>`, a repository of timm's on the Hugging Face hub (cached;
        HF_HUB_OFFLINE is respected); if ktjax lacks the architecture and torch and timm are
        installed, it is imported, once; the prefix `import:` imports any;
        `hf:<owner>/<repository>`, or `hf-hub:`, or `timm/<owner>/<repository>`: any other on the
        hub, written by transformers, timm or ktjax, optionally followed by `@<revision>`; or the
        address of its page;
        `glyphs/<name>` of the embedded zoo;
        a folder with config.json and model.safetensors, written by ktjax, timm or transformers;
        or the folder of an imported torch module;
        `zeroshot:` and a folder or repository of CLIP or SigLIP, for any `classes`; without
        them, `ktjax.models.named` sets them later;
        a workdir of ktjax that holds one model (of several, the folder of one);
        a .safetensors file with timm's names. Weights may be in several files with an index.
      architecture: that of a .safetensors file, which does not name it itself.
      classes: the names of the classes, or how many there are, instead of those in config.json.
      head: a new last layer for `classes`: `zero`, or `random`, initialized as in timm; None: keep
        the checkpoint's. Encoders without a head need one.
      size: height and width of the input, if not the checkpoint's. Position embeddings of timm's
        families are resized.
      mean, std, interpolation, crop_pct: how images are prepared for it, if not as the checkpoint
        says: channels become (x - mean) / std, of values from 0 to 1; the filter, and the share of
        the image's shorter side in evaluation. A .safetensors file does not say: timm's values for
        its architecture are used, and logged.
      seed: the seed of a random head.
      templates: for a zero-shot model, texts in which {} stands for a class's name; their
        embeddings are averaged.
      **options: attributes of the network, by timm's names: `drop_rate`, `drop_path_rate`.

    Raises:
      ValueError: no such model, with the nearest names; or weights that do not fit.
    """
    if head is not None:
        heads.check_head(head)
    size, mean, std, classes = fields.given(size=size, mean=mean, std=std, classes=classes)
    name = str(name)
    found = locate(name, architecture=architecture)
    prepared = dict(mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    spec = _input(name, found, prepared)
    known = class_names(found.config)
    classes = numbered(classes) if isinstance(classes, int) else classes or None
    if found.config["format"] == weights.ZERO_SHOT:
        if head is not None and not classes:
            raise ValueError(f"'{name}' has no classes: pass those of the new head, too.")
        model = zero_shot.load(name, found, templates=templates, size=size, options=options)
        if classes and head is None:
            model = zero_shot.named(model, classes)
    elif not known and (head is None or not classes):
        others = f" {_OF_OTHERS}" if found.bare else ""
        raise ValueError(
            f"'{name}' has no head, so it cannot classify: head='zero' or 'random' adds one, for "
            f"the classes that are given too.{others}"
        )
    elif found.config["format"] == weights.TORCH:
        _check_graph(name, found, size, options)
        model = imported.load(found.path.parent, found.config, name=name)
        if head is None:
            model = _called(model, classes or known)
    else:
        shapes, module = _described(name, found, classes or known, size, options)
        hint = classes is not None and head is None
        model = _filled(shapes, module, found, fresh_head=head is not None, hint=hint)
    if head is not None:
        model = heads.replace_head(model, classes or known, head=head, seed=seed)
    return dataclasses.replace(model, input=dataclasses.replace(model.input, **spec))


def _input(name: str, found: hub.Checkpoint, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an InputSpec that are given; ValueError if one is not valid."""
    given = {k: v for k, v in prepared.items() if v is not None}
    spec = {**found.config["pretrained_cfg"], **given}
    fields.check_input(spec, name)
    weights.check_cfg(spec, name)
    if found.bare and len(given) < len(prepared):
        _LOG.warning(
            "%s does not say how images are prepared: using %s, crop %g, mean %s, std %s.",
            name,
            spec["interpolation"],
            spec["crop_pct"],
            tuple(spec["mean"]),
            tuple(spec["std"]),
        )
    return given


def _filled(
    shapes: Classifier, module: nn.Module, found: hub.Checkpoint, *, fresh_head: bool, hint: bool
) -> Classifier:
    """The classifier with the weights of its checkpoint; a `fresh_head` is not read.

    Raises:
      ValueError: they do not fit; with a `hint` that the checkpoint may have other classes.
    """
    try:
        return weights.fill(
            shapes,
            _without_background(entries.read(found.path), found.config),
            layout=weights.layout_of(
                found.config["format"], shapes.architecture, found.config["model_args"]
            ),
            adapt=getattr(module, "adapt", None),
            made_for=weights.input_spec(found.config).size,
            where=found.path,
            head=heads.head_of(shapes) if fresh_head else None,
        )
    except ValueError as error:
        hints = []
        if hint:
            hints.append(
                "If the checkpoint has other classes, head='zero' gives it a new last layer."
            )
        if found.bare:
            hints.append(_OF_OTHERS)
        if not hints:
            raise
        raise ValueError("\n".join([str(error), *hints])) from None


def locate(name: str, *, architecture: str | None = None) -> hub.Checkpoint:
    """The checkpoint that `load(name)` reads; raises as `load` does, but reads no weights."""
    if name in zoo():
        return hub.folder(ZOO / name.removeprefix("glyphs/"))
    if name.startswith(zero_shot.PREFIX):
        return zero_shot.locate(name)
    if name.startswith(imported.FORCED):
        return hub.folder(imported.cached(name))
    repository = repositories.of(name)
    if repository is not None:
        return _of_hub(name, repository)
    name = name.removeprefix("local-dir:")  # timm's prefix
    path = paths.of(name)
    if weights.is_export(path):
        return hub.folder(path)
    kinds = (files.MODELS, files.STUDENTS)
    written = [one for kind in kinds for one in paths.find(path / kind, weights.WEIGHTS)]
    inside = sorted(one.parent for one in written)
    if len(inside) > 1:
        raise ValueError(f"'{name}' holds several models: use one, {', '.join(map(str, inside))}.")
    if inside:
        return hub.folder(inside[0])
    if path.suffix == ".safetensors" and path.is_file():
        if architecture is None:
            raise ValueError(
                f"'{name}' does not name its architecture: `python -m ktjax.models import {name} "
                "FOLDER --architecture=NAME` makes a folder that jobs take."
            )
        architecture = architecture.removeprefix("timm/").partition(".")[0]
        registry.check_architecture(architecture)
        return hub.bare(path, architecture, registry.MODELS[architecture].input)
    if (path / "pytorch_model.bin").is_file():
        raise ValueError(
            f"The weights of '{name}' are a pickle, which ktjax never opens: `python -m "
            f"ktjax.models import {name} FOLDER` reads them with torch, where it is installed."
        )
    if path.suffix in hub.PICKLED:
        raise ValueError(
            f"'{name}' is a pickle, which ktjax never opens. If you trust it, convert it: "
            "d = torch.load(FILE, 'cpu', weights_only=False); d = d.get('state_dict_ema') or "
            "d.get('state_dict') or d; safetensors.torch.save_file({k: v.contiguous() for k, v in "
            "d.items()}, 'model.safetensors'). Then `python -m ktjax.models import "
            "model.safetensors FOLDER --architecture=NAME`."
        )
    if path.is_file():
        raise ValueError(
            f"'{name}' is not a .safetensors file, and ktjax reads no others. If timm reads it "
            "(such as big_vision's .npz): timm.models.save_for_hf(timm.create_model(NAME, "
            "checkpoint_path=FILE), FOLDER, safe_serialization=True) makes a folder."
        )
    timms = catalogue.TIMM["architectures"].keys() & registry.MODELS.keys()
    if "." in name and name.partition(".")[0] in timms:
        raise ValueError(f"No model '{name}': timm's checkpoint is called 'timm/{name}'.")
    if name in registry.MODELS:
        tags = catalogue.TIMM["architectures"][name]["checkpoints"] if name in timms else ()
        others = f"; or use one of timm's: {', '.join(f'timm/{name}.{tag}' for tag in tags)}"
        raise ValueError(
            f"'{name}' is an architecture, not a pretrained model: train it with "
            f"configs/pretrain.py:model={name}, then use the folder that this exports"
            f"{others if tags else ''}."
        )
    if (path / files.CONFIG).is_file() and "job" in files.read_object(path / files.CONFIG):
        raise ValueError(
            f"'{name}' is the workdir of a job that has not exported a model: its command, run "
            "again, resumes it and exports at the end."
        )
    inside = sorted(str(one.parent) for one in path.glob(f"*/{weights.WEIGHTS}"))
    if inside:  # checkpoints of transformers' Trainer
        raise ValueError(f"'{name}' is not a model, but holds some: {', '.join(inside)}.")
    is_path = path.is_dir() or (len(path.parts) > 1 and path.parent.is_dir())
    if is_path or name.startswith(("/", ".", "~")):
        raise ValueError(_no_model_at(path))
    nearest = spelling.nearest(name, (*zoo(), *registry.MODELS))
    raise ValueError(
        f"No model '{name}': neither a folder with config.json and model.safetensors, nor in the "
        f"embedded zoo, nor an architecture. Nearest: {nearest}; "
        f"`python -m ktjax.models` lists all.{repositories.hint(name)}"
    )


def _no_model_at(path: Path) -> str:
    """What is wrong with a path that holds no model."""
    if path.is_dir():
        return f"'{path}' is no model: {files.CONFIG} and {weights.WEIGHTS} are not both there."
    if not path.parent.is_dir():
        return f"No model '{path}': there is no folder '{path.parent}'."
    beside = [one.name for one in path.parent.iterdir() if one.is_dir()]
    alike = difflib.get_close_matches(path.name, beside)
    nearest = f" Nearest there: {', '.join(alike)}." if alike else ""
    return f"No model '{path}': '{path.parent}' has no such folder.{nearest}"


def identity(name: str) -> str:
    """Text that all names of one model share; ValueError if there is no such local model.

    That is the folder of a local model. The hub is not asked, which would download the weights:
    its models are told apart by name, and so are those with a prefix.
    """
    repository = repositories.of(name)
    if repository is not None:
        return f"hf:{repository}"
    if name.startswith((zero_shot.PREFIX, imported.FORCED)):
        return name
    return str(locate(name).path.resolve())


def protocol(name: str) -> str | None:
    """How a checkpoint of timm's was trained, by its tag, such as `a1_in1k`; None: not known."""
    repository = repositories.of(name) or ""
    _, _, tag = repository.removeprefix("timm/").partition(".")
    return tag if repository.startswith("timm/") and tag else None


def _of_hub(name: str, repository: str) -> hub.Checkpoint:
    """The checkpoint of a repository; imported if ktjax lacks its architecture."""
    if name.startswith("timm/") and repository == name:  # known without asking the hub
        architecture, _, tag = name.removeprefix("timm/").partition(".")
        known = catalogue.TIMM["architectures"].get(architecture, {})
        if not tag and known.get("checkpoints"):
            tags = ", ".join(f"{name}.{tag}" for tag in known["checkpoints"])
            raise ValueError(f"'{name}' lacks its tag, which says how it was trained: {tags}.")
        native = architecture in registry.MODELS
    else:
        config = hub.read_config(repository)
        if hf.is_config(config) and hf.is_zero_shot(config):
            raise ValueError(
                f"'{name}' is a CLIP or SigLIP model, whose classes are texts: "
                f"{zero_shot.PREFIX}{repository} uses it with those of the data."
            )
        if hf.is_config(config):
            architecture = " or ".join(config.get("architectures") or ["no class"])
            native = hf.is_native(config)
        else:
            architecture = config.get("architecture")
            native = architecture in registry.MODELS or "format" in config
    if native:
        return hub.checkpoint(repository, name)
    obstacle = imported.obstacle(name)
    if obstacle is not None:
        nearest = spelling.nearest(str(architecture), registry.MODELS)
        raise ValueError(f"No architecture '{architecture}'. Nearest: {nearest}. {obstacle}")
    return hub.folder(imported.cached(name))


def _without_background(
    found: dict[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The entries without the first `label_offset` classes, which timm does not count."""
    offset, heads = (config["pretrained_cfg"].get(k) for k in ("label_offset", "classifier"))
    if not offset or not heads:
        return found
    for head in [heads] if isinstance(heads, str) else heads:
        for entry in (f"{head}.weight", f"{head}.bias"):
            if entry in found and len(found[entry]) == offset + config["num_classes"]:
                found[entry] = found[entry][offset:]
    return found


def _check_graph(
    name: str, found: hub.Checkpoint, size: tuple[int, int] | None, options: Mapping[str, Any]
) -> None:
    """Raises ValueError if an imported graph does not have these options or this size."""
    if options:
        raise ValueError(
            f"{name} is an imported graph, which has no option {', '.join(sorted(options))}."
        )
    own = weights.input_spec(found.config).size
    if size not in (None, own):
        raise ValueError(
            f"{name} is an imported graph for images of {own[0]}x{own[1]}: import it again with "
            f"size=({size[0]}, {size[1]})."
        )


def _called(model: Classifier, classes: Sequence[str]) -> Classifier:
    """The classifier with other names for its classes."""
    if len(classes) != len(model.classes):
        raise ValueError(
            f"{model.name} has {len(model.classes)} classes, but {len(classes)} are named: "
            "head='zero' gives it a new last layer."
        )
    return dataclasses.replace(model, classes=tuple(classes))


def blank(name: str) -> Classifier:
    """As `load(name)`, but without reading weights: variables are shapes.

    Raises:
      ValueError: no such model, with the nearest names.
    """
    found = locate(name)
    if found.config["format"] == weights.ZERO_SHOT:
        return zero_shot.blank(name, found)
    if found.config["format"] == weights.TORCH:
        return imported.blank(found.path.parent, found.config, name=name)
    return _described(name, found, class_names(found.config), None, {})[0]


def _described(
    name: str,
    found: hub.Checkpoint,
    classes: Sequence[str],
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> tuple[Classifier, nn.Module]:
    """The Classifier of a checkpoint, whose variables are shapes only, and its network."""
    spec = weights.input_spec(found.config)
    if size is not None:
        spec = dataclasses.replace(spec, size=size)
    architecture = found.config["architecture"]
    stored = {
        k: tuple(v) if isinstance(v, list) else v for k, v in found.config["model_args"].items()
    }
    try:
        registry.check_architecture(architecture)
    except ValueError as error:
        raise ValueError(
            f"{error} Where torch is installed, `python -m ktjax.models import {name} FOLDER` "
            "converts it to a folder that ktjax reads."
        ) from None
    if "global_pool" in stored and "global_pool" not in registry.options_of(architecture):
        pool = stored.pop("global_pool")
        if pool not in _POOLS:
            raise ValueError(f"{name} pools features by '{pool}', which {architecture} does not.")
    shapes, module = registry.skeleton(architecture, classes, spec.size, {**stored, **options})
    origin = found.config["origin"]
    return dataclasses.replace(shapes, name=name, input=spec, origin=origin), module
