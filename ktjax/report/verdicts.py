"""The result of a transfer, in sentences that claim no more than the errors allow.

Means over seeds are compared by their standard errors (`controls.outcomes`).
"""

import math
import statistics
from collections.abc import Collection
from typing import NamedTuple

from ktjax import spelling
from ktjax.analysis import controls, transfers
from ktjax.analysis.rows import Outcome, Run, TransferResults
from ktjax.report import names

KINDS = (
    "from a weaker teacher",
    "from an equally accurate teacher",
    "from a stronger teacher",
    "from a teacher of unknown accuracy",
    "from several teachers",
    "without a teacher",
)
SURE = 2.0  # standard errors


class Effect(NamedTuple):
    """The effect of an objective with teachers of one kind."""

    delta: float
    se: float
    alone: float | None  # the mean delta of the control; None without a control
    trained: bool  # some control gained on tune; else the control is untrained, and `alone` is 0
    runs: int
    seeds: int
    abstained: bool  # all runs


def summary(results: TransferResults) -> str:
    """The result in plain language, a few sentences."""
    found = [outcome for outcome in controls.outcomes(results.runs) if outcome.teachers]
    if not found:
        return conclusion(results)
    better = sum(outcome.delta > SURE * outcome.delta_se for outcome in found)
    worse = sum(outcome.delta < -SURE * outcome.delta_se for outcome in found)
    text = (
        f"Of {names.counted(len(found), 'transfer')} {better} improved the student and {worse} "
        f"made it worse, by more than two standard errors; {len(found) - better - worse} cannot "
        "be told from no change."
    )
    sentences = (conclusion(results), text, _net_summary(found), abstentions(results))
    return " ".join(filter(None, sentences))


def brief(results: TransferResults) -> str:
    """The conclusion, and what abstained: for the terminal."""
    return " ".join(filter(None, (conclusion(results), abstentions(results))))


def change(run: Run) -> str:
    """What a run has changed, in a few words: for a line about its end."""
    if run.abstained:
        return f"abstains, stays at {run.accuracy_after:.2f} %"
    return f"{run.accuracy_before:.2f} -> {run.accuracy_after:.2f} %"


def abstentions(results: TransferResults) -> str:
    """How many transfers abstained, and which gain would have been detected; or nothing."""
    if results.config.get("export") != "no_regret":
        return ""
    decided = [run for run in results.runs if run.teachers]
    if not decided:
        return ""
    abstained = [run for run in decided if run.abstained]
    stages = [stage for run in decided for stage in run.stages or (run,)]
    gains = map(transfers.least_gain, stages)
    least = [gain for gain in gains if gain is not None]
    median, blind = statistics.median(least or [math.inf]), least.count(math.inf)
    some = f"in {blind} of {len(least)} decisions " if blind < len(least) else ""
    seen = (
        f"A gain of {median:.2f} points would have been detected in nine of ten cases (median)."
        if math.isfinite(median)
        else f"So few answers changed, on the images that decide, that {some}no gain could have "
        "been detected: a larger config.minival, or a tune split, helps."
    )
    return (
        f"{len(abstained)} of {len(decided)} transfers abstained: they found no student that is "
        f"surely better than before, and the student is as it was. {seen}{_of_lasts(results)}"
    )


def _of_lasts(results: TransferResults) -> str:
    """What the final weights of those that abstained would have changed; or nothing.

    Without sequences: exported, the last weights of a stage would have begun the next one.
    """
    abstained = [run for run in (*results.runs, *results.controls) if run.abstained]
    known = [run for run in abstained if run.last_delta is not None and not run.stages]
    lasts, alone = (
        [run.last_delta for run in known if bool(run.teachers) == taught]
        for taught in (True, False)
    )
    if not lasts:
        return ""
    by = f"{min(lasts):+.2f}"
    if len(lasts) > 1:
        by += f" to {max(lasts):+.2f} points, {statistics.fmean(lasts):+.2f} in the mean"
    else:
        by += " points"
    without = f", and those without a teacher by up to {max(alone):+.2f}" if alone else ""
    return (
        " Their final weights, which config.export=last exports, would have changed it by "
        f"{by}{without}."
    )


def _net_summary(found: list[Outcome]) -> str:
    nets = [(one.net, one.net_se) for one in found if one.net is not None]
    if not nets:
        return ""
    better = sum(net > SURE * se for net, se in nets)
    worse = sum(net < -SURE * se for net, se in nets)
    return (
        f"Net of the control without a teacher {better} of {len(nets)} gained and {worse} lost by "
        "more than two standard errors."
    )


def conclusion(results: TransferResults) -> str:
    """One sentence: the objective with the largest mean delta for each kind of teacher.

    It says "improved" only if the change is more than two standard errors, and "most" only if it
    differs from every other by more than two.
    """
    before = {run.student: run.accuracy_before for run in results.runs}
    exported = {_what(run) for run in results.runs if not run.abstained}
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in controls.outcomes(results.runs):
        kind = _teacher_kind(outcome, before[outcome.student], results)
        groups.setdefault(kind, {}).setdefault(outcome.objective, []).append(outcome)
    clauses = [
        f"{kind} {_clause({k: _effect(same, exported) for k, same in groups[kind].items()})}"
        for kind in sorted(groups, key=KINDS.index)
    ]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}.{_unmoved(results)}"


def _unmoved(results: TransferResults) -> str:
    """What to do if training has changed no answer; or nothing."""
    if any(run.gain or run.loss or run.abstained for run in results.runs):
        return ""
    taught = [run.taught for run in results.runs if run.teachers]
    if taught and all(share == 0 for share in taught):
        return (
            " No run has changed a single answer, as the objective gave no training image a "
            "teacher's target: the student may have been trained on these images."
        )
    return (
        " No run has changed a single answer: train longer (config.total_epochs), or with larger "
        "learning rates (config.objectives.<name>.learning_rate; None finds one)."
    )


def _teacher_kind(outcome: Outcome, before: float, results: TransferResults) -> str:
    if len(outcome.teachers) != 1:
        return KINDS[4 if outcome.teachers else 5]
    (teacher,) = outcome.teachers
    accuracy = results.models[teacher].accuracy if teacher in results.models else None
    if accuracy is None:
        return KINDS[3]
    difference = accuracy - before
    return KINDS[1 + (difference > 0) - (difference < 0)]


def _what(one: Run | Outcome) -> tuple[str, frozenset[str], str]:
    """What runs of several seeds have in common."""
    return one.student, frozenset(one.teachers), one.objective


def _effect(same: list[Outcome], exported: Collection[tuple[str, frozenset[str], str]]) -> Effect:
    """The mean over students and teachers; errors are averaged, as the images are shared."""
    known = all(outcome.net is not None for outcome in same)
    return Effect(
        delta=statistics.fmean(outcome.delta for outcome in same),
        se=statistics.fmean(outcome.delta_se for outcome in same),
        alone=statistics.fmean(one.delta - one.net for one in same) if known else None,
        trained=any(outcome.control != controls.NONE for outcome in same),
        runs=sum(outcome.runs for outcome in same),
        seeds=max(outcome.runs for outcome in same),
        abstained=not any(_what(outcome) in exported for outcome in same),
    )


def _clause(effects: dict[str, Effect]) -> str:
    best = max(effects, key=lambda name: effects[name].delta)
    effect = effects[best]
    over, worse = _over(effect), _worse({k: v for k, v in effects.items() if k != best})
    if all(one.abstained for one in effects.values()):
        return "no run showed that it improved the student, which stays as it was"
    shown = _shown(effect.delta)
    if shown == 0:  # of those that abstained none was the best
        return f"nothing improved the student ({over}){worse}"
    if shown < 0:
        size = f"{effect.delta:+.2f} points"
        if len(effects) == 1:
            return f"{best} did not improve the student ({size}, {over})"
        return f"nothing improved the student: the best was {best} ({size}, {over}){worse}"
    size = f"{effect.delta:.2f} ± {effect.se:.2f} points"
    if effect.delta <= SURE * effect.se:
        return f"nothing is a clear improvement: the best was {best}, by {size} ({over}){worse}"
    alike = [name for name in effects if name != best and _alike(effect, effects[name])]
    most = " most," if len(effects) > 1 and not alike else ""
    text = f"{best} improved the student{most} by {size}{_of_the_control(effect)}"
    others = f", not distinguishable from {spelling.listed(alike)}" if alike else ""
    return f"{text}{others} ({over}){worse}"


def _worse(effects: dict[str, Effect]) -> str:
    """Which objectives did significant harm; or nothing."""
    lost = [
        f"{name} made it worse by {-effect.delta:.2f} ± {effect.se:.2f}"
        for name, effect in effects.items()
        if effect.delta < -SURE * effect.se
    ]
    return f", and {spelling.listed(lost)}" if lost else ""


def _over(effect: Effect) -> str:
    """What an effect is averaged over."""
    seeds = names.counted(effect.seeds, "seed")
    return seeds if effect.runs == effect.seeds else f"mean of {effect.runs} runs, {seeds}"


def _alike(one: Effect, other: Effect) -> bool:
    """Whether two effects differ by no more than their errors explain."""
    return one.delta - other.delta <= SURE * (one.se**2 + other.se**2) ** 0.5


def _of_the_control(effect: Effect) -> str:
    """How much of an improvement came without a teacher."""
    if effect.alone is None:
        return ""
    if not effect.trained:
        return ", none of it without a teacher"
    alone = _shown(effect.alone)
    if alone < 0:
        return f", against {alone:+.2f} without a teacher"
    if alone > _shown(effect.delta):
        return f", less than the {alone:.2f} without a teacher"
    return f", of which {alone:.2f} without a teacher"


def _shown(points: float) -> float:
    """As it is shown, so that what is said of it fits; never -0.0."""
    return round(points, 2) + 0.0
