"""One training run inside a job: build the step once, resume, fit, evaluate, checkpoint."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ktjax import augment, evaluate, interruption, optim, parallel, train
from ktjax import config as config_lib
from ktjax.checkpoint import Checkpoints
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.joint import Joint
from ktjax.objectives import Objective
from ktjax.writer import Writer

DTYPES = ("float32", "bfloat16")
BATCH_NORM = ("train", "frozen")
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


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the fields that every training run reads make sense."""
    config_lib.check_positive(config, "batch_size", "eval_batch_size", "log_every")
    config_lib.check_choice("optimizer", config.optimizer, tuple(optim.OPTIMIZERS))
    config_lib.check_choice("schedule", config.schedule, optim.SCHEDULES)
    config_lib.check_choice("augment", config.augment, tuple(augment.RECIPES))
    config_lib.check_choice("dtype", config.dtype, DTYPES)
    config_lib.check_choice("batch_norm", config.batch_norm, BATCH_NORM)
    config_lib.check_choice("parallel", config.parallel, tuple(parallel.LAYOUTS))
    if not 0 <= config.warmup < 1:
        raise ValueError(f"config.warmup={config.warmup} is a share of all steps: 0 to below 1.")
    if not 0 <= config.weight_decay < math.inf:
        raise ValueError(f"config.weight_decay={config.weight_decay} must not be negative.")
    if config.clip_norm is not None and not 0 < config.clip_norm < math.inf:
        raise ValueError(f"config.clip_norm={config.clip_norm} is no norm; None: not clipped.")
    config_lib.check_positive(config, "microbatches", "steps_per_dispatch")
    parallel.check_batch_size(config.batch_size, "batch_size", microbatches=config.microbatches)
    parallel.check_batch_size(config.eval_batch_size, "eval_batch_size")


def durations(config: ml_collections.ConfigDict, *, examples: int) -> tuple[int, int, int]:
    """Steps per epoch, in total and between evaluations.

    Raises:
      ValueError: the training split does not fill one batch, or a duration is ambiguous.
    """
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"The training split has {examples} images, fewer than config.batch_size="
            f"{config.batch_size}."
        )
    total = config_lib.steps(config, "total", steps_per_epoch=steps_per_epoch)
    return (
        steps_per_epoch,
        total,
        min(total, config_lib.steps(config, "eval_every", steps_per_epoch=steps_per_epoch)),
    )


def make_recipe(
    config: ml_collections.ConfigDict,
    *,
    student: Classifier | Joint,
    teachers: Sequence[Classifier],
    objective: Objective,
    teach: train.Teach,
    learning_rate: float,
    slow: optim.SlowWeights | None,
    examples: int,
    seed: int,
    trained: Any = None,
) -> Recipe:
    """Builds and wraps the train step; `teachers` are those whose features it is to see.

    `trained` says which of the student's parameters are: a tree of bools; None: all.
    """
    steps_per_epoch, total_steps, eval_every = durations(config, examples=examples)
    schedule = optim.make_schedule(
        config.schedule,
        peak=optim.scaled(learning_rate, batch_size=config.batch_size),
        warmup_steps=round(config.warmup * total_steps),
        total_steps=total_steps,
    )
    optimizer = optim.make_optimizer(
        config.optimizer,
        schedule=schedule,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
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
        augment=augment.make_augment(config.augment, seed=seed),
        steps_per_epoch=steps_per_epoch,
        dtype=jnp.dtype(config.dtype),
        freeze_stats=config.batch_norm == "frozen",
        microbatches=config.microbatches,
        remat=config.remat,
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
    shardings = parallel.shardings(shapes, config.parallel)
    return Recipe(
        step=parallel.LAYOUTS[config.parallel].compile(step, several=config.steps_per_dispatch > 1),
        init=jax.jit(init, out_shardings=shardings),
        state=jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        ),
        layout=config.parallel,
        seed=seed,
        batch_size=config.batch_size,
        steps_per_dispatch=config.steps_per_dispatch,
        log_every=config.log_every,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        eval_every=eval_every,
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


def row(
    history: Sequence[Mapping[str, Any]],
    *,
    run: str,
    student: str,
    teachers: Sequence[str],
    objective: str,
    seed: int,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """A run in results.json: who it was, what `analysis.measures` found, and how it went."""
    return {
        "run": run,
        "student": student,
        "teachers": list(teachers),
        "objective": objective,
        "seed": seed,
        **measured,
        "taught": mean_taught(history),
        "seconds": history[-1]["seconds"],
        "history": list(history),
    }
