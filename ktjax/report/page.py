"""report.html: what a run found, with its figures.

The page needs no network: style and figures are inside it. Everything that comes from a run (names
of models and classes, config values) is escaped. The figures lie beside it as PNG and CSV too.
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

from matplotlib.figure import Figure

from ktjax import files, paths
from ktjax.analysis import rows
from ktjax.analysis.rows import Results
from ktjax.report import figures
from ktjax.report.pages import PAGES
from ktjax.report.parts import Drawing, Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem;
  color: #1a1a1a; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; overflow-wrap: normal; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #1a1a1a; vertical-align: bottom; }
td:not(.number) { min-width: 6rem; }
tbody { border-bottom: 1px solid #ccc; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: 0.9rem; }
pre { white-space: pre-wrap; font-size: 0.8rem; background: #f4f4f4; padding: 0.7rem; }
"""
EXAMPLES = Drawing(
    "examples",
    figures.example_rows,
    figures.examples,
    "What a transfer is after: images that the teacher answered correctly and the student did not.",
)


def write(
    folder: str | pathlib.Path,
    results: Results | Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Writes report.html and figures/*.png, *.csv into `folder`; returns the page's path.

    ValueError if `results` is not what results.json of a job holds.
    """
    results = rows.read(results)
    folder = paths.of(folder)
    paths.make_folder(folder / files.FIGURES)
    page = PAGES[results.job]
    title = page.title(results)
    body = [_tag("h1", title), _tag("p", page.summary(results))]
    for table in page.tables(results):
        body += [_tag("p", f"{table.heading}:"), _html_table(table)]
    body += _note(page.note)
    drawn = [line for drawing in page.drawings for line in _figure(folder, drawing, results)]
    drawn += _figure(folder, EXAMPLES, examples)
    body += [_tag("h2", "Figures"), *drawn] if drawn else []
    for table in page.sections(results):
        body += [_tag("h2", table.heading), *_note(table.note), _html_table(table)]
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
    """Writes the figure and its data as files, and gives the figure as HTML; [] without data."""
    drawn = drawing.rows(source)
    if not drawn:
        return []
    png = _png(drawing.draw(source))
    files.write_whole(folder / files.FIGURES / f"{drawing.name}.png", png)
    files.write_whole(folder / files.FIGURES / f"{drawing.name}.csv", _csv(drawn))
    data = base64.b64encode(png).decode()
    image = f'<img alt="{html.escape(drawing.caption)}" src="data:image/png;base64,{data}">'
    return [f"<figure>{image}{_tag('figcaption', drawing.caption)}</figure>"]


def _note(text: str) -> list[str]:
    return [f'<p class="note">{html.escape(text)}</p>'] if text else []


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(text)}</{name}>"


def _html_table(table: Table) -> str:
    kinds = ["" if name in table.words else ' class="number"' for name in table.header]

    def row(tag: str, cells: Iterable[str]) -> str:
        cells = zip(kinds, cells, strict=True)
        return "".join(f"<{tag}{kind}>{html.escape(text)}</{tag}>" for kind, text in cells)

    body = "".join(
        "<tbody>" + "".join(f"<tr>{row('td', cells)}</tr>" for cells in group) + "</tbody>"
        for group in table.groups
    )
    head = f"<thead><tr>{row('th', table.header)}</tr></thead>"
    return f'<div class="wide"><table>{head}{body}</table></div>'


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
    with warnings.catch_warnings():
        # The figure's font lacks some scripts; the names stand in full in the CSV beside it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(data, format="png", dpi=130)
    return data.getvalue()
