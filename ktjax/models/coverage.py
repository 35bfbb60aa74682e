"""How much of timm and transformers ktjax has and imports: `python -m ktjax.models coverage`.

timm is listed by file. For each file that is not native, its smallest model was imported and
compared with torch, and its other checkpoints count as imported with it. The numbers are explained
in tests/goldens/sweep_timm.py, those of tiny models of transformers' classes in
sweep_transformers.py.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

# The largest differences from torch at which a model counts as equal, unless torch's own float32
# differs as much from its float64.
LIMITS = {"logits": 1e-4, "gradients": 1e-3, "step": 1e-3, "statistics": 1e-4}


_KINDS = ("native", "imported", "refused", "untried")


class Row(NamedTuple):
    """A file of timm's."""

    file: str
    native: int  # ImageNet-1k checkpoints of architectures that ktjax has itself
    imported: int  # the others, if a model of the file was compared with torch
    refused: int  # or cannot be imported
    untried: int  # or neither is known
    said: str  # what is known about importing


def rows(
    native: Mapping[str, Any], compared: Mapping[str, Any], families: Collection[str]
) -> list[Row]:
    """The files of timm's, from catalogue.TIMM and catalogue.IMPORTED."""
    own: dict[str, int] = {}
    for entry in native["architectures"].values():
        own[entry["family"]] = own.get(entry["family"], 0) + len(entry["checkpoints"])
    found = []
    for file, entry in compared["files"].items():
        others = entry["checkpoints"] - own.get(file, 0)
        said = "native" if file in families else _said(entry)
        imported, refused = "logits" in entry, "refused" in entry
        untried = not imported and not refused
        found.append(
            Row(
                file,
                own.get(file, 0),
                imported=others * imported,
                refused=others * refused,
                untried=others * untried,
                said=said,
            )
        )
    return found


def _said(entry: Mapping[str, Any]) -> str:
    if "refused" in entry:
        return entry["refused"]
    if "model" not in entry:
        return "no model with a head"
    if "logits" not in entry:
        return f"{entry['model']}: not compared yet"
    return f"{entry['model']}: {_numbers(entry)}"


def _numbers(entry: Mapping[str, Any]) -> str:
    numbers = [f"{key} {entry[key]:.0e}" for key in LIMITS if key in entry]
    beyond = excesses(entry)
    note = f"; beyond torch's own error: {', '.join(beyond)}" if beyond else ""
    return f"{', '.join(numbers)}{note}"


def excesses(entry: Mapping[str, Any]) -> list[str]:
    """Which numbers of a row are above their limits, and above three times torch's own error."""
    own = entry.get("torch", {})
    return [
        key for key, limit in LIMITS.items() if entry.get(key, 0) > max(limit, 3 * own.get(key, 0))
    ]


def text(found: list[Row], total: int, versions: Mapping[str, str]) -> str:
    """The rows as a table, and the shares of all checkpoints."""
    width = max(len(row.file) for row in found)
    lines = [
        f"{'file of timm':<{width}} {'native':>7} {'imported':>9} {'refused':>8} {'untried':>8}  "
        "its smallest model, compared with torch"
    ]
    lines += [
        f"{row.file:<{width}} {row.native:>7} {row.imported:>9} {row.refused:>8} {row.untried:>8}  "
        f"{row.said}"
        for row in found
    ]
    sums = {kind: sum(getattr(row, kind) for row in found) for kind in _KINDS}
    called = {"imported": "of files whose smallest model was imported and compared"}
    shares = [
        f"{n:,} {called.get(kind, kind)} ({100 * n / total:.1f} %)" for kind, n in sums.items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Of {total:,} ImageNet-1k checkpoints: {', '.join(shares)}; {_said_of(versions)}.",
        ]
    )


def _said_of(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def text_of_transformers(
    compared: Mapping[str, Any], native: Collection[str], versions: Mapping[str, str]
) -> str:
    """transformers' image classifiers as a table, from catalogue.TRANSFORMERS, and their counts."""
    files = dict(sorted(compared["files"].items()))
    width = max(map(len, files))
    lines = [f"{'class of transformers':<{width}} {'':>8}  a tiny one, compared with torch"]
    counts = {"native": 0, "imported": 0, "refused": 0}
    for name, entry in files.items():
        kind = "native" if name in native else "imported" if "logits" in entry else "refused"
        if "apart" in entry:
            lines.append(f"{name:<{width}} {'apart':>8}  {entry['apart']}")
            continue
        counts[kind] += "-" not in name
        said = entry["refused"] if "refused" in entry else _numbers(entry)
        lines.append(f"{name:<{width}} {kind:>8}  {said}")
    said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    total = sum(counts.values())
    last = f"Of {total} classes that classify an image: {said}; {_said_of(versions)}."
    return "\n".join([*lines, "", last])
