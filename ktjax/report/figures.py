"""Figures of a run: the record of results.json -> matplotlib Figure.

`*_rows` give the data that a figure shows, a dict per bar, point or image; page.py also writes them
as CSV. No rows: nothing to draw. Figures are made without pyplot: no global state, no display.
Objectives differ in color and in marker, hatch or dashes, so a black and white print is readable.
Each is drawn for a screen and for a phone, WIDE and NARROW, with text of the same size.
"""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ktjax.analysis.rows import Entry, Model, Results, Run
from ktjax.report import names

Rows = list[dict[str, Any]]

WIDE, NARROW = 8.0, 3.7  # inches; a phone shows 96 pixels per inch, and 358 in its page

# Okabe and Ito's palette for color-blind readers, without its yellow and black. The lists differ
# in length: the pairs of color and marker repeat only after 63 objectives.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
HATCHES = ("", "//", "..", "xx", "||", "\\\\", "++", "oo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
DASHES = ("-", "--", ":", "-.")


class Style(NamedTuple):
    """How the marks of one objective look."""

    color: str
    hatch: str
    marker: str
    dashes: str


class Group(NamedTuple):
    """The runs that adapt one student with the same teachers."""

    student: str
    teachers: tuple[str, ...]
    heading: str  # the teachers with their accuracy
    runs: Sequence[Run]


def whole_numbers() -> ticker.Locator:
    """Integer ticks for an axis of counts."""
    return ticker.MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True)


def groups(results: Results) -> list[Group]:
    """Runs by student, then teachers: none, one from weak to strong, several; then by objective."""
    runs, models = results.runs, results.models
    students = list(dict.fromkeys(run.student for run in runs))
    objectives = list(styles_of(results))
    accuracy_of = {name: m.accuracy for name, m in models.items() if m.accuracy is not None}

    def heading(teachers: Sequence[str]) -> str:
        with_accuracy = (
            f"{t} ({accuracy_of[t]:.2f} %)" if t in accuracy_of else t for t in teachers
        )
        return " + ".join(with_accuracy) or "no teacher"

    def key(run: Run) -> tuple:
        mean = sum(accuracy_of.get(t, 0.0) for t in run.teachers) / max(len(run.teachers), 1)
        # Whatever their order, which may differ between seeds.
        return students.index(run.student), len(run.teachers), mean, sorted(run.teachers)

    runs = sorted(runs, key=lambda r: (key(r), objectives.index(r.objective), r.seed))
    together = [list(members) for _, members in itertools.groupby(runs, key)]
    return [
        Group(same[0].student, same[0].teachers, heading(same[0].teachers), same)
        for same in together
    ]


def styles(objectives: Iterable[str]) -> dict[str, Style]:
    """How each objective is drawn, in order of appearance."""
    lists = (COLORS, HATCHES, MARKERS, DASHES)
    found = enumerate(dict.fromkeys(objectives))
    return {name: Style(*(kind[i % len(kind)] for kind in lists)) for i, name in found}


def styles_of(results: Results) -> dict[str, Style]:
    """How the objectives of the runs are drawn."""
    return styles(run.objective for run in results.runs)


def best_run(results: Results) -> Run | None:
    """The run with the largest delta, among those with a teacher if there are any."""
    runs = results.runs
    return max([r for r in runs if r.teachers] or runs, key=lambda r: r.delta, default=None)


def run_rows(results: Results, keys: Sequence[str]) -> Rows:
    """One row per run: its student, teachers, objective, seed and `keys`."""
    runs = [run for group in groups(results) for run in group.runs]
    return [_name(run) | {key: getattr(run, key) for key in keys} for run in runs]


def history_rows(results: Results, key: str) -> Rows:
    """One row per run and recorded step at which `key` (accuracy, taught) is known."""
    return [
        _name(run) | {k: getattr(point, k) for k in ("step", "epoch", key)}
        for group in groups(results)
        for run in group.runs
        for point in run.history
        if getattr(point, key) is not None
    ]


def gain_loss(results: Results, width: float) -> Figure:
    """Knowledge gained against knowledge lost, a point per run."""
    rows = run_rows(results, ("gain", "loss"))
    side = min(width, 6.4)
    figure = new_figure(side, side + 0.6, "Knowledge gained against knowledge lost")
    axes = figure.add_subplot(aspect="equal")
    values = [row[key] for row in rows for key in ("gain", "loss")]
    margin = 0.08 * (max(values) - min(values)) or 0.5
    limits = max(min(values) - margin, -margin / 4), max(values) + margin  # shares start at 0
    axes.plot(limits, limits, color="black", linewidth=1, linestyle="--")
    for name, style in styles_of(results).items():
        points = [(row["loss"], row["gain"]) for row in rows if row["objective"] == name]
        look = {"marker": style.marker, "color": style.color, "markeredgecolor": "black"}
        axes.plot(
            *zip(*points, strict=True), linestyle="", markersize=8, alpha=0.85, label=name, **look
        )
    axes.set(xlim=limits, ylim=limits)
    axes.set_xlabel("knowledge loss: right before, wrong after (% of samples)")
    axes.set_ylabel("knowledge gain: wrong before, right after (% of samples)")
    text = {"transform": axes.transAxes, "style": "italic"}
    axes.text(0.02, 0.98, "student improves", va="top", **text)
    axes.text(0.98, 0.02, "student gets worse", ha="right", **text)
    axes.grid(alpha=0.3)
    return plain_text(figure, axes.get_legend_handles_labels()[0])


def taught(results: Results, width: float) -> Figure:
    """Share of samples that a teacher, not the initial student, teaches, over steps."""
    title = "Share of samples taught by a teacher during training"
    return _history(results, width, "taught", "taught by a teacher (%)", title)


def progress(results: Results, width: float) -> Figure:
    """Accuracy on the tuning split over steps; its level differs from the validation split's."""
    title = "Student accuracy during training, on the tune split"
    return _history(results, width, "accuracy", "accuracy, tune split (%)", title)


def class_rows(results: Results, *, most: int = 10) -> Rows:
    """The best run's classes that changed most, best first: images gained, lost, net, total."""
    run = best_run(results)
    if run is None or not run.class_gain:
        return []
    counts = (results.class_counts, run.class_gain, run.class_loss)
    rows = [
        {"class": name, "images": images, "gained": gain, "lost": loss, "net": gain - loss}
        for name, images, gain, loss in zip(results.classes, *counts, strict=True)
    ]
    rows.sort(key=lambda row: -row["net"])
    up, down = ([row for row in rows if sign * row["net"] > 0] for sign in (1, -1))
    return up[:most] + down[-most:]


def classes(results: Results, width: float) -> Figure:
    """Images gained and lost in the classes that changed most, for the best run."""
    run, rows = best_run(results), class_rows(results)
    of = f"from {' + '.join(run.teachers)}" if run.teachers else "without a teacher"
    title = f"Classes that changed most: {run.student}, {run.objective} {of}"
    letters = 34 if is_wide(width) else 17
    labels = [f"{clip(row['class'], letters, 2)} (of {row['images']})" for row in rows]
    figure = new_figure(width, 1.8 + 0.3 * len(rows), title)
    axes, ys = figure.add_subplot(), range(len(rows))
    gained, lost, net = ([row[key] for row in rows] for key in ("gained", "lost", "net"))
    bar = {"height": 0.7, "edgecolor": "black", "linewidth": 0.6}
    gain = axes.barh(ys, gained, color=COLORS[0], label="gained: wrong before, right after", **bar)
    bar |= {"color": COLORS[1], "hatch": "//", "label": "lost: right before, wrong after"}
    loss = axes.barh(ys, [-n for n in lost], **bar)
    (diamond,) = axes.plot(net, ys, "D", color="white", markeredgecolor="black", label="net change")
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(ys, labels, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(whole_numbers())
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    axes.set_xlabel("validation images lost (left) and gained (right)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return plain_text(figure, [gain, loss, diamond])


def example_rows(examples: Sequence[Mapping[str, Any]], *, most: int = 12) -> Rows:
    """The captions of the images that `examples` shows."""
    keys = ("label", "student_says", "teacher", "teacher_says", "after_says")
    # Without training there is no student after it.
    found = [{k: example[k] for k in keys if k in example} for example in examples[:most]]
    return [dict(zip(row, names.in_words(list(row.values())), strict=True)) for row in found]


def examples(examples: Sequence[Mapping[str, Any]], width: float) -> Figure:
    """Images that a teacher got right and the student wrong, with the answer of each."""
    said = {"label": "true", "student_says": "student", "teacher_says": "teacher"}
    said |= {"after_says": "after"}
    columns = 4 if is_wide(width) else 2
    captions = [
        "\n".join(clip(f"{name}: {row[key]}", 28, 3) for key, name in said.items() if key in row)
        for row in example_rows(examples)
    ]
    tall = max(caption.count("\n") + 1 for caption in captions)
    teachers = " / ".join(dict.fromkeys(row["teacher"] for row in example_rows(examples)))
    title = f"Positive flips: the student was wrong, the teacher right ({teachers})"
    top, column = 0.45 + 0.18 * min(len(title) // round(10 * width), 3), width / columns  # inches
    cell = column - 0.1 + 0.14 * tall
    height = top + -(-len(captions) // columns) * cell
    figure = new_figure(width, height, title)
    # Constrained layout leaves too little room for captions under images of fixed aspect.
    figure.set_layout_engine("none")
    for i, (example, caption) in enumerate(zip(examples, captions, strict=False)):
        side = column - 0.2
        left, bottom = i % columns * column + 0.1, height - top - i // columns * cell - side
        box = (left / width, bottom / height, side / width, side / height)
        axes = figure.add_axes(box, anchor="SW")
        axes.set_axis_off()
        axes.imshow(np.asarray(example["image"]), interpolation="nearest")
        axes.text(0, -0.03, caption, transform=axes.transAxes, va="top", fontsize=7.5)
    return plain_text(figure)


def _history(results: Results, width: float, key: str, ylabel: str, title: str) -> Figure:
    """One panel per student and teachers, one line per run."""

    def points(run: Run) -> list[Entry]:
        return [point for point in run.history if getattr(point, key) is not None]

    drawn = [group for group in groups(results) if any(points(run) for run in group.runs)]
    many_students = len({group.student for group in groups(results)}) > 1
    figure, grid = panels(len(drawn), width, title, line=2.5, rest=1.3, sharey=True)
    handles = {}
    for axes, group in zip(grid, drawn, strict=True):
        for run in filter(points, group.runs):
            style = styles_of(results)[run.objective]
            look = {"color": style.color, "linestyle": style.dashes, "marker": style.marker}
            look |= {"markersize": 5, "markevery": max(1, len(points(run)) // 6), "linewidth": 1.4}
            steps, values = ([getattr(point, k) for point in points(run)] for k in ("step", key))
            (handles[run.objective],) = axes.plot(steps, values, label=run.objective, **look)
        heading = f"{group.student}, {group.heading}" if many_students else group.heading
        axes.set_title(clip(heading, 52 if is_wide(width) else 44, 3), fontsize=8.5)
        axes.set_xlabel("training step", fontsize=8.5)
        axes.grid(alpha=0.3)
    figure.supylabel(ylabel, fontsize=10)
    return plain_text(figure, list(handles.values()))


def _name(run: Run) -> dict[str, Any]:
    return {key: getattr(run, key) for key in ("student", "teachers", "objective", "seed")}


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure, sizes in inches; its title may take several lines."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    figure.suptitle(clip(title, round(width * 10), 4), fontsize=11)
    return figure


def panels(
    count: int,
    width: float,
    title: str,
    *,
    line: float,
    rest: float,
    columns: int = 2,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, in one column on a phone.

    Args:
      count: how many panels.
      width: of the figure, in inches.
      title: of the figure.
      line: the height of a line of panels, in inches.
      rest: the height of what is around them, in inches.
      columns: how many there are at most.
      sharex: panels have the same x axis.
      sharey: panels have the same y axis.
    """
    columns = min(columns, count) if is_wide(width) else 1
    lines = -(-count // columns)
    figure = new_figure(width, rest + line * lines, title)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def is_wide(width: float) -> bool:
    """Whether a width in inches is more than a phone has."""
    return width > NARROW


def clip(text: str, width: int, lines: int) -> str:
    """`text` wrapped at `width`; more than `lines` lines end in an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))


def cut(text: str, letters: int) -> str:
    """The beginning of a name that has no spaces to wrap it at."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def labels(models: Mapping[str, Model], shown: Sequence[str], width: float) -> list[str]:
    """Labels of models on a heat map: their shortest names, and the accuracy if known."""
    short, most = names.shortest(models), 24 if is_wide(width) else 17
    tails = [cut(short[name], most) for name in shown]
    found = [models[name].accuracy for name in shown]
    return [
        tail if accuracy is None else f"{tail} {accuracy:.1f}"
        for tail, accuracy in zip(tails, found, strict=True)
    ]


def numbers(width: float) -> int:
    """The most models for which a heat map of pairs has numbers in its cells."""
    return 14 if is_wide(width) else 9


def named(width: float) -> int:
    """The most models for which a heat map of pairs has names at its sides."""
    return 60 if is_wide(width) else 20


def box(axes: Axes, at: float, values: Sequence[float], *, color: str, hatch: str = "") -> None:
    """A box from the first to the third quartile, its median, and whiskers over all values."""
    look = {"facecolor": color, "edgecolor": "black", "hatch": hatch, "alpha": 0.75}
    median = {"color": "black", "linewidth": 2.4}
    boxes = {"patch_artist": True, "boxprops": look, "medianprops": median, "whis": (0, 100)}
    axes.boxplot([values], positions=[at], widths=0.5, manage_ticks=False, **boxes)


def plain_text(figure: Figure, handles: Sequence = ()) -> Figure:
    """Adds the legend under the figure, wraps the labels of axes, and turns off mathtext: names
    may contain $.
    """
    wide = is_wide(figure.get_figwidth())
    if handles:
        columns = 3 if wide else 1
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_label_text(clip(axis.get_label_text(), 90 if wide else 32, 3), fontsize=9)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
