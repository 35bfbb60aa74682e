"""Names that differ by typing: suggestions for misspelled ones, and accents in one form."""

import difflib
import unicodedata
from collections.abc import Iterable


def composed(name: str) -> str:
    """A name with composed accents, as most programs write them: file systems may split them."""
    return unicodedata.normalize("NFC", name)


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names most similar to a name, by the part after their last dot."""
    matcher = difflib.SequenceMatcher(b=name)

    def unlike(dotted: str) -> tuple[float, int, str]:
        matcher.set_seq1(dotted.rpartition(".")[2])
        return -matcher.ratio(), dotted.count("."), dotted

    return ", ".join(sorted(known, key=unlike)[:3])
