"""What a teacher contributed: the change by a transfer, net of the same training without one.

A control is chosen on tune, never on validation, and is the same for all teachers and objectives of
a student: net = delta - delta of that control.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from ktjax.analysis import chance
from ktjax.analysis.rows import Outcome, Run

_What = tuple[str, frozenset[str], str]  # student, teachers and objective
NONE = "none"  # the untrained control: its delta is 0


def tune_delta(run: Run) -> float:
    """The change in accuracy on tune, in points, summed over all stages."""
    if run.tune_delta is not None:
        return run.tune_delta
    return sum(one.history[-1].tune["delta"] for one in run.stages or (run,))


def choose(controls: Sequence[Run]) -> dict[str, str]:
    """The control of each student with the largest change on tune, averaged over seeds.

    NONE if no change is above 0; ties go to the first. A control whose training diverged with a
    seed that others have is left out.
    """
    changes: dict[str, dict[str, dict[int, float]]] = {}
    for run in controls:
        of_student = changes.setdefault(run.student, {})
        of_student.setdefault(run.objective, {})[run.seed] = tune_delta(run)
    chosen = {}
    for student, of_control in changes.items():
        seeds = set().union(*of_control.values())
        means = {NONE: 0.0} | {
            name: chance.mean([*deltas.values()])
            for name, deltas in of_control.items()
            if set(deltas) == seeds
        }
        chosen[student] = max(means, key=lambda name: means[name])
    return chosen


def with_net(
    runs: Sequence[Run],
    controls: Sequence[Run],
    chosen: Mapping[str, str],
    correct: Mapping[str, np.ndarray],
) -> list[Run]:
    """The runs with `control`, `net` and `net_se`, in points.

    For a run trained by teachers, net is its delta minus that of its student's control with the
    same seed (the mean over seeds, if that seed has none); its standard error is paired over the
    validation images. Other runs stay as they are: their student has no finished control, so what
    it learns alone is unknown; they have no teacher; or they are soups, for which there is no
    equally long training without a teacher.

    Args:
      runs: of a transfer.
      controls: of its students, as far as they finished.
      chosen: the control of each student, from `choose`; none if it has no finished control.
      correct: which validation images each run or control gets right afterwards, bool [N], by its
        name.
    """
    found = []
    for run in runs:
        name = chosen.get(run.student)
        if name is None or not run.teachers or not run.history:
            found.append(run)
            continue
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
    """The mean over seeds for each student, teachers and objective: the unit of success.

    A standard error has two parts, added in quadrature: that over the validation images, at most
    the mean of the runs' own, as they share the images; and, if any outcome has several seeds, the
    spread over seeds over the root of their number. The first errs on the large side. The second is
    pooled over the students and teachers of an objective, so it is too small for those whose seeds
    spread more than others', and uncertain if these are few.
    """
    return list(by_what(runs).values())


def by_what(runs: Sequence[Run]) -> dict[_What, Outcome]:
    """The same by student, set of teachers and objective.

    The order of sequential teachers may differ between seeds.
    """
    groups: dict[_What, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.student, frozenset(run.teachers), run.objective), []).append(run)
    nets = {key: [r.net for r in same if r.net is not None] for key, same in groups.items()}
    delta_sd, net_sd = _seeds_sd(groups, "delta"), _seeds_sd(groups, "net")
    found = {}
    for key, same in groups.items():
        (student, _, objective), has_net = key, len(nets[key]) == len(same)
        found[key] = Outcome(
            student=student,
            teachers=same[0].teachers,
            objective=objective,
            runs=len(same),
            delta=chance.mean([run.delta for run in same]),
            delta_se=_se([run.delta_se for run in same], delta_sd[objective]),
            control=same[0].control,
            net=chance.mean(nets[key]) if has_net else None,
            net_se=_se([run.net_se for run in same], net_sd[objective]) if has_net else None,
        )
    return found


def _seeds_sd(groups: Mapping[_What, Sequence[Run]], name: str) -> dict[str, float | None]:
    """How a field spreads over seeds, by objective; as in all of them where its own is unknown."""
    by_objective: dict[str, list[list[float]]] = {}
    for (_, _, objective), same in groups.items():
        known = [value for run in same if (value := getattr(run, name)) is not None]
        # Students that stay as they were with every seed do not tell how seeds spread.
        unmoved = all(run.abstained for run in same)
        by_objective.setdefault(objective, []).append([] if unmoved else known)
    of_all = chance.pooled_sd([known for own in by_objective.values() for known in own])
    sds = {objective: chance.pooled_sd(own) for objective, own in by_objective.items()}
    return {objective: of_all if sd is None else sd for objective, sd in sds.items()}


def _se(of_images: Sequence[float], seeds_sd: float | None) -> float:
    """The standard error of a mean over seeds."""
    of_seeds = 0.0 if seeds_sd is None else seeds_sd / len(of_images) ** 0.5
    return (statistics.fmean(of_images) ** 2 + of_seeds**2) ** 0.5
