"""Figures of all pairs of a zoo: results of a complementarity job -> matplotlib Figure.

As in figures.py: `*_rows` give the data that a figure shows; no rows mean nothing to draw. The
shades are those of cividis, whose steps look even, also to color-blind readers and in black and
white; different kinds also differ in marker or hatch.
"""

import numpy as np
from matplotlib.figure import Figure

from ktjax.analysis.rows import ComplementarityResults
from ktjax.report import figures
from ktjax.report.figures import COLORS, HATCHES, Rows

_BINS = 24  # of the lower envelope


def pair_rows(results: ComplementarityResults) -> Rows:
    """Everything known about each pair, except similarities, which have rows of their own."""
    return [
        {key: value for key, value in vars(pair).items() if key != "top_classes_similarity"}
        for pair in results.pairs
    ]


def heat_rows(results: ComplementarityResults) -> Rows:
    """rho_pos of each pair, teachers and students from the least to the most accurate."""
    order = _by_accuracy(results)
    rho = {(pair.teacher, pair.student): pair.rho_pos for pair in results.pairs}
    return [
        {"teacher": teacher, "student": student, "rho_pos": rho[teacher, student]}
        for teacher in order
        for student in order
        if teacher != student
    ]


def heat(results: ComplementarityResults, width: float) -> Figure:
    """rho_pos of every pair: a row for each teacher, a column for each student."""
    order = _by_accuracy(results)
    at = {name: i for i, name in enumerate(order)}
    rho_MxM = np.full((len(order), len(order)), np.nan)
    for row in heat_rows(results):
        rho_MxM[at[row["teacher"]], at[row["student"]]] = row["rho_pos"]
    wide = figures.is_wide(width)
    title = "Positive flips: what each teacher could teach each student"
    figure = figures.new_figure(width, 6.9 if wide else 5, title)
    axes = figure.add_subplot()
    axes.set_facecolor("white")
    image = axes.imshow(rho_MxM, cmap="cividis", origin="lower")
    figure.colorbar(
        image,
        shrink=0.8,
        location="right" if wide else "bottom",
        label="rho_pos: teacher right, student wrong (% of images)",
    )
    if len(order) <= figures.numbers(width):
        for (t, s), value in np.ndenumerate(rho_MxM):
            if t != s:
                dark = image.norm(value) < 0.5
                look = {"color": "white" if dark else "black", "fontsize": 8 if wide else 6.5}
                axes.text(s, t, f"{value:.1f}", ha="center", va="center", **look)
    if len(order) <= figures.named(width):
        labels = figures.labels(results.models, order, width)
        size = (8 if wide else 7) if len(order) <= 30 else 5
        axes.set_yticks(range(len(order)), labels, fontsize=size)
        axes.set_xticks(range(len(order)), labels, fontsize=size, rotation=45, ha="right")
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("student, more accurate to the right (accuracy in %)")
    axes.set_ylabel("teacher, more accurate upwards (accuracy in %)")
    return figures.plain_text(figure)


def envelope(results: ComplementarityResults) -> Rows:
    """The smallest rho_pos among pairs with about the same accuracy difference."""
    difference, rho = _columns(results, "accuracy_difference", "rho_pos")
    # Bins hold equal numbers of pairs: with few models, most would be empty otherwise.
    order = np.argsort(difference, kind="stable")
    bins = np.array_split(order, min(_BINS, max(1, len(order) // 3)))
    lowest = [members[np.argmin(rho[members])] for members in bins]
    return [{"accuracy_difference": difference[i], "rho_pos": rho[i]} for i in lowest]


def against_accuracy(results: ComplementarityResults, width: float) -> Figure:
    """rho_pos against the accuracy difference, a point per pair (the paper's figure 1)."""
    difference, rho = _columns(results, "accuracy_difference", "rho_pos")
    title = "Even weaker teachers know what a student does not"
    figure = figures.new_figure(width, 6, title)
    axes = figure.add_subplot()
    many = len(rho) > 2000
    for where, marker, color, label in (
        (difference <= 0, "v", COLORS[0], "teacher no better than the student"),
        (difference > 0, "^", COLORS[1], "teacher better"),
    ):
        look = {"marker": marker, "color": color, "markeredgecolor": "none" if many else "black"}
        look |= {"markersize": 2.5 if many else 7, "alpha": 0.35 if many else 0.85}
        axes.plot(difference[where], rho[where], linestyle="", label=label, rasterized=True, **look)
    lowest = envelope(results)
    x, y = ([row[key] for row in lowest] for key in ("accuracy_difference", "rho_pos"))
    axes.plot(x, y, color="black", linewidth=1.6, label="lower envelope of the pairs")
    ends = np.array([difference.min(), 0, max(difference.max(), 0)])
    bound = {"color": "black", "linewidth": 1, "linestyle": ":"}
    axes.plot(ends, np.maximum(ends, 0), label="least possible", **bound)
    axes.axhline(2, color="#666666", linewidth=1, linestyle="--", label="2 %")
    axes.set_xlabel("accuracy of the teacher minus that of the student (points)")
    axes.set_ylabel("rho_pos: teacher right, student wrong (% of images)")
    axes.set_ylim(bottom=-0.02 * rho.max())
    axes.grid(alpha=0.3)
    return figures.plain_text(figure, axes.get_legend_handles_labels()[0])


def entropy_rows(results: ComplementarityResults) -> Rows:
    """The entropy of each pair's positive flips over the classes."""
    keys = ("teacher", "student", "flip_entropy")
    return [{key: getattr(pair, key) for key in keys} for pair in results.pairs]


def entropy(results: ComplementarityResults, width: float) -> Figure:
    """How evenly the positive flips are spread over the classes, a histogram over pairs."""
    (values,) = _columns(results, "flip_entropy")
    figure = figures.new_figure(width, 4.2, "How evenly positive flips are spread over the classes")
    axes = figure.add_subplot()
    low = min(values.min(), 0.98)
    bins = np.linspace(low - 0.02 * (1 - low), 1, min(40, max(8, len(values) // 4)))
    look = {"color": COLORS[5], "edgecolor": "black", "linewidth": 0.6, "hatch": "//"}
    axes.hist(values, bins=bins, label="pairs", **look)
    axes.axvline(1, color="black", linewidth=1.6, linestyle="--", label="the same in every class")
    axes.set_xlabel("entropy of the positive flips over the classes (share of the maximum)")
    axes.set_ylabel("pairs")
    axes.yaxis.set_major_locator(figures.whole_numbers())
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figures.plain_text(figure, axes.get_legend_handles_labels()[0])


def area_rows(results: ComplementarityResults) -> Rows:
    """The classes in which one teacher knows most of what one student does not."""
    return results.expertise["classes"]


def areas(results: ComplementarityResults, width: float) -> Figure:
    """The teacher's areas of expertise, for the pair that the report shows pictures of."""
    rows, found = area_rows(results), results.expertise
    title = f"Where {found['teacher']} knows what {found['student']} does not"
    figure = figures.new_figure(width, 1.9 + 0.3 * len(rows), title)
    axes = figure.add_subplot()
    for i, percent in enumerate((2, 5, 20, 50)):
        bars = [(y, row["flips"]) for y, row in enumerate(rows) if row["among_top"] == percent]
        if bars:
            look = {"color": COLORS[i], "hatch": HATCHES[i], "edgecolor": "black"}
            label = f"in the top set of {percent} %"
            axes.barh(*zip(*bars, strict=True), height=0.7, linewidth=0.6, label=label, **look)
    labels = []
    for y, row in enumerate(rows):
        name = f"{row['class']}, {row['group']}" if row["group"] else row["class"]
        labels.append(figures.cut(name, 44 if figures.is_wide(width) else 24))
        text = f" {row['flips']} of {row['images']}"
        axes.text(row["flips"], y, text, va="center", fontsize=7.5)
    axes.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.12 if figures.is_wide(width) else 0.45)
    axes.xaxis.set_major_locator(figures.whole_numbers())
    axes.set_xlabel("positive flips (images)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figures.plain_text(figure, axes.get_legend_handles_labels()[0])


def similarity_rows(results: ComplementarityResults) -> Rows:
    """A row per pair and size of set: the similarity of its top classes, and of all."""
    return [
        {"teacher": pair.teacher, "student": pair.student, "percent": int(percent)}
        | {"mean": mean, "largest": largest, "all": results.similarity_of_all}
        for pair in results.pairs
        for percent, (mean, largest) in (pair.top_classes_similarity or {}).items()
        if mean is not None
    ]


def similarity(results: ComplementarityResults, width: float) -> Figure:
    """How alike the classes of the areas of expertise are, against any two classes."""
    rows, of = similarity_rows(results), results.config["similarity"]
    title = f"How alike the classes of one area of expertise are ({of})"
    figure = figures.new_figure(width, 4.6, title)
    axes = figure.add_subplot()
    percents = sorted({row["percent"] for row in rows})
    for i, percent in enumerate(percents):
        values = [row["mean"] for row in rows if row["percent"] == percent]
        figures.box(axes, i, values, color=COLORS[5])
        plain = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the line stays behind it
        median = float(np.median(values))
        look = {"va": "center", "fontsize": 8, "bbox": plain}
        if figures.is_wide(width):
            axes.text(i + 0.31, median, f"{median:.3f}", **look)
    look = {"color": "black", "linewidth": 1.6, "linestyle": "--"}
    (line,) = axes.plot([], [], label=f"any two classes: {rows[0]['all']:.3f}", **look)
    axes.axhline(rows[0]["all"], **look)
    counts = [sum(row["percent"] == percent for row in rows) for percent in percents]
    ticks = [f"{p} %\n{n} pairs" for p, n in zip(percents, counts, strict=True)]
    axes.set_xticks(range(len(percents)), ticks)
    axes.set_xlim(-0.6, len(percents) - 0.3)
    axes.set_xlabel("smallest set of classes with this share of the positive flips")
    axes.set_ylabel("mean similarity of two classes of the set")
    axes.grid(axis="y", alpha=0.3)
    return figures.plain_text(figure, [line])


def _by_accuracy(results: ComplementarityResults) -> list[str]:
    models = results.models
    return sorted(models, key=lambda name: models[name].accuracy)


def _columns(results: ComplementarityResults, *keys: str) -> list[np.ndarray]:
    return [np.array([getattr(pair, key) for pair in results.pairs]) for key in keys]
