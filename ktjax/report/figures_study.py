"""Figures of a study: its results -> matplotlib Figure. See figures.py, figures_transfers.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ktjax.analysis.rows import StudyPair, StudyResults
from ktjax.report import figures

Rows = list[dict[str, Any]]


def heat_rows(results: StudyResults) -> Rows:
    """Delta and net of each pair under each objective, from the least to the most accurate."""
    keys = ("objective", "student", "teacher", "runs", "delta", "delta_se", "net", "net_se")
    at = {name: i for i, name in enumerate(_by_accuracy(results))}
    pairs = sorted(results.pairs, key=lambda pair: (at[pair.teacher], at[pair.student]))
    order = list(results.success)
    pairs.sort(key=lambda pair: order.index(pair.objective))
    return [{key: getattr(pair, key) for key in keys} for pair in pairs]


def heat(results: StudyResults) -> Figure:
    """Transfer delta of every pair, a panel for each objective: a row per teacher."""
    objectives = list(results.success)
    columns = min(2, len(objectives))
    lines = -(-len(objectives) // columns)
    figure = figures.new_figure(
        5 * columns + 0.5, 4.6 * lines + 0.4, "What each teacher changed in each student"
    )
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    # Gains and losses each over their half of the colors, as losses may be a hundred times larger:
    # the same ones in all panels, or the least loss of one would look like the largest of another.
    deltas = [pair.delta for pair in results.pairs]
    norm = TwoSlopeNorm(0.0, vmin=min(*deltas, -1e-9), vmax=max(*deltas, 1e-9))
    for axes, objective in zip(grid, objectives, strict=False):
        pairs = [pair for pair in results.pairs if pair.objective == objective]
        _panel(figure, axes, results, pairs, norm)
        axes.set_title(figures.clip(objective, 48, 2), fontsize=9)
    for axes in grid[len(objectives) :]:
        axes.remove()
    figure.supxlabel("student, more accurate to the right (accuracy in %)", fontsize=10)
    figure.supylabel("teacher, more accurate upwards (accuracy in %)", fontsize=10)
    return figures.plain_text(figure)


def _panel(
    figure: Figure,
    axes: Axes,
    results: StudyResults,
    pairs: Sequence[StudyPair],
    norm: TwoSlopeNorm,
) -> None:
    order = _by_accuracy(results)
    teachers = [name for name in order if any(pair.teacher == name for pair in pairs)]
    students = [name for name in order if any(pair.student == name for pair in pairs)]
    delta_TxS = np.full((len(teachers), len(students)), np.nan)
    for pair in pairs:
        delta_TxS[teachers.index(pair.teacher), students.index(pair.student)] = pair.delta
    axes.set_facecolor("#dddddd")
    image = axes.imshow(delta_TxS, cmap="PuOr_r", norm=norm, origin="lower", aspect="auto")
    figure.colorbar(image, ax=axes, label="delta (points)")
    if max(delta_TxS.shape) <= figures.NUMBERS:
        for (t, s), value in np.ndenumerate(delta_TxS):
            if np.isfinite(value):
                dark = abs(norm(value) - 0.5) > 0.35
                look = {"color": "white" if dark else "black", "fontsize": 7}
                axes.text(s, t, f"{value:+.2f}", ha="center", va="center", **look)
    axes.set_xticks([])
    axes.set_yticks([])
    if max(delta_TxS.shape) <= figures.NAMES:
        axes.set_yticks(range(len(teachers)), _labels(results, teachers), fontsize=7)
        axes.set_xticks(range(len(students)), _labels(results, students), fontsize=7)
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


def _labels(results: StudyResults, names: Sequence[str]) -> list[str]:
    return [figures.labeled(name, results.models[name].accuracy) for name in names]


def _by_accuracy(results: StudyResults) -> list[str]:
    return sorted(results.models, key=lambda name: results.models[name].accuracy or 0.0)
