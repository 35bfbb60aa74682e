"""Which weights a transfer exports: the last, the best on tune, or only better ones.

`best`: of those evaluated during training. `no_regret`: the candidate is the best on tune among
these, the mean over the last half of training, and interpolations between the weights before and
after; of several students that are combined, the result. One decision about it is made on the
accept split, which is used for nothing else (analysis/decision.py): if it is not better than the
student before, that student is exported, and the run has abstained.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ktjax import evaluate, parallel
from ktjax.analysis import decision
from ktjax.classifier import Classifier
from ktjax.experiment import training
from ktjax.experiment.evaluation import Evaluated
from ktjax.jobs.transfer.setup import Setup

# Of the way from the weights before to those after training: between them, a model keeps more of
# what it knew (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903).
SHARES = (0.25, 0.5, 0.75)
LAST, BEST, TAIL = "the last", "the best on tune", "the mean of the last half"
COMBINED = "all students together"
BEFORE = "the student before"


class Exported(NamedTuple):
    """What a training exports."""

    model: Classifier
    placed: Any  # its variables on the devices
    tune_NxC: np.ndarray
    name: str  # LAST, BEST, TAIL, the share of the way, COMBINED, or BEFORE
    # On tune, in percent; that of the candidate if it was rejected.
    accuracy: float
    least_gain: float | None = None  # that the decision would detect, in points
    checkpoint: Mapping[str, str] | None = None  # at the end of that training
    last_delta: float | None = None  # as in `analysis.rows.Run`


def last(start: Setup, after: Classifier, fitted: training.Fitted) -> Exported:
    """The weights at the end of training."""
    return _of(start, after, LAST, fitted.placed, fitted.tune_NxC)


def best(start: Setup, after: Classifier, fitted: training.Fitted) -> Exported:
    """The weights of the evaluation that was best on tune."""
    if fitted.best is None:
        return last(start, after, fitted)
    return _candidate(start, after, BEST, fitted.best)


def _candidate(start: Setup, after: Classifier, name: str, placed: Any) -> Exported:
    model = dataclasses.replace(
        after, variables=parallel.fetch(placed), origin=f"{after.origin}, {name}"
    )
    return _of(start, model, name, placed, start.predict(placed, start.splits.tune))


def _of(start: Setup, model: Classifier, name: str, placed: Any, tune_NxC: np.ndarray) -> Exported:
    accuracy = evaluate.accuracy(tune_NxC, start.splits.tune.label_N)
    return Exported(model, placed, tune_NxC, name, accuracy)


def no_regret(
    start: Setup, before: Evaluated, after: Classifier, fitted: training.Fitted, *, decisions: int
) -> Exported:
    """The candidate if it is better on the accept split, else the student before.

    Args:
      start: of the transfer; its splits include an accept split.
      before: the student at the beginning of this training.
      after: the student at its end.
      fitted: the training.
      decisions: how many dependent decisions the run makes in all.
    """
    chosen = last(start, after, fitted)
    for name, placed in _others(start, before, after, fitted):
        found = _candidate(start, after, name, placed)
        if found.accuracy > chosen.accuracy:  # only the best so far stays in memory
            chosen = found
    return _if_better(start, before, chosen, decisions=decisions)


def _others(
    start: Setup, before: Evaluated, after: Classifier, fitted: training.Fitted
) -> Iterator[tuple[str, Any]]:
    """Further candidates, (name, variables on the devices), placed when they are asked for."""
    for name, placed in ((BEST, fitted.best), (TAIL, fitted.tail)):
        if placed is not None:
            yield name, placed
    for share in SHARES:
        variables = between(before.model.variables, after.variables, share)
        yield f"{share:.0%} of the way", parallel.place(variables, start.settings.parallel)


def combined(start: Setup, after: Evaluated, *, decisions: int) -> Exported:
    """Several students in one; with `no_regret` only if it is better than the student before.

    Args:
      start: of the transfer.
      after: the students in one, an average of them, say.
      decisions: with `no_regret`, how many use the accept split: this one, and those about each of
        the students.
    """
    placed = parallel.place(dict(after.model.variables), start.settings.parallel)
    found = _of(start, after.model, COMBINED, placed, after.tune_NxC)
    if start.settings.export != "no_regret":
        return found
    return _if_better(start, start.models[start.student], found, decisions=decisions)


def _if_better(start: Setup, before: Evaluated, chosen: Exported, *, decisions: int) -> Exported:
    """The candidate, if the accept split shows that it is better, else the student before."""
    placed = parallel.place(dict(before.model.variables), start.settings.parallel)
    assert start.splits.accept is not None
    accept, accept_N = start.splits.accept, start.splits.accept.label_N

    def answers(variables: Any) -> np.ndarray:
        return start.predict(variables, accept).argmax(axis=1)

    if before.model is start.models[start.student].model:  # as every run begins
        was_N = start.once(("accept", start.student), lambda: answers(placed), of=start.student)
    else:
        was_N = answers(placed)
    is_N = answers(chosen.placed)
    changed = int(np.sum((was_N == accept_N) != (is_N == accept_N)))
    least = decision.least_gain(changed, len(accept_N), decisions=decisions)
    if decision.is_better(was_N, is_N, accept_N, decisions=decisions):
        return chosen._replace(least_gain=least)
    return Exported(before.model, placed, before.tune_NxC, BEFORE, chosen.accuracy, least)


def last_delta(
    start: Setup, before: Evaluated, fitted: training.Fitted, exported: Exported
) -> float | None:
    """The change on validation by the weights at the end, in points; None if these are exported.

    Nothing is chosen by it; it shows what the choice was worth.
    """
    if exported.name == LAST:
        return None
    validation = start.splits.validation
    after_NxC = start.predict(fitted.placed, validation)
    return evaluate.change(before.validation_NxC, after_NxC, validation.label_N)


def between(before: Any, after: Any, share: float) -> Any:
    """Weights interpolated linearly, `share` of the way to `after`, statistics included."""

    def leaf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.asarray(a), np.asarray(b)
        return (a + share * (b - a)).astype(b.dtype)

    return jax.tree.map(leaf, dict(before), dict(after))
