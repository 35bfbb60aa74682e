"""Building blocks of report pages, and the parts that several of them share."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ktjax.analysis.rows import Results, StudyResults, TransferResults
from ktjax.report import figures


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of rows below a heading; every cell is text."""

    heading: str
    header: Sequence[str]
    groups: Sequence[Sequence[Sequence[str]]]
    words: Collection[str]  # columns that are aligned left; the others hold numbers
    note: str  # how to read it; empty if the next table's note is for both


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and the rows of data that it shows; without rows it is left out."""

    name: str  # of its files
    rows: Callable[[Any], list[dict[str, Any]]]
    draw: Callable[[Any, float], Figure]  # of a width in inches: figures.WIDE or figures.NARROW
    caption: str  # how to read it


PROGRESS = Drawing(
    "progress",
    functools.partial(figures.history_rows, key="accuracy"),
    figures.progress,
    "A line per run: accuracy on the tune split during training. Compare the shapes of the lines, "
    "not their level: this is not the validation split.",
)

COST = (
    "steps: training steps of a run, at all its learning rates that did not diverge. passes: "
    "images that its teachers and the initial student answered for it, each view once if answers "
    "are stored."
)

# What students learn from without a teacher, by objective.
_ALONE = {
    "xe": "labels only",
    "xe_self": "half label, half initial student",
    "self": "the initial student only",
    "self_pool": "the calibrated initial student only",
    "self_corrected": "the calibrated initial student, corrected so that the label leads",
}


def trained_alone(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """What each of these entries of a config teaches, but for those that need teachers."""
    told = [
        f"{name}: {_weighted(entry) or what}."
        for objective, what in _ALONE.items()
        for name, entry in entries.items()
        if entry["objective"] == objective
    ]
    return " ".join(told)


def _weighted(entry: Mapping[str, Any]) -> str:
    """What a mixture is that is not half and half; else nothing."""
    own = entry["alpha"] if entry["objective"] == "xe_self" else 0.5
    return "" if own == 0.5 else f"labels, and the initial student with weight {own:g}"


def validation_images(results: Results) -> str:
    """What accuracies were measured on, such as "16,000 validation images of glyphs"."""
    data = results.data
    return f"{data.validation:,} validation images of {data.measured}"


def of_chance(results: Results) -> str:
    """The accuracy of always naming the most frequent class: the baseline of accuracies."""
    share = 100 * max(results.class_counts) / max(sum(results.class_counts), 1)
    return f"naming the most frequent class always: {share:.1f} %"


def models_table(heading: str, results: Results) -> Table:
    """The accuracy of every model, and where the model comes from."""
    models = sorted(results.models.items(), key=lambda item: -(item[1].accuracy or 0))
    own = any(model.own_accuracy is not None for _, model in models)
    rows = [
        [
            *(name, told(model.accuracy, ".2f")),
            *[told(model.own_accuracy, ".2f")] * own,
            *(told(model.parameters, ","), model.origin),
        ]
        for name, model in models
    ]
    header = ["model", "accuracy %", *["own transform %"] * own, "parameters", "origin"]
    note = (
        f"accuracy: share of the {validation_images(results)} that a model gets right; "
        f"{of_chance(results)}. "
    )
    if own:
        note += "own transform: the same on images cropped and resized by the model's own "
        note += "transform, instead of as all models see them here. "
    note += "origin: where its weights come from."
    return Table(heading, header, [rows], words=("model", "origin"), note=note)


def told(number: float | None, form: str) -> str:
    """A number in a cell of a table; a dash if it is not known."""
    return "-" if number is None else format(number, form)


def counted(number: float | None) -> str:
    """A number of steps, images or seconds."""
    return told(number, ",.0f")


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
    note = "The model of each run before and after its training, on images not used for it."
    return [Table(heading, ["run", *sets], [cells], words=("run",), note=note)]


def served_tables(results: TransferResults | StudyResults) -> list[Table]:
    """Which objectives did not see all logits of a frozen model; no table if all did."""
    if not results.served:
        return []
    rows = [[name, served] for name, served in results.served.items()]
    header = ["objective", "served"]
    note = "exact: as with all logits. approximate: the divergence counts all other classes as one."
    return [Table("How the largest logits serve", header, [rows], words=header, note=note)]
