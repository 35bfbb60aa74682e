"""The page of a transfer: what each run changed in the student."""

import functools
import statistics

from ktjax.analysis.rows import Run, TransferResults
from ktjax.report import figures, parts
from ktjax.report.parts import Drawing, Table

NOTE = (
    "delta: accuracy after minus before, in percentage points, ± one standard error over the "
    "validation images. gain, loss: share of these images that became right, wrong. taught: share "
    "of the training samples whose target came from a teacher. ensemble: the reference line, where "
    "each image is answered by the most confident of the student before the transfer and the "
    "teachers."
)
KINDS = (
    "from a weaker teacher",
    "from an equally accurate teacher",
    "from a stronger teacher",
    "from a teacher of unknown accuracy",
    "from several teachers",
    "without a teacher",
)
DRAWINGS = (
    Drawing(
        "accuracy",
        functools.partial(
            figures.run_rows, keys=("accuracy_before", "accuracy_after", "delta", "delta_se")
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


def title(results: TransferResults) -> str:
    """The heading of the page."""
    students = dict.fromkeys(run.student for run in results.runs)
    return f"Knowledge transfer to {', '.join(students)}"


def summary(results: TransferResults) -> str:
    """The result in plain language, a few sentences."""
    runs = [run for run in results.runs if run.teachers]
    if not runs:
        return conclusion(results)
    better = sum(run.delta > 0 for run in runs)
    surely_better = sum(run.delta > 2 * run.delta_se for run in runs)
    surely_worse = sum(run.delta < -2 * run.delta_se for run in runs)
    mean = statistics.fmean(run.delta for run in runs)
    return (
        f"{better} of {len(runs)} transfers improved the student, {surely_better} by more than two "
        f"standard errors; {surely_worse} made it worse by more than two. The mean change is "
        f"{mean:+.2f} percentage points. {conclusion(results)}"
    )


def conclusion(results: TransferResults) -> str:
    """One sentence: the objective with the largest mean delta for each kind of teacher."""
    deltas: dict[str, dict[str, list[float]]] = {}
    for run in results.runs:
        of_kind = deltas.setdefault(_teacher_kind(run, results), {})
        of_kind.setdefault(run.objective, []).append(run.delta)
    clauses = []
    for kind in sorted(deltas, key=KINDS.index):
        means = {name: statistics.fmean(values) for name, values in deltas[kind].items()}
        best = max(means, key=means.get)
        count = len(deltas[kind][best])
        mean = f"mean of {count} runs" if count > 1 else "one run"
        verb = f"{best} improved most" if means[best] > 0 else f"nothing improved, best was {best}"
        clauses.append(f"{kind} {verb} ({means[best]:+.2f} points, {mean})")
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def tables(results: TransferResults) -> list[Table]:
    """The runs of each student; the stages of runs that have several; the robustness sets."""
    return [
        *_student_tables(results),
        *_stages_tables(results),
        *parts.robustness_tables(results),
    ]


def sections(results: TransferResults) -> list[Table]:
    """The models, and what each teacher knows that the student does not."""
    found = [parts.models_table("Models", results)]
    return [*found, _pairs_table(results)] if results.pairs else found


def _teacher_kind(run: Run, results: TransferResults) -> str:
    if len(run.teachers) != 1:
        return KINDS[4 if run.teachers else 5]
    (teacher,) = run.teachers
    if teacher not in results.models:
        return KINDS[3]
    difference = results.models[teacher].accuracy - run.accuracy_before
    return KINDS[1 + (difference > 0) - (difference < 0)]


def _student_tables(results: TransferResults) -> list[Table]:
    groups = figures.groups(results)
    seeds = len({run.seed for run in results.runs}) > 1
    header = ["objective", "teachers", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += ["gain %", "loss %", "taught %", "ensemble %"]
    data, found = parts.validation_images(results), []
    for student in dict.fromkeys(group.student for group in groups):
        own = [group for group in groups if group.student == student]
        before = own[0].runs[0].accuracy_before
        heading = f"Student {student}: {before:.2f} % of {data} right"
        rows = [[_run_cells(run, group, seeds) for run in group.runs] for group in own]
        found.append(Table(heading, header, rows, words=("objective", "teachers")))
    return found


def _run_cells(run: Run, group: figures.Group, seeds: bool) -> list[str]:
    return [
        run.objective,
        group.heading if group.teachers else "-",
        *[str(run.seed)] * seeds,
        *_change_cells(run),
        "-" if run.taught is None else f"{run.taught:.1f}",
        "-" if run.ensemble_accuracy is None else f"{run.ensemble_accuracy:.2f}",
    ]


def _change_cells(run: Run) -> list[str]:
    return [
        f"{run.accuracy_before:.2f} -> {run.accuracy_after:.2f}",
        f"{run.delta:+.2f} ± {run.delta_se:.2f}",
        f"{run.gain:.2f}",
        f"{run.loss:.2f}",
    ]


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
