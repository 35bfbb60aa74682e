"""How a transfer uses several teachers (paper section 4.3): the runs that a config asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np

from ktjax import objectives

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


# The stages of each run, for teachers in their order. What a soup is made of are single transfers;
# in `mutual` there are no teachers but students that teach each other (jobs/mutual.py).
STRATEGIES = {
    "single": lambda teachers: [((teacher,),) for teacher in teachers],
    "parallel": lambda teachers: [(tuple(teachers),)],
    "sequential": lambda teachers: [tuple((teacher,) for teacher in teachers)],
    "soup": lambda teachers: [((teacher,),) for teacher in teachers],
    "mutual": lambda teachers: [],
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


def plan(config: ml_collections.ConfigDict, accuracy: Mapping[str, float]) -> tuple[Run, ...]:
    """The transfers that a config asks for; `accuracy` of each teacher is for their order.

    An objective that asks no teacher has one run per seed.

    Raises:
      ValueError: two runs would have the same name.
    """
    short = short_names(config.teachers)
    runs = []
    for seed in config.seeds:
        for label, entry in config.objectives.items():
            teachers = config.teachers
            if config.strategy == "sequential":
                teachers = ORDERS[config.order](teachers, accuracy, seed)
            asks = objectives.OBJECTIVES[entry.objective].teachers
            for stages in STRATEGIES[config.strategy](teachers) if asks else [((),)]:
                called = "+".join(short[teacher] for stage in stages for teacher in stage)
                name = "-".join(filter(None, (label, called, str(seed))))
                stage_names = (name,)
                if len(stages) > 1:
                    stage_names = tuple(
                        f"{name}/{i}-{short[teacher]}" for i, (teacher,) in enumerate(stages, 1)
                    )
                runs.append(Run(label, stages, seed, name, stage_names))
    names = [run.name for run in runs]
    if config.strategy == "soup":
        names += {soup_name(run.objective, run.seed) for run in runs if run.teachers}
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two runs would be called '{twice[0]}': rename in config.objectives.")
    return tuple(runs)


def soup_name(objective: str, seed: int) -> str:
    """What the average of an objective's students is called."""
    return f"{objective}-soup-{seed}"


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
