"""The page of a transfer: what each run changed in the student. Its sentences: verdicts.py."""

import functools

from ktjax.analysis import controls
from ktjax.analysis.rows import Outcome, Run, TransferResults
from ktjax.report import figures, parts
from ktjax.report.parts import Drawing, Table

NOTE = (
    "delta: accuracy after minus before, in percentage points, ± one standard error over the "
    "validation images. net: delta minus that of the control, the same training without a teacher "
    "that gained most on tune. gain, loss: share of these images that became right, wrong. taught: "
    "share of the training samples whose target came from a teacher. ensemble: the reference line, "
    "where each image is answered by the most confident of the student before the transfer and the "
    "teachers."
)
DRAWINGS = (
    Drawing(
        "accuracy",
        functools.partial(
            figures.run_rows,
            keys=(
                *("accuracy_before", "accuracy_after", "delta", "delta_se"),
                *("control", "net", "net_se"),
            ),
        ),
        figures.accuracy,
        "Each bar runs from the student's accuracy before the transfer (black line) to the one "
        "after; a change well beyond its error bar (one standard error) is unlikely chance.",
    ),
    Drawing(
        "gain_loss",
        functools.partial(figures.run_rows, keys=("gain", "loss")),
        figures.gain_loss,
        "Above the dashed line a student learned more than it forgot.",
    ),
    Drawing(
        "taught",
        functools.partial(figures.history_rows, key="taught"),
        figures.taught,
        "How many of the samples a run lets a teacher teach; the others keep what was known.",
    ),
    parts.PROGRESS,
    Drawing(
        "classes",
        figures.class_rows,
        figures.classes,
        "Images that became right (right of zero) or wrong (left) in the run that improved most.",
    ),
)


def _served(results: TransferResults) -> list[Table]:
    """Which objectives saw less than all logits of a frozen model."""
    if not results.served:
        return []
    rows = [[name, served] for name, served in results.served.items()]
    note = "exact: as with all logits. approximate: the divergence counts all other classes as one."
    header = ["objective", "served"]
    return [Table("How the largest logits serve", header, [rows], ("objective", "served"), note)]


def title(results: TransferResults) -> str:
    """The heading of the page."""
    students = dict.fromkeys(run.student for run in results.runs)
    return f"Knowledge transfer to {', '.join(students)}"


def tables(results: TransferResults) -> list[Table]:
    """The runs of each student, their means over seeds and their controls; the stages of runs that
    have several; the robustness sets.
    """
    return [
        *_student_tables(results),
        *_means_tables(results),
        *_controls_tables(results),
        *_stages_tables(results),
        *parts.robustness_tables(results),
    ]


def sections(results: TransferResults) -> list[Table]:
    """The models, and what each teacher knows that the student does not."""
    found = [parts.models_table("Models", results), *_served(results)]
    return [*found, _pairs_table(results)] if results.pairs else found


def _student_tables(results: TransferResults) -> list[Table]:
    groups = figures.groups(results)
    seeds, net = _several_seeds(results), _has_net(results)
    header = ["objective", "teachers", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += [*["net ± se points"] * net, "gain %", "loss %", "taught %", "ensemble %"]
    data, found = parts.validation_images(results), []
    for student in dict.fromkeys(group.student for group in groups):
        own = [group for group in groups if group.student == student]
        before = own[0].runs[0].accuracy_before
        heading = f"Student {student}: {before:.2f} % of {data} right"
        rows = [[_run_cells(run, group, seeds, net) for run in group.runs] for group in own]
        found.append(Table(heading, header, rows, words=("objective", "teachers")))
    return found


def _several_seeds(results: TransferResults) -> bool:
    return len({run.seed for run in results.runs}) > 1


def _has_net(results: TransferResults) -> bool:
    return any(run.net is not None for run in results.runs)


def _run_cells(run: Run, group: figures.Group, seeds: bool, net: bool) -> list[str]:
    before_and_after, delta, gain, loss = _change_cells(run)
    return [
        run.objective,
        group.heading if group.teachers else "-",
        *[str(run.seed)] * seeds,
        before_and_after,
        delta,
        *[_with_error(run.net, run.net_se)] * net,
        gain,
        loss,
        "-" if run.taught is None else f"{run.taught:.1f}",
        "-" if run.ensemble_accuracy is None else f"{run.ensemble_accuracy:.2f}",
    ]


def _change_cells(run: Run) -> list[str]:
    return [
        f"{run.accuracy_before:.2f} -> {run.accuracy_after:.2f}",
        _with_error(run.delta, run.delta_se),
        f"{run.gain:.2f}",
        f"{run.loss:.2f}",
    ]


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} ± {error:.2f}"


def _means_tables(results: TransferResults) -> list[Table]:
    """What counts as a success: the means over seeds; no table where there is one seed."""
    if not _several_seeds(results):
        return []
    groups, net = figures.groups(results), _has_net(results)
    found = {(o.student, o.teachers, o.objective): o for o in controls.outcomes(results.runs)}

    def cells(outcome: Outcome, group: figures.Group) -> list[str]:
        return [
            outcome.objective,
            group.heading if group.teachers else "-",
            str(outcome.runs),
            _with_error(outcome.delta, outcome.delta_se),
            *[_with_error(outcome.net, outcome.net_se)] * net,
        ]

    header = ["objective", "teachers", "seeds", "delta ± se points", *["net ± se points"] * net]
    tables = []
    for student in dict.fromkeys(group.student for group in groups):
        own = [group for group in groups if group.student == student]
        rows = [
            [
                cells(found[student, group.teachers, name], group)
                for name in dict.fromkeys(run.objective for run in group.runs)
            ]
            for group in own
        ]
        heading = f"Means over seeds, of {student}; errors are over images and over seeds, pooled"
        tables.append(Table(heading, header, rows, words=("objective", "teachers")))
    return tables


def _controls_tables(results: TransferResults) -> list[Table]:
    """What each student learned without a teacher, and which control was chosen by tune."""
    seeds = len({run.seed for run in results.controls}) > 1
    header = ["control", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += ["gain %", "loss %", "on tune points", "chosen"]
    tables = []
    for student, chosen in controls.choose(results.controls).items():
        own = [run for run in results.controls if run.student == student]
        names = list(dict.fromkeys(run.objective for run in own))
        before = own[0].accuracy_before
        none = [controls.NONE, *["-"] * seeds, f"{before:.2f} -> {before:.2f}"]
        none += [_with_error(0.0, 0.0), "0.00", "0.00", "+0.00", _mark(chosen == controls.NONE)]
        own.sort(key=lambda run: names.index(run.objective))  # seeds beside each other
        rows = [none, *(_control_cells(run, run.objective == chosen, seeds) for run in own)]
        heading = f"Controls of {student}, which no teacher taught"
        tables.append(Table(heading, header, [rows], words=("control", "chosen")))
    return tables


def _control_cells(run: Run, is_chosen: bool, seeds: bool) -> list[str]:
    tune = f"{controls.tune_delta(run):+.2f}"
    seed = [str(run.seed)] * seeds
    return [run.objective, *seed, *_change_cells(run), tune, _mark(is_chosen)]


def _mark(is_chosen: bool) -> str:
    return "by tune" if is_chosen else ""


def _stages_tables(results: TransferResults) -> list[Table]:
    header = ["run", "teacher", "before -> after %", "delta ± se points", "gain %", "loss %"]
    groups = [
        [
            [run.run if i == 0 else "", stage.teachers[0], *_change_cells(stage)]
            for i, stage in enumerate(run.stages)
        ]
        for run in results.runs
        if run.stages
    ]
    if not groups:
        return []
    return [Table("Teacher after teacher", header, groups, words=("run", "teacher"))]


def _pairs_table(results: TransferResults) -> Table:
    header = ["teacher", "student", "positive flips %", "negative flips %"]
    header += ["entropy, share of maximum", "5 % of them in"]
    rows = [
        [
            pair.teacher,
            pair.student,
            f"{pair.rho_pos:.2f}",
            f"{pair.rho_neg:.2f}",
            f"{pair.flip_entropy:.2f}",
            ", ".join(pair.top_classes["5"]),
        ]
        for pair in results.pairs
    ]
    words = ("teacher", "student", "5 % of them in")
    return Table("Complementary knowledge", header, [rows], words=words)
