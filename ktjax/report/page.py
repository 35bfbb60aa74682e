"""report.html: what a run found, with its figures.

The page needs no network: style and figures are inside it. Everything that comes from a run (names
of models and classes, config values) is escaped. The figures lie beside it as PNG and CSV too.
"""

import base64
import csv
import functools
import html
import io
import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ktjax.report import figures, pairs, tables

Results = Mapping[str, Any]

PAGE = "report.html"

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
NOTE = (
    "delta: accuracy after minus before, in percentage points, ± one standard error over the "
    "validation images. gain, loss: share of these images that became right, wrong. taught: share "
    "of the training samples whose target came from a teacher. ensemble: the reference line, where "
    "each image is answered by the most confident of the student before the transfer and the "
    "teachers."
)
ACCURACY_KEYS = ("accuracy_before", "accuracy_after", "delta", "delta_se")
FIGURES = (  # file name, its data, how to draw it, how to read it
    (
        "accuracy",
        functools.partial(figures.run_rows, keys=ACCURACY_KEYS),
        figures.accuracy,
        (
            "Each bar runs from the student's accuracy before the transfer (black line) to the one "
            "after; a change well beyond its error bar (one standard error) is unlikely chance."
        ),
    ),
    (
        "gain_loss",
        functools.partial(figures.run_rows, keys=("gain", "loss")),
        figures.gain_loss,
        "Above the dashed line a student learned more than it forgot.",
    ),
    (
        "taught",
        functools.partial(figures.history_rows, key="taught"),
        figures.taught,
        "How many of the samples a run lets a teacher teach; the others keep what was known.",
    ),
    (
        "progress",
        functools.partial(figures.history_rows, key="accuracy"),
        figures.progress,
        "Compare the shapes of the lines, not their level: this is not the validation split.",
    ),
    (
        "classes",
        figures.class_rows,
        figures.classes,
        "Images that became right (right of zero) or wrong (left) in the run that improved most.",
    ),
)
EXAMPLES = (
    "examples",
    figures.example_rows,
    figures.examples,
    "What a transfer is after: images that the teacher answered correctly and the student did not.",
)


def write(
    folder: str | pathlib.Path, results: Results, examples: Sequence[Mapping[str, Any]]
) -> pathlib.Path:
    """Writes report.html and figures/*.png, *.csv into `folder`; returns the page's path."""
    folder = pathlib.Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    students = dict.fromkeys(run["student"] for run in tables.transfers(results))
    title = f"Knowledge transfer to {', '.join(students)}" if students else "Models trained"
    if tables.of_pairs(results):
        title = pairs.title(results)
    body = [_tag("h1", title), _tag("p", tables.summary(results))]
    for heading, header, groups in tables.all_of(results):
        body += [_tag("p", f"{heading}:"), _html_table(header, groups)]
    if students:
        body.append(f'<p class="note">{html.escape(NOTE)}</p>')
    body.append(_tag("h2", "Figures"))
    figures = FIGURES if students else [f for f in FIGURES if f[0] == "progress"]
    if tables.of_pairs(results):
        figures = pairs.FIGURES
    sources = [(*figure, results) for figure in figures] + [(*EXAMPLES, examples)]
    for name, to_rows, draw, caption, source in sources:
        if rows := to_rows(source):
            png = _png(draw(source))
            (folder / "figures" / f"{name}.png").write_bytes(png)
            csv_path = folder / "figures" / f"{name}.csv"
            csv_path.write_text(_csv(rows), encoding="utf-8", newline="")
            data = base64.b64encode(png).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            body.append(f"<figure>{image}{_tag('figcaption', caption)}</figure>")
    if tables.of_pairs(results):
        for heading, note, header, groups in pairs.sections(results):
            body += [_tag("h2", heading), f'<p class="note">{html.escape(note)}</p>']
            body.append(_html_table(header, groups))
    if students or tables.of_pairs(results):
        body += [_tag("h2", "Models"), _html_table(*tables.models_table(results))]
    if students and results.get("pairs"):
        body += [_tag("h2", "Complementary knowledge"), _html_table(*tables.pairs_table(results))]
    for name in ("environment", "config"):
        text = json.dumps(results.get(name, {}), indent=2, ensure_ascii=False, default=str)
        details = _tag("summary", name.capitalize()) + _tag("pre", text)
        body.append(f"<details>{details}</details>")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{_tag('title', title)}<style>{STYLE}</style></head>\n<body>"
    )
    path = folder / PAGE
    path.write_text("\n".join([head, *body, "</body></html>\n"]), encoding="utf-8")
    return path


def _tag(name, text):
    return f"<{name}>{html.escape(text)}</{name}>"


def _html_table(header, groups):
    kinds = ["" if name in tables.TEXT_COLUMNS else ' class="number"' for name in header]

    def row(tag, cells):
        cells = zip(kinds, cells, strict=True)
        return "".join(f"<{tag}{kind}>{html.escape(text)}</{tag}>" for kind, text in cells)

    body = "".join(
        "<tbody>" + "".join(f"<tr>{row('td', cells)}</tr>" for cells in group) + "</tbody>"
        for group in groups
    )
    head = f"<thead><tr>{row('th', header)}</tr></thead>"
    return f'<div class="wide"><table>{head}{body}</table></div>'


def _csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " + ".join(v) if isinstance(v, list) else v for k, v in row.items()})
    return text.getvalue()


def _png(figure):
    data = io.BytesIO()
    with warnings.catch_warnings():
        # The figure's font lacks some scripts; the names stand in full in the CSV beside it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(data, format="png", dpi=130)
    return data.getvalue()
