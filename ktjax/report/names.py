"""Readable names: of models that are paths, of classes that are synsets or paragraphs."""

import collections
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ktjax import imagenet
from ktjax.analysis import records
from ktjax.analysis.rows import Results

LONGEST = 40  # characters of a class in a table
_AS_THEY_ARE = ("job", "config", "environment", "data")


def readable(results: Results) -> Results:
    """The results with models named by the last parts of their paths (the origin has the path), and
    words for the synsets of ImageNet.
    """
    named = {*results.models, *(n for run in results.runs for n in (run.student, *run.teachers))}
    short = {name: tail for name, tail in tails(named).items() if tail != name}
    words = in_words(results.classes)
    renamed = short | {n: word for n, word in zip(results.classes, words, strict=True) if n != word}
    if not renamed:
        return results
    found = {
        key: value if key in _AS_THEY_ARE else _renamed(value, renamed)
        for key, value in records.to_json(results).items()
    }
    for name, tail in short.items():
        if name in results.models:
            found["models"][tail]["origin"] = f"{results.models[name].origin} ({name})"
    return records.from_json(type(results), found)


def in_words(classes: Sequence[str]) -> list[str]:
    """Classes of ImageNet by their first name, `tench` for `n01440764`, or by more if others of
    ImageNet have the same: `maillot, tank suit`, and `crane (n02012849)`, the bird.
    """
    return [_in_words().get(name, name) for name in classes]


@functools.cache
def _in_words() -> dict[str, str]:
    """What each synset of ImageNet-1k is called, differently from all others."""
    whole = dict(zip(imagenet.synsets(), imagenet.words(), strict=True))
    first = {name: words.partition(",")[0] for name, words in whole.items()}
    of_first, of_whole = (collections.Counter(named.values()) for named in (first, whole))

    def called(name: str) -> str:
        if of_first[first[name]] == 1:
            return first[name]
        return whole[name] if of_whole[whole[name]] == 1 else f"{whole[name]} ({name})"

    return {name: called(name) for name in whole}


def tails(names: Collection[str]) -> dict[str, str]:
    """The shortest unique end of each path; names of hubs and zoos are kept."""
    found = {}
    for name in names:
        parts = name.rstrip("/").split("/")
        ends = ["/".join(parts[-i:]) for i in range(1, len(parts))] if _is_path(name) else []
        others = [other.rstrip("/") for other in names if other != name]
        alone = (e for e in ends if not any(o == e or o.endswith(f"/{e}") for o in others))
        found[name] = next(alone, name)
    return found


def shortest(names: Collection[str]) -> dict[str, str]:
    """The last part of each name where no other has the same, else the whole name."""
    last = {name: name.rstrip("/").rpartition("/")[2] for name in names}
    times = collections.Counter(last.values())
    return {name: part if times[part] == 1 else name for name, part in last.items()}


def of_classes(classes: Iterable[str], *, most: int = 6) -> str:
    """The first of several classes, and how many more there are."""
    classes = list(classes)
    text = ", ".join(clipped(name) for name in classes[:most])
    return text + (f" and {len(classes) - most} more" if len(classes) > most else "")


def clipped(name: str) -> str:
    """The part of a name that fits in a table's cell."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1].rstrip()}…"


def counted(number: int, noun: str) -> str:
    """Such as "1 model", "2 models"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _renamed(value: Any, short: dict[str, str]) -> Any:
    if isinstance(value, str):
        return short.get(value, value)
    if isinstance(value, dict):
        return {short.get(key, key): _renamed(one, short) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, short) for one in value]
    return value
