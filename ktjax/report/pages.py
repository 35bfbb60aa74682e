"""The page of each job. A new job defines its page in its own file, and adds an entry here."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ktjax.analysis.rows import Results
from ktjax.report import convergence, pairs, pretrain, study, transfer, verdicts
from ktjax.report.parts import Drawing, Table


def _no_sections(results: Results) -> Sequence[Table]:
    return ()


@dataclasses.dataclass(frozen=True)
class Page:
    """The report of one job; each function takes that job's record of `rows.RESULTS`."""

    title: Callable[[Any], str]
    summary: Callable[[Any], str]  # a few sentences, for the page
    conclusion: Callable[[Any], str]  # a sentence or a few, for the terminal
    tables: Callable[[Any], Sequence[Table]]  # for both
    drawings: Sequence[Drawing]  # of the results; examples are drawn on every page
    sections: Callable[[Any], Sequence[Table]] = _no_sections  # more tables, for the page


PAGES = {
    "transfer": Page(
        title=transfer.title,
        summary=verdicts.summary,
        conclusion=verdicts.brief,
        tables=transfer.tables,
        drawings=transfer.DRAWINGS,
        sections=transfer.sections,
    ),
    "pretrain": Page(
        title=pretrain.title,
        summary=pretrain.conclusion,
        conclusion=pretrain.conclusion,
        tables=pretrain.tables,
        drawings=pretrain.DRAWINGS,
    ),
    "convergence": Page(
        title=convergence.title,
        summary=convergence.conclusion,
        conclusion=convergence.conclusion,
        tables=convergence.tables,
        drawings=convergence.DRAWINGS,
    ),
    "study": Page(
        title=study.title,
        summary=study.conclusion,
        conclusion=study.conclusion,
        tables=study.tables,
        drawings=study.DRAWINGS,
        sections=study.sections,
    ),
    "complementarity": Page(
        title=pairs.title,
        summary=pairs.summary,
        conclusion=pairs.conclusion,
        tables=pairs.tables,
        drawings=pairs.DRAWINGS,
        sections=pairs.sections,
    ),
}
