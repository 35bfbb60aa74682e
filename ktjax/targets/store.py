"""A store of answers on disk: written once, read by all runs that see the same images.

The folder's format is in targets/__init__.py. Files are written atomically, by any number of
processes and runs at once: they all write the same content. A reader compares the store's
description with what it needs, and refuses it with an error that names the difference.
"""

import contextlib
import functools
import hashlib
import json
import operator
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktjax import arrays, files, paths
from ktjax.targets.rows import Form

FORMAT = 1
DESCRIPTION = "store.json"
PREFIX = "store:"  # of a teacher that is only a store
PLAIN = "plain"
# The splits that transfers are measured on, as used for evaluation; stored in addition to views.
MEASURED = ("tune", "validation")
# Fields of the description that do not affect the answers to the views.
_TOLD = ("model.name", "model.origin", "images.data", *MEASURED)
_ABANDONED = 3600.0  # seconds after which a .part or .lease file counts as abandoned
# What store.json must have before it is compared with anything; people write it, too.
_KINDS = {
    **dict.fromkeys(("model.name", "model.origin", "dtype"), str),
    **dict.fromkeys(("images.labels", "images.pixels", "images.augment"), str),
    "images.examples": int,
    "images.seed": int | None,
    "classes": list,
    "k": int | None,
    "ways": list,
    "versions": dict,
    **dict.fromkeys(MEASURED, dict | None),
}


class Store(NamedTuple):
    """A folder, and what its store.json holds."""

    folder: Path
    description: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of a teacher that is only this store, in configs."""
        return f"{PREFIX}{self.folder}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in logit order."""
        return tuple(self.description["classes"])

    @property
    def origin(self) -> str:
        """Where the answers come from, in words, and what is missing."""
        model = self.description["model"]
        told = [f"answers of {model['name']} ({model['origin']})"]
        told += ["run on the plain images"] * self.plain
        lacking = [split for split in MEASURED if not self.has(split)]
        told += [f"no logits for the {' and '.join(lacking)} images"] * bool(lacking)
        return ", ".join(told)

    @property
    def examples(self) -> int:
        """The number of images in a view."""
        return self.description["images"]["examples"]

    @property
    def plain(self) -> bool:
        """Whether it holds a single view, the images as used for evaluation."""
        return self.description["images"]["augment"] == PLAIN

    @property
    def form(self) -> Form:
        """What is kept of each answer."""
        ways = tuple((float(t), bool(standardized)) for t, standardized in self.description["ways"])
        return Form(len(self.classes), self.description["k"], ways)

    def fingerprint(self) -> str:
        """A digest of its answers to the first view, tune and validation.

        Other views may be added while a job that needs only these is interrupted.
        """
        found = hashlib.sha256()
        for name in (view_name(0), *MEASURED):
            if self.has(name):
                digest = (self.folder / f"{name}.sha256").read_text(encoding="utf-8")
                found.update(f"{name} {digest}".encode())
        return found.hexdigest()

    def complete(self) -> list[int]:
        """The numbers of the stored views."""
        found = (re.fullmatch(r"view-(\d+)\.npy", name) for name in paths.names(self.folder))
        return sorted(int(match[1]) for match in found if match)

    def has(self, name: str) -> bool:
        """Whether the file of a view, or of a split in MEASURED, exists."""
        return (self.folder / f"{name}.npy").is_file()


def view_name(view: int) -> str:
    """The name of a view's file, without its extension."""
    return f"view-{view:05}"


def digest(description: Mapping[str, Any]) -> str:
    """The digest that identifies a store's answers."""
    text = json.dumps(_identity(description), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(root: Path, description: Mapping[str, Any]) -> Store | None:
    """The store of these answers in a folder that runs share, if it exists.

    ValueError: there is a different store in its place, or it cannot be read.
    """
    folder = _folder(root, description)
    if not (folder / DESCRIPTION).exists():
        return None
    store = open_store(folder)
    refuse(store, differences(_identity(store.description), _identity(description)))
    return store


def create(root: Path, description: Mapping[str, Any]) -> Store:
    """The same, created if it does not exist."""
    store = find(root, description) or write(_folder(root, description), description)
    delete_abandoned(store.folder)
    return store


def delete_abandoned(folder: Path) -> None:
    """Deletes what those that died while they wrote have left in a folder."""
    left = () if paths.is_remote(folder) else ("*.part", "*.lease")
    for file in (file for kind in left for file in folder.glob(kind)):
        with contextlib.suppress(FileNotFoundError):  # its owner has just deleted or moved it
            if time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink()


def _folder(root: Path, description: Mapping[str, Any]) -> Path:
    return root / f"{Path(description['model']['name']).name}-{digest(description)}"


def write(folder: Path, description: Mapping[str, Any]) -> Store:
    """Creates a store without answers."""
    paths.make_folder(folder)
    files.write_json(folder / DESCRIPTION, description)
    return Store(folder, description)


def open_store(folder: str | Path) -> Store:
    """The store in a folder; ValueError if there is none."""
    folder = paths.of(str(folder).removeprefix(PREFIX))
    try:
        description = files.read_object(folder / DESCRIPTION)
    except OSError:
        raise ValueError(f"'{folder}' is not a store: it has no {DESCRIPTION}.") from None
    found = description.get("format")
    if found != FORMAT:
        raise ValueError(
            f"'{folder}' is a store of format {found}, but this version of ktjax reads {FORMAT}."
        )
    _check(folder, description)
    return Store(folder, description)


def _check(folder: Path, description: Mapping[str, Any]) -> None:
    """Raises ValueError if store.json lacks fields, or they are not what they must be."""
    missing, values = set(), {}
    for name in _KINDS:
        above = name.split(".")[0]
        try:
            values[name] = functools.reduce(operator.getitem, name.split("."), description)
        except (KeyError, TypeError):  # TypeError: what is above it is no object
            missing.add(name if above in description else above)
    if missing:
        raise ValueError(f"{DESCRIPTION} of '{folder}' lacks {', '.join(sorted(missing))}.")
    wrong = [name for name, value in values.items() if not isinstance(value, _KINDS[name])]
    ways, k, classes = values["ways"], values["k"], values["classes"]
    if "ways" not in wrong and not all(map(_is_way, ways)):
        wrong.append("ways")
    if not {"k", "classes"} & set(wrong) and k is not None and not 0 < k < len(classes):
        wrong.append("k")
    if wrong:
        told = ", ".join(f"{name}={values[name]!r:.60}" for name in wrong)
        raise ValueError(f"{DESCRIPTION} of '{folder}' has {told}: see ktjax/targets/__init__.py.")


def _is_way(one: Any) -> bool:
    if not isinstance(one, list) or len(one) != 2:
        return False
    temperature, standardized = one
    return isinstance(temperature, int | float) and temperature > 0 and standardized in (0, 1)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The differences between two descriptions, in words, over the fields of both."""
    found, other = _flat(there), _flat(here)
    return [
        _difference(name, found.get(name), other.get(name))
        for name in sorted(found | other)
        if found.get(name) != other.get(name)
    ]


def refuse(store: Store, different: Sequence[str]) -> None:
    """Raises ValueError with the differences, if there are any."""
    if different:
        told, size = "; ".join(different), store.description["images"].get("size")
        hint = ""
        if any(one.startswith("images.size ") for one in different):
            hint = f" Set config.image_size={size}: all who share answers need the same."
        raise ValueError(f"The store '{store.folder}' does not match: {told}.{hint}")


def keep_only(store: Store, names: Collection[str]) -> None:
    """Deletes the files of all other views and splits."""
    known = [*(view_name(view) for view in store.complete()), *MEASURED]
    for name in (name for name in known if name not in names and store.has(name)):
        for ending in ("npy", "sha256"):
            paths.delete(store.folder / f"{name}.{ending}")


def write_rows(store: Store, name: str, rows_N: np.ndarray) -> None:
    """Writes the file of a view or a split, after the file with its digest."""
    arrays.save(store.folder / f"{name}.npy", rows_N)


def read_rows(store: Store, name: str, form: Form) -> np.ndarray:
    """The rows of a view or a split, mapped into memory; from a local copy if in a bucket.

    ValueError: they are missing, incomplete, or not what store.json says.
    """
    path = store.folder / f"{name}.npy"
    examples = store.examples if name.startswith("view-") else store.description[name]["examples"]
    try:
        rows_N = arrays.load(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise ValueError(f"'{missing}' is missing: make the store again.") from None
    except arrays.Damaged as error:
        raise ValueError(f"{error} Delete it.") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"'{path}' cannot be read ({error}): delete it.") from None
    shape, dtype = (examples, *form.dtype.shape), form.dtype.base
    if rows_N.shape != shape or rows_N.dtype != dtype:
        raise ValueError(
            f"'{path}' holds {rows_N.dtype} {list(rows_N.shape)}, but {DESCRIPTION} next to it "
            f"says {dtype} {list(shape)}."
        )
    return rows_N


def check_space(folder: Path, needed: int) -> None:
    """Raises ValueError if the disk (for a bucket: that of the local copy) has too little room."""
    folder = paths.cache() if paths.is_remote(folder) else folder
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"'{folder}' would take {needed / 1e9:.2f} GB more, and {free / 1e9:.2f} GB "
            "are free there."
        )


def _identity(description: Mapping[str, Any]) -> dict[str, Any]:
    """What the answers depend on: the flattened description, without informational fields."""
    flat = _flat(description)
    return {k: v for k, v in flat.items() if not any(_below(k, name) for name in _TOLD)}


def _flat(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found = {}
    for name, value in node.items():
        place = f"{above}{name}"
        found |= _flat(value, f"{place}.") if isinstance(value, Mapping) else {place: value}
    return found


def _below(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _difference(name: str, there: Any, here: Any) -> str:
    if name == "classes" and there and here:
        if len(there) != len(here):
            return f"it has {len(there)} classes, not {len(here)}"
        at = next(i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        return f"class {at} is '{there[at]}' there and '{here[at]}' here"
    if any(len(str(value)) > 40 for value in (there, here)):
        return f"{name} is different"
    return f"{name} is {there!r} there and {here!r} here"
