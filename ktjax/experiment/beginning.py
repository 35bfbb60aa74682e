"""What a run starts from: it must be the same when the run resumes, and in every process."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ktjax
from ktjax import data, files, parallel
from ktjax.data.sources import Source
from ktjax.settings.record import Record

# The last four draw, decode and resize images: pixels depend on them.
PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("pillow", "simplejpeg", "numba", "matplotlib"),
)
_FOUND = ("images", "models")  # what data.json holds
_MANY = 5  # differences named in a message


def seen(
    dataset: data.Dataset, weights: Mapping[str, str], accept: Source | None = None
) -> dict[str, Any]:
    """The content of data.json: fingerprints of the splits' images and digests of the weights.

    The splits include `accept` if a decision is made on it.
    """
    splits = {name: dict(getattr(dataset, name).fingerprint) for name in data.SPLITS}
    if accept is not None:
        splits["accept"] = dict(accept.fingerprint)
    return {"images": splits, "models": dict(weights)}


def versions() -> dict[str, str]:
    """The versions of ktjax and of the packages that results depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"ktjax": ktjax.__version__, **found}


def check_processes(settings: Record, found: Mapping[str, Any]) -> None:
    """Raises ValueError, in all processes, unless they have the same settings, packages and files.

    Args:
      settings: the job's settings.
      found: the result of `seen`.
    """
    mine = {"config": settings.identity(), "package": versions(), **found}
    first, *others = map(json.loads, parallel.told_by_all(json.dumps(mine)))
    for process, theirs in enumerate(others, 1):
        here, there = dict(_leaves(first)), dict(_leaves(theirs))
        differ = [name for name in here | there if here.get(name) != there.get(name)]
        if differ:
            told = [f"{n} ({here.get(n)} here, {there.get(n)} there)" for n in differ[:_MANY]]
            more = f" and {len(differ) - _MANY} more" if len(differ) > _MANY else ""
            raise ValueError(
                f"Process {process} was started differently from process 0: {', '.join(told)}"
                f"{more}. All need the same config, packages and files."
            )


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of everything that is not a mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def note(workdir: Path, found: Mapping[str, Any]) -> None:
    """Writes what `check` compares with, unless it exists; adds splits that it lacks.

    Studies did not note `accept` at first.
    """
    if not (workdir / files.DATA).exists():
        files.write_json(workdir / files.DATA, found)
        return
    began = read(workdir)
    if found["images"].keys() - began["images"].keys():
        images = dict(found["images"]) | began["images"]
        files.write_json(workdir / files.DATA, began | {"images": images})


def renew(workdir: Path, models: Mapping[str, str]) -> None:
    """Replaces the weights of these models that `check` compares with."""
    began = read(workdir)
    files.write_json(workdir / files.DATA, began | {"models": began["models"] | dict(models)})


def check(workdir: Path, name: str, found: Mapping[str, Any]) -> None:
    """Raises ValueError unless the run here started with these images and weights.

    Args:
      workdir: the folder that `note` wrote to.
      name: the data set's name.
      found: the result of `seen`.
    """
    began = read(workdir)
    changed = [
        _change(split, began["images"].get(split, {}), now)
        for split, now in found["images"].items()
        if began["images"].get(split) != now
    ]
    if changed:
        raise ValueError(
            f"'{workdir}' was started on other images of '{name}' ({', '.join(changed)}), and a "
            "resumed run must see the same: restore them, or use another --workdir."
        )
    check_models(workdir, found["models"])


def check_models(workdir: Path, models: Mapping[str, str]) -> None:
    """Raises ValueError unless the run here started with these weights of models, by name."""
    began = read(workdir)["models"]
    others = [model for model, now in models.items() if began.get(model) != now]
    if others:
        raise ValueError(
            f"'{workdir}' was started with other weights or answers of {', '.join(others)}, and a "
            "resumed run must find the same: restore them, or use another --workdir."
        )


def _change(split: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.get("images") != now["images"]:
        return f"{split} had {before.get('images')} and has {now['images']}"
    return f"{split} had other {' and '.join(k for k in now if before.get(k) != now[k])}"


def read(workdir: Path) -> dict[str, Any]:
    """What `note` wrote; ValueError if it is damaged."""
    path = workdir / files.DATA
    began = files.read_json(path)
    whole = isinstance(began, dict) and all(isinstance(began.get(k), dict) for k in _FOUND)
    if not whole or not all(isinstance(split, dict) for split in began["images"].values()):
        raise ValueError(
            f"'{path}' is not as ktjax writes it. Delete it: checkpoints know its content."
        )
    return began


def identity(workdir: Path, run: str) -> dict[str, str]:
    """A checkpoint's owner: the run's name, and digests of everything the run depends on.

    As read by process 0: the others may see an older state of a shared disk.
    """
    mine = json.dumps({"config": files.read_json(workdir / files.CONFIG), **read(workdir)})
    found = json.loads(parallel.told_by_all(mine)[0])
    return {name: _digest(value) for name, value in found.items()} | {"run": run}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
