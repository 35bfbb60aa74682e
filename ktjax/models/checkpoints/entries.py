"""Reads weights, from safetensors in one or several files; checks whether they fit a network.

Names may have a prefix that a training loop put there, and weights any floating-point type. Nothing
is unpickled.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from ktjax import files, paths

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # which of several files has which entry
_LOG = logging.getLogger(__name__)
Shape = tuple[int, ...]
# What is used of a file that holds several copies: the first of these that it has.
_COPIES = ("state_dict_ema.", "model_ema.", "state_dict.", "model.")
# Put before all names by torch.compile, by data-parallel training, and by wrappers.
_WRAPPERS = ("_orig_mod.", "module.", "timm_model.", "model.", "network.", "backbone.")
_FLOATS = ("F64", "F32", "F16", "BF16")
_LISTED = 10  # mismatches of a kind in a message
_BLOCKS, _BLOCK = 16, 2**16  # in the fingerprint of a file: their number, and bytes of each


def file_of(folder: Path) -> Path | None:
    """The file of a folder's weights, or the index of several; None: there is neither."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    return None


def parts(path: Path) -> dict[str, frozenset[str]]:
    """The files that an index names, and the entries of each.

    Raises:
      ValueError: it is not such an index, or names files elsewhere.
    """
    listed = files.read_object(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{path} has no weight_map.")
    found: dict[str, set[str]] = {}
    for name, file in listed.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ValueError(
                f"{path} has '{name}' in {file!r}, which is not a .safetensors beside it."
            )
        found.setdefault(file, set()).add(name)
    return {file: frozenset(names) for file, names in found.items()}


def fingerprint(path: Path) -> str:
    """Identifies weights: by the size of each file, and blocks spread over it.

    Training changes all of them, and reading every byte of hundreds of models would take minutes.
    """
    found = hashlib.sha256()
    for name in sorted(_listed(path)):
        copy = paths.local(path.parent / name)
        size = copy.stat().st_size
        found.update(f"{size} ".encode())
        with copy.open("rb") as file:
            for at in np.linspace(0, max(size - _BLOCK, 0), _BLOCKS).astype(int).tolist():
                file.seek(at)
                found.update(file.read(_BLOCK))
    return found.hexdigest()


def read(path: Path, *, ignored: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The entries of a safetensors file, except those whose names start with one of `ignored`.

    For an index, those of all its files.

    Raises:
      ValueError: a file is incomplete, or missing; or has entries that NumPy has no type for.
    """
    found = {}
    for file, where in _opened(path):
        names = [name for name in file.keys() if not name.startswith(ignored)]  # noqa: SIM118
        for name in names:
            try:
                found[name] = file.get_tensor(name)
            except (AttributeError, TypeError) as error:
                dtype = file.get_slice(name).get_dtype()
                raise ValueError(
                    f"{where} has '{name}' in {dtype}, which ktjax does not read: it reads "
                    f"{', '.join(_FLOATS)}."
                ) from error
    return found


def read_shapes(path: Path) -> dict[str, Shape]:
    """The shapes of the entries, from the header alone; ValueError as above."""
    return {
        name: tuple(file.get_slice(name).get_shape())
        for file, _ in _opened(path)
        for name in file.keys()  # noqa: SIM118
    }


def _listed(path: Path) -> dict[str, frozenset[str]]:
    """As `parts`; a file that is not an index stands alone, without a list of entries."""
    return parts(path) if path.name.endswith(".index.json") else {path.name: frozenset()}


def _opened(path: Path) -> Iterator[tuple[Any, Path]]:
    """The safetensors files, opened one at a time."""
    for name, entries in _listed(path).items():
        file = path.with_name(name)
        try:
            with safetensors.safe_open(paths.local(file), framework="numpy") as opened:
                if lacking := sorted(entries - set(opened.keys())):
                    raise ValueError(f"{file} lacks {lacking[0]}, which {path.name} says it has.")
                yield opened, file
        except FileNotFoundError as error:
            raise ValueError(f"There is no {file}.") from error
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}.") from error


def unwrapped(
    found: Mapping[str, np.ndarray], wanted: Collection[str], *, where: Path
) -> dict[str, np.ndarray]:
    """The entries by the names that a network has for them; the prefixes removed are logged.

    Of a file with several copies of a network, the averaged one is used. Entries that transformers
    saved without a head lack the name of the network, which is added.
    """
    names, wanted = {name: name for name in found}, set(wanted)
    while not wanted & names.keys():
        copies = [copy for copy in _COPIES if any(name.startswith(copy) for name in names)]
        before = copies[:1] if len(copies) > 1 else []
        before = before or [w for w in _WRAPPERS + _COPIES if all(n.startswith(w) for n in names)]
        if not names or not before:
            break
        others = tuple(copy for copy in copies if copy != before[0])
        _LOG.warning("%s: names begin with '%s', which is removed.", where, before[0])
        if others:
            _LOG.warning("%s: what begins with '%s' is not read.", where, "', '".join(others))
        kept = {n: old for n, old in names.items() if not (others and n.startswith(others))}
        names = {n.removeprefix(before[0]): old for n, old in kept.items()}
    if names and not wanted & names.keys():
        for start in sorted({f"{name.partition('.')[0]}." for name in wanted}):
            if any(start + name in wanted for name in names):
                _LOG.warning("%s: names lack '%s' at the beginning, which is added.", where, start)
                return {
                    start + n if start + n in wanted else n: found[old] for n, old in names.items()
                }
    return {name: found[old] for name, old in names.items()}


def check_fit(
    where: Path, found: Mapping[str, Any], wanted: Mapping[str, Shape], *, by: str
) -> None:
    """Raises ValueError unless the entries have the names and shapes that are wanted, and floats.

    Entries missing, unexpected, misshapen or of another type are listed, those whose names differ
    only in numbers on one line; if that is too much, the log has all of them.

    Args:
      where: the file.
      found: anything with a shape and a dtype, by name.
      wanted: shapes by name.
      by: what wants them, for the message.
    """
    common = sorted(wanted.keys() & found.keys())
    problems = {
        "missing": {k: f"{wanted[k]}" for k in sorted(wanted.keys() - found.keys())},
        "unexpected": {k: f"{found[k].shape}" for k in sorted(found.keys() - wanted.keys())},
        "misshapen": {
            k: f"file {found[k].shape}, {by} {wanted[k]}"
            for k in common
            if found[k].shape != wanted[k]
        },
        "quantized": {
            k: f"{found[k].dtype}, not weights" for k in common if found[k].dtype.kind in "iub"
        },
    }
    if not any(problems.values()):
        return
    lines, whole = [], True
    for cause, listed in problems.items():
        groups: dict[str, list[str]] = {}
        for name in listed:
            groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
        for pattern, (first, *more) in list(groups.items())[:_LISTED]:
            colon = ":" if cause in ("misshapen", "quantized") else ""
            like = f", and {len(more)} more of {pattern}" if more else ""
            lines.append(f"  {cause} {first}{colon} {listed[first]}{like}")
            whole &= not more
        if len(groups) > _LISTED:
            rest = sum(map(len, list(groups.values())[_LISTED:]))
            lines.append(f"  {cause} {rest} others")
            whole = False
    counts = ", ".join(f"{len(listed)} {cause}" for cause, listed in problems.items() if listed)
    if not whole:
        every = [
            f"{cause} {k}: {v}" for cause, listed in problems.items() for k, v in listed.items()
        ]
        _LOG.warning("%s does not fit:\n%s", where, "\n".join(every))
        counts += ", all of them in the log"
    raise ValueError(f"{where} does not fit ({counts}):\n" + "\n".join(lines))
