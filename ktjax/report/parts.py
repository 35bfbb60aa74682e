"""What the pages of reports are made of, and the parts that several of them have."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

from matplotlib.figure import Figure

from ktjax.analysis.rows import Results
from ktjax.report import figures


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of rows below a heading; every cell is text."""

    heading: str
    header: Sequence[str]
    groups: Sequence[Sequence[Sequence[str]]]
    words: Collection[str]  # columns that are aligned left; the others hold numbers
    note: str = ""  # how to read it


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and the rows of data that it shows; without rows it is left out."""

    name: str  # of its files
    rows: Callable[[Any], list[dict[str, Any]]]
    draw: Callable[[Any], Figure]
    caption: str  # how to read it


PROGRESS = Drawing(
    "progress",
    functools.partial(figures.history_rows, key="accuracy"),
    figures.progress,
    "Compare the shapes of the lines, not their level: this is not the validation split.",
)


def validation_images(results: Results) -> str:
    """What accuracies were measured on, such as "16,000 validation images of glyphs"."""
    data = results.data
    return f"{data.validation:,} validation images of {data.measured}"


def models_table(heading: str, results: Results) -> Table:
    """The accuracy of every model, and where the model comes from."""
    models = sorted(results.models.items(), key=lambda item: -(item[1].accuracy or 0))
    rows = [[n, _told(m.accuracy, ".2f"), _told(m.parameters, ","), m.origin] for n, m in models]
    header = ["model", "accuracy %", "parameters", "origin"]
    return Table(heading, header, [rows], words=("model", "origin"))


def _told(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def robustness_tables(results: Results) -> list[Table]:
    """The accuracy of every run on the robustness sets; no table if the config names none."""
    rows = [(run.run, run.robustness) for run in results.runs if run.robustness]
    if not rows:
        return []
    sets = list(rows[0][1])
    cells = [
        [name, *(f"{found[k]['before']:.2f} -> {found[k]['after']:.2f}" for k in sets)]
        for name, found in rows
    ]
    heading = "Accuracy on other test sets, before -> after %"
    return [Table(heading, ["run", *sets], [cells], words=("run",))]
