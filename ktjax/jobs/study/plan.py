"""Which runs a study has: students x teachers x objectives x seeds, and the controls."""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ktjax import files, models, paths
from ktjax.jobs import transfer
from ktjax.jobs.transfer import plan as transfer_plan
from ktjax.jobs.transfer.plan import Control, asks_teachers
from ktjax.models.checkpoints import repositories, weights
from ktjax.settings.study import Study
from ktjax.settings.transfer import Transfer

_ZOO = {"zoo:glyphs": models.zoo}
_NOBODY = "no_teacher"  # the folder of runs without a teacher


class Run(NamedTuple):
    """One run of a study: a transfer with a folder of its own."""

    student: str
    teacher: str | None  # None: only labels and the student itself
    objective: str  # its name in config.objectives, or the control's
    seed: int
    what: Control  # what it minimizes, and its slow weights
    is_control: bool  # pairs may be compared with it

    @property
    def folder(self) -> Path:
        """Relative to the workdir. It stays the same when the study grows."""
        return _group(self.student, self.teacher) / f"{self.objective}-{self.seed}"


def named(settings: Study) -> Study:
    """The same, with each zoo replaced by the names of its models."""

    def models_of(names: Sequence[str]) -> tuple[str, ...]:
        found = (name for one in names for name in (_ZOO[one]() if one in _ZOO else (one,)))
        return tuple(dict.fromkeys(found))

    return settings.model_copy(
        update={k: models_of(getattr(settings, k)) for k in ("students", "teachers")}
    )


def pairs(settings: Study) -> tuple[tuple[str, str], ...]:
    """The requested (student, teacher) pairs, by student; a model does not teach itself.

    config.pairs of them are drawn, if set: those with the smallest hashes of their names and
    config.pairs_seed, so that their order does not change when lists grow.

    Raises:
      ValueError: there are fewer pairs.
    """
    every = (*settings.students, *settings.teachers)
    identities = {name: _identity(name) for name in every}
    found = [
        (student, teacher)
        for student in settings.students
        for teacher in settings.teachers
        if identities[student] != identities[teacher]
    ]
    if settings.pairs is None:
        return tuple(found)
    if settings.pairs > len(found):
        raise ValueError(f"config.pairs={settings.pairs}: there are only {len(found)} pairs.")

    def drawn(pair: tuple[str, str]) -> bytes:
        text = "\n".join((str(settings.pairs_seed), *pair))
        return hashlib.sha256(text.encode()).digest()

    chosen = set(sorted(found, key=drawn)[: settings.pairs])
    return tuple(pair for pair in found if pair in chosen)


def _identity(name: str) -> Any:
    """A model's identity; just its name if it is gone: only finished runs of it are asked for."""
    try:
        return transfer.identity(name)
    except ValueError:
        return name


def plan(settings: Study, *, labeled: bool, workdir: Path | None = None) -> tuple[Run, ...]:
    """The runs, in the order of the table: by student, then by seed.

    A run without a teacher appears once, whether as an objective that needs none, as a control of
    several methods, or as both. As both it is called as the objective, unless it has already been
    done as the control.

    Args:
      settings: of the study, without zoos among the names.
      labeled: there are labels to train on; else controls that need them are left out.
      workdir: of the study; None: nothing has been done yet.

    Raises:
      ValueError: two runs would have the same folder or name, or there is nothing to run.
    """
    asks = {k: asks_teachers(entry) for k, entry in settings.objectives.items()}
    asked = pairs(settings) if any(asks.values()) else ()
    found = []
    for student in settings.students:
        teachers = [teacher for learner, teacher in asked if learner == student]
        if not teachers and asked and settings.pairs is not None:
            continue  # no pair of it was drawn
        done = [] if workdir is None else _done_alone(workdir, student)
        alone = _alone(settings, student, labeled=labeled, compared=bool(teachers), done=done)
        for seed in settings.seeds:
            found += [
                Run(student, None, name, seed, what, is_control)
                for name, (what, is_control) in alone.items()
            ]
            found += [
                Run(student, teacher, name, seed, _method(settings, name), False)
                for name in settings.objectives
                if asks[name]
                for teacher in teachers
            ]
    folders = [run.folder for run in found]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ValueError(f"Two runs would be called '{twice}': rename models or objectives.")
    if not found:
        raise ValueError("There is nothing to run: no student has another model as teacher.")
    return tuple(found)


def _method(settings: Study, name: str) -> Control:
    return Control(settings.objectives[name], settings.mcl.get(name))


def _alone(
    settings: Study, student: str, *, labeled: bool, compared: bool, done: Sequence[str]
) -> dict[str, tuple[Control, bool]]:
    """A student's trainings without a teacher, by name, and whether each is a control.

    Names that are `done` remain: an objective may have been a control before.

    Raises:
      ValueError: an objective has the name of another control.
    """
    asked = {
        name: _method(settings, name)
        for name, entry in settings.objectives.items()
        if not asks_teachers(entry)
    }
    moves = settings.batch_norm == "train" and _has_batch_stats(student)
    moves = moves or _drops(settings, student)
    controls = transfer_plan.controls(settings, labeled=labeled, moves=moves)
    # An objective may have been a control when others were asked for, so at any rate.
    own = [(w.entry.learning_rate, w.slow) for w in asked.values() if w.entry.learning_rate]
    known = transfer_plan.controls_at(settings, own, labeled=labeled, moves=moves) | controls
    found = {}
    for name, what in asked.items():
        before = [k for k, control in known.items() if k in done and control == what]
        found[name if name in done or not before else before[0]] = what
    controls = controls if compared else {}
    new = {name: what for name, what in controls.items() if what not in found.values()}
    if both := sorted(new.keys() & found.keys()):
        raise ValueError(f"A control is called '{both[0]}', too: rename it in config.objectives.")
    found |= new
    return {name: (what, what in controls.values()) for name, what in found.items()}


def _has_batch_stats(student: str) -> bool:
    """Whether a student has batch statistics; assumed if it is gone, as in `_identity`."""
    try:
        return bool(models.blank(student).variables.get("batch_stats"))
    except (ValueError, OSError):
        return True


def _drops(settings: Study, student: str) -> bool:
    """Whether a student drops something in training; no hub is asked what its models drop."""
    options: Mapping[str, Any] = {}
    if repositories.of(student) is None and paths.of(student).exists():
        with contextlib.suppress(ValueError, OSError):  # its runs report what is wrong
            found = models.locate(student)
            if found.config["format"] == weights.TORCH:
                return (found.path.parent / weights.TRAINING).is_file()
            options = found.config["model_args"]
    return transfer_plan.drops(settings, options)


def _done_alone(workdir: Path, student: str) -> list[str]:
    """The names of a student's trainings without a teacher that were done with some seed."""
    with contextlib.suppress(FileNotFoundError):
        found = paths.names(workdir / _group(student, None))
        return [match[1] for name in found if (match := re.fullmatch(r"([^@]+)-\d+", name))]
    return []


def transfer_of(settings: Study, run: Run) -> Transfer:
    """The settings of a run."""
    return settings.transfer(
        run.student,
        () if run.teacher is None else (run.teacher,),
        {run.objective: run.what.entry},
        seeds=(run.seed,),
        mcl={run.objective: run.what.slow} if run.what.slow else {},
    )


def _group(student: str, teacher: str | None) -> Path:
    """The folder of the runs of a pair, or of a student alone."""
    taught = _NOBODY if teacher is None else _part(teacher)
    return Path(files.RUNS) / _part(student) / taught


def _part(name: str) -> str:
    """A model's name as a folder name; paths are shortened and told apart by a hash."""
    files.last_part(name)  # rejects what cannot name a file
    path = Path(name)
    short = ".".join(path.parts[-2:]).strip("./").replace(":", ".")
    if len(path.parts) < 3:
        return short
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def share(runs: Sequence[Run], shard: str | None) -> tuple[Run, ...]:
    """The i-th of n parts of the runs, of about equal size, each with few students; None: all."""
    if shard is None:
        return tuple(runs)
    i, n = map(int, shard.split("/"))
    return tuple(run for at, run in enumerate(runs) if at * n // len(runs) == i)
