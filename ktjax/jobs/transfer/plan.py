"""How a transfer uses several teachers (paper section 4.3): the runs that the settings ask for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ktjax import objectives
from ktjax.classifier import Classifier, average
from ktjax.settings.transfer import Transfer

Teachers = tuple[str, ...]


class Run(NamedTuple):
    """One transfer of the job: who teaches in each of its stages, which follow each other."""

    objective: str  # its entry in config.objectives
    stages: tuple[Teachers, ...]
    seed: int
    name: str  # of its files and in its metrics
    stage_names: tuple[str, ...]

    @property
    def teachers(self) -> Teachers:
        """Everyone who teaches, in this order."""
        return tuple(teacher for stage in self.stages for teacher in stage)


class Strategy(NamedTuple):
    """How several teachers are used."""

    stages: Callable[[Teachers], list[tuple[Teachers, ...]]]  # of each run
    ordered: bool = False  # config.order counts
    # What becomes of the students of all runs of an objective and seed; None: they stay as they are
    combine: Callable[[Sequence[Classifier]], Classifier] | None = None
    joint: bool = False  # nobody is frozen: all train at once (jobs/transfer/mutual.py)


STRATEGIES = {
    "single": Strategy(lambda teachers: [((teacher,),) for teacher in teachers]),
    "parallel": Strategy(lambda teachers: [(teachers,)]),
    "sequential": Strategy(
        lambda teachers: [tuple((teacher,) for teacher in teachers)], ordered=True
    ),
    "soup": Strategy(lambda teachers: [((teacher,),) for teacher in teachers], combine=average),
    "mutual": Strategy(lambda teachers: [], joint=True),
}


def _random(teachers: Sequence[str], accuracy: Mapping[str, float], seed: int) -> list[str]:
    del accuracy
    generator = np.random.Generator(np.random.Philox(key=seed))
    return [teachers[i] for i in generator.permutation(len(teachers))]


# order(teachers, accuracy, seed) -> teachers
ORDERS = {
    "ascending": lambda teachers, accuracy, seed: sorted(teachers, key=lambda t: accuracy[t]),
    "descending": lambda teachers, accuracy, seed: sorted(teachers, key=lambda t: -accuracy[t]),
    "given": lambda teachers, accuracy, seed: list(teachers),
    "random": _random,
}


def plan(settings: Transfer, accuracy: Mapping[str, float]) -> tuple[Run, ...]:
    """The transfers that the settings ask for; `accuracy` of each teacher is for their order.

    An objective that asks no teacher has one run per seed.

    Raises:
      ValueError: two runs would have the same name.
    """
    short = short_names(settings.teachers)
    strategy = STRATEGIES[settings.strategy]
    runs = []
    for seed in settings.seeds:
        for label, entry in settings.objectives.items():
            teachers = tuple(settings.teachers)
            if strategy.ordered:
                teachers = tuple(ORDERS[settings.order](teachers, accuracy, seed))
            asks = objectives.OBJECTIVES[entry.objective].teachers
            for stages in strategy.stages(teachers) if asks else [((),)]:
                called = "+".join(short[teacher] for stage in stages for teacher in stage)
                name = "-".join(filter(None, (label, called, str(seed))))
                stage_names = (name,)
                if len(stages) > 1:
                    stage_names = tuple(
                        f"{name}/{i}-{short[teacher]}" for i, (teacher,) in enumerate(stages, 1)
                    )
                runs.append(Run(label, stages, seed, name, stage_names))
    names = [run.name for run in runs]
    if strategy.combine:
        names += {combined_name(settings, run.objective, run.seed) for run in runs if run.teachers}
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two runs would be called '{twice[0]}': rename in config.objectives.")
    return tuple(runs)


def combined_name(settings: Transfer, objective: str, seed: int) -> str:
    """What the combination of an objective's students is called."""
    return f"{objective}-{settings.strategy}-{seed}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each path; more parts where that does not tell them apart.

    Fit for a file's name, and different for different names.
    """
    parts = {name: Path(name).parts for name in names}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {name: ".".join(parts[name][-length:]) for name in names}
        short = {name: text.strip(".").replace("/", "") for name, text in short.items()}
        if len(set(short.values())) == len(names):
            return short
    return {name: f"{text}.{i}" for i, (name, text) in enumerate(short.items(), 1)}
