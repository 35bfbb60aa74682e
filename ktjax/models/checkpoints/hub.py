"""Where a checkpoint's files lie: folders, single files, repositories on the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import errors

from ktjax import paths
from ktjax.classifier import InputSpec
from ktjax.models.checkpoints import card, hf, weights

PICKLED = (".bin", ".pth", ".pt", ".tar", ".ckpt", ".pkl")
# The biases of timm's classifiers tell how many classes there are.
_HEADS = ("fc.bias", "head.bias", "head.fc.bias", "classifier.bias", "head.l.bias")


class Checkpoint(NamedTuple):
    """A checkpoint: where its weights are, not yet read, and what is known about them."""

    path: Path  # the safetensors file
    config: Mapping[str, Any]  # what weights.read_config gives


def folder(path: Path) -> Checkpoint:
    """The checkpoint in a folder as weights.read_config takes it; ValueError if there is none."""
    config = weights.read_config(path)
    return Checkpoint(path / weights.WEIGHTS, {**config, **_without_repetition(config, path)})


def _without_repetition(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of a config.json without what `model_args` repeats, as timm's does.

    `img_size` is what the network was built for; `input_size` may still be its origin's.
    """
    options, spec = dict(config["model_args"]), dict(config["pretrained_cfg"])
    options.pop("num_classes", None)
    channels = options.pop("in_chans", 3)
    if channels != 3:
        raise ValueError(f"The model in {path} is for images of {channels} channels, not of 3.")
    if "img_size" in options:
        size = options.pop("img_size")
        spec["input_size"] = [3, *((size, size) if isinstance(size, int) else size)]
    return {"model_args": options, "pretrained_cfg": spec}


def bare(path: Path, architecture: str, spec: InputSpec) -> Checkpoint:
    """The checkpoint that a .safetensors file with timm's names is, of a known architecture."""
    entries = weights.read_shapes(path)
    heads = [shape[0] for name, shape in entries.items() if name in _HEADS]
    if not heads:
        raise ValueError(f"{path} has no classifier: none of {', '.join(_HEADS)}.")
    return Checkpoint(
        path,
        {
            "format": "timm",
            "architecture": architecture,
            "num_classes": heads[0],
            "model_args": {},
            "origin": f"pretrained {path.name}",
            "pretrained_cfg": weights.pretrained_cfg(spec),
        },
    )


def repository(name: str, configs: Sequence[str]) -> Checkpoint:
    """The checkpoint of a repository on the hub, downloaded unless it is in the hub's cache.

    Args:
      name: what the repository is called.
      configs: the files beside the weights that are needed where transformers has written them.

    Raises:
      ValueError: as `download`; or ktjax has no model like the one in the config.
    """
    path = download(name, weights.CONFIG)
    if hf.is_config(weights.read_json(path)):  # else ktjax has written it, or timm
        for file in configs:
            download(name, file)
    config = folder(path.parent).config  # the cache keeps them side by side
    return Checkpoint(download(name, weights.WEIGHTS), {**config, "origin": f"pretrained {name}"})


def push(
    folder: str | Path, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Uploads an exported model, which `ktjax.load_model("hf:OWNER/NAME")` loads then.

    All files go in one commit, into a repository that is made if it is not there.

    Args:
      folder: as `export_model`, or a job, wrote it.
      repository: OWNER/NAME.
      private: whether a new repository is.
      token: that may write there; None: the one that `hf auth login` keeps, or HF_TOKEN.

    Returns:
      The address of the repository.

    Raises:
      ValueError: there is no model in the folder, or the hub does not take it.
    """
    path = paths.of(folder)
    if not weights.is_export(path):
        raise ValueError(f"'{folder}' holds no {weights.CONFIG} and {weights.WEIGHTS}.")
    names = (card.README, weights.CONFIG, hf.PREPROCESSOR, weights.WEIGHTS)
    content = {name: (path / name).read_bytes() for name in names if (path / name).exists()}
    if card.README in content:
        content[card.README] = content[card.README].replace(b"FOLDER", f"hf:{repository}".encode())
    api = huggingface_hub.HfApi(token=token)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(
            repository,
            [huggingface_hub.CommitOperationAdd(*file) for file in content.items()],
            commit_message="Upload with ktjax",
        )
    except Exception as error:  # of the hub, of its library, or of what is between
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise ValueError(f"The hub does not take '{repository}': {reason}.") from error
    return str(url)


def download(repository: str, file: str) -> Path:
    """A file of a repository on huggingface.co, from the cache if it is there.

    HF_HUB_OFFLINE and HF_HOME are respected.

    Raises:
      ValueError: there is no such repository, it is gated, it lacks the file, or there is neither
        network nor a cached copy.
    """
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
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
        raise ValueError(
            f"'{repository}' has no {file} on huggingface.co; ktjax reads no other weights."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"'{repository}' cannot be downloaded: {lines[0]}") from error
