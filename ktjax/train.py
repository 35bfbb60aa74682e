"""State, train step, and the one loop that every job shares.

The step is a pure function, `(state, frozen, batch, key) -> (state, metrics)`. It names an axis
"batch" that it sums over, and so runs under pmap, or under vmap where there are no devices.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import tqdm

from ktjax import optim
from ktjax.data.augment import Augment
from ktjax.models.classifier import Classifier, cast
from ktjax.objectives import Objective, Outputs
from ktjax.parallel import AXIS

# teach(frozen, image, index_B, view) -> Outputs, but for the student's
Teach = Callable[[Any, jax.Array, jax.Array, jax.Array], Outputs]
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
    slow: Any  # the student's variables, interpolated; () where there is no such copy


def init_state(
    variables: Mapping[str, Any],
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    outputs: Outputs,
    examples: int,
    slow: bool,
    key: jax.Array,
) -> State:
    """The state before the first step. Its arrays are its own: steps donate them.

    Args:
      variables: of the student, from which training starts.
      objective: may have parameters and a state of its own.
      optimizer: of both.
      outputs: the shapes of what student and teachers say, as `output_shapes` gives them.
      examples: in the training split.
      slow: a slow copy of the student's variables is kept.
      key: of what is drawn for the objective.
    """
    variables = jax.tree.map(jnp.copy, dict(variables))
    params = cast(variables["params"], jnp.float32)
    objective_params, objective_state = objective.init(key, outputs, examples)
    fast = _variables(params, variables.get("batch_stats", {}))
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        objective_params=objective_params,
        objective_state=objective_state,
        opt_state=optimizer.init((params, objective_params)),
        slow=jax.tree.map(jnp.copy, fast) if slow else (),
    )


def output_shapes(student: Classifier, teachers: Sequence[Classifier], *, size: int) -> Outputs:
    """What models say of one square image of `size` pixels, as shapes; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)

    def shapes(model: Classifier) -> Any:
        return jax.eval_shape(lambda v, x: model.apply(v, x)[0], model.variables, image)

    return Outputs(student=shapes(student), initial=None, teachers=tuple(map(shapes, teachers)))


def student_variables(state: State) -> dict[str, Any]:
    """The student's variables as its Classifier takes them: the slow ones where there are any."""
    return state.slow or _variables(state.params, state.batch_stats)


def _variables(params: Any, batch_stats: Any) -> dict[str, Any]:
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def teach_nothing(frozen: Any, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Outputs:
    """For objectives that ask nobody but the labels."""
    del frozen, image, index_B, view
    return Outputs(student=None, initial=None, teachers=())


def make_train_step(
    *,
    student: Classifier,
    teach: Teach,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    slow: optim.SlowWeights | None,
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
      slow: how a slow copy of the student's variables follows; None: there is none.
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
        device_key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        view = state.step // steps_per_epoch
        image = augment(batch["image"], batch["index"], view)
        taught = teach(frozen, image, batch["index"], view)
        weight_B = batch["mask"].astype(jnp.float32)
        count = jax.lax.psum(weight_B.sum(), AXIS)

        def mean(value_B):  # this device's part of the mean over the whole batch
            return jnp.sum(value_B * weight_B) / count

        def loss_fn(trainable):
            params, objective_params = trainable
            variables = {"params": cast(params, dtype), "batch_stats": state.batch_stats}
            output, stats = student.apply(
                variables,
                image,
                train=True,
                rngs={"dropout": device_key},
                freeze_stats=freeze_stats,
            )
            outputs = taught._replace(student=output)
            loss_B, (objective_state, aux) = objective.apply(
                objective_params, state.objective_state, outputs, batch, key
            )
            right_B = _right(output.logits, batch["label"])
            metrics = {"loss": mean(loss_B), "accuracy": 100 * mean(right_B)}
            metrics |= {name: 100 * mean(value_B) for name, value_B in aux.items()}
            return metrics["loss"], (stats, objective_state, metrics)

        trainable = (state.params, state.objective_params)
        grads, (stats, objective_state, metrics) = jax.grad(loss_fn, has_aux=True)(trainable)
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        params, objective_params = optax.apply_updates(trainable, updates)
        now = state.step + 1
        fast = _variables(params, stats)
        return State(
            step=now,
            params=params,
            batch_stats=stats,
            objective_params=objective_params,
            objective_state=objective_state,
            opt_state=opt_state,
            slow=optim.interpolate(state.slow, fast, step=now, settings=slow) if slow else (),
        ), metrics

    return step


def _right(logits: jax.Array, label_B: jax.Array) -> jax.Array:
    """Whether the label has the largest logit, [B]; of several models [B, M, C], their mean."""
    if logits.ndim == 3:
        return jnp.mean(logits.argmax(axis=-1) == label_B[:, None], axis=-1)
    return logits.argmax(axis=-1) == label_B


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
