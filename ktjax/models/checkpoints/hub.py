"""Where a checkpoint's files are: folders, single files, repositories on the Hugging Face hub."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub

from ktjax import files, paths
from ktjax.classifier import InputSpec
from ktjax.models.checkpoints import card, entries, fields, hf, repositories, weights

PICKLED = (".bin", ".pth", ".pt", ".tar", ".ckpt", ".pkl")
_OF_GRAPHS = (weights.GRAPH, weights.TRAINING, weights.CONSTANTS)  # of imported torch modules
# The biases of timm's classifiers tell the number of classes.
_HEADS = ("fc.bias", "head.bias", "head.fc.bias", "classifier.bias", "head.l.bias")


class LackingError(ValueError):
    """A repository has no such file."""


class Checkpoint(NamedTuple):
    """A checkpoint: where its weights are, not yet read, and what is known about them."""

    path: Path  # the safetensors file
    config: Mapping[str, Any]  # from weights.read_config
    bare: bool = False  # a single file, whose architecture the user named


def folder(path: Path) -> Checkpoint:
    """The checkpoint in a folder that weights.read_config reads; ValueError if there is none."""
    config = weights.read_config(path)
    file = entries.file_of(path) or path / weights.WEIGHTS
    return Checkpoint(file, {**config, **_without_repetition(config, path)})


def _without_repetition(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of a config.json without what `model_args` repeats, as in timm's.

    `img_size` is what the network was built for; `input_size` may still be its origin's. Networks
    that take any size are used at that of their input, where they equal those that do not.
    """
    options, spec = dict(config["model_args"]), dict(config["pretrained_cfg"])
    for name in ("num_classes", "dynamic_img_size", "dynamic_img_pad", "strict_img_size"):
        options.pop(name, None)
    channels = options.pop("in_chans", 3)
    if channels != 3:
        raise ValueError(f"The model in {path} is for images of {channels} channels, not 3.")
    if "img_size" in options:
        size = options.pop("img_size")
        spec["input_size"] = [3, *(size if isinstance(size, list | tuple) else (size, size))]
        fields.check_input(spec, str(path))
    return {"model_args": options, "pretrained_cfg": spec}


def bare(path: Path, architecture: str, spec: InputSpec) -> Checkpoint:
    """The checkpoint of a .safetensors file with timm's names and a known architecture."""
    heads = [shape[0] for name, shape in entries.read_shapes(path).items() if _is_head(name)]
    return Checkpoint(
        path,
        {
            "format": "timm",
            "architecture": architecture,
            "num_classes": heads[0] if heads else 0,
            "model_args": {},
            "origin": f"pretrained {path.name}",
            "pretrained_cfg": weights.pretrained_cfg(spec),
        },
        bare=True,
    )


def _is_head(name: str) -> bool:
    """Whether an entry is the bias of a head, whatever its prefix."""
    return f".{name}".endswith(tuple(f".{head}" for head in _HEADS))


def read_config(repository: str) -> dict[str, Any]:
    """What the config.json of a repository on the hub holds; ValueError as `download`."""
    return files.read_object(download(repository, weights.CONFIG))


def checkpoint(repository: str, name: str) -> Checkpoint:
    """The checkpoint of a repository on the hub, downloaded unless it is in the hub's cache.

    Args:
      repository: its name.
      name: what the user calls it.

    Raises:
      ValueError: as `download`; or ktjax has no model like the one in the config.
    """
    path = download(repository, weights.CONFIG)
    if hf.is_config(files.read_object(path)):  # else ktjax has written it, or timm
        processor(repository)
    config = folder(path.parent).config  # the cache keeps them side by side
    for file in _OF_GRAPHS if config["format"] == weights.TORCH else ():
        with contextlib.suppress(LackingError):  # not every repository has all
            download(repository, file)
    return Checkpoint(_weights(repository), {**config, "origin": f"pretrained {name}"})


def processor(repository: str) -> Path | None:
    """The preprocessor_config.json of a repository, if it has one."""
    plain, revision = repositories.split(repository)
    known = huggingface_hub.try_to_load_from_cache(plain, hf.PREPROCESSOR, revision=revision)
    if known is huggingface_hub.file_download._CACHED_NO_EXIST:  # the hub was asked before
        return None
    try:
        return download(repository, hf.PREPROCESSOR)
    except LackingError:
        return None


def _weights(repository: str) -> Path:
    """The weights file, or the index of several, all of which are downloaded."""
    plain, revision = repositories.split(repository)
    index = huggingface_hub.try_to_load_from_cache(plain, entries.INDEX, revision=revision)
    if not isinstance(index, str):
        try:
            return download(repository, weights.WEIGHTS)
        except LackingError as error:
            try:
                index = download(repository, entries.INDEX)
            except LackingError:
                raise error from None
    for file in entries.parts(Path(index)):
        download(repository, file)
    return Path(index)


def push(
    folder: str | Path, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Uploads an exported model, which `ktjax.load_model("hf:OWNER/NAME")` then loads.

    All files go into one commit, in a repository that is created if needed.

    Args:
      folder: written by `export_model` or a job.
      repository: OWNER/NAME.
      private: whether a new repository is private.
      token: one with write access; None: the one that `hf auth login` keeps, or HF_TOKEN.

    Returns:
      The address of the repository.

    Raises:
      ValueError: there is no model in the folder, or not all of its files; or the hub rejects it.
    """
    pushed = _pushed(paths.of(folder), repository)
    api = huggingface_hub.HfApi(token=token)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(
            repository,
            [huggingface_hub.CommitOperationAdd(*file) for file in pushed.items()],
            commit_message="Upload with ktjax",
        )
    except Exception as error:  # from the hub, its library, or the network
        *_, reason = type(error).__name__, *str(error).strip().splitlines()
        raise ValueError(f"The hub rejects '{repository}': {reason.rstrip('.')}.") from error
    return str(url)


def _pushed(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """The files that the repository will have, or their content, by name."""
    file = entries.file_of(folder)
    if file is None or not (folder / weights.CONFIG).is_file():
        raise ValueError(f"'{folder}' holds no {weights.CONFIG} and {weights.WEIGHTS}.")
    parts = entries.parts(file) if file.name == entries.INDEX else {}
    if missing := sorted(part for part in parts if not (folder / part).is_file()):
        raise ValueError(f"There is no {folder / missing[0]}, which {file.name} names.")
    optional = (card.README, hf.PREPROCESSOR, *_OF_GRAPHS)
    names = [weights.CONFIG, file.name, *parts, *(n for n in optional if (folder / n).exists())]
    pushed: dict[str, Path | bytes] = {name: paths.local(folder / name) for name in names}
    if card.README in names:
        pushed[card.README] = card.of_repository((folder / card.README).read_bytes(), repository)
    return pushed


def download(repository: str, file: str) -> Path:
    """A file of a repository on huggingface.co, from the cache if it is there.

    `repository` may end in `@` and a revision.

    HF_HUB_OFFLINE and HF_HOME are respected.

    Raises:
      LackingError: the repository lacks the file.
      ValueError: there is no such repository, it is gated, or there is neither network nor a cached
        copy.
    """
    from huggingface_hub import errors  # imports httpx; the library itself imports nothing at first

    plain, revision = repositories.split(repository)
    try:
        return Path(huggingface_hub.hf_hub_download(plain, file, revision=revision))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"'{repository}' is gated: accept its terms on huggingface.co, then log in with "
            "`hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"There is no repository '{repository}' on huggingface.co.") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"'{repository}' is not in the cache of huggingface_hub, and huggingface.co does not "
            "answer (or HF_HUB_OFFLINE is set)."
        ) from error
    except errors.EntryNotFoundError as error:
        raise LackingError(
            f"'{repository}' has no {file} on huggingface.co; ktjax reads no other weights."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"'{repository}' cannot be downloaded: {lines[0]}") from error
