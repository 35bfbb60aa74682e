"""Data sets as the Hugging Face hub serves them: Parquet files and WebDataset, unpacked to folders.

Neither allows random access, so their images are unpacked once, to files with a list of labels that
`folders` reads. No file gets its path from an archive.
"""

import itertools
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from ktjax import files, progress, spelling
from ktjax.data import folders

_MAX_BYTES = 2**30  # of an image
_LOG = logging.getLogger(__name__)


class Example(NamedTuple):
    """An image with its label."""

    name: str  # in the shard
    image: bytes
    label: int | str  # below 0: none


class Unpacked(NamedTuple):
    """What `unpack` wrote."""

    folder: Path  # of images with lists of labels
    classes: tuple[str, ...]  # in the order of their numbers in the files; empty: unknown


def holds(folder: Path) -> bool:
    """Whether a folder holds such files, and neither images nor other directories."""
    shards = _shards(folder)
    if not shards or folders.holds_images(folder):
        return False
    return {*folders.directories(folder)} <= {path.parent for path in shards}


def unpack(folder: Path, out: Path) -> Unpacked:
    """Writes the images and lists of their labels below `out`.

    File names tell the splits. Images without labels, and classes without images, are left out,
    which is logged.

    Args:
      folder: `train-00000-of-00004.parquet` and the like, or `.tar`, also one folder deeper. A
        Parquet file has a column of type Image and one, preferably `label`, of type ClassLabel; an
        archive has `KEY.jpg` and `KEY.cls`, a number or a name, and maybe `classnames.txt` beside.
      out: a new folder.

    Raises:
      ValueError: nothing has a label, or a file is wrong, which the message names.
    """
    shards = _shards(folder)
    classes = _class_names(folder / "classnames.txt")
    found, recorded, labels = {}, set(), set()
    for split, paths in _by_split(shards, folder).items():
        place = out / split
        place.mkdir(parents=True)
        # Shards in several folders may have the same name: their numbers tell their images apart.
        rows = [row for i, path in enumerate(paths) for row in _write(path, classes, place, i)]
        if rows:
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (place / "metadata.jsonl").write_text(text, encoding="utf-8")
            found[split] = len(rows)
            recorded |= {_recorded(path) or tuple(classes) for path in paths}
            labels |= {row["label"] for row in rows}
        else:
            place.rmdir()
    if not found:
        raise ValueError(f"'{folder}' holds no image with a label.")
    place = out / "train" if set(found) == {"train"} else out
    return Unpacked(place, _numbered(recorded, labels, folder))


def _numbered(
    recorded: Set[tuple[str, ...]], labels: Set[int | str], folder: Path
) -> tuple[str, ...]:
    """The names of the classes that have images, in recorded order; none if there is no such.

    Warns if their positions are not the numbers that the files have for them: a model whose
    classes have no names would be matched to others.
    """
    names = next(iter(recorded)) if len(recorded) == 1 else ()
    if len(set(names)) < len(names) or not labels <= set(names):
        names = ()
    kept = tuple(name for name in names if name in labels)
    numbers = {label for label in labels if isinstance(label, int)}
    if kept != names:
        lacking = [name for name in names if name not in labels]
        why = f"left out without images: {len(lacking)}, such as {lacking[0]!r}"
    elif not names and recorded != {()}:
        why = "its files do not give each number one name, so they are sorted by name"
    elif numbers != set(range(len(numbers))):
        why = "some numbers are missing"
    else:
        return kept
    _LOG.warning(
        "Classes of %s do not keep their numbers (%s): config.classes=position would match a model "
        "that was trained elsewhere to wrong classes.",
        folder,
        why,
    )
    return kept


def _class_names(path: Path) -> list[str]:
    """The lines of a file, none if it does not exist; ValueError if two are the same."""
    lines = files.read_lines(path) if path.is_file() else []
    names = list(map(spelling.composed, lines))
    for number, name in enumerate(names, 1):
        first = names.index(name) + 1
        if first < number:
            raise ValueError(f"{path} calls two classes '{name}', in lines {first} and {number}.")
    return names


def _shards(folder: Path) -> list[Path]:
    places = (folder, *folders.directories(folder))
    paths = [path for place in places for path in folders.seen(place) if path.is_file()]
    return sorted(path for path in paths if path.suffix in (".parquet", ".tar"))


def _by_split(shards: Sequence[Path], folder: Path) -> Mapping[str, list[Path]]:
    """The shards of each split. Of several candidates the first: `validation` before `test`."""
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
            folder,
            sum(map(len, named.values())),
            next(iter(named.values()))[0].name,
        )
    return found or {"train": shards}


def _write(path: Path, classes: Sequence[str], place: Path, shard: int) -> Iterator[dict[str, Any]]:
    """Writes the images of a file, and yields the rows of the list."""
    lacking = 0
    examples = (_parquet if path.suffix == ".parquet" else _tar)(path)
    with progress.bar(desc=f"unpack {path.name}", unit="image", leave=False) as bar:
        for number, (name, image, label) in enumerate(examples):
            bar.update()
            if isinstance(label, int) and label < 0:
                lacking += 1
                continue
            suffix = os.path.splitext(name)[1].lower()
            suffix = suffix if suffix in folders.EXTENSIONS else ".jpg"
            file = f"{shard:05}-{number:08}{suffix}"
            (place / file).write_bytes(image)
            yield {"file_name": file, "label": _named(label, classes, path)}
    if lacking:
        _LOG.warning("Left out of %s: %d images without labels.", path, lacking)


def _named(label: int | str, classes: Sequence[str], path: Path) -> int | str:
    """The name of a class, if classes have names; ValueError if a number has none."""
    if isinstance(label, str) or label < 0 or not classes:
        return label
    if label >= len(classes):
        raise ValueError(
            f"{path} has the label {label}, and names for only {len(classes)} classes."
        )
    return classes[label]


def _parquet(path: Path) -> Iterator[Example]:
    """The rows of a Parquet file from the hub."""
    from pyarrow import ArrowException, parquet  # it takes half a second to import

    number = 0
    try:
        file = parquet.ParquetFile(path)
        image, label, classes = _columns(file.schema_arrow, path)
        for batch in file.iter_batches(batch_size=64, columns=[image, label]):
            for row in batch.to_pylist():
                content, answer = row[image], _named(_label(row[label], path), classes, path)
                if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
                    raise ValueError(f"{path}: column {image} holds no encoded images.")
                yield Example(content.get("path") or str(number), content["bytes"], answer)
                number += 1
    except (ArrowException, OSError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path} is not a whole Parquet file: {reason}.") from None


def _columns(schema: Any, path: Path) -> tuple[str, str, Sequence[str]]:
    """The columns of images and of labels, and the names of the classes by number, if recorded."""
    columns = schema.names
    features = _features((schema.metadata or {}).get(b"huggingface", b"{}"), path)
    kinds = {name: features.get(name, {}).get("_type") for name in columns}
    image = _one(path, "image", [n for n in columns if n == "image" or kinds[n] == "Image"])
    labels = [n for n in columns if n == "label" or kinds[n] == "ClassLabel"]
    label = _one(path, "label", labels)
    return image, label, features.get(label, {}).get("names") or []


def _recorded(path: Path) -> tuple[str, ...]:
    """The names of the classes in a whole file, by number; none in an archive."""
    if path.suffix != ".parquet":
        return ()
    from pyarrow import parquet

    return tuple(_columns(parquet.read_schema(path), path)[2])


def _features(metadata: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """What `datasets` recorded about the columns."""
    try:
        found = json.loads(metadata).get("info", {}).get("features", {})
        return {name: dict(feature) for name, feature in found.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{path}: what `datasets` recorded of its columns is damaged.") from None


def _label(found: Any, path: Path) -> int | str:
    """A label as a file has it, -1 for none; ValueError if it is neither a number nor a name."""
    if found is None:
        return -1
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        raise ValueError(f"{path}: a label is neither a whole number nor a name: {found!r}.")
    return found


def _one(path: Path, wanted: str, there: Sequence[str]) -> str:
    """The column of this name, or else the only one."""
    if wanted in there or len(there) == 1:
        return wanted if wanted in there else there[0]
    raise ValueError(
        f"{path} needs a column '{wanted}': it has {', '.join(there) or 'none of that type'}."
    )


def _tar(path: Path) -> Iterator[Example]:
    """The samples of a WebDataset: consecutive files with the same key."""
    lacking = 0
    try:
        with tarfile.open(path) as archive:
            for key, members in itertools.groupby(filter(_is_part, archive), _key):
                parts = {}
                for member in members:
                    content = archive.extractfile(member)
                    parts[member.name.removeprefix(key).lower()] = (
                        content.read() if content else b""
                    )
                images = [suffix for suffix in parts if suffix in folders.EXTENSIONS]
                if images:
                    name = images[0]
                    yield Example(f"{key}{name}", parts[name], _label_of(parts, path, key))
                else:
                    lacking += not parts.keys().isdisjoint((".cls", ".json"))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .tar file: {error}.") from None
    if lacking:
        _LOG.warning(
            "Left out of %s: %d samples without an image (KEY.jpg or the like) of at most 1 GiB.",
            path,
            lacking,
        )


def _is_part(member: tarfile.TarInfo) -> bool:
    """Whether it is a file of a sample; macOS puts `._KEY.jpg` before each."""
    hidden = os.path.basename(member.name).startswith(".")
    return member.isreg() and not hidden and member.size <= _MAX_BYTES


def _key(member: tarfile.TarInfo) -> str:
    place, slash, name = member.name.rpartition("/")
    return f"{place}{slash}{name.partition('.')[0]}"


def _label_of(parts: Mapping[str, bytes], path: Path, key: str) -> int | str:
    """What KEY.cls says, or else KEY.json; -1: nothing."""
    found = None
    try:
        if ".cls" in parts:
            found = parts[".cls"].decode("utf-8-sig").strip()
        elif ".json" in parts:
            found = json.loads(parts[".json"]).get("label")
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path}: the label of {key} cannot be read.") from None
    label = _label(found, path)
    return int(label) if re.fullmatch(r"-?\d+", str(label)) else label
