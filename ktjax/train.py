"""State and the train step; the loop that runs it is in loop.py.

The step is a pure function, `(state, frozen, batch, key) -> (state, metrics)`. It sums over an axis
named "batch", so it runs under pmap, shard_map or vmap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ktjax import optim
from ktjax.augment import Views
from ktjax.classifier import Classifier, cast
from ktjax.objective import Objective, Outputs
from ktjax.parallel import AXIS

# teach(frozen, image, index_B, view) -> Outputs without the student's
Teach = Callable[[Any, jax.Array, jax.Array, jax.Array], Outputs]
Metrics = Mapping[str, jax.Array]
Step = Callable[..., tuple["State", Metrics]]

# What a rematerialized forward pass keeps.
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    lambda primitive, *_, **__: primitive is jax.lax.conv_general_dilated_p,
)


class Student(Protocol):
    """What trains: a Classifier, or several with the interface of one (joint.py)."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """`params` and, with BatchNorm, `batch_stats`."""

    def apply(self, variables: Any, image: jax.Array, **options: Any) -> tuple[Any, Any]:
        """As Classifier.apply."""


@flax.struct.dataclass
class State:
    """What training changes. Frozen models are passed separately, and never checkpointed."""

    step: jax.Array  # completed updates, int32
    params: Any  # float32
    batch_stats: Any
    objective_params: Any
    objective_state: Any
    opt_state: Any
    slow: Any  # the student's variables, interpolated; () if there is no such copy
    tail: Any  # the mean of the student's variables over the last steps; () if it is not kept


def init_state(
    variables: Mapping[str, Any],
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    outputs: Outputs,
    label_N: np.ndarray,
    slow: bool,
    tail: bool = False,
    key: jax.Array,
) -> State:
    """The state before the first step. Its arrays are copies: steps donate them.

    Args:
      variables: the student's, from which training starts.
      objective: may have parameters and a state of its own.
      optimizer: acts on the parameters of both.
      outputs: the shapes of student and teacher outputs, from `output_shapes`.
      label_N: the labels of the training split, int32 [N], -1 where unlabeled.
      slow: whether to keep a slow copy of the student's variables.
      tail: whether to keep their mean over the last steps.
      key: for random initialization of the objective.
    """
    variables = jax.tree.map(jnp.copy, dict(variables))
    params = cast(variables["params"], jnp.float32)
    objective_params, objective_state = objective.init(key, outputs, label_N)
    fast = _variables(params, variables.get("batch_stats", {}))

    def copy(wanted: bool) -> Any:
        return jax.tree.map(jnp.copy, fast) if wanted else ()

    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        objective_params=objective_params,
        objective_state=objective_state,
        opt_state=optimizer.init((params, objective_params)),
        slow=copy(slow),
        tail=copy(tail),
    )


def output_shapes(student: Student, teachers: Sequence[Classifier], *, size: int) -> Outputs:
    """The shapes of the models' outputs for one `size` x `size` image; computes nothing."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)

    def shapes(model: Student) -> Any:
        return jax.eval_shape(lambda v, x: model.apply(v, x)[0], model.variables, image)

    return Outputs(student=shapes(student), initial=None, teachers=tuple(map(shapes, teachers)))


def student_variables(state: State) -> dict[str, Any]:
    """The student's variables as its Classifier takes them: the slow ones if there are any."""
    return state.slow or _variables(state.params, state.batch_stats)


def _variables(params: Any, batch_stats: Any) -> dict[str, Any]:
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def teach_nothing(frozen: Any, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Outputs:
    """The `teach` of objectives that use only labels."""
    del frozen, image, index_B, view
    return Outputs(student=None, initial=None, teachers=())


class _Shared(NamedTuple):
    """What the parts of a batch have in common."""

    trainable: tuple[Any, Any]  # params of the student and of the objective
    frozen: Any
    view: jax.Array
    count: jax.Array  # samples of the whole batch, without padding
    key: jax.Array  # of this step, the same on all devices
    run_key: jax.Array  # of all steps


# gradient(shared, part, stats, objective_state, dropout_key)
#   -> (grads, (stats, objective_state, metrics)): what a part of this device's batch adds to the
# gradient and metrics of the whole batch, and what it passes to the next part.
_Gradient = Callable[..., tuple[Any, tuple[Any, Any, dict[str, jax.Array]]]]


def make_train_step(
    *,
    student: Student,
    teach: Teach,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    slow: optim.SlowWeights | None,
    augment: Views,
    steps_per_epoch: int,
    dtype: jnp.dtype,
    freeze_stats: bool,
    views: int | None = None,
    tail_after: int | None = None,
    microbatches: int = 1,
    remat: bool = False,
) -> Step:
    """Builds the train step.

    Args:
      student: the classifier to adapt; its own variables are not used.
      teach: gives the frozen models' outputs for a batch.
      objective: what is minimized.
      optimizer: acts on (student's params, objective's params).
      slow: how a slow copy of the student's variables follows; None: there is none.
      augment: makes the views for the seed that `key` was made from, so the seed is not compiled
        in; the view number is the epoch number.
      steps_per_epoch: the view changes every so many steps.
      dtype: what the student computes in; parameters stay float32.
      freeze_stats: BatchNorm keeps its running statistics.
      views: how many there are, which the epochs cycle through; None: one per epoch.
      tail_after: keeps the mean of the variables over all steps after this many; None: keeps none.
      microbatches: parts of the batch, run in sequence, whose gradients are summed. Each is its own
        batch for anything that looks at several samples: BatchNorm's statistics, which every part
        then updates; the similarities of `cd`; the memory of `crd`; means over the distilled
        samples.
      remat: keeps only the results of convolutions and weight products of the student's forward
        pass for the backward pass, and recomputes the rest.

    Returns:
      `step(state, frozen, batch, key) -> (state, metrics)`, to be run where the axis "batch" is
      bound. The metrics are means over the whole batch, float32. Padding is excluded from loss and
      gradient, but not from BatchNorm's statistics: training batches must be full.
    """
    gradient = _make_gradient(
        forward=_make_forward(student, freeze_stats=freeze_stats, remat=remat),
        teach=teach,
        objective=objective,
        augment=augment,
        dtype=dtype,
    )

    def step(state: State, frozen: Any, batch: Mapping[str, jax.Array], key: jax.Array):
        run_key, key = key, jax.random.fold_in(key, state.step)
        device_key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        epoch = state.step // steps_per_epoch
        view = epoch if views is None else epoch % views
        count = jax.lax.psum(batch["mask"].astype(jnp.float32).sum(), AXIS)
        trainable = (state.params, state.objective_params)
        shared = _Shared(trainable, frozen, view, count, key, run_key)
        add_up = gradient if microbatches == 1 else _in_parts(gradient, microbatches)
        grads, (stats, objective_state, metrics) = add_up(
            shared, batch, state.batch_stats, state.objective_state, device_key
        )
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        params, objective_params = optax.apply_updates(trainable, updates)
        now = state.step + 1
        fast = _variables(params, stats)
        slow_now = optim.interpolate(state.slow, fast, step=now, settings=slow) if slow else ()
        student_now = slow_now or fast
        return State(
            step=now,
            params=params,
            batch_stats=stats,
            objective_params=objective_params,
            objective_state=objective_state,
            opt_state=opt_state,
            slow=slow_now,
            tail=()
            if tail_after is None
            else optim.mean_so_far(state.tail, student_now, count=now - tail_after),
        ), metrics

    return step


def _make_forward(student: Student, *, freeze_stats: bool, remat: bool) -> Callable:
    """The student's forward pass in training: `(variables, image, key) -> (Output, stats)`."""

    def forward(variables: Any, image: jax.Array, key: jax.Array):
        return student.apply(
            variables, image, train=True, rngs={"dropout": key}, freeze_stats=freeze_stats
        )

    return jax.checkpoint(forward, policy=KEPT) if remat else forward


def _make_gradient(
    *,
    forward: Callable,
    teach: Teach,
    objective: Objective,
    augment: Views,
    dtype: jnp.dtype,
) -> _Gradient:
    def gradient(shared: _Shared, part, stats, objective_state, dropout_key):
        image = augment(part["image"], part["index"], shared.view, shared.run_key)
        taught = teach(shared.frozen, image, part["index"], shared.view)
        weight_B = part["mask"].astype(jnp.float32)

        def mean(value_B):
            return jnp.sum(value_B * weight_B) / shared.count

        def loss_fn(trainable):
            params, objective_params = trainable
            variables = {"params": cast(params, dtype), "batch_stats": stats}
            output, new_stats = forward(variables, image, dropout_key)
            outputs = taught._replace(student=output)
            loss_B, (new_objective_state, aux) = objective.apply(
                objective_params, objective_state, outputs, part, shared.key
            )
            if "accuracy" not in aux:  # some objectives compute it for their kind of student
                aux = {"accuracy": output.logits.argmax(axis=-1) == part["label"]} | aux
            shares = {name: 100 * mean(value_B) for name, value_B in aux.items()}
            metrics = {"loss": mean(loss_B)} | shares
            return metrics["loss"], (new_stats, new_objective_state, metrics)

        return jax.grad(loss_fn, has_aux=True)(shared.trainable)

    return gradient


def _in_parts(gradient: _Gradient, microbatches: int) -> _Gradient:
    """The same for a whole batch, with only one part in memory at a time."""

    def add_up(shared: _Shared, batch, stats, objective_state, device_key):
        def accumulate(so_far, numbered):
            grads, stats, objective_state = so_far
            part, number = numbered
            more, (stats, objective_state, metrics) = gradient(
                shared, part, stats, objective_state, jax.random.fold_in(device_key, number)
            )
            return (optax.tree.add(grads, more), stats, objective_state), metrics

        # Strided: each part has the same samples on any number of devices and in any layout.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch
        )
        start = (optax.tree.zeros_like(shared.trainable), stats, objective_state)
        (grads, stats, objective_state), metrics = jax.lax.scan(
            accumulate, start, (parts, jnp.arange(microbatches))
        )
        metrics = jax.tree.map(lambda x: x.sum(axis=0), metrics)
        return grads, (stats, objective_state, metrics)

    return add_up
