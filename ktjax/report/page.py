"""report.html: what a run found, with its figures.

The page works offline: style and figures are embedded, the latter once for a screen and once for a
phone. Everything that comes from a run (names of models and classes, config values) is escaped. The
figures are also written next to it, as PNG and CSV.
"""

import base64
import csv
import html
import io
import json
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ktjax import files, paths
from ktjax.analysis import rows
from ktjax.analysis.rows import Results
from ktjax.report import figures, names
from ktjax.report.pages import PAGES
from ktjax.report.parts import Drawing, Table
from ktjax.report.style import STYLE

EXAMPLES = Drawing(
    "examples",
    figures.example_rows,
    figures.examples,
    "What a transfer aims at: images that the teacher got right and the student did not.",
)


def write(
    folder: str | pathlib.Path,
    results: Results | Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Writes report.html and figures/*.png, *.csv into `folder`; returns the page's path.

    ValueError if `results` does not have the contents of a results.json.
    """
    results = names.readable(rows.read(results))
    folder = paths.of(folder)
    paths.make_folder(folder / files.FIGURES)
    page = PAGES[results.job]
    title = page.title(results)
    body = [_tag("h1", title), _tag("p", page.summary(results))]
    tables = page.tables(results)
    body += [line for table in tables[:1] for line in _section(table)]
    # The main result comes first: in sentences, in numbers, in a figure.
    drawn = [_figure(folder, drawing, results) for drawing in page.drawings]
    body += drawn[0] if drawn else []
    body += [line for table in tables[1:] for line in _section(table)]
    more = [line for lines in drawn[1:] for line in lines] + _figure(folder, EXAMPLES, examples)
    body += [_tag("h2", "More figures" if drawn else "Figures"), *more] if more else []
    body += [line for table in page.sections(results) for line in _section(table)]
    for name in ("environment", "config"):
        text = json.dumps(getattr(results, name), indent=2, ensure_ascii=False, default=str)
        details = _tag("summary", name.capitalize()) + _tag("pre", text)
        body.append(f"<details>{details}</details>")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{_tag('title', title)}<style>{STYLE}</style></head>\n<body>"
    )
    path = folder / files.REPORT
    files.write_whole(path, "\n".join([head, *body, "</body></html>\n"]))
    return path


def _figure(folder: pathlib.Path, drawing: Drawing, source: Any) -> list[str]:
    """Writes the figure and its data as files, and returns the figure as HTML; [] without data."""
    drawn = drawing.rows(source)
    if not drawn:
        return []
    wide, narrow = (_png(drawing.draw(source, width)) for width in (figures.WIDE, figures.NARROW))
    files.write_whole(folder / files.FIGURES / f"{drawing.name}.png", wide)
    files.write_whole(folder / files.FIGURES / f"{drawing.name}.csv", _csv(drawn))
    image = (
        f'<picture><source media="(max-width: 640px)" srcset="{_inline(narrow)}">'
        f'<img alt="{html.escape(drawing.caption)}" src="{_inline(wide)}"></picture>'
    )
    return [f"<figure>{image}{_tag('figcaption', drawing.caption)}</figure>"]


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _section(table: Table) -> list[str]:
    return [_tag("h2", table.heading), _html_table(table), *_note(table.note)]


def _note(text: str) -> list[str]:
    return [f'<p class="note">{html.escape(text)}</p>'] if text else []


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(text)}</{name}>"


def _html_table(table: Table) -> str:
    """On a phone each row becomes a card in which every number has its column's name."""
    kinds = ["word" if name in table.words else "number" for name in table.header]
    named = [
        f' data-name="{html.escape(name)}"' if i else "" for i, name in enumerate(table.header)
    ]

    def row(cells: Iterable[str]) -> str:
        cells = zip(kinds, named, cells, strict=True)
        return "".join(
            f'<td class="{kind}{_long(kind, text)}"{name}>{_cell(text)}</td>'
            for kind, name, text in cells
        )

    body = "".join(
        "<tbody>" + "".join(f"<tr>{row(cells)}</tr>" for cells in group) + "</tbody>"
        for group in table.groups
    )
    head = "".join(
        f'<th class="{kind}">{html.escape(name)}</th>'
        for kind, name in zip(kinds, table.header, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _cell(text: str) -> str:
    return html.escape(text.replace(" %", "\N{NO-BREAK SPACE}%"))


def _long(kind: str, text: str) -> str:
    """Marks words that may break anywhere, and numbers that may break at a space."""
    longest = max(map(len, text.split() or [text]))
    return " long" if (longest > 20 if kind == "word" else len(text) > 16) else ""


def _csv(drawn: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(drawn[0]))
    writer.writeheader()
    for row in drawn:
        writer.writerow(
            {k: " + ".join(v) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
        )
    return text.getvalue()


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.set_dpi(130)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # The figure's font lacks some scripts; the CSV next to it has the full names.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()  # lays it out, too; savefig would draw it twice
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(data, format="png")
    return data.getvalue()
