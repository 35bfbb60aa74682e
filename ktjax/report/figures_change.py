"""The figure of a transfer job: what each transfer gained and lost, and the headroom."""

import statistics
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ktjax.analysis import controls
from ktjax.analysis.rows import TransferResults
from ktjax.report import figures
from ktjax.report.verdicts import SURE

_ROOM = 1.6  # times the largest change, up to which the headroom is drawn
_EDGE = {"edgecolor": "black", "linewidth": 0.6}


def change_rows(results: TransferResults) -> figures.Rows:
    """One row per student, teachers and objective: the mean over seeds, and the headroom."""
    found = controls.by_what(results.runs)
    rows = []
    for group in figures.groups(results):
        for objective in dict.fromkeys(run.objective for run in group.runs):
            outcome = found[group.student, frozenset(group.teachers), objective]
            same = [run for run in group.runs if run.objective == objective]
            ensemble, before = same[0].ensemble_accuracy, same[0].accuracy_before
            rows.append(
                vars(outcome)
                | {"gain": statistics.fmean(run.gain for run in same)}
                | {"loss": statistics.fmean(run.loss for run in same)}
                | {"headroom": None if ensemble is None else ensemble - before}
            )
    return rows


def change(results: TransferResults, width: float) -> Figure:
    """Bars of gain and loss from zero, with the change between them, by teacher and objective."""
    wide = figures.is_wide(width)
    headings, bars, end = _placed(results, 84 if wide else 26)
    title = "What transfers gained and lost, and how much there was to gain"
    figure = figures.new_figure(width, 1.7 + 0.27 * end, title)
    axes = figure.add_subplot()
    largest = (max(r["gain"], r["loss"], abs(r["delta"]) + SURE * r["delta_se"]) for _, r in bars)
    reach = max(*largest, 0.1)
    axes.set_xlim(-1.1 * reach, _ROOM * reach)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
    for at, row in bars:
        _bar(axes, at, row)
        net = f", {row['net']:+.2f}" if wide and row["net"] is not None else ""
        axes.text(1.02, at, f"{row['delta']:+.2f} ± {row['delta_se']:.2f}{net}", **beside)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for at, line in headings:
        axes.text(0.005, at, line, fontweight="bold", bbox=box, **beside)
    net = ", net" if wide and any(row["net"] is not None for _, row in bars) else ""
    axes.text(1.02, -0.2, f"delta ± se{net}", **beside)
    labels = [figures.clip(row["objective"], 40 if wide else 18, 2) for _, row in bars]
    axes.set_yticks([at for at, _ in bars], labels, fontsize=8)
    axes.set_ylim(end - 0.6, -0.7)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlabel("lost (left), gained (right), % of images")
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figures.plain_text(figure, _legend())


def _placed(
    results: TransferResults, letters: int
) -> tuple[list[tuple[float, str]], list[tuple[float, dict[str, Any]]], float]:
    """The positions of headings and bars, from the top; and where they end."""
    rows = iter(change_rows(results))
    found = figures.groups(results)
    many_students = len({group.student for group in found}) > 1
    headings, bars, y = [], [], 0.0
    for group in found:
        text = f"from {group.heading}" if group.teachers else group.heading
        text = f"{group.student}, {text}" if many_students else text
        for line in textwrap.wrap(text, letters, max_lines=4):
            headings.append((y, line))
            y += 1
        for _ in {run.objective for run in group.runs}:
            bars.append((y, next(rows)))
            y += 1
        y += 0.3
    return headings, bars, y


def _bar(axes: Axes, at: float, row: dict[str, Any]) -> None:
    axes.barh(at, row["gain"], height=0.66, color=figures.COLORS[0], **_EDGE)
    axes.barh(at, -row["loss"], height=0.66, color=figures.COLORS[1], hatch="//", **_EDGE)
    if row["headroom"] is not None:
        low, high = axes.get_xlim()
        shown = min(max(row["headroom"], low), high)
        axes.barh(at, shown, height=0.9, fill=False, edgecolor="#666666", linewidth=1)
        if shown != row["headroom"]:
            marker = ">" if row["headroom"] > 0 else "<"
            axes.plot(shown, at, marker, color="#666666", markersize=6, clip_on=False)
    bars = {"xerr": SURE * row["delta_se"], "ecolor": "black", "elinewidth": 1.2, "capsize": 2.5}
    look = {"fmt": "D", "color": "white", "markeredgecolor": "black", "markersize": 5}
    axes.errorbar(row["delta"], at, **look, **bars)


def _legend() -> list[Any]:
    diamond = {"linestyle": "", "marker": "D", "color": "white", "markeredgecolor": "black"}
    loss = {"facecolor": figures.COLORS[1], "hatch": "//"}
    return [
        Patch(facecolor=figures.COLORS[0], label="gain: wrong before, right after", **_EDGE),
        Patch(label="loss: right before, wrong after", **loss, **_EDGE),
        Line2D([], [], label="change in accuracy", **diamond),
        Patch(fill=False, edgecolor="#666666", label="headroom"),
    ]
