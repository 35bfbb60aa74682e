"""Executes runs of a study in turn, except those that others have done or are doing."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ktjax import interruption, progress
from ktjax.analysis import study
from ktjax.experiment.shared import Shared
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.study.plan import Run, transfer_of
from ktjax.report import verdicts
from ktjax.settings.study import Study

_POLL = 2.0  # seconds between two checks of what others are doing


def failures(runs: Runs, asked: Sequence[Run]) -> dict[Path, float]:
    """When each failed run last failed, by its folder."""
    when = {run.folder: runs.failure(run) for run in asked}
    return {folder: seconds for folder, seconds in when.items() if seconds is not None}


def work(
    settings: Study,
    runs: Runs,
    asked: Sequence[Run],
    *,
    failed: Mapping[Path, float],
    wait: bool,
    shared: Shared | None = None,
    told: Callable[[], None] = lambda: None,
) -> None:
    """Executes the remaining runs.

    Args:
      settings: of the study. With `only_failed`, only failed runs are done, once more; else those
        that have neither failed nor finished.
      runs: of the workdir.
      asked: the runs to do, grouped by student.
      failed: what `failures` returned when the study was started: what fails again meanwhile, in
        whichever process, is not repeated.
      wait: wait for runs that others are doing until they have finished or died; else skip these.
      shared: what the runs of this process have in common, as far as it is known; None: nothing.
      told: called when a run is done, by whichever process.
    """

    def is_left(run: Run) -> bool:
        if settings.only_failed:
            return run.folder in failed and runs.failure(run) == failed[run.folder]
        return not runs.is_done(run)

    shared = shared or Shared(settings.cache_gb)
    left = [run for run in _by_teacher(asked) if is_left(run)]
    finished: dict[str, list[Run]] = {}  # of each student, as far as this process knows
    for run in filter(runs.has_found, asked):
        finished.setdefault(run.student, []).append(run)
    while left:
        busy = []
        for run in left:
            interruption.stop_if_asked()
            if is_left(run) and not _do(settings, runs, run, shared, is_left):
                busy.append(run)
                continue
            if runs.has_found(run):
                finished.setdefault(run.student, []).append(run)
                runs.keep(finished[run.student], settings.keep)
            told()
        if not wait:
            return
        if len(busy) == len(left):
            time.sleep(_POLL)
        left = busy


def _by_teacher(asked: Sequence[Run]) -> list[Run]:
    """The runs of each student one teacher after another, each for all objectives and seeds.

    A teacher is then read once per student, even if there is no room for all.
    """
    students, teachers = (
        {name: place for place, name in enumerate(dict.fromkeys(names))}
        for names in ([run.student for run in asked], [run.teacher for run in asked])
    )
    return sorted(asked, key=lambda run: (students[run.student], teachers[run.teacher]))


def _do(
    settings: Study, runs: Runs, run: Run, shared: Shared, is_left: Callable[[Run], bool]
) -> bool:
    """Whether it is done now; False: another process is doing it."""
    with runs.take(run) as lease:
        if lease is None:
            return False
        # The last holder may have done it since.
        return not is_left(run) or runs.do(run, transfer_of(settings, run), lease, shared)


class Progress:
    """A bar over runs, with the time left as estimated from finished runs."""

    def __init__(self, runs: Runs, asked: Sequence[Run]):
        self._runs, self._begun = runs, time.perf_counter()
        self._left = {run.folder: run for run in asked}
        self._taken: list[tuple[str, float]] = []  # student and seconds of finished runs
        self._look()
        self._before = len(self._taken)  # by other processes, and those of earlier starts
        self._bar = progress.bar(
            total=len(asked),
            initial=len(asked) - len(self._left),
            desc="study",
            unit="run",
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def update(self) -> None:
        """Reports the runs that were done since the last update, here or elsewhere."""
        for run in self._look():
            taught = "no teacher" if run.teacher is None else run.teacher
            name = f"{run.student} from {taught}, {run.objective}, seed {run.seed}"
            error = self._runs.error(run)
            if error is None:
                row = self._runs.found(run).row
                self._bar.write(f"{name}: {verdicts.change(row)}, {row.seconds:.0f} s")
            else:
                self._bar.write(f"{name}: failed, {error}")
        # Besides training, runs compile and evaluate; several may be in progress.
        trained = sum(seconds for _, seconds in self._taken[self._before :])
        more = (time.perf_counter() - self._begun) / trained if trained else 1.0
        left = more * study.seconds_left(self._taken, [one.student for one in self._left.values()])
        self._bar.n = self._bar.total - len(self._left)
        self._bar.set_postfix_str(f"{datetime.timedelta(seconds=round(left))} left")

    def _look(self) -> list[Run]:
        """The runs that were done since the last look."""
        done = self._runs.done(list(self._left.values()))
        for run in done:
            del self._left[run.folder]
            if self._runs.has_found(run):
                self._taken.append((run.student, self._runs.found(run).row.seconds))
        return done

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()
