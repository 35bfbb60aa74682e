"""Losses on logits, per example and in float32; those on features are in contrastive.py."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ktjax import topk
from ktjax.topk import TopK


def cross_entropy(logits_BxC: jax.Array, *, label_B: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] with integer labels, smoothed by `smoothing` towards uniform."""
    targets_BxC = jax.nn.one_hot(label_B, logits_BxC.shape[-1], dtype=jnp.float32)
    targets_BxC = optax.losses.smooth_labels(targets_BxC, smoothing)
    return optax.losses.softmax_cross_entropy(logits_BxC.astype(jnp.float32), targets_BxC)


# The smallest standard deviation that standardization divides by.
SPREAD_FLOOR = 0.01


class Softening(NamedTuple):
    """How a distillation compares two models' logits.

    Attributes:
      temperature: divides the logits.
      top_k: compares only the target's k most probable classes; all if None, or if there are at
        most k classes. For whose classes these are in a partition, see `objectives.make_kl_dp`.
      standardized: whether both models' logits are standardized first, see `standardize`.
    """

    temperature: float
    top_k: int | None
    standardized: bool

    @property
    def ways(self) -> tuple[topk.Way, ...]:
        """The softenings that a TopK must keep for the other classes to be compared like this."""
        return ((self.temperature, self.standardized),) if self.top_k is None else ()


def standardize(logits_BxC: jax.Array) -> jax.Array:
    """Logits with mean 0 and standard deviation 1 in each sample: float32 [B, C].

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, eq. 10. The
    student need not match the scale of the teacher's logits, only their relations.

    The divisor is at least SPREAD_FLOOR: logits that are all equal become zeros, and the gradient
    of a loss grows by no more than 1 / SPREAD_FLOOR. The published code divides by the standard
    deviation plus 1e-7, which keeps the value finite, but at equal logits (a new zero head)
    multiplies the gradient by 10 million; it also divides the variance by C - 1.
    """
    logits_BxC = logits_BxC.astype(jnp.float32)
    centered_BxC = logits_BxC - logits_BxC.mean(axis=-1, keepdims=True)
    variance_Bx1 = jnp.mean(centered_BxC**2, axis=-1, keepdims=True)
    return centered_BxC * jax.lax.rsqrt(jnp.maximum(variance_Bx1, SPREAD_FLOOR**2))


def corrected(logits_BxC: jax.Array, *, label_B: jax.Array, lead: float) -> jax.Array:
    """The target corrected so that the label leads, as logits: float32 [B, C].

    A distribution p becomes (1 - s) p + s onehot(label), with the smallest s for which the label's
    probability exceeds all others by `lead`; if it already does, p is unchanged. Source:
    "Minifinetuning", arXiv 2506.15702.

    Args:
      logits_BxC: the target's logits.
      label_B: the labels.
      lead: from 0, where label and runner-up tie, to below 1.
    """
    log_p_BxC = jax.nn.log_softmax(logits_BxC.astype(jnp.float32))
    p_BxC = jnp.exp(log_p_BxC)
    is_label_BxC = jax.nn.one_hot(label_B, p_BxC.shape[-1], dtype=bool)
    rival_B = jnp.where(is_label_BxC, 0, p_BxC).max(axis=-1)
    ahead_B = jnp.where(is_label_BxC, p_BxC, 0).sum(axis=-1) - rival_B
    share_Bx1 = jnp.maximum(0, (lead - ahead_B) / jnp.maximum(1 - ahead_B, 1e-6))[:, None]
    others_BxC = log_p_BxC + jnp.log1p(-share_Bx1)
    return jnp.where(is_label_BxC, jnp.logaddexp(others_BxC, jnp.log(share_Bx1)), others_BxC)


def soften(
    student_BxC: jax.Array,
    target_BxC: jax.Array | TopK,
    softening: Softening,
    *,
    top_of_BxC: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-softmaxes of student and target over the same classes.

    Args:
      student_BxC: the student's logits.
      target_BxC: the target's logits. For a TopK: its classes, and all others combined into one.
      softening: how both are softened.
      top_of_BxC: the logits whose top_k classes are compared; None: the target's.

    Returns:
      (log_student, log_target), float32 [B, C] or [B, k]; for a TopK [B, its k + 1] or [B, k].
    """
    if isinstance(target_BxC, TopK):
        assert top_of_BxC is None  # `objectives.of_top_k` refuses it
        return _soften_top_k(student_BxC, target_BxC, softening)
    temperature, top_k, standardized = softening
    student_BxC, target_BxC = student_BxC.astype(jnp.float32), target_BxC.astype(jnp.float32)
    if top_k is not None and top_k < target_BxC.shape[-1]:
        if top_of_BxC is None:
            target_BxC, class_BxK = jax.lax.top_k(target_BxC, top_k)
        else:
            _, class_BxK = jax.lax.top_k(top_of_BxC.astype(jnp.float32), top_k)
            target_BxC = jnp.take_along_axis(target_BxC, class_BxK, axis=-1)
        student_BxC = jnp.take_along_axis(student_BxC, class_BxK, axis=-1)
    if standardized:
        student_BxC, target_BxC = standardize(student_BxC), standardize(target_BxC)
    return (
        jax.nn.log_softmax(student_BxC / temperature),
        jax.nn.log_softmax(target_BxC / temperature),
    )


def _soften_top_k(
    student_BxC: jax.Array, target: TopK, softening: Softening
) -> tuple[jax.Array, jax.Array]:
    temperature, top_k, standardized = softening
    student_BxC = student_BxC.astype(jnp.float32)
    if top_k is not None and top_k < student_BxC.shape[-1]:  # ignores the others
        student_BxK = jnp.take_along_axis(student_BxC, target.class_BxK[:, :top_k], axis=-1)
        return soften(
            student_BxK, target.logit_BxK[:, :top_k], Softening(temperature, None, standardized)
        )
    if standardized:
        student_BxC = standardize(student_BxC)
    log_student_BxC = jax.nn.log_softmax(student_BxC / temperature)
    log_student_BxK = jnp.take_along_axis(log_student_BxC, target.class_BxK, axis=-1)
    kept_BxC = topk.is_kept(target.class_BxK, student_BxC.shape[-1])
    student_rest_B = jax.nn.logsumexp(jnp.where(kept_BxC, -jnp.inf, log_student_BxC), axis=-1)
    way = (temperature, standardized)
    scale_Bx1 = topk.scale_B(target.variance_B, way, floor=SPREAD_FLOOR)[:, None]
    target_BxJ = jnp.concatenate(
        [target.logit_BxK * scale_Bx1, target.rest_B(way)[:, None]], axis=-1
    )
    return (
        jnp.concatenate([log_student_BxK, student_rest_B[:, None]], axis=-1),
        jax.nn.log_softmax(target_BxJ),
    )


def kl(
    student_BxC: jax.Array,
    target_BxC: jax.Array | TopK,
    softening: Softening,
    *,
    top_of_BxC: jax.Array | None = None,
) -> jax.Array:
    """T^2 KL(softmax(target / T) || softmax(student / T)), [B]; `top_of_BxC` as in `soften`."""
    log_student, log_target = soften(student_BxC, target_BxC, softening, top_of_BxC=top_of_BxC)
    divergence_B = optax.losses.kl_divergence_with_log_targets(log_student, log_target)
    return softening.temperature**2 * divergence_B


def soft_cross_entropy(
    student_BxC: jax.Array, target_BxC: jax.Array | TopK, softening: Softening
) -> jax.Array:
    """T^2 times the cross-entropy with softmax(target / T), [B]."""
    log_student, log_target = soften(student_BxC, target_BxC, softening)
    return -(softening.temperature**2) * jnp.sum(jnp.exp(log_target) * log_student, axis=-1)


HELD = 10  # classes that `drift` compares


def drift(student_BxC: jax.Array, initial_BxC: jax.Array) -> jax.Array:
    """How far the student has moved from its initial answers: float32 [B].

    The variance, over the HELD classes with the initial student's largest logits, of the changes of
    these logits: adding a constant to all of them, which changes no answer, is free. After Zhao et
    al., "ELODI: Ensemble Logit Difference Inhibition", arXiv 2205.06265, where squared differences
    to an ensemble's largest logits keep an update from negative flips.
    """
    initial_BxC = initial_BxC.astype(jnp.float32)
    largest_BxK, class_BxK = jax.lax.top_k(initial_BxC, min(HELD, initial_BxC.shape[-1]))
    held_BxK = jnp.take_along_axis(student_BxC.astype(jnp.float32), class_BxK, axis=-1)
    return jnp.var(held_BxK - largest_BxK, axis=-1)
