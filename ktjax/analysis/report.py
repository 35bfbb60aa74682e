"""What a run found, for people: a table for the terminal, and report.html with its figures.

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
import statistics
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ktjax.analysis import plots, report_pairs

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
TEXT_COLUMNS = (
    "run",
    "objective",
    "teachers",
    "teacher",
    "student",
    "model",
    "family",
    "origin",
    "5 % of them in",
    *report_pairs.TEXT_COLUMNS,
)
KINDS = (
    "from a weaker teacher",
    "from an equally accurate teacher",
    "from a stronger teacher",
    "from a teacher of unknown accuracy",
    "from several teachers",
    "without a teacher",
)
ACCURACY_KEYS = ("accuracy_before", "accuracy_after", "delta", "delta_se")
FIGURES = (  # file name, its data, how to draw it, how to read it
    (
        "accuracy",
        functools.partial(plots.run_rows, keys=ACCURACY_KEYS),
        plots.accuracy,
        (
            "Each bar runs from the student's accuracy before the transfer (black line) to the one "
            "after; a change well beyond its error bar (one standard error) is unlikely chance."
        ),
    ),
    (
        "gain_loss",
        functools.partial(plots.run_rows, keys=("gain", "loss")),
        plots.gain_loss,
        "Above the dashed line a student learned more than it forgot.",
    ),
    (
        "taught",
        functools.partial(plots.history_rows, key="taught"),
        plots.taught,
        "How many of the samples a run lets a teacher teach; the others keep what was known.",
    ),
    (
        "progress",
        functools.partial(plots.history_rows, key="accuracy"),
        plots.progress,
        "Compare the shapes of the lines, not their level: this is not the validation split.",
    ),
    (
        "classes",
        plots.class_rows,
        plots.classes,
        "Images that became right (right of zero) or wrong (left) in the run that improved most.",
    ),
)
EXAMPLES = (
    "examples",
    plots.example_rows,
    plots.examples,
    "What a transfer is after: images that the teacher answered correctly and the student did not.",
)


def table(results: Results) -> str:
    """The result as plain text for a terminal: a line on the student, a table, a conclusion."""
    parts = []
    for heading, header, groups in _tables(results):
        rows = [row for group in groups for row in group]
        widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
        blocks = ["\n".join(_line(row, header, widths) for row in group) for group in groups]
        rule = "  ".join("-" * width for width in widths)
        top = [f"{heading}.", "", _line(header, header, widths), rule]
        parts.append("\n".join([*top, "\n\n".join(blocks)]))
    return "\n\n".join([*parts, conclusion(results)]) + "\n"


def conclusion(results: Results) -> str:
    """One sentence: the objective with the largest mean delta for each kind of teacher."""
    if _of_pairs(results):
        return report_pairs.conclusion(results)
    deltas: dict[str, dict[str, list[float]]] = {}
    for run in _transfers(results):
        of_kind = deltas.setdefault(_teacher_kind(run, results), {})
        of_kind.setdefault(run["objective"], []).append(run["delta"])
    clauses = []
    for kind in sorted(deltas, key=KINDS.index):
        means = {name: statistics.fmean(values) for name, values in deltas[kind].items()}
        best = max(means, key=means.get)
        count = len(deltas[kind][best])
        mean = f"mean of {count} runs" if count > 1 else "one run"
        verb = f"{best} improved most" if means[best] > 0 else f"nothing improved, best was {best}"
        clauses.append(f"{kind} {verb} ({means[best]:+.2f} points, {mean})")
    if not clauses:
        accuracies = [model["accuracy"] for model in results["models"].values()]
        ends = [f"{accuracy:.2f}" for accuracy in sorted({min(accuracies), max(accuracies)})]
        models = "model" if len(accuracies) == 1 else "models"
        clauses = [f"{len(accuracies)} {models}, {' to '.join(ends)} % right"]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def summary(results: Results) -> str:
    """The result in plain language, a few sentences."""
    if _of_pairs(results):
        return report_pairs.summary(results)
    runs = [run for run in _transfers(results) if run["teachers"]]
    if not runs:
        return conclusion(results)
    better = sum(run["delta"] > 0 for run in runs)
    surely_better = sum(run["delta"] > 2 * run["delta_se"] for run in runs)
    surely_worse = sum(run["delta"] < -2 * run["delta_se"] for run in runs)
    mean = statistics.fmean(run["delta"] for run in runs)
    return (
        f"{better} of {len(runs)} transfers improved the student, {surely_better} by more than two "
        f"standard errors; {surely_worse} made it worse by more than two. The mean change is "
        f"{mean:+.2f} percentage points. {conclusion(results)}"
    )


def write(
    folder: str | pathlib.Path, results: Results, examples: Sequence[Mapping[str, Any]]
) -> pathlib.Path:
    """Writes report.html and figures/*.png, *.csv into `folder`; returns the page's path."""
    folder = pathlib.Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    students = dict.fromkeys(run["student"] for run in _transfers(results))
    title = f"Knowledge transfer to {', '.join(students)}" if students else "Models trained"
    if _of_pairs(results):
        title = report_pairs.title(results)
    body = [_tag("h1", title), _tag("p", summary(results))]
    for heading, header, groups in _tables(results):
        body += [_tag("p", f"{heading}:"), _html_table(header, groups)]
    if students:
        body.append(f'<p class="note">{html.escape(NOTE)}</p>')
    body.append(_tag("h2", "Figures"))
    figures = FIGURES if students else [f for f in FIGURES if f[0] == "progress"]
    if _of_pairs(results):
        figures = report_pairs.FIGURES
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
    if _of_pairs(results):
        for heading, note, header, groups in report_pairs.sections(results):
            body += [_tag("h2", heading), f'<p class="note">{html.escape(note)}</p>']
            body.append(_html_table(header, groups))
    if students or _of_pairs(results):
        body += [_tag("h2", "Models"), _html_table(*_models_table(results))]
    if students and results.get("pairs"):
        body += [_tag("h2", "Complementary knowledge"), _html_table(*_pairs_table(results))]
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


def _of_pairs(results):
    return results["job"] == "complementarity"


def _transfers(results):
    """The runs that changed a pretrained student; there are none where models were trained."""
    return results.get("runs", []) if results["job"] == "transfer" else []


def _teacher_kind(run, results):
    if len(run["teachers"]) != 1:
        return KINDS[4 if run["teachers"] else 5]
    teacher = results.get("models", {}).get(run["teachers"][0])
    if teacher is None:
        return KINDS[3]
    difference = teacher["accuracy"] - run["accuracy_before"]
    return KINDS[1 + (difference > 0) - (difference < 0)]


def _tables(results):
    """Per student (or for the models, where there are no runs): heading, header, groups of rows.

    Then on the robustness sets, if the config names some.
    """
    data = f"{results['data']['validation']:,} validation images of {results['data']['measured']}"
    if _of_pairs(results):
        return [(f"What could be learned from whom, on {data}", *report_pairs.table(results))]
    groups = plots.groups(results) if _transfers(results) else []
    if not groups:
        return [(f"Accuracy on {data}", *_models_table(results)), *_robustness_tables(results)]
    seeds = len({run["seed"] for run in results["runs"]}) > 1
    header = ["objective", "teachers", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += ["gain %", "loss %", "taught %", "ensemble %"]
    tables = []
    for student in dict.fromkeys(group.student for group in groups):
        own = [group for group in groups if group.student == student]
        before = own[0].runs[0]["accuracy_before"]
        rows = [[_run_cells(run, group, seeds) for run in group.runs] for group in own]
        tables.append((f"Student {student}: {before:.2f} % of {data} right", header, rows))
    stages_header, stages = _stages_table(results)
    if stages:
        tables.append(("Teacher after teacher", stages_header, stages))
    return [*tables, *_robustness_tables(results)]


def _robustness_tables(results):
    rows = [
        (run["run"], run["robustness"]) for run in results.get("runs", []) if run.get("robustness")
    ]
    if not rows:
        return []
    sets = list(rows[0][1])
    cells = [
        [name, *(f"{found[k]['before']:.2f} -> {found[k]['after']:.2f}" for k in sets)]
        for name, found in rows
    ]
    return [("Accuracy on other test sets, before -> after %", ["run", *sets], [cells])]


def _run_cells(run, group, seeds):
    return [
        run["objective"],
        group.heading if group.teachers else "-",
        *[str(run["seed"])] * seeds,
        f"{run['accuracy_before']:.2f} -> {run['accuracy_after']:.2f}",
        f"{run['delta']:+.2f} ± {run['delta_se']:.2f}",
        f"{run['gain']:.2f}",
        f"{run['loss']:.2f}",
        "-" if run["taught"] is None else f"{run['taught']:.1f}",
        "-" if run["ensemble_accuracy"] is None else f"{run['ensemble_accuracy']:.2f}",
    ]


def _stages_table(results):
    header = ["run", "teacher", "before -> after %", "delta ± se points", "gain %", "loss %"]
    rows = [
        [
            [
                run["run"] if i == 0 else "",
                stage["teachers"][0],
                f"{stage['accuracy_before']:.2f} -> {stage['accuracy_after']:.2f}",
                f"{stage['delta']:+.2f} ± {stage['delta_se']:.2f}",
                f"{stage['gain']:.2f}",
                f"{stage['loss']:.2f}",
            ]
            for i, stage in enumerate(run["stages"])
        ]
        for run in _transfers(results)
        if run["stages"]
    ]
    return header, rows


def _models_table(results):
    models = sorted(results["models"].items(), key=lambda item: -item[1]["accuracy"])
    rows = [[n, f"{m['accuracy']:.2f}", f"{m['parameters']:,}", m["origin"]] for n, m in models]
    return ["model", "accuracy %", "parameters", "origin"], [rows]


def _pairs_table(results):
    header = [
        "teacher",
        "student",
        "positive flips %",
        "negative flips %",
        "entropy, share of maximum",
    ]
    rows = [
        [pair["teacher"], pair["student"]]
        + [f"{pair[key]:.2f}" for key in ("rho_pos", "rho_neg", "flip_entropy")]
        + [", ".join(pair["top_classes"]["5"])]
        for pair in results["pairs"]
    ]
    return [*header, "5 % of them in"], [rows]


def _width(text):
    """Columns that a terminal gives the text: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _line(cells, header, widths):
    padded = []
    for text, name, width in zip(cells, header, widths, strict=True):
        space = " " * (width - _width(text))
        padded.append(text + space if name in TEXT_COLUMNS else space + text)
    return "  ".join(padded).rstrip()


def _tag(name, text):
    return f"<{name}>{html.escape(text)}</{name}>"


def _html_table(header, groups):
    kinds = ["" if name in TEXT_COLUMNS else ' class="number"' for name in header]

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
