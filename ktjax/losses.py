"""Losses of logits, per example and in float32; those of features are in contrastive.py."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits_BxC: jax.Array, *, label_B: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] with integer labels, smoothed by `smoothing` towards uniform."""
    targets_BxC = jax.nn.one_hot(label_B, logits_BxC.shape[-1], dtype=jnp.float32)
    targets_BxC = optax.losses.smooth_labels(targets_BxC, smoothing)
    return optax.losses.softmax_cross_entropy(logits_BxC.astype(jnp.float32), targets_BxC)


def standardise(logits_BxC: jax.Array) -> jax.Array:
    """Logits of mean 0 and standard deviation 1 in each sample.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, eq. 10. The
    student no longer has to take over the scale of the teacher's logits, only their relations.
    """
    logits_BxC = logits_BxC.astype(jnp.float32)
    centred_BxC = logits_BxC - logits_BxC.mean(axis=-1, keepdims=True)
    variance_Bx1 = jnp.mean(centred_BxC**2, axis=-1, keepdims=True)
    return centred_BxC * jax.lax.rsqrt(variance_Bx1 + 1e-14)  # equal logits stay finite


def soften(
    student_BxC: jax.Array,
    target_BxC: jax.Array,
    *,
    temperature: float,
    top_k: int | None,
    standardised: bool,
) -> tuple[jax.Array, jax.Array]:
    """What a distillation compares: log-softmaxes of student and target over the same classes.

    Args:
      student_BxC: logits that learn.
      target_BxC: logits that teach.
      temperature: that both are divided by.
      top_k: over the target's k largest classes only; None: over all.
      standardised: both are standardised first, see `standardise`.

    Returns:
      (log_student, log_target), float32 [B, C], or [B, k].
    """
    student_BxC, target_BxC = student_BxC.astype(jnp.float32), target_BxC.astype(jnp.float32)
    if top_k is not None:
        target_BxC, class_BxK = jax.lax.top_k(target_BxC, top_k)
        student_BxC = jnp.take_along_axis(student_BxC, class_BxK, axis=-1)
    if standardised:
        student_BxC, target_BxC = standardise(student_BxC), standardise(target_BxC)
    return (
        jax.nn.log_softmax(student_BxC / temperature),
        jax.nn.log_softmax(target_BxC / temperature),
    )


def kl(
    student_BxC: jax.Array, target_BxC: jax.Array, *, temperature: float, **options: Any
) -> jax.Array:
    """T^2 KL(softmax(target / T) || softmax(student / T)), [B]; options as of `soften`."""
    log_student, log_target = soften(student_BxC, target_BxC, temperature=temperature, **options)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_student, log_target)


def soft_cross_entropy(
    student_BxC: jax.Array, target_BxC: jax.Array, *, temperature: float, **options: Any
) -> jax.Array:
    """T^2 times the cross-entropy with softmax(target / T), [B]; options as of `soften`."""
    log_student, log_target = soften(student_BxC, target_BxC, temperature=temperature, **options)
    return -(temperature**2) * jnp.sum(jnp.exp(log_target) * log_student, axis=-1)
