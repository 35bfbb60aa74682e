"""What a run found, as plain text for a terminal."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ktjax.analysis import rows
from ktjax.analysis.rows import Results
from ktjax.report import names
from ktjax.report.pages import PAGES
from ktjax.report.parts import Table


def as_text(results: Results | Mapping[str, Any]) -> str:
    """The tables of a job, each with its note, and the conclusion.

    ValueError if `results` does not have the contents of a results.json.
    """
    results = names.readable(rows.read(results))
    page = PAGES[results.job]
    blocks = []
    for table in page.tables(results):
        blocks.append(_text(table))
        if table.note:
            blocks.append(textwrap.fill(table.note, 100))
    return "\n\n".join([*blocks, page.conclusion(results)]) + "\n"


def _text(table: Table) -> str:
    lines = [row for group in table.groups for row in group]
    widths = [max(map(_width, column)) for column in zip(table.header, *lines, strict=True)]
    blocks = ["\n".join(_line(row, table, widths) for row in group) for group in table.groups]
    rule = "  ".join("-" * width for width in widths)
    top = [f"{table.heading}.", "", _line(table.header, table, widths), rule]
    return "\n".join([*top, "\n\n".join(blocks)])


def _width(text: str) -> int:
    """Columns that a terminal gives the text: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _line(cells: Sequence[str], table: Table, widths: Sequence[int]) -> str:
    padded = []
    for text, name, width in zip(cells, table.header, widths, strict=True):
        space = " " * (width - _width(text))
        padded.append(text + space if name in table.words else space + text)
    return "  ".join(padded).rstrip()
