"""Figures of many transfers: the rows of transfers.py -> matplotlib Figure. See figures.py."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ktjax.analysis.rows import ComplementarityResults
from ktjax.report import figures
from ktjax.report.figures import Rows

_OUTCOMES = {
    "delta": "transfer delta (points)",
    "last_delta": "change by the final weights (points)",
}


def rows(results: ComplementarityResults) -> Rows:
    """A row per student, teacher and objective."""
    return results.transfers["rows"]


def delta(results: ComplementarityResults, width: float) -> Figure:
    """Transfer delta against the accuracy difference, per objective (the paper's figure 4)."""
    title = "What transfers changed, by how much better the teacher was"
    label = "teacher minus student (points)"
    return _panels(results, width, ("accuracy_difference", "delta"), label, title)


def foresight(results: ComplementarityResults, width: float) -> Figure:
    """The gain that the partition promised beforehand, and the change by the final weights."""
    title = "What transfers changed, by what the partitioned targets promised"
    label = "accuracy of the targets minus the student's (points)"
    return _panels(results, width, ("partition_gain", "last_delta"), label, title)


def success_rows(results: ComplementarityResults) -> Rows:
    """A row per objective and student: the share of its teachers that improved it."""
    return [
        {"objective": objective, "student": student, "success_rate": rate}
        for objective, found in results.transfers["success"].items()
        for student, rate in found["per_student"].items()
    ]


def success(results: ComplementarityResults, width: float) -> Figure:
    """Success rates per objective: a box over students, and a point for each."""
    found = results.transfers["success"]
    styles = figures.styles(found)
    figure = figures.new_figure(width, 4.8, "How often a transfer improves the student")
    axes = figure.add_subplot()
    for i, (objective, of) in enumerate(found.items()):
        rates = list(of["per_student"].values())
        style = styles[objective]
        figures.box(axes, i, rates, color=style.color, hatch=style.hatch)
        # Side by side, or equal rates would hide each other.
        spread = np.linspace(-0.18, 0.18, len(rates)) if len(rates) > 1 else [0.0]
        look = {"marker": style.marker, "color": "white", "markeredgecolor": "black"}
        axes.plot(i + np.asarray(spread), rates, linestyle="", markersize=5, **look)
    wide = figures.is_wide(width)
    ticks = [f"{name}\n{_means(of)}" if wide else name for name, of in found.items()]
    tilt = {"rotation": 30, "ha": "right"} if len(ticks) > (4 if wide else 1) else {}
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8, **tilt)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("teachers that improved a student (%)")
    axes.grid(axis="y", alpha=0.3)
    return figures.plain_text(figure)


def _means(of: Mapping[str, Any]) -> str:
    net = "" if of["net"] is None else f"\nnet {of['net']['mean_net']:+.2f}"
    return f"mean delta {of['mean_delta']:+.2f}{net}"


def _panels(
    results: ComplementarityResults, width: float, keys: tuple[str, str], xlabel: str, title: str
) -> Figure:
    """A panel per objective, a point per pair with its two `keys`, and a line at no change.

    Each has its own scale: one objective's losses can be a hundred times another's gains.
    """
    styles = figures.styles(row["objective"] for row in rows(results))
    columns = 3 if len(styles) <= 3 else 2
    figure, grid = figures.panels(
        len(styles), width, title, line=2.7, rest=1.2, columns=columns, sharex=True
    )
    for axes, (objective, style) in zip(grid, styles.items(), strict=True):
        own = [row for row in rows(results) if row["objective"] == objective]
        look = {"marker": style.marker, "color": style.color, "markeredgecolor": "black"}
        x, y = ([row[name] for row in own] for name in keys)
        axes.plot(x, y, linestyle="", markersize=6, alpha=0.85, **look)
        axes.axhline(0, color="black", linewidth=1)
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        better = sum(change > 0 for change in y)
        axes.set_title(
            figures.clip(f"{objective}: {better} of {len(own)} better", 48, 2), fontsize=9
        )
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=True)
    figure.supxlabel(figures.clip(xlabel, round(11 * width), 2), fontsize=9)
    figure.supylabel(_OUTCOMES[keys[1]], fontsize=9)
    return figures.plain_text(figure)
