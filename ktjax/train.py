"""State, train step, and the one loop that every job shares.

The step is a pure function, `(state, frozen, batch, key) -> (state, metrics)`. It names an axis
"batch" that it sums over, and so runs under pmap, or under vmap where there are no devices.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import tqdm

from ktjax.data.augment import Augment
from ktjax.models.classifier import Classifier, Output, cast
from ktjax.objectives import Objective, Outputs
from ktjax.parallel import AXIS

# teach(frozen, image, index_B, view) -> (output of the initial student, outputs of the teachers)
Teach = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[Output | None, tuple[Output, ...]]]
Metrics = Mapping[str, jax.Array]
Step = Callable[..., tuple["State", Metrics]]


@flax.struct.dataclass
class State:
    """What training changes. Frozen models are passed beside it, and never checkpointed."""

    step: jax.Array  # completed updates, int32
    params: Any  # float32
    batch_stats: Any
    objective_params: Any
    objective_state: Any
    opt_state: Any


def init_state(
    student: Classifier,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
) -> State:
    """The state before the first step. Its arrays are its own: steps donate them."""
    variables = jax.tree.map(jnp.copy, dict(student.variables))
    params = cast(variables["params"], jnp.float32)
    objective_params, objective_state = objective.init(key)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        objective_params=objective_params,
        objective_state=objective_state,
        opt_state=optimizer.init((params, objective_params)),
    )


def student_variables(state: State) -> dict[str, Any]:
    """The student's variables as its Classifier takes them."""
    stats = {"batch_stats": state.batch_stats} if state.batch_stats else {}
    return {"params": state.params} | stats


def teach_nothing(frozen: Any, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Any:
    """For objectives that ask nobody but the labels."""
    del frozen, image, index_B, view
    return None, ()


def make_train_step(
    *,
    student: Classifier,
    teach: Teach,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    augment: Augment,
    steps_per_epoch: int,
    dtype: jnp.dtype,
    freeze_stats: bool,
) -> Step:
    """Builds the train step.

    Args:
      student: the classifier to adapt; its own variables are not used.
      teach: what the frozen models say of a batch.
      objective: what is minimised.
      optimizer: acts on (student's params, objective's params).
      augment: the views; the number of a view is the number of the epoch.
      steps_per_epoch: so many steps see one view.
      dtype: of the student's computation; parameters stay float32.
      freeze_stats: BatchNorm keeps its running statistics.

    Returns:
      `step(state, frozen, batch, key) -> (state, metrics)`, to be run where the axis "batch" is
      bound. The metrics are means over the whole batch, float32. Padding has no part in loss and
      gradient, but in BatchNorm's statistics: batches to train on are full.
    """

    def step(state: State, frozen: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        view = state.step // steps_per_epoch
        image = augment(batch["image"], batch["index"], view)
        initial, teachers = teach(frozen, image, batch["index"], view)
        weight_B = batch["mask"].astype(jnp.float32)
        count = jax.lax.psum(weight_B.sum(), AXIS)

        def mean(value_B):  # this device's part of the mean over the whole batch
            return jnp.sum(value_B * weight_B) / count

        def loss_fn(trainable):
            params, objective_params = trainable
            variables = {"params": cast(params, dtype), "batch_stats": state.batch_stats}
            output, stats = student.apply(
                variables, image, train=True, rngs={"dropout": key}, freeze_stats=freeze_stats
            )
            loss_B, (objective_state, aux) = objective.apply(
                objective_params, state.objective_state, Outputs(output, initial, teachers), batch
            )
            right_B = output.logits.argmax(axis=-1) == batch["label"]
            metrics = {"loss": mean(loss_B), "accuracy": 100 * mean(right_B)}
            metrics |= {name: 100 * mean(value_B) for name, value_B in aux.items()}
            return metrics["loss"], (stats, objective_state, metrics)

        trainable = (state.params, state.objective_params)
        grads, (stats, objective_state, metrics) = jax.grad(loss_fn, has_aux=True)(trainable)
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        params, objective_params = optax.apply_updates(trainable, updates)
        return State(
            step=state.step + 1,
            params=params,
            batch_stats=stats,
            objective_params=objective_params,
            objective_state=objective_state,
            opt_state=opt_state,
        ), metrics

    return step


def fit(
    step: Step,
    state: State,
    batches: Iterator[Mapping[str, jax.Array]],
    *,
    frozen: Any,
    key: jax.Array,
    total_steps: int,
    log_every: int,
    eval_every: int,
    on_log: Callable[[int, dict[str, float]], None],
    on_eval: Callable[[int, State, dict[str, float]], None],
    name: str,
) -> State:
    """Trains from `state.step` to `total_steps`.

    Args:
      step: a compiled train step; it donates the state.
      state: where to begin.
      batches: device batches, the first of them for step `state.step`.
      frozen: passed to each step.
      key: randomness of the run; each step folds its number in.
      total_steps: completed updates at the end.
      log_every: steps between calls of on_log(step, means since the last log), also called before
        each on_eval.
      eval_every: steps between calls of on_eval(step, state, means since the last), also called
        at the end; the state is only valid during the call.
      on_log: takes metrics.
      on_eval: evaluates and saves.
      name: of the progress bar.

    Raises:
      FloatingPointError: a loss was not finite; names the steps. No later state was given away.
    """
    first = int(state.step)
    pending, recent = [], []  # metrics on the device; fetched since the last evaluation

    def fetch(last_step: int) -> None:
        fetched = jax.device_get(pending)
        pending.clear()
        # Not finite gradients are seen too: they are in the parameters before the next loss is.
        bad = [i for i, m in enumerate(fetched) if not math.isfinite(m["loss"] + m["grad_norm"])]
        if bad:
            at = last_step - len(fetched) + 1
            raise FloatingPointError(
                f"{name}: the loss or its gradient is not finite at step {at + bad[0]}, and in "
                f"{len(bad)} of the steps {at} to {last_step}. Nothing was saved since; a lower "
                "learning rate, or clipping, may help."
            )
        recent.extend(fetched)

    with tqdm.tqdm(total=total_steps, initial=first, desc=name, unit="step", leave=False) as bar:
        for now, batch in zip(range(first + 1, total_steps + 1), batches, strict=False):
            state, metrics = step(state, frozen, batch, key)
            # Step `now` is under way on the device: what came before it costs no wait.
            evaluates = now % eval_every == 0 or now == total_steps
            if (now - 1) % log_every == 0 and pending:
                logged = len(pending)
                fetch(now - 1)
                on_log(now - 1, _means(recent[-logged:]))
                bar.update(logged)
            pending.append(metrics)
            if evaluates:
                logged = len(pending)
                fetch(now)
                on_log(now, _means(recent[-logged:]))
                on_eval(now, state, _means(recent))
                recent.clear()
                bar.update(logged)
    return state


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {k: float(sum(m[k] for m in metrics) / len(metrics)) for k in metrics[0]}
