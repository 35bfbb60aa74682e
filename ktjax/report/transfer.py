"""The page of a transfer: what each run changed in the student. Its sentences: verdicts.py."""

import functools

from ktjax.analysis import controls, transfers
from ktjax.analysis.rows import Outcome, Run, TransferResults
from ktjax.report import figures, figures_change, names, parts
from ktjax.report.parts import Drawing, Table

NET_NOTE = (
    " net: delta minus that of the control, the same training without a teacher that gained most "
    "on tune."
)
POOL_NOTE = "; of a pool, the teachers' share of the weights"
NOTE = (
    "delta: accuracy after minus before, in percentage points, ± one standard error over the "
    f"validation images.{NET_NOTE} gain, loss: share of these images that became right, wrong. "
    f"taught: share of the training samples whose target came from a teacher{POOL_NOTE}. ensemble: "
    "for reference, each image answered by the most confident of the initial student and the "
    "teachers."
)
SOUP_NOTE = (
    "soup: the average of the weights of the students that each teacher taught alone, without "
    "further training."
)
MUTUAL_NOTE = "No model was frozen: all taught each other, and each has a table as a student."
MEANS_NOTE = (
    "In percentage points, ± one standard error over the validation images and the seeds, whose "
    f"spread is that of all rows with the same objective.{NET_NOTE}"
)
EXPORTED_NOTE = (
    "exported: which weights; a run that abstained keeps the student as it was, as no improvement "
    "could be shown on the images that decide. at the end: delta of the final weights."
)
CONTROLS_NOTE = (
    "The number is the learning rate; none: no training. on tune: the change on the tune split; "
    "net subtracts the control with the largest."
)
STAGES_NOTE = (
    "A row for each teacher, which starts with the student from the previous row; before and "
    "after are those of the row."
)
SKIPPED_NOTE = " A teacher whose row abstained was skipped."
PAIRS_NOTE = (
    "positive flips (rho_pos): share of the validation images on which the teacher is right and "
    "the student, before the transfer, wrong: what could be learned. negative flips: the reverse. "
    "entropy: how evenly the positive flips are spread over the classes; 1 is evenly. 5 % of them "
    "in: the fewest classes that hold that share of the positive flips."
)
DRAWINGS = (
    Drawing(
        "change",
        figures_change.change_rows,
        figures_change.change,
        "Means over seeds of the answers that became right (to the right of zero) and wrong (to "
        "the left), in percent of the validation images. The diamond is their difference, the "
        "change in accuracy, with two standard errors to each side: if these reach zero, it "
        "is not distinguishable from no change. The hollow bar, which ends in an arrow where it "
        "leaves the picture, is the headroom: what answering with the more confident of student "
        "and teachers would gain.",
    ),
    Drawing(
        "gain_loss",
        functools.partial(figures.run_rows, keys=("gain", "loss")),
        figures.gain_loss,
        "A point per run: share of the validation images that became right, against share that "
        "became wrong. Above the dashed line a student learned more than it forgot.",
    ),
    Drawing(
        "taught",
        functools.partial(figures.history_rows, key="taught"),
        figures.taught,
        "A line per run: the share of the training samples whose target is a teacher's; the others "
        "preserve what the student knew. Of a pool, the teachers' share of the weights.",
    ),
    parts.PROGRESS,
    Drawing(
        "classes",
        figures.class_rows,
        figures.classes,
        "Validation images that became right (right of zero) or wrong (left), in the run with the "
        "largest change; the diamond is the difference.",
    ),
)


def title(results: TransferResults) -> str:
    """The heading of the page."""
    students = dict.fromkeys(run.student for run in results.runs)
    return f"Knowledge transfer to {', '.join(students)}"


def tables(results: TransferResults) -> list[Table]:
    """The means over seeds and the runs of each student, and their controls; the stages of runs
    that have several; the robustness sets.
    """
    return [
        *_means_tables(results),
        *_student_tables(results),
        *_controls_tables(results),
        *_stages_tables(results),
        *parts.robustness_tables(results),
    ]


def sections(results: TransferResults) -> list[Table]:
    """The models, what each teacher knows that the student does not, and what each run cost."""
    found = [parts.models_table("Models", results), *parts.served_tables(results)]
    return [*found, *[_pairs_table(results)] * bool(results.pairs), _costs_table(results)]


def _student_tables(results: TransferResults) -> list[Table]:
    groups = figures.groups(results)
    seeds, net = _several_seeds(results), _has_net(results)
    header = ["objective", "teachers", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += [*["net ± se points"] * net, *_exported_header(results)]
    header += ["gain %", "loss %", "taught %", "ensemble %"]
    data, found = parts.validation_images(results), []
    students = list(dict.fromkeys(group.student for group in groups))
    for student in students:
        own = [group for group in groups if group.student == student]
        before = own[0].runs[0].accuracy_before
        error = (before * (100 - before) / max(results.data.validation, 1)) ** 0.5
        heading = f"Student {student}: {before:.2f} ± {error:.2f} % of {data} right"
        rows = [[_run_cells(run, group, results) for run in group.runs] for group in own]
        note = _student_note(results) if student == students[-1] else ""
        found.append(
            Table(heading, header, rows, words=("objective", "teachers", "exported"), note=note)
        )
    return found


def _student_note(results: TransferResults) -> str:
    soup = any(run.objective.endswith(" soup") for run in results.runs)
    mutual = results.config.get("strategy") == "mutual"
    return " ".join(
        [
            *[MUTUAL_NOTE] * mutual,
            _without_net(NOTE if _has_pool(results) else NOTE.replace(POOL_NOTE, ""), results),
            *[EXPORTED_NOTE] * bool(_exported_header(results)),
            f"For comparison, {parts.of_chance(results)}.",
            *[SOUP_NOTE] * soup,
        ]
    )


def _several_seeds(results: TransferResults) -> bool:
    return len({run.seed for run in results.runs}) > 1


def _has_net(results: TransferResults) -> bool:
    return any(run.net is not None for run in results.runs)


def _has_pool(results: TransferResults) -> bool:
    """Whether a pool taught some run, of the initial student and teachers."""
    stages = [stage for run in results.runs for stage in run.stages or (run,)]
    return any(stage.teachers and stage.weights for stage in stages)


def _without_net(note: str, results: TransferResults) -> str:
    """The note, without what explains net if there is none."""
    return note if _has_net(results) else note.replace(NET_NOTE, "")


def _exported_header(results: TransferResults) -> list[str]:
    """The columns about the choice of weights, if there was one."""
    return ["exported", "at the end"] * (results.config.get("export") in ("best", "no_regret"))


def _exported_cells(run: Run, results: TransferResults) -> list[str]:
    exported = "abstained" if run.abstained else run.exported or "-"
    last = f"{transfers.last_delta(run):+.2f}"
    return [exported, last] * bool(_exported_header(results))


def _run_cells(run: Run, group: figures.Group, results: TransferResults) -> list[str]:
    before_and_after, delta, gain, loss = _change_cells(run)
    return [
        run.objective,
        group.heading if group.teachers else "-",
        *[str(run.seed)] * _several_seeds(results),
        before_and_after,
        delta,
        *[_with_error(run.net, run.net_se)] * _has_net(results),
        *_exported_cells(run, results),
        gain,
        loss,
        parts.told(run.taught, ".1f"),
        parts.told(run.ensemble_accuracy, ".2f"),
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
    found = controls.by_what(results.runs)

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
    students = list(dict.fromkeys(group.student for group in groups))
    for student in students:
        own = [group for group in groups if group.student == student]
        rows = [
            [
                cells(found[student, frozenset(group.teachers), name], group)
                for name in dict.fromkeys(run.objective for run in group.runs)
            ]
            for group in own
        ]
        note = _without_net(MEANS_NOTE, results) if student == students[-1] else ""
        words = ("objective", "teachers")
        tables.append(Table(f"Means over seeds, of {student}", header, rows, words, note))
    return tables


def _controls_tables(results: TransferResults) -> list[Table]:
    """What each student learned without a teacher, and which control was chosen by tune."""
    seeds = len({run.seed for run in results.controls}) > 1
    header = ["control", *["seed"] * seeds, "before -> after %", "delta ± se points"]
    header += [*_exported_header(results), "gain %", "loss %", "on tune points", "chosen"]
    tables, of_students = [], controls.choose(results.controls)
    for student, chosen in of_students.items():
        own = [run for run in results.controls if run.student == student]
        order = list(dict.fromkeys(run.objective for run in own))
        before = own[0].accuracy_before
        none = [controls.NONE, *["-"] * seeds, f"{before:.2f} -> {before:.2f}"]
        none += [_with_error(0.0, 0.0), *["-" for _ in _exported_header(results)]]
        none += ["0.00", "0.00", "+0.00", _mark(chosen == controls.NONE)]
        own.sort(key=lambda run: order.index(run.objective))  # seeds beside each other
        rows = [none, *(_control_cells(run, chosen, seeds, results) for run in own)]
        heading = f"Controls of {student}, trained without a teacher"
        note = ""
        if student == list(of_students)[-1]:
            note = f"{parts.trained_alone(results.config['controls'])} {CONTROLS_NOTE}"
        words = ("control", "exported", "chosen")
        tables.append(Table(heading, header, [rows], words=words, note=note))
    return tables


def _control_cells(run: Run, chosen: str, seeds: bool, results: TransferResults) -> list[str]:
    tune = f"{controls.tune_delta(run):+.2f}"
    before_and_after, delta, gain, loss = _change_cells(run)
    cells = [run.objective, *[str(run.seed)] * seeds, before_and_after, delta]
    cells += [*_exported_cells(run, results), gain, loss, tune]
    return [*cells, _mark(run.objective == chosen)]


def _mark(is_chosen: bool) -> str:
    return "by tune" if is_chosen else ""


def _stages_tables(results: TransferResults) -> list[Table]:
    header = ["run", "teacher", "before -> after %", "delta ± se points"]
    header += [*_exported_header(results), "gain %", "loss %"]
    groups = [
        [_stage_cells(stage, run.run if i == 0 else "", results) for i, stage in enumerate(stages)]
        for run in results.runs
        if (stages := run.stages)
    ]
    if not groups:
        return []
    note = STAGES_NOTE
    if any(stage.abstained for run in results.runs for stage in run.stages):
        note += SKIPPED_NOTE
    return [Table("Teacher after teacher", header, groups, ("run", "teacher", "exported"), note)]


def _stage_cells(stage: Run, name: str, results: TransferResults) -> list[str]:
    before_and_after, delta, gain, loss = _change_cells(stage)
    cells = [name, stage.teachers[0], before_and_after, delta]
    return [*cells, *_exported_cells(stage, results), gain, loss]


def _pairs_table(results: TransferResults) -> Table:
    header = ["teacher", "student", "positive flips %", "negative flips %"]
    header += ["entropy", "5 % of them in"]
    rows = [
        [
            pair.teacher,
            pair.student,
            f"{pair.rho_pos:.2f}",
            f"{pair.rho_neg:.2f}",
            f"{pair.flip_entropy:.2f}",
            names.of_classes(pair.top_classes["5"]),
        ]
        for pair in results.pairs
    ]
    words = ("teacher", "student", "5 % of them in")
    return Table("Complementary knowledge", header, [rows], words=words, note=PAIRS_NOTE)


def _costs_table(results: TransferResults) -> Table:
    header = ["run", "learning rates", "steps", "passes", "seconds"]
    rows = [
        [
            run.run,
            _rates(run),
            parts.counted(run.steps),
            parts.counted(run.passes),
            parts.counted(run.seconds),
        ]
        for run in (*results.runs, *results.controls)
        if run.learning_rate is not None  # a soup has no cost of its own
    ]
    return Table("What each run cost", header, [rows], ("run",), parts.COST)


def _rates(run: Run) -> str:
    """How many learning rates a run was trained at, to the end."""
    return "1" if run.rates is None else str(sum(gain is not None for gain in run.rates.values()))
