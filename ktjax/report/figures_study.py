"""Figures of a study: its results -> matplotlib Figure. See figures.py, figures_transfers.py."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ktjax.analysis.rows import StudyPair, StudyResults
from ktjax.report import figures
from ktjax.report.figures import COLORS, NARROW, Rows


def headroom_rows(results: StudyResults) -> Rows:
    """What each pair gained and lost, and what the ensemble gains; pairs without an ensemble are
    left out.
    """
    keys = ("objective", "student", "teacher", "runs", "delta", "gain", "loss")
    return [
        {key: getattr(pair, key) for key in keys} | {"headroom": pair.ensemble - pair.before}
        for pair in results.pairs
        if pair.ensemble is not None
    ]


def headroom(results: StudyResults, width: float) -> Figure:
    """Gain and loss of every pair over its headroom, a panel for each objective."""
    rows = headroom_rows(results)
    styles = figures.styles(row["objective"] for row in rows)
    title = "Gain and loss against headroom"
    # Each has its own scale: one objective's losses can be a hundred times another's gains.
    figure, grid = figures.panels(len(styles), width, title, line=2.8, rest=1.3, sharex=True)
    for axes, (objective, style) in zip(grid, styles.items(), strict=True):
        own = [row for row in rows if row["objective"] == objective]
        room, gain, loss, delta = (
            [row[key] for row in own] for key in ("headroom", "gain", "loss", "delta")
        )
        axes.vlines(room, 0, gain, color=COLORS[0], linewidth=2.2, label="gain")
        axes.vlines(
            room, [-x for x in loss], 0, color=COLORS[1], linewidth=2.2, ls=":", label="loss"
        )
        look = {"color": "white", "markeredgecolor": "black", "markersize": 5}
        axes.plot(room, delta, style.marker, label="change in accuracy", **look)
        axes.axhline(0, color="black", linewidth=1)
        axes.set_title(figures.clip(objective, 48, 2), fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("headroom: ensemble minus student (points)")
    handles = grid[0].get_legend_handles_labels()[0]
    figure.supylabel("gain (up) and loss (down), % of images", fontsize=9)
    return figures.plain_text(figure, handles)


def heat_rows(results: StudyResults) -> Rows:
    """Delta and net of each pair under each objective, from the least to the most accurate."""
    keys = ("objective", "student", "teacher", "runs", "delta", "delta_se", "net", "net_se")
    at = {name: i for i, name in enumerate(_by_accuracy(results))}
    pairs = sorted(results.pairs, key=lambda pair: (at[pair.teacher], at[pair.student]))
    order = list(results.success)
    pairs.sort(key=lambda pair: order.index(pair.objective))
    return [{key: getattr(pair, key) for key in keys} for pair in pairs]


def heat(results: StudyResults, width: float) -> Figure:
    """Transfer delta of every pair, a panel for each objective: a row per teacher."""
    objectives = list(results.success)
    title = "What each teacher changed in each student"
    figure, grid = figures.panels(len(objectives), width, title, line=4.0, rest=0.4)
    # Losses may be a hundred times larger than gains: these have a scale of their own, but small
    # ones look small. The scale is the same in all panels, so that equal losses look the same.
    deltas = [pair.delta for pair in results.pairs]
    most = max(*deltas, 1e-9)
    norm = TwoSlopeNorm(0.0, vmin=min(*deltas, -most), vmax=most)
    for axes, objective in zip(grid, objectives, strict=True):
        pairs = [pair for pair in results.pairs if pair.objective == objective]
        _panel(figure, axes, results, pairs, norm, width)
        axes.set_title(figures.clip(objective, 48, 2), fontsize=9)
    figure.supxlabel("student, more accurate to the right (%)", fontsize=9)
    figure.supylabel("teacher, more accurate upwards (%)", fontsize=9)
    return figures.plain_text(figure)


def _panel(
    figure: Figure,
    axes: Axes,
    results: StudyResults,
    pairs: Sequence[StudyPair],
    norm: TwoSlopeNorm,
    width: float,
) -> None:
    order = _by_accuracy(results)
    teachers = [name for name in order if any(pair.teacher == name for pair in pairs)]
    students = [name for name in order if any(pair.student == name for pair in pairs)]
    delta_TxS = np.full((len(teachers), len(students)), np.nan)
    for pair in pairs:
        delta_TxS[teachers.index(pair.teacher), students.index(pair.student)] = pair.delta
    axes.set_facecolor("#dddddd")
    image = axes.imshow(delta_TxS, cmap="PuOr_r", norm=norm, origin="lower", aspect="auto")
    figure.colorbar(image, ax=axes, label="delta (points)", location="bottom")
    if max(delta_TxS.shape) <= figures.numbers(NARROW):
        for (t, s), value in np.ndenumerate(delta_TxS):
            if np.isfinite(value):
                dark = abs(norm(value) - 0.5) > 0.35
                look = {"color": "white" if dark else "black", "fontsize": 6.5}
                axes.text(s, t, f"{value:+.2f}", ha="center", va="center", **look)
    axes.set_xticks([])
    axes.set_yticks([])
    if max(delta_TxS.shape) <= figures.named(width):
        on_y, on_x = (
            figures.labels(results.models, names, width) for names in (teachers, students)
        )
        axes.set_yticks(range(len(teachers)), on_y, fontsize=7)
        axes.set_xticks(range(len(students)), on_x, fontsize=7)
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


def _by_accuracy(results: StudyResults) -> list[str]:
    return sorted(results.models, key=lambda name: results.models[name].accuracy or 0.0)
