"""Names as people type and read them: suggestions, accents in one form, and lists."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence


def composed(name: str) -> str:
    """A name with composed accents, as most programs write them: file systems may split them."""
    return unicodedata.normalize("NFC", name)


def listed(words: Sequence[str]) -> str:
    """Such as "a", "a and b", "a, b and c"; at least one."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names most similar to a name, by the part after their last dot."""
    matcher = difflib.SequenceMatcher(b=name)

    def unlike(dotted: str) -> tuple[float, int, str]:
        matcher.set_seq1(dotted.rpartition(".")[2])
        return -matcher.ratio(), dotted.count("."), dotted

    return ", ".join(sorted(known, key=unlike)[:3])
