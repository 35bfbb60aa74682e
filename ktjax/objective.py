"""The objective interface: what a transfer minimizes, and the inputs it gets for a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import losses


class Outputs(NamedTuple):
    """The models' outputs for one batch; each has `logits` [B, C] and `features` [B, D]."""

    student: Any
    initial: Any  # the frozen copy of the student from before the transfer
    teachers: tuple[Any, ...]
    temperatures_S: Any = None  # calibrate the initial student and teachers for a partition
    weights_S: Any = None  # of the initial student and teachers in a pool


class Objective(NamedTuple):
    """`init(key, outputs, label_N) -> (params, state)`.

    `outputs` have the shapes of the models' outputs; `label_N` are the labels of the training
    split: NumPy int32 [N], -1 where unlabeled.

    `apply(params, state, outputs, batch, key) -> (loss_B, (state, aux))`. The key is the same on
    all devices; aux: per-example [B] fractions to log, and `accuracy` if the student is not a
    single model.
    """

    init: Callable[[jax.Array, Outputs, np.ndarray], tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]


def stateless(loss: Callable[[Outputs, Mapping], tuple[jax.Array, dict]]) -> Objective:
    """The objective with `loss(outputs, batch) -> (loss_B, aux)`, and no parameters of its own.

    No gradient flows to the frozen models.
    """

    def apply(params, state, outputs, batch, key):
        del params, key
        outputs = outputs._replace(
            initial=jax.lax.stop_gradient(outputs.initial),
            teachers=jax.lax.stop_gradient(outputs.teachers),
        )
        loss_B, aux = loss(outputs, batch)
        return loss_B, (state, aux)

    return Objective(init=lambda key, outputs, label_N: ((), ()), apply=apply)


def label_loss(outputs: Outputs, batch: Mapping, label_smoothing: float) -> jax.Array:
    """Cross-entropy [B] of the student with the labels."""
    return losses.cross_entropy(
        outputs.student.logits, label_B=batch["label"], smoothing=label_smoothing
    )


def mean(per_teacher: Sequence[jax.Array]) -> jax.Array:
    """The mean over teachers, per sample."""
    return jnp.stack(per_teacher).mean(axis=0)
