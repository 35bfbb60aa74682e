"""Atomic file writes, and the names of the files in a workdir."""

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktjax import paths

CONFIG = "config.json"  # the experiment that the workdir belongs to
DATA = "data.json"  # the images and weights that the run started with
WRITER = "writer"  # its lease is held by the process that works in the folder
RESULTS = "results.json"  # written last: the job is finished
PAIRS = "pairs.csv"  # one line per run of a study
METRICS = "metrics.jsonl"
TRACKED = "tracked.json"  # run -> its link at the tracker
REPORT = "report.html"
CLASS_FLIPS = "class_flips.safetensors"
RIGHT = "right.safetensors"  # which validation images are correct after each run
# Folders.
FIGURES = "figures"
STUDENTS = "students"
MODELS = "models"
PREDICTIONS = "predictions"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
LOGS = "logs"
RUNS = "runs"
STORE = "store"

_LONG = 120  # bytes: file names are limited to 255, and contain more than this


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file atomically: until then, readers see the old one.

    On a disk the folder must exist, others may write the same file at the same time, and a process
    that dies leaves a file that ends in `.part`. In a bucket, object writes are atomic anyway.
    """
    content = content.encode() if isinstance(content, str) else content
    if paths.is_remote(path):
        paths.put(path, content)
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # left behind if the disk is full


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically."""
    write_whole(path, as_json(content))


def as_json(content: Any) -> str:
    """What a JSON file holds; TypeError or ValueError if JSON cannot hold it."""
    return f"{json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)}\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      ValueError: it is not valid JSON: truncated, say, or not UTF-8.
      OSError: it cannot be read, or does not exist.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not valid JSON, or damaged: {error}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it holds something else, or as `read_json`."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' does not hold a JSON object.")
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text that other programs wrote, without empty ones at its end.

    Windows begins such texts with a byte order mark, which is no part of the first line.
    ValueError, which names the file, if it is in another encoding.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"'{path}' is not UTF-8 text: save it as UTF-8.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def last_part(name: str) -> str:
    """The last part of a path, usable as a file name; ValueError if none: `.`, `..`, `/`."""
    last = Path(os.path.normpath(name)).name
    if not last.strip("."):
        raise ValueError(f"'{name}' has no name to name files after: give the folder's name.")
    return last


def joined(names: Sequence[str]) -> str:
    """Names joined by plus signs; if that is long, it is cut and gets a digest."""
    text = "+".join(names)
    if len(text.encode()) <= _LONG:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text.encode()[:_LONG].decode(errors='ignore')}~{digest}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each path; more parts where needed to tell them apart.

    Usable as file names, and different for different names; ValueError as `last_part`.
    """
    for name in names:
        last_part(name)
    parts, short = {name: Path(os.path.normpath(name)).parts for name in names}, {}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {name: ".".join(parts[name][-length:]) for name in names}
        short = {
            name: text.strip(".").replace("/", "").replace(":", ".") for name, text in short.items()
        }
        if len(set(short.values())) == len(names):
            return short
    return {name: f"{text}.{i}" for i, (name, text) in enumerate(short.items(), 1)}
