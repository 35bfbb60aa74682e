"""The tables of a study's single runs: those without a teacher, and those that failed."""

from ktjax.analysis import study
from ktjax.analysis.rows import StudyResults
from ktjax.report import parts
from ktjax.report.parts import Table


def tables(results: StudyResults) -> list[Table]:
    """One of each kind, if there are such runs."""
    return [*_alone_tables(results), *_failed_tables(results)]


def _alone_tables(results: StudyResults) -> list[Table]:
    """What students learned without a teacher, and whether it was exported."""
    decided = results.config["export"] != "last"
    rows = [
        [
            row.student,
            row.objective,
            str(row.seed),
            f"{row.before:.2f} -> {row.after:.2f}",
            f"{row.delta:+.2f} ± {row.se:.2f}",
            *[row.status, f"{row.last_delta:+.2f}"] * decided,
            f"{row.gain:.2f}",
            f"{row.loss:.2f}",
            *(parts.counted(number) for number in (row.steps, row.passes)),
        ]
        for row in results.rows
        if row.teacher is None and row.status != study.FAILED
    ]
    header = ["student", "objective", "seed", "before -> after %", "delta ± se points"]
    header += [*["status", "at the end"] * decided, "gain %", "loss %", "steps", "passes"]
    entries = {**results.config["objectives"], **results.config["controls"]}
    note = (
        f"What training without a teacher changed. {parts.trained_alone(entries)} A number after "
        "a name is the learning rate. gain, loss: share of the validation images that became "
        f"right, wrong. {parts.COST}"
    )
    if decided:
        note += " abstained: the student stays as it was. at the end: delta of the final weights."
    words = ("student", "objective", "status")
    return [Table("Runs without a teacher", header, [rows], words, note)] if rows else []


def _failed_tables(results: StudyResults) -> list[Table]:
    rows = [
        [row.student, row.teacher or "-", row.objective, str(row.seed), row.error or ""]
        for row in results.rows
        if row.status == study.FAILED
    ]
    header = ["student", "teacher", "objective", "seed", "error"]
    words = ("student", "teacher", "objective", "error")
    note = (
        "Pairs whose training diverged (FloatingPointError) count as not improved, and are in no "
        "mean; other failures are not counted above. config.only_failed=True runs all again."
    )
    return [Table("Runs that failed", header, [rows], words, note)] if rows else []
