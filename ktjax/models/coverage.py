"""How much of timm ktjax has and imports, by files of timm: `python -m ktjax.models coverage`.

What is imported has been compared with torch for one model of each file, its smallest;
tests/goldens/sweep_timm.py says what the numbers are.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

# What a model may differ from torch by and still count as equal, unless torch's own float32 is as
# far from its float64.
LIMITS = {"logits": 1e-4, "gradients": 1e-3, "step": 1e-3, "statistics": 1e-4}


_KINDS = ("native", "imported", "refused", "untried")


class Row(NamedTuple):
    """A file of timm's."""

    file: str
    native: int  # ImageNet-1k checkpoints of architectures that ktjax has itself
    imported: int  # the others, where a model of the file has been compared with torch
    refused: int  # or cannot be imported
    untried: int  # or neither is known
    said: str  # what is known about importing


def rows(
    native: Mapping[str, Any], imported: Mapping[str, Any], families: Collection[str]
) -> list[Row]:
    """The files of timm's, from catalogue.TIMM and catalogue.IMPORTED."""
    own: dict[str, int] = {}
    for entry in native["architectures"].values():
        own[entry["family"]] = own.get(entry["family"], 0) + len(entry["checkpoints"])
    found = []
    for file, entry in imported["files"].items():
        others = entry["checkpoints"] - own.get(file, 0)
        said = "native" if file in families else _said(entry)
        kinds = ("logits" in entry, "refused" in entry)
        compared, refused, untried = (others * is_it for is_it in (*kinds, not any(kinds)))
        found.append(Row(file, own.get(file, 0), compared, refused, untried, said))
    return found


def _said(entry: Mapping[str, Any]) -> str:
    if "refused" in entry:
        return entry["refused"]
    if "model" not in entry:
        return "no model with a head"
    if "logits" not in entry:
        return f"{entry['model']}: not compared yet"
    numbers = [f"{key} {entry[key]:.0e}" for key in LIMITS if key in entry]
    beyond = excesses(entry)
    note = f"; beyond torch's own error: {', '.join(beyond)}" if beyond else ""
    return f"{entry['model']}: {', '.join(numbers)}{note}"


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
        f"{'file':<{width}} {'native':>7} {'imported':>9} {'refused':>8} {'untried':>8}  "
        "what was compared"
    ]
    lines += [
        f"{row.file:<{width}} {row.native:>7} {row.imported:>9} {row.refused:>8} {row.untried:>8}  "
        f"{row.said}"
        for row in found
    ]
    sums = {kind: sum(getattr(row, kind) for row in found) for kind in _KINDS}
    shares = [f"{n:,} {kind} ({100 * n / total:.1f} %)" for kind, n in sums.items()]
    versioned = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [*lines, "", f"Of {total:,} ImageNet-1k checkpoints: {', '.join(shares)}; {versioned}."]
    )
