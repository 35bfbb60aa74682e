"""What a transfer minimises (paper sections 4.1, 4.2), per example and without reduction.

An objective is a pair of functions, as an optax transformation is. Most have no parameters and no
state. Targets never carry gradients; softmaxes are in float32.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ktjax import partition


class Outputs(NamedTuple):
    """What the models say of one batch; each has `logits` [B, C] and `features` [B, D]."""

    student: Any
    initial: Any  # the frozen copy of the student from before the transfer
    teachers: tuple[Any, ...]


class Objective(NamedTuple):
    """`init(key) -> (params, state)`.

    `apply(params, state, outputs, batch) -> (loss_B, (state, aux))`; aux: per-example [B] values
    that are worth logging.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    apply: Callable[[Any, Any, Outputs, Mapping[str, jax.Array]], tuple[jax.Array, Any]]


def cross_entropy(logits_BxC: jax.Array, *, label_B: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] with integer labels, smoothed by `smoothing` towards uniform."""
    targets_BxC = jax.nn.one_hot(label_B, logits_BxC.shape[-1], dtype=jnp.float32)
    targets_BxC = optax.losses.smooth_labels(targets_BxC, smoothing)
    return optax.losses.softmax_cross_entropy(logits_BxC.astype(jnp.float32), targets_BxC)


def kl(*, student_BxC: jax.Array, target_BxC: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL(softmax(target / T) || softmax(student / T)), [B]; no gradient to the target."""
    log_p = jax.nn.log_softmax(student_BxC.astype(jnp.float32) / temperature)
    target_BxC = jax.lax.stop_gradient(target_BxC.astype(jnp.float32)) / temperature
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(
        log_p, jax.nn.log_softmax(target_BxC)
    )


def _stateless(loss: Callable[[Outputs, Mapping], tuple[jax.Array, dict]]) -> Objective:
    def apply(params, state, outputs, batch):
        del params
        loss_B, aux = loss(outputs, batch)
        return loss_B, (state, aux)

    return Objective(init=lambda key: ((), ()), apply=apply)


def make_xe(*, label_smoothing: float) -> Objective:
    """Cross-entropy with the labels only: plain (pre)training, and the control of a transfer."""

    def loss(outputs, batch):
        label_B = batch["label"]
        logits_BxC = outputs.student.logits
        return cross_entropy(logits_BxC, label_B=label_B, smoothing=label_smoothing), {}

    return _stateless(loss)


def make_kl(*, temperature: float) -> Objective:
    """KL(T) to the teacher (paper eq. 3); several teachers: the mean of their KLs."""

    def loss(outputs, batch):
        del batch
        student_BxC = outputs.student.logits
        kl_KxB = jnp.stack(
            [
                kl(student_BxC=student_BxC, target_BxC=teacher.logits, temperature=temperature)
                for teacher in outputs.teachers
            ]
        )
        return kl_KxB.mean(axis=0), {"taught": jnp.ones(kl_KxB.shape[1:])}

    return _stateless(loss)


def make_xe_kl(*, alpha: float, temperature: float, label_smoothing: float) -> Objective:
    """Alpha * KL(T) + (1 - alpha) * cross-entropy with the labels."""
    teach, label = make_kl(temperature=temperature), make_xe(label_smoothing=label_smoothing)

    def loss(outputs, batch):
        kl_B, (_, aux) = teach.apply((), (), outputs, batch)
        xe_B, _ = label.apply((), (), outputs, batch)
        return alpha * kl_B + (1 - alpha) * xe_B, aux

    return _stateless(loss)


def make_self(*, temperature: float) -> Objective:
    """KL(T) to the initial student: the control in which nobody teaches."""

    def loss(outputs, batch):
        del batch
        target_BxC = outputs.initial.logits
        loss_B = kl(
            student_BxC=outputs.student.logits, target_BxC=target_BxC, temperature=temperature
        )
        return loss_B, {"taught": jnp.zeros(loss_B.shape)}

    return _stateless(loss)


def _make_kl_dp(*, temperature: float, supervised: bool) -> Objective:
    def loss(outputs, batch):
        candidates = (outputs.initial, *outputs.teachers)
        logits_SxBxC = jnp.stack([candidate.logits for candidate in candidates])
        label_B = batch["label"] if supervised else None
        source_B = partition.most_confident(logits_SxBxC, label_B=label_B)
        loss_B = kl(
            student_BxC=outputs.student.logits,
            target_BxC=partition.take(logits_SxBxC, source_B),
            temperature=temperature,
        )
        return loss_B, {"taught": (source_B > 0).astype(jnp.float32)}

    return _stateless(loss)


def make_kl_dp(*, temperature: float) -> Objective:
    """KL + data partitioning: each sample's target is the model with the largest probability of
    its label, among the initial student and the teachers (paper eq. 5).
    """
    return _make_kl_dp(temperature=temperature, supervised=True)


def make_kl_dp_unsupervised(*, temperature: float) -> Objective:
    """KL + data partitioning without labels: the largest maximum probability (paper eq. 6)."""
    return _make_kl_dp(temperature=temperature, supervised=False)


class Entry(NamedTuple):
    """A row of OBJECTIVES: the builder, and what it needs to be there."""

    make: Callable[..., Objective]
    labels: bool
    initial: bool
    teachers: bool
    supervised: bool | None = None  # who a partition asks; None: it makes none


OBJECTIVES = {
    "xe": Entry(make_xe, labels=True, initial=False, teachers=False),
    "self": Entry(make_self, labels=False, initial=True, teachers=False),
    "kl": Entry(make_kl, labels=False, initial=False, teachers=True),
    "xe_kl": Entry(make_xe_kl, labels=True, initial=False, teachers=True),
    "kl_dp": Entry(make_kl_dp, labels=True, initial=True, teachers=True, supervised=True),
    "kl_dp_unsupervised": Entry(
        make_kl_dp_unsupervised, labels=False, initial=True, teachers=True, supervised=False
    ),
}


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError unless OBJECTIVES has the name, with exactly these options."""
    if name not in OBJECTIVES:
        raise ValueError(f"No objective '{name}'. Known: {', '.join(sorted(OBJECTIVES))}.")
    wanted = set(inspect.signature(OBJECTIVES[name].make).parameters)
    if set(options) != wanted:
        raise ValueError(
            f"Objective '{name}' takes the options {', '.join(sorted(wanted))}; "
            f"the config gives {', '.join(sorted(options)) or 'none'}."
        )
