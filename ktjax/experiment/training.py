"""One training run inside a job: build the step once, resume, fit, evaluate, checkpoint."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ktjax import evaluate, interruption, optim, parallel, train
from ktjax.augment import make_augment
from ktjax.checkpoint import Checkpoints
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.joint import Joint
from ktjax.objectives import Objective
from ktjax.settings.run import Run
from ktjax.writer import Writer

_LOG = logging.getLogger(__name__)


class Recipe(NamedTuple):
    """What all runs with one objective and seed share: the compiled step and its numbers."""

    step: train.Step
    init: Callable[[Any, jax.Array], train.State]  # of the student's variables, and a key
    state: Any  # what `init` gives, in shapes and shardings
    layout: str
    seed: int  # of order, views and the step's randomness
    batch_size: int
    steps_per_dispatch: int
    log_every: int
    schedule: optax.Schedule
    steps_per_epoch: int
    total_steps: int
    eval_every: int


def check(settings: Run) -> None:
    """Raises ValueError unless batches divide by the devices that there are."""
    parallel.check_batch_size(settings.batch_size, "batch_size", microbatches=settings.microbatches)


def make_recipe(
    settings: Run,
    *,
    student: Classifier | Joint,
    teachers: Sequence[Classifier],
    objective: Objective,
    teach: train.Teach,
    learning_rate: float,
    slow: optim.SlowWeights | None,
    augment: str,
    examples: int,
    seed: int,
    trained: Any = None,
) -> Recipe:
    """Builds and wraps the train step.

    Args:
      settings: of the run.
      student: who learns.
      teachers: those whose features the step is to see.
      objective: what is minimized.
      teach: what the frozen models say of a batch.
      learning_rate: per 256 samples.
      slow: how a slow copy of the weights follows; None: there is none.
      augment: names the views, in ktjax.augment.RECIPES.
      examples: in the training split.
      seed: of order, views and the step's randomness.
      trained: which of the student's parameters are trained, a tree of bools; None: all.
    """
    durations = settings.durations(examples)
    schedule = optim.make_schedule(
        settings.schedule,
        peak=optim.scaled(learning_rate, batch_size=settings.batch_size),
        warmup_steps=round(settings.warmup * durations.total),
        total_steps=durations.total,
    )
    optimizer = optim.make_optimizer(
        settings.optimizer,
        schedule=schedule,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    if isinstance(student, Joint):
        optimizer = optim.per_member(optimizer, student.keys)
    if trained is not None:
        optimizer = optim.only(optimizer, trained)
    step = train.make_train_step(
        student=student,
        teach=teach,
        objective=objective,
        optimizer=optimizer,
        slow=slow,
        augment=make_augment(augment, seed=seed),
        steps_per_epoch=durations.epoch,
        dtype=jnp.dtype(settings.dtype),
        freeze_stats=settings.batch_norm == "frozen",
        microbatches=settings.microbatches,
        remat=settings.remat,
    )
    # Of images of any size: each model resizes for itself.
    outputs = train.output_shapes(student, teachers, size=32)

    def init(variables: Any, key: jax.Array) -> train.State:
        return train.init_state(
            variables,
            objective=objective,
            optimizer=optimizer,
            outputs=outputs,
            examples=examples,
            slow=slow is not None,
            key=key,
        )

    shapes = jax.eval_shape(init, dict(student.variables), jax.random.key(seed))
    shardings = parallel.shardings(shapes, settings.parallel)
    layout = parallel.LAYOUTS[settings.parallel]
    return Recipe(
        step=layout.compile(step, several=settings.steps_per_dispatch > 1),
        init=jax.jit(init, out_shardings=shardings),
        state=jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        ),
        layout=settings.parallel,
        seed=seed,
        batch_size=settings.batch_size,
        steps_per_dispatch=settings.steps_per_dispatch,
        log_every=settings.log_every,
        schedule=schedule,
        steps_per_epoch=durations.epoch,
        total_steps=durations.total,
        eval_every=durations.eval_every,
    )


class Fitted(NamedTuple):
    """A run at its end."""

    variables: Any  # of the student, in the host's memory
    history: list[dict[str, Any]]  # one entry per evaluation, see `fit`


def mean_taught(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the samples seen whose target was a teacher's, in percent; None without a choice."""
    if history[-1]["taught"] is None:
        return None
    steps = np.diff([0, *(entry["step"] for entry in history)])
    return float(np.average([entry["taught"] for entry in history], weights=steps))


def fit(
    recipe: Recipe,
    *,
    student: Classifier | Joint,
    frozen: Callable[[], Any],
    images: pipeline.Split,
    tune: pipeline.Split,
    predict: evaluate.Predict,
    measure: Callable[[np.ndarray], Mapping[str, Any]],
    run: str,
    workdir: Path,
) -> Fitted:
    """Trains a student, from its latest checkpoint if there is one.

    Asked to end, it saves after the step that is under way, and raises `interruption.Interrupted`.

    `frozen` gives what the steps take as such; it is not called where no step is left. `measure`
    says of the logits on the tune split the `accuracy` in percent, and what else is worth keeping.

    Every evaluation writes metrics, saves a checkpoint and adds to the history: `step`, `epoch`,
    `accuracy`, `seconds` since the run began (over all the processes that worked on it, without
    what is stored for several runs), the means of `loss` and of what the objective says of its
    targets (`taught`, None where it has no choice; `taught_1` and so on of each teacher) since the
    last evaluation, and as `tune` what `measure` says.
    """
    key = parallel.random_key(recipe.seed)
    checkpoints = Checkpoints(workdir / "checkpoints" / run)
    if checkpoints.latest() is None:
        variables = parallel.place(dict(student.variables), recipe.layout)
        state, history, recent, seconds = recipe.init(variables, key), [], [], 0.0
        del variables
    else:
        state, record = checkpoints.restore(recipe.state)
        history, recent, seconds = (record[name] for name in ("history", "recent", "seconds"))
    first_step = int(state.step)
    _LOG.info("%s: from step %d of %d.", run, first_step, recipe.total_steps)
    asked = frozen() if first_step < recipe.total_steps else None
    writer = Writer(workdir, run=run, first_step=first_step) if parallel.is_first() else None
    begin = time.perf_counter() - seconds

    def save(
        step: int,
        state: train.State,
        recent: Sequence[Mapping[str, float]],
        score: float | None = None,
    ) -> None:
        seconds = time.perf_counter() - begin
        record = {"history": list(history), "recent": list(recent), "seconds": seconds}
        checkpoints.save(step, state, record=record, score=score)
        _LOG.info("%s: saved step %d.", run, step)

    def write(step: int, metrics: Mapping[str, float]) -> None:
        _LOG.info("%s: step %d: %s", run, step, json.dumps(metrics))
        if writer is not None:
            writer.write(step, metrics)

    labelled = images.label_N.max() >= 0  # else nobody knows what is right

    def on_log(step: int, means: dict[str, float]) -> None:
        known = {k: v for k, v in means.items() if labelled or k != "accuracy"}
        metrics = {f"train/{name}": value for name, value in known.items()}
        rate = float(np.asarray(recipe.schedule(step - 1)))
        write(step, metrics | {"learning_rate": rate} | waited.measured())

    def on_eval(step: int, state: train.State, means: dict[str, float]) -> None:
        measured = dict(measure(predict(train.student_variables(state), tune)))
        entry = {
            "step": step,
            "epoch": step / recipe.steps_per_epoch,
            "accuracy": measured["accuracy"],
            "loss": means["loss"],
            "taught": None,
            **{name: share for name, share in means.items() if name.startswith("taught")},
            "seconds": time.perf_counter() - begin,
            "tune": measured,
        }
        history.append(entry)
        numbers = {k: v for k, v in measured.items() if isinstance(v, float)}
        write(step, {f"tune/{name}": value for name, value in numbers.items()})
        save(step, state, [], entry["accuracy"])
        waited.begin()  # neither evaluation nor saving is a wait for input

    batches = pipeline.train_batches(
        images,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        first_step=first_step,
        rows=parallel.local_rows(recipe.batch_size),
    )
    several = recipe.steps_per_dispatch > 1
    groups = batches
    if several:
        sizes = train.dispatches(
            first_step,
            recipe.total_steps,
            eval_every=recipe.eval_every,
            size=recipe.steps_per_dispatch,
        )
        groups = pipeline.grouped(batches, sizes)
    waited = _Waited(parallel.to_devices(groups, several=several))
    with interruption.deferred():
        try:
            state = train.fit(
                recipe.step,
                state,
                waited,
                frozen=asked,
                key=key,
                total_steps=recipe.total_steps,
                log_every=recipe.log_every,
                eval_every=recipe.eval_every,
                on_log=on_log,
                on_eval=on_eval,
                name=run,
                steps_per_dispatch=recipe.steps_per_dispatch,
                recent=recent,
                stop=interruption.asked,
                on_stop=save,
            )
        finally:
            batches.close()
            if writer is not None:
                writer.close()
            checkpoints.close()
    return Fitted(parallel.fetch(train.student_variables(state)), history)


class _Waited:
    """Batches, and how long the loop waited for them: the share of the time between two logs.

    A device that is slower than its input makes the loop wait for metrics, not for batches.
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
        """Counts from here."""
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def measured(self) -> dict[str, float]:
        """What was counted, and begins anew; the same again for another log of the same moment."""
        if self._images:
            seconds = time.perf_counter() - self._since
            self._found = {
                "input/wait_percent": 100 * self._seconds / seconds,
                "input/images_per_s": self._images / seconds,
            }
            self.begin()
        return self._found
