"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names most similar to a name, by the part after their last dot."""
    matcher = difflib.SequenceMatcher(b=name)

    def unlike(dotted: str) -> tuple[float, int, str]:
        matcher.set_seq1(dotted.rpartition(".")[2])
        return -matcher.ratio(), dotted.count("."), dotted

    return ", ".join(sorted(known, key=unlike)[:3])
