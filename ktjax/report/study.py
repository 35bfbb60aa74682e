"""The page of a study: how often transfers help, and by how much."""

import statistics
from typing import Any

from ktjax import spelling
from ktjax.analysis import study
from ktjax.analysis.rows import StudyResults
from ktjax.report import figures_study, figures_transfers, names, parts, study_runs
from ktjax.report.parts import Drawing, Table

NOTE = (
    "A pair is a student and a teacher, the mean over seeds. success: share of a student's "
    "teachers that improved it, the median and the mean over students. delta: accuracy after minus "
    "before, in percentage points, the mean over pairs. net: delta minus that of the student's "
    "control, the same training without a teacher that gained most on tune. of headroom: the mean "
    "delta as a share of the mean gain of the confidence ensemble of student and teacher over the "
    "student. In brackets: 95 % intervals over models; those of delta and net are clustered by "
    "student and by teacher, those of success are from resampling students and teachers. surely: "
    "how many pairs are better, and worse, by one-sided tests; for each objective, at most one in "
    "twenty such tables has any pair wrongly among the better ones, and likewise among the worse "
    f"(Holm). {parts.COST}"
)
DRAWINGS = (
    Drawing(
        "headroom",
        figures_study.headroom_rows,
        figures_study.headroom,
        "A line per pair, from what it lost to what it gained (percent of the validation "
        "images), and a point at the difference, the change in accuracy; further to the right, "
        "answering with the more confident of student and teacher would gain more.",
    ),
    Drawing(
        "success",
        figures_transfers.success_rows,
        figures_transfers.success,
        "A point per student: the share of its teachers that improved it, averaged over seeds.",
    ),
    Drawing(
        "pairs",
        figures_study.heat_rows,
        figures_study.heat,
        "Losses larger than the largest gain have a color scale of their own, the same for all "
        "objectives; white is no change, gray no such pair.",
    ),
    Drawing(
        "delta",
        figures_transfers.rows,
        figures_transfers.delta,
        "A point per pair: the change by a transfer, against how much better the teacher was (the "
        "paper's figure 4).",
    ),
)


def title(results: StudyResults) -> str:
    """The heading of the page."""
    students, teachers = (
        names.counted(len({getattr(pair, side) for pair in results.pairs}), side)
        for side in ("student", "teacher")
    )
    return f"Knowledge transfer to {students} from {teachers}"


def conclusion(results: StudyResults) -> str:
    """The success rates, the objective that did best, and whether it is distinguishable."""
    if not results.success:
        return f"No pair of student and teacher is done.{_others(results)}"
    students = len({one for of in results.success.values() for one in of["per_student"]})
    rates = ", ".join(f"{name} {of['median']:.1f} %" for name, of in results.success.items())
    over = f"median over {students} students" if students > 1 else "of one student"
    text = f"Success rate ({over}): {rates}. {_best(results)}"
    return f"{text}{_others(results)}"


def _best(results: StudyResults) -> str:
    done = [name for name, of in results.success.items() if of["done"]]
    if not done:
        return "All trainings diverged."
    if all(results.success[name]["abstained"] == results.success[name]["done"] for name in done):
        return "No student got better."
    # Each has a mean over its own pairs: one that diverged on hard students may have a larger one
    # than another that beats it on the pairs of both.
    unbeaten = [name for name in done if not any(_loses(name, row) for row in results.compared)]
    best = max(unbeaten or done, key=lambda name: results.success[name]["mean_delta"])
    of = results.success[best]
    text = best if len(results.success) == 1 else f"{best} did best"
    text += (
        f": {of['mean_delta']:+.2f} points on average over {names.counted(of['done'], 'pair')}"
        f"{_said(of['interval'])}"
    )
    if of["net"]:
        text += f"; net of the controls {of['net']['mean_net']:+.2f}{_said(of['net']['interval'])}"
    alike = [
        row["other"] if row["one"] == best else row["one"]
        for row in results.compared
        if best in (row["one"], row["other"]) and _alike(row)
    ]
    if alike:
        text += f"; it is not distinguishable from {spelling.listed(alike)}"
    return f"{text}."


def _said(interval: Any) -> str:
    """An interval in words."""
    if interval is None:
        return ""
    low, high = interval
    shown = f" [{low:+.2f}, {high:+.2f}]"
    return f"{shown}, not distinguishable from zero" if low <= 0 <= high else shown


def _loses(name: str, row: Any) -> bool:
    """Whether an objective is distinguishably worse than the other of a row of `compared`."""
    if row["interval"] is None:
        return False
    low, high = row["interval"]
    return (row["one"] == name and high < 0) or (row["other"] == name and low > 0)


def _alike(row: Any) -> bool:
    """Whether two objectives are not distinguishable over the pairs that both have."""
    return row["interval"] is None or row["interval"][0] <= 0 <= row["interval"][1]


def _others(results: StudyResults) -> str:
    """How many runs did not change their student."""
    statuses = [row.status for row in results.rows]
    counts = {
        "abstained and left their student unchanged": statuses.count(study.ABSTAINED),
        "failed": statuses.count(study.FAILED),
    }
    return "".join(
        f" {count} of {len(statuses)} runs {what}." for what, count in counts.items() if count
    )


def tables(results: StudyResults) -> list[Table]:
    """The objectives; the students; the runs that failed."""
    found = []
    if results.success:
        found += [_objectives_table(results), *_export_tables(results)]
        found += [*_teachers_tables(results), _students_table(results)]
    return [*found, *study_runs.tables(results)]


def _objectives_table(results: StudyResults) -> Table:
    header = ["objective", "improved", "surely", "success, median %", "mean %", "delta points"]
    header += ["net points", "best", "worst", "gain %", "loss %", "of headroom %"]
    header += ["steps", "passes"]
    rows = []
    for name, of in results.success.items():
        improved = f"{of['improved']} of {of['pairs']}"
        if of["diverged"]:
            improved += f", {of['diverged']} diverged"
        if not of["done"]:
            rows.append([name, improved, "-", "0.0", "0.0", *["-"] * (len(header) - 5)])
            continue
        boot = of["bootstrap"] or {"median": None, "mean": None}
        net = of["net"]
        rows.append(
            [
                name,
                improved,
                f"{of['surely_better']}, {of['surely_worse']}",
                f"{of['median']:.1f}{_in_brackets(boot['median'], '.0f')}",
                f"{of['mean']:.1f}{_in_brackets(boot['mean'], '.0f')}",
                f"{of['mean_delta']:+.2f}{_in_brackets(of['interval'], '+.2f')}",
                f"{net['mean_net']:+.2f}{_in_brackets(net['interval'], '+.2f')}" if net else "-",
                f"{of['best']['delta']:+.2f}",
                f"{of['worst']['delta']:+.2f}",
                f"{of['gain']:.2f}",
                f"{of['loss']:.2f}",
                parts.told(of["headroom_share"], ".0f"),
                *(parts.counted(of[name]) for name in ("steps", "passes")),
            ]
        )
    heading = f"Pairs, on {parts.validation_images(results)}"
    return Table(heading, header, [rows], words=("objective",), note=NOTE)


def _export_tables(results: StudyResults) -> list[Table]:
    """What was decided about the exports; no table if the last weights are exported."""
    if results.config["export"] == "last":
        return []
    rows = []
    for name, of in results.success.items():
        if not of["done"]:
            continue
        tried, last = of["done"] - of["abstained"], of["last"]
        rows.append(
            [
                name,
                str(of["abstained"]),
                f"{of['improved']} of {tried}",
                f"{of['worst']['delta']:+.2f}",
                f"{last['improved']} of {of['done']}",
                f"{last['mean_delta']:+.2f}",
                f"{last['worst']:+.2f}",
                parts.told(of["least_gain"], ".2f"),
            ]
        )
    header = ["objective", "abstained", "others improved", "worst"]
    header += ["last: improved", "last: points", "last: worst", "least gain seen"]
    note = (
        "abstained: pairs whose student stays unchanged, because nothing was significantly better; "
        "they are no success. others improved: of the pairs that did not abstain. last: what the "
        "weights at the end of training would have changed, had they been exported. least gain "
        "seen: the points that the decision detects in nine of ten cases, the median over pairs; "
        "-: none."
    )
    heading = f"What was exported (config.export={results.config['export']})"
    return [Table(heading, header, [rows], words=("objective",), note=note)]


def _teachers_tables(results: StudyResults) -> list[Table]:
    """Weaker and stronger teachers apart; no table if no accuracy is known, or all are equal."""
    groups = []
    for name, of in results.success.items():
        by_teacher = of["by_teacher"] if of["done"] else {}
        groups.append(
            [
                [
                    name,
                    kind,
                    f"{own['improved']} of {own['pairs']}",
                    f"{own['mean_delta']:+.2f}",
                    parts.told(own["mean_net"], "+.2f"),
                    "-"
                    if own["net_improved"] is None
                    else f"{own['net_improved']} of {own['pairs']}",
                    parts.told(own["headroom_share"], ".0f"),
                ]
                for kind, own in by_teacher.items()
            ]
        )
    groups = [rows for rows in groups if rows]
    if not groups:
        return []
    header = ["objective", "teachers", "improved", "delta points", "net points", "net above 0"]
    header += ["of headroom, median %"]
    note = (
        "weaker, stronger: less or more accurate than the student before. of headroom: of pairs "
        "whose ensemble is better than the student."
    )
    words = ("objective", "teachers")
    return [Table("Weaker and stronger teachers", header, groups, words=words, note=note)]


def _in_brackets(interval: Any, digits: str) -> str:
    if interval is None:
        return ""
    return f" [{format(interval[0], digits)}, {format(interval[1], digits)}]"


def _students_table(results: StudyResults) -> Table:
    """Success rate and mean delta of each student, and its control."""
    header = ["student", "accuracy %", "control", *results.success]
    rows = []
    before = {pair.student: pair.before for pair in results.pairs}
    for of in results.success.values():  # nothing else is known of those who always diverged
        before |= {name: None for name in of["per_student"] if name not in before}
    for student in sorted(before, key=lambda name: before[name] or 0):
        cells = []
        for objective, of in results.success.items():
            own = [
                pair.delta
                for pair in results.pairs
                if (pair.student, pair.objective) == (student, objective)
            ]
            rate = of["per_student"].get(student)
            mean = f" {sum(own) / len(own):+.2f}" if own else ""
            cells.append("-" if rate is None else f"{rate:.0f} %{mean}")
        known = before[student]
        accuracy = parts.told(known, ".2f")
        rows.append([student, accuracy, results.chosen.get(student, "-"), *cells])
    heading = "Share of teachers that improved each student, and its mean delta"
    note = (
        "For each objective: the share of a student's teachers that improved it, and the mean "
        "delta over its teachers in points. control: the training without a teacher that net "
        f"subtracts, chosen on tune. accuracy: before any transfer; {parts.of_chance(results)}."
    )
    return Table(heading, header, [rows], words=("student", "control"), note=note)


def sections(results: StudyResults) -> list[Table]:
    """The models, every pair, and a comparison of objectives."""
    found = [parts.models_table("Models", results), *parts.served_tables(results)]
    if results.compared:
        found.append(_compared_table(results))
    return [*found, *_ranking_tables(results), _pairs_table(results)] if results.pairs else found


def _ranking_tables(results: StudyResults) -> list[Table]:
    """Whether what a teacher gives could be known before; no table without three teachers."""
    of_objective = {name: of["ranking"] for name, of in results.success.items() if of["done"]}
    students = {one: None for ranking in of_objective.values() for one in ranking}
    columns = [[ranking.get(one) for one in students] for ranking in of_objective.values()]
    known = [[value for value in column if value is not None] for column in columns]
    if not any(known):
        return []
    medians = [statistics.median(values) if values else None for values in known]
    rows = [
        [name, *(parts.told(value, "+.2f") for value in values)]
        for name, values in zip(
            [*students, "median"], [*zip(*columns, strict=True), medians], strict=True
        )
    ]
    note = (
        "Rank correlation, over a student's teachers, of the accuracy of the confidence ensemble "
        "on tune, which is known before training, with the change on validation by the weights at "
        "the end of training. 1: the ensemble ranks teachers as the transfers do; 0: it says "
        "nothing of them."
    )
    header = ["student", *of_objective]
    return [Table("Could the best teacher be known before?", header, [rows], ("student",), note)]


def _compared_table(results: StudyResults) -> Table:
    rows = [
        [
            row["one"],
            row["other"],
            str(row["pairs"]),
            f"{row['difference']:+.2f}",
            _in_brackets(row["interval"], "+.2f").strip() or "-",
            "no" if _alike(row) else "yes",
        ]
        for row in results.compared
    ]
    header = ["objective", "minus", "pairs", "difference of delta", "95 %", "distinguishable"]
    words = ("objective", "minus", "distinguishable")
    note = (
        "The mean difference of their delta in points, its 95 % interval clustered by student and "
        "by teacher, and whether that interval excludes zero."
    )
    heading = "Objectives compared, over the pairs of both"
    return Table(heading, header, [rows], words, note)


def _pairs_table(results: StudyResults) -> Table:
    header = ["student", "teacher", "objective", "seeds", "delta ± se points", "net ± se points"]
    header += ["gain %", "loss %", "ensemble %", "of headroom %"]
    rows = [
        [
            pair.student,
            pair.teacher,
            pair.objective,
            str(pair.runs),
            f"{pair.delta:+.2f} ± {pair.delta_se:.2f}",
            "-" if pair.net is None else f"{pair.net:+.2f} ± {pair.net_se:.2f}",
            f"{pair.gain:.2f}",
            f"{pair.loss:.2f}",
            parts.told(pair.ensemble, ".2f"),
            parts.told(pair.headroom_share, ".0f"),
        ]
        for pair in results.pairs
    ]
    note = (
        "The mean over seeds, ± one standard error. net: delta minus that of the student's "
        "control. gain, loss: share of the validation images that became right, wrong. ensemble: "
        "accuracy of the more confident of student and teacher. of headroom: delta as a share "
        "of the gain of the ensemble."
    )
    return Table("Pairs", header, [rows], ("student", "teacher", "objective"), note)
