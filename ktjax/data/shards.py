"""Data sets as the Hugging Face hub serves them: Parquet files and WebDataset, unpacked to folders.

Neither can be read at random, so their images are unpacked once, to files with a list of labels
that `folders` reads. Of archives nothing is extracted by name.
"""

import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ktjax import progress
from ktjax.data import folders

_MAX_BYTES = 2**30  # of an image
_LOG = logging.getLogger(__name__)


class Example(NamedTuple):
    """An image with its label."""

    name: str  # what it is called there
    image: bytes
    label: int | str  # below 0: none


def holds(folder: Path) -> bool:
    """Whether a folder holds such files, and no directories of anything else."""
    shards = _shards(folder)
    return bool(shards) and {*folders.directories(folder)} <= {path.parent for path in shards}


def unpack(folder: Path, out: Path) -> Path:
    """Writes the images with lists of their labels below `out`, and says which folder has them.

    Splits are known by the names of files; what has no labels is left out, which is said.

    Args:
      folder: `train-00000-of-00004.parquet` and the like, or `.tar`, also one folder deeper. A
        column of Parquet has the type Image, and one, by preference `label`, ClassLabel; an archive
        has `KEY.jpg` and `KEY.cls`, a number or a name, and `classnames.txt` may lie beside it.
      out: a new folder.

    Raises:
      ValueError: no split is known, nothing has a label, or what is wrong with which file.
    """
    shards = _shards(folder)
    names = folder / "classnames.txt"
    classes = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    found = {}
    for split, paths in _by_split(shards, folder).items():
        place = out / split
        place.mkdir(parents=True)
        rows = [row for path in paths for row in _write(path, classes, place)]
        if rows:
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (place / "metadata.jsonl").write_text(text, encoding="utf-8")
            found[split] = len(rows)
        else:
            place.rmdir()
    if not found:
        raise ValueError(f"'{folder}' holds no image with a label.")
    return out / "train" if set(found) == {"train"} else out


def _shards(folder: Path) -> list[Path]:
    paths = [path for path in (*folder.iterdir(), *folder.glob("*/*")) if path.is_file()]
    return sorted(path for path in paths if path.suffix in (".parquet", ".tar"))


def _by_split(shards: Sequence[Path], folder: Path) -> Mapping[str, list[Path]]:
    """Of several splits that one of ours may be, the first: `validation` before `test`."""
    ours = {name for names in folders.SPLIT_NAMES.values() for name in names}
    named: dict[str, list[Path]] = {}
    for path in shards:
        words = re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())
        known = [word for word in reversed(words) if word in ours]
        named.setdefault(known[0] if known else "", []).append(path)
    found = {}
    for split, names in folders.SPLIT_NAMES.items():
        name = next((name for name in names if name in named), None)
        if name is not None:
            found[split] = named.pop(name)
    if found and named:
        _LOG.warning(
            "Left out of %s: %d files such as %s.",
            *(folder, sum(map(len, named.values())), next(iter(named.values()))[0].name),
        )
    return found or {"train": shards}


def _write(path: Path, classes: Sequence[str], place: Path) -> Iterator[dict[str, Any]]:
    """Writes the images of a file, and gives the rows of the list."""
    lacking = 0
    examples = (_parquet if path.suffix == ".parquet" else _tar)(path)
    with progress.bar(desc=f"unpack {path.name}", unit="image", leave=False) as bar:
        for number, (name, image, label) in enumerate(examples):
            bar.update()
            if isinstance(label, int) and label < 0:
                lacking += 1
                continue
            suffix = os.path.splitext(name)[1].lower()
            file = f"{path.stem}-{number:08}{suffix if suffix in folders.EXTENSIONS else '.jpg'}"
            (place / file).write_bytes(image)
            if isinstance(label, int) and label < len(classes):
                label = classes[label]
            yield {"file_name": file, "label": label, "name": name}
    if lacking:
        _LOG.warning("Left out of %s: %d images without labels.", path, lacking)


def _parquet(path: Path) -> Iterator[Example]:
    """The rows of a Parquet file of the hub's."""
    from pyarrow import ArrowInvalid, parquet  # it takes half a second to import

    try:
        file = parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no Parquet file: {error}.") from None
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    columns = file.schema_arrow.names
    kinds = {name: features.get(name, {}).get("_type") for name in columns}
    image = _one(path, "image", [n for n in columns if n == "image" or kinds[n] == "Image"])
    label = _one(path, "label", [n for n in columns if n == "label" or kinds[n] == "ClassLabel"])
    classes = features.get(label, {}).get("names") or []
    for batch in file.iter_batches(batch_size=64, columns=[image, label]):
        for number, row in enumerate(batch.to_pylist()):
            content, answer = row[image], row[label]
            if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
                raise ValueError(f"{path}: column {image} holds no images but {type(content)}.")
            if isinstance(answer, int) and 0 <= answer < len(classes):
                answer = classes[answer]
            answer = -1 if answer is None else answer
            yield Example(content.get("path") or str(number), content["bytes"], answer)


def _one(path: Path, wanted: str, there: Sequence[str]) -> str:
    """The column of this name, or else the only one."""
    if wanted in there or len(there) == 1:
        return wanted if wanted in there else there[0]
    raise ValueError(
        f"{path} wants a column '{wanted}': it has {', '.join(there) or 'none of that type'}."
    )


def _tar(path: Path) -> Iterator[Example]:
    """The samples of a WebDataset: files that follow each other and have the same key."""
    try:
        with tarfile.open(path) as archive:
            key, parts = None, {}
            for member in archive:
                if not member.isreg() or member.size > _MAX_BYTES:
                    continue
                place, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (place, stem) != key:
                    yield from _sample(path, parts)
                    key, parts = (place, stem), {}
                content = archive.extractfile(member)
                parts[f".{suffix.lower()}"] = content.read() if content else b""
            yield from _sample(path, parts)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no whole .tar file: {error}.") from None


def _sample(path: Path, parts: Mapping[str, bytes]) -> Iterator[Example]:
    images = [suffix for suffix in parts if suffix in folders.EXTENSIONS]
    if not images:
        return
    label: Any = -1
    try:
        if ".cls" in parts:
            label = parts[".cls"].decode().strip()
        elif ".json" in parts:
            label = json.loads(parts[".json"]).get("label", -1)
        label = int(label) if re.fullmatch(r"-?\d+", str(label)) else str(label)
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path}: a label is neither a number nor a name.") from None
    yield Example(images[0], parts[images[0]], label)
