"""Imports torch modules: your own, and timm's and transformers' by name or folder."""

import dataclasses
import importlib.metadata
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ktjax
from ktjax import files, paths
from ktjax.classifier import Classifier, InputSpec
from ktjax.models.checkpoints import fields, hf, hub, processors, repositories, weights
from ktjax.models.classes import class_names, numbered
from ktjax.models.imported import heads, model, torch_export
from ktjax.models.imported.graph import Graph

FORCED = "import:"  # before a name: imports it even if ktjax has the architecture
# Operations whose results are no logits. (The softmax of log-softmax is the same probabilities.)
_PROBABILITIES = ("_softmax", "_safe_softmax", "sigmoid")
_LOG = logging.getLogger(__name__)


def import_torch(
    module: Any,
    folder: str | Path,
    *,
    size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    classes: Sequence[str] | int | None = None,
    interpolation: str = "bicubic",
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    name: str | None = None,
    origin: str | None = None,
) -> Classifier:
    """Converts a torch module to a Classifier, in a folder for `ktjax.load_model`.

    Only this needs torch. The folder keeps the graph of the module in evaluation mode, whose
    BatchNorm layers train; and, if it has dropout or stochastic depth, that of training mode. If
    that gives other logits, as with heads for training only, the module is trained without dropout,
    which is logged.

    Args:
      module: a torch.nn.Module that takes images [B, 3, height, width] and returns logits [B, C],
        or an object that has them as `logits`. It is not changed.
      folder: where to; created if needed.
      size: height and width of the images.
      mean, std: what the module's images are normalized with, for values from 0 to 1.
      classes: their names, or how many there are; None: those of ImageNet, or numbers.
      interpolation, crop_pct, crop_mode: how images are resized and cropped, in timm's terms.
      name: the name of the architecture; None: that of its class.
      origin: where the weights come from, in words.

    Raises:
      ValueError: torch is not installed; the module has data-dependent control flow, or is for one
        batch size, or returns no logits, or probabilities; ktjax lacks operations that it has, all
        of which are listed; or it has another number of classes.
    """
    size, mean, std, classes = fields.given(size=size, mean=mean, std=std, classes=classes)
    called = name or type(module).__name__
    spec = InputSpec(size, mean, std, interpolation, crop_pct, crop_mode)
    source = _Source(module, called, origin or f"imported {called}", spec, classes, {}, {}, ())
    return _write(source, paths.of(folder))


def import_named(
    name: str, folder: str | Path, *, size: tuple[int, int] | None = None, **rates: float
) -> Classifier:
    """The same for a model of timm's or transformers', with its weights.

    Args:
      name: `timm/NAME`, `hf:OWNER/REPOSITORY`, or a folder that one of them wrote.
      folder: where to.
      size: height and width of the images, if not the checkpoint's.
      **rates: for timm's models, which drop nothing by default: `drop_rate`, `drop_path_rate`.

    Raises:
      ValueError: as `import_torch`; or there is no such model, timm or transformers is missing, or
        rates are given for transformers'.
    """
    size = fields.given(size=size).size
    name = name.removeprefix(FORCED).removeprefix("local-dir:")
    repository = repositories.of(name)
    if repository is not None and repository == name:
        source = _of_timm(name.removeprefix("timm/"), f"pretrained {name}", size, rates)
    elif repository is not None:
        if hf.is_config(hub.read_config(repository)):
            source = _of_transformers(repository, f"pretrained {name}", rates)
        else:
            source = _of_timm(f"hf-hub:{repository}", f"pretrained {name}", size, rates)
    elif (Path(name) / weights.CONFIG).is_file():
        if hf.is_config(files.read_object(Path(name) / weights.CONFIG)):
            source = _of_transformers(name, f"pretrained {name}", rates)
        else:
            source = _of_timm(f"local-dir:{name}", f"pretrained {name}", size, rates)
    else:
        raise ValueError(
            f"'{name}' is neither timm/NAME nor hf:ORGANIZATION/REPOSITORY nor a folder with "
            "config.json: for your own module, use ktjax.import_torch(module, folder, ...)."
        )
    if size is not None:
        source = source._replace(spec=dataclasses.replace(source.spec, size=size))
    return _write(source, paths.of(folder))


def cached(name: str) -> Path:
    """The folder of an imported model in ktjax's cache; imported if it is missing.

    Raises:
      ValueError: as `import_named`.
    """
    plain = name.removeprefix(FORCED)
    folder = _in_cache(plain)
    if weights.is_export(folder):
        _say_versions(folder)
        return folder
    _LOG.info("%s is imported with torch, once; kept in %s.", plain, folder)
    import_named(plain, folder)
    return folder


def _in_cache(name: str) -> Path:
    return paths.cache() / "imported" / name.replace("/", "--").replace(":", "--")


def obstacle(name: str) -> str | None:
    """Why a model on the hub cannot be imported here, in a sentence; None: no known reason."""
    if weights.is_export(_in_cache(name)):
        return None
    repository = repositories.of(name)
    theirs = "timm"
    if repository != name and hf.is_config(hub.read_config(str(repository))):
        theirs = "transformers"
    lacking = [package for package in ("torch", theirs) if not _has(package)]
    if lacking:
        return (
            f"Importing other models of {theirs} needs torch and {theirs}, but "
            f"{' and '.join(lacking)} cannot be found: pip install 'ktjax[torch]'; or run `python "
            f"-m ktjax.models import {name} FOLDER` where they are, and load the folder."
        )
    if repository != name:
        return None
    architecture = name.removeprefix("timm/").partition(".")[0]
    known = _import("timm").is_model(architecture)
    return None if known else "timm does not have it either."


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _say_versions(folder: Path) -> None:
    """Warns if a cached import was made with other versions than those installed."""
    made = files.read_object(folder / weights.CONFIG).get("versions", {})
    for package, version in made.items():
        if package != "ktjax" and _has(package):
            here = importlib.metadata.version(package)
            if here.partition("+")[0] != version.partition("+")[0]:
                _LOG.warning("%s was made with %s %s; here is %s.", folder, package, version, here)


class _Source(NamedTuple):
    """What is imported."""

    module: Any
    architecture: str
    origin: str
    spec: InputSpec
    classes: Sequence[str] | int | None
    pretrained_cfg: Mapping[str, Any]  # timm's
    versions: Mapping[str, str]
    lacking: Sequence[str]  # entries that the checkpoint lacks: those of its missing head


def _write(source: _Source, folder: Path) -> Classifier:
    exported = torch_export.export(source.module, source.spec.size)
    _check_logits(exported.graph)
    count = exported.graph.num_classes
    names = numbered(source.classes) if isinstance(source.classes, int) else source.classes
    if names is not None and len(names) != count:
        raise ValueError(f"The module has {count} classes, but {len(names)} are named.")
    config = {
        "format": weights.TORCH,
        "architecture": source.architecture,
        "num_classes": count,
        "origin": source.origin,
        "versions": {**exported.versions, **source.versions, "ktjax": ktjax.__version__},
        "model_args": {},
        "pretrained_cfg": {**source.pretrained_cfg, **weights.pretrained_cfg(source.spec)},
    }
    if source.lacking:
        _check_lacking(source, exported.graph)
    problem = getattr(getattr(source.module, "config", None), "problem_type", None)  # transformers'
    if source.lacking or not hf.is_for_one_class(problem, source.architecture):
        config["num_classes"], names = 0, ()  # timm's way of saying that there is no head
    if names is None:
        names = class_names(config)
    config["label_names"] = list(names)
    content = model.Folder(exported.graph, exported.training, exported.weights, exported.constants)
    model.write(folder, content, config)
    return model.load(folder, weights.read_config(folder), name=str(folder))


def _check_logits(graph: Graph) -> None:
    """Raises ValueError if what the graph returns are probabilities: a softmax would follow."""
    (last,) = (call for call in graph.calls if call.name == graph.logits)
    if last.op in _PROBABILITIES:
        raise ValueError(
            "The module returns probabilities: return what its last layer gives, before the "
            f"{last.op.strip('_').replace('_', ' ')}."
        )


def _check_lacking(source: _Source, graph: Graph) -> None:
    """Raises ValueError if the checkpoint lacks more than the head of the graph."""
    try:
        of_head = heads.parameters(graph)
    except ValueError:
        of_head = {}
    more = sorted(set(source.lacking) - of_head.keys())
    if more:
        raise ValueError(
            f"{len(more)} entries of {source.architecture} are missing outside its head, "
            f"{more[0]} first: the checkpoint is not that of a classifier."
        )


def _of_timm(
    name: str, origin: str, size: tuple[int, int] | None, rates: Mapping[str, float]
) -> _Source:
    timm = _import("timm")
    try:
        module = timm.create_model(name, pretrained=True, **rates)
    except Exception as error:  # from timm, torch or huggingface_hub
        raise ValueError(f"timm cannot create '{name}': {_first_line(error)}") from error
    lacking = []
    if not module.num_classes:  # an encoder: it is exported with a head, which will be replaced
        known = module.state_dict().keys()
        module.reset_classifier(1)
        lacking = sorted(module.state_dict().keys() - known)
    config = dict(module.pretrained_cfg)
    weights.check_cfg(config, name)
    spec = weights.input_spec({"pretrained_cfg": config})
    spec = dataclasses.replace(spec, size=size or spec.size)
    own = ("first_conv", "classifier", "fixed_input_size", "tag", "license")
    return _Source(
        module,
        config["architecture"],
        origin,
        spec,
        None if lacking else config.get("label_names"),
        {key: config[key] for key in own if config.get(key) is not None},
        {"timm": timm.__version__},
        lacking,
    )


def _of_transformers(name: str, origin: str, rates: Mapping[str, float]) -> _Source:
    if rates:
        raise ValueError(
            f"'{name}' is a transformers model, whose config sets dropout: {', '.join(rates)} are "
            "for timm's models."
        )
    transformers = _import("transformers")
    plain, revision = (name, None) if Path(name).is_dir() else repositories.split(name)
    try:
        module, loaded = transformers.AutoModelForImageClassification.from_pretrained(
            plain, revision=revision, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # from transformers, torch or huggingface_hub
        raise ValueError(f"transformers cannot load '{name}': {_first_line(error)}") from error
    config = module.config
    file = Path(name) / hf.PREPROCESSOR
    if not Path(name).is_dir():
        file = hub.processor(name) or file
    spec = processors.read(file, config.to_dict())
    return _Source(
        module,
        type(module).__name__,
        origin,
        weights.input_spec({"pretrained_cfg": spec}),
        hf.class_names(config.id2label),
        {},
        {"transformers": transformers.__version__},
        sorted(loaded["missing_keys"]),  # which transformers has initialized
    )


def _import(package: str) -> Any:
    """timm or transformers, if torch is installed too."""
    for needed in ("torch", package):
        if not _has(needed):
            raise ValueError(f"Importing needs {needed}: pip install 'ktjax[torch]'.")
    return importlib.import_module(package)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
