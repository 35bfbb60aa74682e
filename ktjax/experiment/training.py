"""One training run inside a job: resume, fit, evaluate, checkpoint."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ktjax import batches as batches_lib
from ktjax import evaluate, files, interruption, loop, parallel, train
from ktjax.checkpoint import Checkpoints, Unwritten
from ktjax.data import pipeline
from ktjax.experiment import beginning, logs
from ktjax.experiment.recipes import Recipe
from ktjax.writer import Writer

_LOG = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """A finished run."""

    variables: Any  # the student's, in host memory
    placed: Any  # the same on the devices, in the recipe's layout, as training left them
    tune_NxC: np.ndarray  # their logits on the tune split, from `predict`
    history: list[dict[str, Any]]  # one entry per evaluation, see `fit`
    checkpoint: Mapping[str, str]  # the final one: `path` in the workdir, `digest` of the arrays
    # Other variables, also on the devices: the mean over the last half of the steps, if the recipe
    # keeps it; and those of the best evaluation on tune, if requested and not the last.
    tail: Any | None = None
    best: Any | None = None


def mean_taught(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Percentage of samples seen whose target was a teacher's; None without a choice."""
    if history[-1]["taught"] is None:
        return None
    steps = np.diff([0, *(entry["step"] for entry in history)])
    return float(np.average([entry["taught"] for entry in history], weights=steps))


def fit(
    recipe: Recipe,
    *,
    student: train.Student,
    frozen: Callable[[int], Any],
    images: pipeline.Split,
    tune: pipeline.Split,
    predict: evaluate.Predict,
    measure: Callable[[np.ndarray], Mapping[str, Any]],
    run: str,
    workdir: Path,
    best: bool = False,
) -> Fitted:
    """Trains a student, from its latest checkpoint if there is one.

    When asked to stop, it saves after the current step, and raises `interruption.Interrupted`.

    `frozen` maps a view number to the steps' `frozen` while they see that view; it is not called
    if no step is left, and only once unless the recipe has a `frozen_every`. `measure` computes
    the `accuracy` in percent, and other values worth keeping, from the logits on the tune split.
    `best`: also return the variables that were best on tune.

    Every evaluation writes metrics, saves a checkpoint and adds to the history: `step`, `epoch`,
    `accuracy`, `seconds` since the run began (over all the processes that worked on it, without
    work shared by several runs), the means since the last evaluation of `loss` and of the
    objective's fractions of targets (`taught`, None if it has no choice; `taught_1` and so on for
    each teacher), and the result of `measure` as `tune`.
    """
    key = parallel.random_key(recipe.seed)
    folder = workdir / files.CHECKPOINTS / run
    checkpoints = Checkpoints(folder, of=beginning.identity(workdir, run))
    state, record = _begin(recipe, student, checkpoints, key)
    first_step = int(state.step)
    _LOG.info("%s: from step %d of %d.", run, first_step, recipe.total_steps)
    writer = Writer(workdir, run=run, first_step=first_step) if parallel.is_first() else None
    labeled = batches_lib.are_labeled(images.label_N)
    journal = _Journal(run, recipe, checkpoints, writer, record, labeled=labeled)
    batches, groups = _batches(recipe, images, first_step)
    waited = _Waited(groups)
    events = loop.run(
        recipe.step,
        state,
        waited,
        frozen=loop.of_steps(frozen, every=recipe.frozen_every, views=recipe.views),
        key=key,
        pace=_pace(recipe),
        name=run,
        recent=record["recent"],
        stop=interruption.asked,
    )
    tune_NxC = best_variables = None
    digest = ""
    with interruption.deferred():
        try:
            for event in events:
                if isinstance(event, loop.Log):
                    journal.log(event, waited.measured())
                    continue
                state = event.state
                if isinstance(event, loop.Evaluation):
                    tune_NxC = predict(train.student_variables(state), tune)
                    _check_finite(run, event.step, tune_NxC)
                    journal.evaluated(event, measure(tune_NxC))
                    waited.begin()  # neither evaluation nor saving is a wait for input
                else:
                    journal.save(event.step, state, event.recent)
            digest = checkpoints.digest
            if best and int(state.step) == recipe.total_steps:  # else it was asked to stop
                best_variables = _best(checkpoints, recipe, journal.history)
        finally:
            events.close()
            batches.close()
            if writer is not None:
                writer.close()
            checkpoints.close()
    variables = train.student_variables(state)
    if tune_NxC is None:  # no step was left
        tune_NxC = predict(variables, tune)
    return Fitted(
        parallel.fetch(variables),
        variables,
        tune_NxC,
        journal.history,
        {"path": f"{files.CHECKPOINTS}/{run}/{int(state.step)}", "digest": digest},
        tail=state.tail or None,
        best=best_variables,
    )


def _check_finite(run: str, step: int, tune_NxC: np.ndarray) -> None:
    """Raises FloatingPointError if the last update was too large: no later loss would show it."""
    if not np.isfinite(tune_NxC).all():
        raise FloatingPointError(
            f"{run}: the logits after step {step} are not finite. Nothing was saved after the last "
            "evaluation; a lower learning rate, or clipping, may help."
        )


def _best(
    checkpoints: Checkpoints, recipe: Recipe, history: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The student's variables that were best on tune; None if they are the last, or their
    checkpoint is damaged.

    Ties go to the latest, as that is the checkpoint that is kept.
    """
    best = max(history, key=lambda entry: (entry["accuracy"], entry["step"]))
    if best["step"] == history[-1]["step"]:
        return None
    try:
        state, _ = checkpoints.restore(recipe.state, steps=(best["step"],))
    except Unwritten:  # this is the last one, not the best
        raise
    except OSError as error:  # the end of training does not depend on it
        _LOG.warning("The best on tune, of step %d, is left out: %s", best["step"], error)
        return None
    return train.student_variables(state)


def _begin(
    recipe: Recipe, student: train.Student, checkpoints: Checkpoints, key: jax.Array
) -> tuple[train.State, dict[str, Any]]:
    """The state to start or resume from, and the checkpoint's record."""
    if checkpoints.latest() is not None:
        return checkpoints.restore(recipe.state)
    variables = parallel.place(dict(student.variables), recipe.layout)
    state = recipe.init(variables, key=key, peak=recipe.peak)
    return state, {"history": [], "recent": [], "seconds": 0.0}


def _pace(recipe: Recipe) -> loop.Pace:
    return loop.Pace(
        total=recipe.total_steps,
        log_every=recipe.log_every,
        eval_every=recipe.eval_every,
        per_dispatch=recipe.steps_per_dispatch,
        frozen_every=recipe.frozen_every,
    )


def _batches(
    recipe: Recipe, images: pipeline.Split, first_step: int
) -> tuple[Iterator[pipeline.Batch], Iterator[Mapping[str, jax.Array]]]:
    """The batches from a step on, to be closed, and the same on the devices, grouped for steps."""
    batches = groups = pipeline.train_batches(
        images,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        first_step=first_step,
        rows=parallel.local_rows(recipe.batch_size),
        views=recipe.views,
    )
    several = recipe.steps_per_dispatch > 1
    if several:
        sizes = loop.dispatches(
            first_step,
            recipe.total_steps,
            eval_every=recipe.eval_every,
            size=recipe.steps_per_dispatch,
            frozen_every=recipe.frozen_every,
        )
        groups = pipeline.grouped(batches, sizes)
    return batches, parallel.to_devices(groups, several=several)


class _Journal:
    """Records a run while it trains: its metrics, its checkpoints, and the history in them."""

    def __init__(
        self,
        run: str,
        recipe: Recipe,
        checkpoints: Checkpoints,
        writer: Writer | None,
        record: Mapping[str, Any],
        *,
        labeled: bool,
    ):
        self.history: list[dict[str, Any]] = record["history"]
        self._run, self._recipe = run, recipe
        self._schedule = recipe.schedule(recipe.peak)
        self._checkpoints, self._writer = checkpoints, writer
        self._start = time.perf_counter() - record["seconds"]
        self._labeled = labeled  # otherwise accuracy is undefined

    def log(self, event: loop.Log, waits: Mapping[str, float]) -> None:
        """Writes training metrics, and how long training waited for input."""
        known = {k: v for k, v in event.means.items() if self._labeled or k != "accuracy"}
        metrics = {f"train/{name}": value for name, value in known.items()}
        rate = float(np.asarray(self._schedule(event.step - 1)))
        self._write(event.step, metrics | {"learning_rate": rate} | waits)

    def evaluated(self, event: loop.Evaluation, measured: Mapping[str, Any]) -> None:
        """Adds to the history, writes what was measured, and saves."""
        shares = {name: share for name, share in event.means.items() if name.startswith("taught")}
        entry = {
            "step": event.step,
            "epoch": event.step / self._recipe.steps_per_epoch,
            "accuracy": measured["accuracy"],
            "loss": event.means["loss"],
            "taught": None,
            **shares,
            "seconds": time.perf_counter() - self._start,
            "tune": dict(measured),
        }
        self.history.append(entry)
        numbers = {k: v for k, v in measured.items() if isinstance(v, float)}
        self._write(event.step, {f"tune/{name}": value for name, value in numbers.items()})
        self.save(event.step, event.state, [], entry["accuracy"])

    def save(
        self,
        step: int,
        state: train.State,
        recent: Sequence[Mapping[str, float]],
        score: float | None = None,
    ) -> None:
        """Saves a checkpoint that the run can resume from."""
        seconds = time.perf_counter() - self._start
        record = {"history": list(self.history), "recent": list(recent), "seconds": seconds}
        if self._writer is not None:
            self._writer.flush()
        self._checkpoints.save(step, state, record=record, score=score)
        _LOG.info("%s: saved step %d.", self._run, step)
        logs.flush()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        _LOG.info("%s: step %d: %s", self._run, step, json.dumps(metrics))
        if self._writer is not None:
            self._writer.write(step, metrics)


class _Waited:
    """Batches, and how long the loop waited for them, as a fraction of the time between two logs.

    If the device is slower than its input, the loop waits for metrics, not for batches.
    """

    def __init__(self, batches: Iterator[Mapping[str, jax.Array]]):
        self._batches = batches
        self._found: dict[str, float] = {}
        self.begin()

    def __iter__(self) -> "_Waited":
        return self

    def __next__(self) -> Mapping[str, jax.Array]:
        start = time.perf_counter()
        batch = next(self._batches)
        self._seconds += time.perf_counter() - start
        self._images += batch["label"].size
        return batch

    def begin(self) -> None:
        """Starts counting."""
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def measured(self) -> dict[str, float]:
        """The counts so far, and resets them; the same again for another log of the same moment."""
        if self._images:
            seconds = time.perf_counter() - self._since
            self._found = {
                "input/wait_percent": 100 * self._seconds / seconds,
                "input/images_per_s": self._images / seconds,
            }
            self.begin()
        return self._found
