"""What a run found, as tables for the terminal and the page, and in sentences."""

import statistics
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ktjax.report import figures, pairs

Results = Mapping[str, Any]
# A header, and groups of rows: cells of text.
Rows = tuple[list[str], list[list[list[str]]]]
# The same below a heading.
Table = tuple[str, list[str], list[list[list[str]]]]

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
    *pairs.TEXT_COLUMNS,
)
KINDS = (
    "from a weaker teacher",
    "from an equally accurate teacher",
    "from a stronger teacher",
    "from a teacher of unknown accuracy",
    "from several teachers",
    "without a teacher",
)


def as_text(results: Results) -> str:
    """The result as plain text for a terminal: a line on the student, a table, a conclusion."""
    parts = []
    for heading, header, groups in all_of(results):
        rows = [row for group in groups for row in group]
        widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
        blocks = ["\n".join(_line(row, header, widths) for row in group) for group in groups]
        rule = "  ".join("-" * width for width in widths)
        top = [f"{heading}.", "", _line(header, header, widths), rule]
        parts.append("\n".join([*top, "\n\n".join(blocks)]))
    return "\n\n".join([*parts, conclusion(results)]) + "\n"


def conclusion(results: Results) -> str:
    """One sentence: the objective with the largest mean delta for each kind of teacher."""
    if of_pairs(results):
        return pairs.conclusion(results)
    deltas: dict[str, dict[str, list[float]]] = {}
    for run in transfers(results):
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
    if of_pairs(results):
        return pairs.summary(results)
    runs = [run for run in transfers(results) if run["teachers"]]
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


def of_pairs(results: Results) -> bool:
    """Whether models were compared, and none was trained."""
    return results["job"] == "complementarity"


def transfers(results: Results) -> Sequence[Mapping[str, Any]]:
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


def all_of(results: Results) -> list[Table]:
    """Per student (or for the models, where there are no runs): heading, header, groups of rows.

    Then on the robustness sets, if the config names some.
    """
    data = f"{results['data']['validation']:,} validation images of {results['data']['measured']}"
    if of_pairs(results):
        return [(f"What could be learned from whom, on {data}", *pairs.table(results))]
    groups = figures.groups(results) if transfers(results) else []
    if not groups:
        return [(f"Accuracy on {data}", *models_table(results)), *_robustness_tables(results)]
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
        for run in transfers(results)
        if run["stages"]
    ]
    return header, rows


def models_table(results: Results) -> Rows:
    """Of every model the accuracy, and where it comes from."""
    models = sorted(results["models"].items(), key=lambda item: -item[1]["accuracy"])
    rows = [[n, f"{m['accuracy']:.2f}", f"{m['parameters']:,}", m["origin"]] for n, m in models]
    return ["model", "accuracy %", "parameters", "origin"], [rows]


def pairs_table(results: Results) -> Rows:
    """What each teacher knows that the student does not."""
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
