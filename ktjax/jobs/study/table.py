"""A study's table, made from the folders of its runs, no matter who wrote them or when."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktjax import files
from ktjax.analysis import controls, rows, study
from ktjax.analysis.rows import StudyRow
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.study.plan import Run


def found(runs: Runs, planned: Sequence[Run], asked: Sequence[Run]) -> dict[str, Any]:
    """The results of a study beyond those of all jobs.

    Args:
      runs: of the workdir.
      planned: all runs that the study may have, in the order of the table; those not done
        have no row.
      asked: those that this start requests.
    """
    done = [run for run in planned if runs.has_found(run)]
    ended = {run.folder: runs.found(run).row for run in done}
    models = {name: model for run in done for name, model in runs.found(run).results.models.items()}
    ready = _ready(runs, done, asked)
    own = [run for run in done if run.is_control and run.student in ready]
    alone = [ended[run.folder] for run in own]
    chosen = controls.choose([ended[run.folder] for run in _comparable(runs, own, planned)])
    taught = [run for run in done if run.teacher is not None]
    compared = [ended[run.folder] for run in taught if run.student in ready]
    correct = {runs.found(run).row.run: runs.found(run).right_N for run in done}
    with_net = {row.run: row for row in controls.with_net(compared, alone, chosen, correct)}
    final = {folder: with_net.get(row.run, row) for folder, row in ended.items()}
    # Pairs that diverged with some seed are in no mean, whatever their other seeds gave.
    diverged = {(r.student, r.teacher, r.objective) for r in planned if _diverged(runs, r)}
    pairs = study.pairs([final[run.folder] for run in taught], models)
    pairs = [pair for pair in pairs if study.key(pair) not in diverged]
    return {
        "models": models,
        "pairs": pairs,
        "rows": [_row(runs, run, final) for run in planned if runs.is_done(run)],
        "chosen": chosen,
        "success": study.success(pairs, diverged),
        "compared": study.compared(pairs),
        "served": {k: v for run in done for k, v in runs.found(run).results.served.items()},
    }


def _diverged(runs: Runs, run: Run) -> bool:
    return run.teacher is not None and runs.diverged(run)


def _ready(runs: Runs, done: Sequence[Run], asked: Sequence[Run]) -> set[str]:
    """The students with controls that are all done: one left to run might be the chosen one.

    If this start requests none of a student, those of earlier starts count.
    """
    waiting = {run.student for run in asked if run.is_control and not runs.is_done(run)}
    return {run.student for run in done if run.is_control} - waiting


def _comparable(runs: Runs, alone: Sequence[Run], planned: Sequence[Run]) -> list[Run]:
    """The finished controls `alone`, with the seeds that all of their student have in common.

    An earlier start may have requested other controls or more seeds. Where one has diverged, it is
    that one which is not compared (`controls.choose`).
    """
    names = {(run.student, run.objective) for run in alone}
    of_names = [r for r in planned if r.is_control and (r.student, r.objective) in names]
    lacking = {
        (run.student, run.seed)
        for run in of_names
        if not runs.has_found(run) and not runs.diverged(run)
    }
    return [run for run in alone if (run.student, run.seed) not in lacking]


def _row(runs: Runs, run: Run, final: Mapping[Path, rows.Run]) -> StudyRow:
    if run.folder in final:
        return study.row(final[run.folder])
    return study.failed(
        student=run.student,
        teacher=run.teacher,
        objective=run.objective,
        seed=run.seed,
        error=runs.error(run) or "",
    )


def write(workdir: Path, table: Sequence[StudyRow]) -> None:
    """Writes pairs.csv; unknown values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(StudyRow)])
    writer.writeheader()
    writer.writerows(vars(row) for row in table)
    files.write_whole(workdir / files.PAIRS, text.getvalue())
