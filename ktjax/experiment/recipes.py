"""What runs with one objective share: the compiled step, its initialization, and its settings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ktjax import optim, parallel, train
from ktjax.augment import make_views
from ktjax.classifier import Classifier
from ktjax.joint import Joint
from ktjax.objective import Objective
from ktjax.settings.run import Run

Optimizer = optax.GradientTransformation


class Recipe(NamedTuple):
    """What all runs with one objective share: the compiled step and its settings.

    Runs differ in `seed` and `peak` only: `at` gives the recipe of another run.
    """

    step: train.Step
    init: Callable[..., train.State]  # init(variables, key=key, peak=peak), of the student
    state: Any  # shapes and shardings of what `init` returns
    layout: str
    seed: int  # for order, views and the step's randomness
    batch_size: int
    steps_per_dispatch: int
    log_every: int
    peak: float  # the learning rate per step that the schedule begins or warms up to
    schedule: Callable[[float | jax.Array], optax.Schedule]  # of a peak
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    views: int | None  # that epochs cycle through; None: one per epoch
    frozen_every: int | None  # steps after which `frozen` changes with the view, or None

    def at(self, *, learning_rate: float, seed: int) -> "Recipe":
        """The same at a learning rate (per 256 samples) and with a seed, with the same step."""
        peak = optim.scaled(learning_rate, batch_size=self.batch_size)
        return self._replace(seed=seed, peak=peak)


def check(settings: Run) -> None:
    """Raises ValueError unless batches are divisible by the number of devices."""
    parallel.check_batch_size(settings.batch_size, "batch_size", microbatches=settings.microbatches)


def make(
    settings: Run,
    *,
    student: Classifier | Joint,
    teachers: Sequence[Classifier],
    objective: Objective,
    teach: train.Teach,
    learning_rate: float,
    slow: optim.SlowWeights | None,
    augment: str,
    label_N: np.ndarray,
    seed: int,
    views: int | None = None,
    one_view: bool = False,
    tail: bool = False,
    wrap: Callable[[Optimizer], Optimizer] | None = None,
) -> Recipe:
    """Builds the recipe: the train step, its initialization and its settings.

    Args:
      settings: the run's settings.
      student: the model that learns.
      teachers: those whose features the step uses.
      objective: what is minimized.
      teach: gives the frozen models' outputs for a batch.
      learning_rate: per 256 samples.
      slow: how a slow copy of the weights follows; None: there is none.
      augment: the augmentation's name in ktjax.augment.RECIPES.
      label_N: labels of the training split, -1 where unlabeled.
      seed: for order, views and randomness.
      views: how many views epochs cycle through; None: one per epoch.
      one_view: the steps' `frozen` holds a single view, and changes with it.
      tail: keeps the mean of the student's variables over the last half of all steps.
      wrap: wraps the optimizer if the student is joint, or not all parameters are trained.
    """
    durations = settings.durations(len(label_N))
    schedule = functools.partial(
        optim.make_schedule,
        settings.schedule,
        warmup_steps=round(settings.warmup * durations.total),
        total_steps=durations.total,
    )
    peak = optim.scaled(learning_rate, batch_size=settings.batch_size)
    optimizer = functools.partial(_optimizer, settings, schedule, wrap)

    step = train.make_train_step(
        student=student,
        teach=teach,
        objective=objective,
        optimizer=optimizer(peak),
        slow=slow,
        augment=make_views(augment),
        steps_per_epoch=durations.epoch,
        dtype=jnp.dtype(settings.dtype),
        freeze_stats=settings.batch_norm == "frozen",
        views=views,
        tail_after=durations.total // 2 if tail else None,
        microbatches=settings.microbatches,
        remat=settings.remat,
    )
    outputs = train.output_shapes(student, teachers, size=32)  # each resizes for itself

    def init(variables: Any, *, key: jax.Array, peak: jax.Array) -> train.State:
        return train.init_state(
            variables,
            objective=objective,
            optimizer=optimizer(peak),
            outputs=outputs,
            label_N=label_N,
            slow=slow is not None,
            tail=tail,
            key=key,
        )

    shapes = jax.eval_shape(init, dict(student.variables), key=jax.random.key(seed), peak=peak)
    shardings = parallel.shardings(shapes, settings.parallel)
    compiled = parallel.LAYOUTS[settings.parallel].compile
    return Recipe(
        step=compiled(step, several=settings.steps_per_dispatch > 1),
        init=jax.jit(init, out_shardings=shardings),
        state=jax.tree.map(_placed, shapes, shardings),
        layout=settings.parallel,
        seed=seed,
        batch_size=settings.batch_size,
        steps_per_dispatch=settings.steps_per_dispatch,
        log_every=settings.log_every,
        peak=peak,
        schedule=schedule,
        steps_per_epoch=durations.epoch,
        total_steps=durations.total,
        eval_every=durations.eval_every,
        views=views,
        frozen_every=durations.epoch if one_view else None,
    )


def _optimizer(
    settings: Run,
    schedule: Callable[[float | jax.Array], optax.Schedule],
    wrap: Callable[[Optimizer], Optimizer] | None,
    peak: float | jax.Array,
) -> Optimizer:
    made = optim.make_optimizer(
        settings.optimizer,
        schedule=schedule,
        peak=peak,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    return made if wrap is None else wrap(made)


def _placed(x: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
