"""What a teacher gave: the change of a transfer, net of that of the same training without one.

A control is chosen on tune, never by what it does on validation, and is the same for all teachers
and objectives of a student: net = delta - delta of that control.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from ktjax.analysis import chance
from ktjax.analysis.rows import Outcome, Run

NONE = "none"  # the control that is not trained: its delta is 0


def tune_delta(run: Run) -> float:
    """The change of accuracy on tune, in points: over all stages, whose changes add up."""
    if run.tune_delta is not None:
        return run.tune_delta
    return sum(one.history[-1].tune["delta"] for one in run.stages or (run,))


def choose(controls: Sequence[Run]) -> dict[str, str]:
    """For each student the control with the largest change on tune, in the mean over seeds.

    NONE where no change is above 0. Of equals the first. One that lacks a seed which others have,
    because its training diverged there, is left out.
    """
    changes: dict[str, dict[str, list[float]]] = {}
    for run in controls:
        changes.setdefault(run.student, {}).setdefault(run.objective, []).append(tune_delta(run))
    chosen = {}
    for student, of_control in changes.items():
        seeds = max(map(len, of_control.values()))
        means = {NONE: 0.0} | {
            name: chance.mean(deltas) for name, deltas in of_control.items() if len(deltas) == seeds
        }
        chosen[student] = max(means, key=lambda name: means[name])
    return chosen


def with_net(
    runs: Sequence[Run], controls: Sequence[Run], correct: Mapping[str, np.ndarray]
) -> list[Run]:
    """The runs with `control`, `net` and `net_se`, in points.

    Of a run that was trained by teachers: its delta minus that of its student's control with the
    same seed (the mean over seeds, if that seed has none), and the standard error of that
    difference, paired over the validation images. The others are as they were: nobody taught them,
    or they are soups, and nothing was trained as often without a teacher.

    Args:
      runs: of a transfer.
      controls: of its students; one who has none is compared with NONE.
      correct: whether each validation image is answered correctly after it, bool [N], by the names
        of runs and controls.
    """
    chosen = choose(controls)
    found = []
    for run in runs:
        if not run.teachers or not run.history:
            found.append(run)
            continue
        name = chosen.get(run.student, NONE)
        net, net_se = run.delta, run.delta_se
        if name != NONE:
            own = [c for c in controls if (c.student, c.objective) == (run.student, name)]
            own = [c for c in own if c.seed == run.seed] or own
            net = chance.mean([run.delta - control.delta for control in own])
            alone_N = np.mean([correct[control.run] for control in own], axis=0)
            net_se = 100 * float(np.std(correct[run.run] - alone_N)) / alone_N.size**0.5
        found.append(dataclasses.replace(run, control=name, net=net, net_se=net_se))
    return found


def outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """The mean over seeds of each student, teachers and objective: the unit of success.

    A standard error is the root of two squares: that over the validation images, which is at most
    the mean of the runs' own, as they share the images; and, where some outcome has several seeds,
    the spread over seeds, pooled over all outcomes, by the root of their number. It is rather too
    large than too small.
    """
    return list(by_what(runs).values())


def by_what(runs: Sequence[Run]) -> dict[tuple[str, frozenset[str], str], Outcome]:
    """The same by student, teachers and objective.

    One after another teachers may come in another order with each seed.
    """
    groups: dict[tuple[str, frozenset[str], str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.student, frozenset(run.teachers), run.objective), []).append(run)
    delta_sd = chance.pooled_sd([[run.delta for run in same] for same in groups.values()])
    nets = {key: [r.net for r in same if r.net is not None] for key, same in groups.items()}
    net_sd = chance.pooled_sd(list(nets.values()))
    found = {}
    for key, same in groups.items():
        (student, _, objective), has_net = key, len(nets[key]) == len(same)
        found[key] = Outcome(
            student=student,
            teachers=same[0].teachers,
            objective=objective,
            runs=len(same),
            delta=chance.mean([run.delta for run in same]),
            delta_se=_se([run.delta_se for run in same], delta_sd),
            control=same[0].control,
            net=chance.mean(nets[key]) if has_net else None,
            net_se=_se([run.net_se for run in same], net_sd) if has_net else None,
        )
    return found


def _se(of_images: Sequence[float], seeds_sd: float | None) -> float:
    """The standard error of a mean over seeds."""
    of_seeds = 0.0 if seeds_sd is None else seeds_sd / len(of_images) ** 0.5
    return (statistics.fmean(of_images) ** 2 + of_seeds**2) ** 0.5
