"""Files that are written whole or not at all, and what those of a workdir are called."""

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktjax import paths

CONFIG = "config.json"  # whose workdir it is
DATA = "data.json"  # what images and weights were when the run began
WRITER = "writer"  # whose lease has who works in the folder
RESULTS = "results.json"  # written last: the job is finished
PAIRS = "pairs.csv"  # a line for each run of a study
METRICS = "metrics.jsonl"
TRACKED = "tracked.json"  # run -> where a tracker has it
REPORT = "report.html"
CLASS_FLIPS = "class_flips.safetensors"
RIGHT = "right.safetensors"  # which validation images are answered right after each run
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

_LONG = 120  # bytes: a file's name has 255 at most, and others stand beside it


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file as a whole or not at all: whoever reads finds the old one until then.

    On a disk the folder has to exist, others may write the same file at that time, and what a
    process leaves that dies meanwhile ends in `.part`. In a bucket an object is there whole or not
    at all by itself.
    """
    content = content.encode() if isinstance(content, str) else content
    if paths.is_remote(path):
        paths.put(path, content)
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    part.write_bytes(content)
    os.replace(part, path)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: it holds no JSON: it is cut off, say, or no UTF-8.
      OSError: it cannot be read, or there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is no JSON, or damaged: {error}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; ValueError if it holds something else, or as above."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' holds no JSON object.")
    return found


def last_part(name: str) -> str:
    """The last part of a path, fit for a file's name; ValueError if it has none: `.`, `..`, `/`."""
    last = Path(os.path.normpath(name)).name
    if not last.strip("."):
        raise ValueError(f"'{name}' has no name that files could be called by: give the folder's.")
    return last


def joined(names: Sequence[str]) -> str:
    """Names with plus signs between them; cut, and told apart by a digest, where that is long."""
    text = "+".join(names)
    if len(text.encode()) <= _LONG:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text.encode()[:_LONG].decode(errors='ignore')}~{digest}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each path; more parts where that does not tell them apart.

    Fit for a file's name, and different for different names; ValueError as `last_part`.
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
