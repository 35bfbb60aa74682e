"""How a transfer uses several teachers (paper section 4.3): the runs that the settings ask for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ktjax import files, objectives
from ktjax.classifier import Classifier, average
from ktjax.settings.objective import Entry, SlowWeights
from ktjax.settings.transfer import Methods, Transfer

Teachers = tuple[str, ...]


class Run(NamedTuple):
    """One transfer of the job: the teachers of each of its consecutive stages."""

    objective: str  # its entry in config.objectives
    stages: tuple[Teachers, ...]
    seed: int
    name: str  # of its files and in its metrics
    stage_names: tuple[str, ...]
    learning_rate: float | None = None  # per 256 samples; None: what its entry says
    tried: int = 1  # learning rates of which the best counts

    @property
    def teachers(self) -> Teachers:
        """All teachers, in order."""
        return tuple(teacher for stage in self.stages for teacher in stage)

    @property
    def decisions(self) -> int:
        """How many dependent decisions it makes on the accept split."""
        return _decisions(len(self.stages), self.tried)


class Strategy(NamedTuple):
    """How several teachers are used."""

    stages: Callable[[Teachers], list[tuple[Teachers, ...]]]  # of each run
    ordered: bool = False  # config.order counts
    # Combines the students of all runs of an objective and seed; None: they stay as they are
    combine: Callable[[Sequence[Classifier]], Classifier] | None = None
    joint: bool = False  # no model is frozen: all train at once (jobs/transfer/mutual.py)


STRATEGIES = {
    "single": Strategy(lambda teachers: [((teacher,),) for teacher in teachers]),
    "parallel": Strategy(lambda teachers: [(teachers,)]),
    "sequential": Strategy(
        lambda teachers: [tuple((teacher,) for teacher in teachers)], ordered=True
    ),
    "soup": Strategy(lambda teachers: [((teacher,),) for teacher in teachers], combine=average),
    "mutual": Strategy(lambda teachers: [], joint=True),
}


def rates(settings: Methods, label: str) -> tuple[float, ...]:
    """The learning rates of an entry of config.objectives: its own, or those to choose from."""
    rate = settings.objectives[label].learning_rate
    return settings.learning_rates if rate is None else (rate,)


def at_rate(run: Run, rate: float) -> Run:
    """The same run at one of several learning rates."""
    tag = f"at-{rate:g}"
    return run._replace(
        name=f"{run.name}/{tag}",
        stage_names=tuple(f"{name}/{tag}" for name in run.stage_names),
        learning_rate=rate,
    )


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
    """The transfers of the settings; teachers may be ordered by their `accuracy`.

    An objective without teachers has one run per seed. Controls are planned by `plan_controls`.

    Raises:
      ValueError: two runs would have the same name.
    """
    short = files.short_names(settings.teachers)
    strategy = STRATEGIES[settings.strategy]
    runs = []
    for seed in settings.seeds:
        for label, entry in settings.objectives.items():
            teachers = tuple(settings.teachers)
            if strategy.ordered:
                teachers = tuple(ORDERS[settings.order](teachers, accuracy, seed))
            asks = objectives.OBJECTIVES[entry.objective].teachers
            for stages in strategy.stages(teachers) if asks else [((),)]:
                called = files.joined([short[teacher] for stage in stages for teacher in stage])
                name = "-".join(filter(None, (label, called, str(seed))))
                stage_names = (name,)
                if len(stages) > 1:
                    stage_names = tuple(
                        f"{name}/{i}-{files.joined([short[teacher]])}"
                        for i, (teacher,) in enumerate(stages, 1)
                    )
                count = len(rates(settings, label))
                runs.append(Run(label, stages, seed, name, stage_names, tried=count))
    names = [run.name for run in (*runs, *plan_controls(settings, controls(settings)))]
    if strategy.combine:
        names += {combined_name(settings, run.objective, run.seed) for run in runs if run.teachers}
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two runs would be called '{twice[0]}': rename in config.objectives.")
    return tuple(runs)


class Control(NamedTuple):
    """A training without a teacher: entries of config.objectives and config.mcl."""

    entry: Entry
    slow: SlowWeights | None


def controls(settings: Methods, *, labeled: bool = True, moves: bool = True) -> dict[str, Control]:
    """The controls of a student, each at every learning rate of the methods, by name.

    Methods are the objectives that use teachers, or train them too. The entry of config.mcl for a
    method goes with its rate, so that a control exports what the method exports.

    Args:
      settings: of the job.
      labeled: there are labels to train on; else controls that need them are left out.
      moves: `moves_alone`; else `self` is left out.
    """
    methods = [label for label, entry in settings.objectives.items() if asks_teachers(entry)]
    return controls_at(
        settings,
        [(rate, settings.mcl.get(label)) for label in methods for rate in rates(settings, label)],
        labeled=labeled,
        moves=moves,
    )


def controls_at(
    settings: Methods,
    grid: Sequence[tuple[float, SlowWeights | None]],
    *,
    labeled: bool = True,
    moves: bool = True,
) -> dict[str, Control]:
    """`controls` with these learning rates and slow weights."""
    found = {}
    for label, control in settings.controls.items():
        if objectives.OBJECTIVES[control.objective].labels and not labeled:
            continue
        if control.objective == "self" and not moves:
            continue
        for rate, slow in dict.fromkeys(grid):
            name = f"{label}-{rate}" + (f"-mcl-{slow.tau}-{slow.every}" if slow else "")
            found[name] = Control(control.at(rate), slow)
    return found


def moves_alone(settings: Methods, student: Classifier) -> bool:
    """Whether a student changes if it learns only from itself.

    It does if it answers differently in training: by batch statistics, or what it drops.
    """
    by_batches = settings.batch_norm == "train" and bool(student.variables.get("batch_stats"))
    by_itself = student.definition is not None and student.definition.drops
    return by_batches or by_itself or drops(settings, student.options)


def drops(settings: Methods, options: Mapping[str, Any]) -> bool:
    """Whether a network with these options drops something in training."""
    path = settings.drop_path_rate
    path = options.get("drop_path_rate") if path is None else path
    return bool(path or options.get("drop_rate"))


def most_tried(settings: Methods) -> int:
    """The most learning rates of which a method keeps the best."""
    asking = [label for label, entry in settings.objectives.items() if asks_teachers(entry)]
    return max((len(rates(settings, label)) for label in asking), default=1)


def decisions(settings: Transfer) -> set[int]:
    """How many dependent decisions runs make on the accept split: a number for each kind of run."""
    strategy, teachers = STRATEGIES[settings.strategy], len(settings.teachers)
    methods = {k for k, entry in settings.objectives.items() if asks_teachers(entry)}
    found = {
        _decisions(_stages(settings) if label in methods else 1, len(rates(settings, label)))
        for label in settings.objectives
    }
    # A combination shares its level with the students in it.
    return found | {teachers + 1} if strategy.combine and methods else found


def _decisions(stages: int, tried: int) -> int:
    """One per stage. At each rate, the second starts with what was decided about the first."""
    return stages * tried if stages > 1 else 1


def _stages(settings: Transfer) -> int:
    """Of a run with teachers."""
    strategy = STRATEGIES[settings.strategy]
    alone = strategy.joint or not settings.teachers
    return 1 if alone else len(strategy.stages(tuple(settings.teachers))[0])


def plan_controls(
    settings: Transfer, names: Iterable[str], student: str = "", *, tried: int = 1
) -> tuple[Run, ...]:
    """A run for each of these controls and each seed, in as many stages as methods have.

    A sequence of teachers is compared with as many trainings without one, each starting where the
    previous one ended: the same number of steps, and of restarts of schedule and views.

    Args:
      settings: of the job.
      names: of `controls`.
      student: part of the names of runs, if several students have controls.
      tried: learning rates that a method tries: controls decide at the same level.
    """
    count = _stages(settings)
    runs = []
    for seed in settings.seeds:
        for label in names:
            called = files.joined([student])
            name = "-".join(filter(None, (label, called, str(seed))))
            stage_names = tuple(f"{name}/{i}" for i in range(1, count + 1))
            stage_names = (name,) if count == 1 else stage_names
            runs.append(Run(label, ((),) * count, seed, name, stage_names, tried=tried))
    return tuple(runs)


def asks_teachers(entry: Entry) -> bool:
    """Whether an objective is a method: it uses teachers, or trains them too."""
    known = objectives.OBJECTIVES[entry.objective]
    return known.teachers or known.joint


def combined_name(settings: Transfer, objective: str, seed: int) -> str:
    """The name of the combination of an objective's students."""
    return f"{objective}-{settings.strategy}-{seed}"
