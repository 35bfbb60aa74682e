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
import numpy as np
import optax
import tqdm

from ktjax import optim
from ktjax.augment import Augment
from ktjax.classifier import Classifier, cast
from ktjax.objectives import Objective, Outputs
from ktjax.parallel import AXIS

# teach(frozen, image, index_B, view) -> Outputs, but for the student's
Teach = Callable[[Any, jax.Array, jax.Array, jax.Array], Outputs]
Metrics = Mapping[str, jax.Array]
Step = Callable[..., tuple["State", Metrics]]

# What a rematerialised forward pass keeps.
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    lambda primitive, *_, **__: primitive is jax.lax.conv_general_dilated_p,
)


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
    microbatches: int = 1,
    remat: bool = False,
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
      microbatches: parts of the batch, one after another, whose gradients are added up. Each is a
        batch of its own to what looks at several samples: BatchNorm's statistics, which are then
        updated by every part; the similarities of `cd`; the memory of `crd`.
      remat: of the student's forward pass only the results of convolutions and of products with
        weights are kept for the backward pass; the others are computed again.

    Returns:
      `step(state, frozen, batch, key) -> (state, metrics)`, to be run where the axis "batch" is
      bound. The metrics are means over the whole batch, float32. Padding has no part in loss and
      gradient, but in BatchNorm's statistics: batches to train on are full.
    """

    def forward(variables: Any, image: jax.Array, key: jax.Array):
        return student.apply(
            variables, image, train=True, rngs={"dropout": key}, freeze_stats=freeze_stats
        )

    if remat:
        forward = jax.checkpoint(forward, policy=KEPT)

    def step(state: State, frozen: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        device_key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        view = state.step // steps_per_epoch
        count = jax.lax.psum(batch["mask"].astype(jnp.float32).sum(), AXIS)
        trainable = (state.params, state.objective_params)

        def gradient(part, stats, objective_state, dropout_key):
            """What a part of this device's batch adds to gradient and metrics of the whole one."""
            image = augment(part["image"], part["index"], view)
            taught = teach(frozen, image, part["index"], view)
            weight_B = part["mask"].astype(jnp.float32)

            def mean(value_B):
                return jnp.sum(value_B * weight_B) / count

            def loss_fn(trainable):
                params, objective_params = trainable
                variables = {"params": cast(params, dtype), "batch_stats": stats}
                output, new_stats = forward(variables, image, dropout_key)
                outputs = taught._replace(student=output)
                loss_B, (new_objective_state, aux) = objective.apply(
                    objective_params, objective_state, outputs, part, key
                )
                right_B = _right(output.logits, part["label"])
                metrics = {"loss": mean(loss_B), "accuracy": 100 * mean(right_B)}
                metrics |= {name: 100 * mean(value_B) for name, value_B in aux.items()}
                return metrics["loss"], (new_stats, new_objective_state, metrics)

            return jax.grad(loss_fn, has_aux=True)(trainable)

        def accumulate(so_far, numbered):
            grads, stats, objective_state = so_far
            part, number = numbered
            more, (stats, objective_state, metrics) = gradient(
                part, stats, objective_state, jax.random.fold_in(device_key, number)
            )
            return (optax.tree.add(grads, more), stats, objective_state), metrics

        if microbatches == 1:
            grads, (stats, objective_state, metrics) = gradient(
                batch, state.batch_stats, state.objective_state, device_key
            )
        else:
            # Strided: the same samples in each on any number of devices and in any layout.
            parts = jax.tree.map(
                lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch
            )
            start = (optax.tree.zeros_like(trainable), state.batch_stats, state.objective_state)
            (grads, stats, objective_state), metrics = jax.lax.scan(
                accumulate, start, (parts, jnp.arange(microbatches))
            )
            metrics = jax.tree.map(lambda x: x.sum(axis=0), metrics)
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


def dispatches(first: int, total: int, *, eval_every: int, size: int) -> Iterator[int]:
    """How many steps each dispatch makes: `size`, and fewer before an evaluation and at the end.

    Their ends do not depend on where a run begins, so that a resumed one makes the same programs.
    """
    while first < total:
        end = min(total, *((first // n + 1) * n for n in (size, eval_every)))
        yield end - first
        first = end


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
    steps_per_dispatch: int = 1,
    recent: Sequence[dict[str, float]] = (),
    stop: Callable[[], bool] = lambda: False,
    on_stop: Callable[[int, State, list[dict[str, float]]], None] = lambda *_: None,
) -> State:
    """Trains from `state.step` to `total_steps`.

    Args:
      step: a compiled train step; it donates the state.
      state: where to begin.
      batches: device batches, the first of them for step `state.step`; as `dispatches` groups them.
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
      steps_per_dispatch: of so many steps at a time the host hears.
      recent: the metrics of the steps before the first one, back to the last evaluation.
      stop: asked once after every dispatch: whether to end here.
      on_stop: then called with (step, state, such metrics), unless this step was evaluated.

    Returns:
      The state at the end, or where it was stopped.

    Raises:
      FloatingPointError: a loss was not finite; names the steps. No later state was given away.
    """
    now = int(state.step)
    recent, pending = list(recent), []  # metrics on the host and on the device
    evaluated = now - len(recent)
    logged = max(evaluated, now // log_every * log_every)

    def fetch() -> None:
        at = evaluated + len(recent) + 1
        fetched = [m for metrics in jax.device_get(pending) for m in _per_step(metrics)]
        pending.clear()
        # Not finite gradients are seen too: they are in the parameters before the next loss is.
        bad = [i for i, m in enumerate(fetched) if not math.isfinite(m["loss"] + m["grad_norm"])]
        if bad:
            raise FloatingPointError(
                f"{name}: the loss or its gradient is not finite at step {at + bad[0]}, and in "
                f"{len(bad)} of the steps {at} to {at + len(fetched) - 1}. Nothing was saved "
                "since; a lower learning rate, or clipping, may help."
            )
        recent.extend(fetched)
        bar.update(len(fetched))

    def log(until: int) -> None:
        nonlocal logged
        on_log(until, _means(recent[logged - evaluated : until - evaluated]))
        logged = until

    def log_what_is_due(done: int) -> None:
        due = range((logged // log_every + 1) * log_every, done + 1, log_every)
        if due:
            fetch()
        for until in due:
            log(until)

    sizes = dispatches(now, total_steps, eval_every=eval_every, size=steps_per_dispatch)
    with tqdm.tqdm(total=total_steps, initial=now, desc=name, unit="step", leave=False) as bar:
        for size, batch in zip(sizes, batches, strict=False):
            state, metrics = step(state, frozen, batch, key)
            # These steps are under way on the device: what came before them costs no wait.
            log_what_is_due(now)
            pending.append(metrics)
            now += size
            stopping = stop()
            evaluates = now % eval_every == 0 or now == total_steps
            if evaluates or stopping:
                fetch()
                log_what_is_due(now)
            if evaluates:
                if logged < now:
                    log(now)
                on_eval(now, state, _means(recent))
                recent.clear()
                evaluated = now
            elif stopping:
                on_stop(now, state, recent)
            if stopping:
                break
    return state


def _per_step(metrics: Metrics) -> list[dict[str, float]]:
    """The metrics of a dispatch, step by step."""
    arrays = {name: np.atleast_1d(value) for name, value in metrics.items()}
    return [{name: float(x[i]) for name, x in arrays.items()} for i in range(len(arrays["loss"]))]


def _means(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {k: sum(m[k] for m in metrics) / len(metrics) for k in metrics[0]}
