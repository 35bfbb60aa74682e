"""The objective of several jointly trained students, see joint.py."""

import functools

import jax
import jax.numpy as jnp

from ktjax import losses, partition
from ktjax.losses import Softening
from ktjax.objective import Objective, stateless


def make_mutual(
    *,
    detach_teacher: bool,
    label_smoothing: float,
    softening: Softening,
) -> Objective:
    """Bi-KD: M models train jointly, and the most confident one on a sample teaches the others.

    Each has the cross-entropy with the labels, plus KL(T) to the model with the largest probability
    of the label if that is larger than its own; the loss of a sample is the sum over models. The
    student's logits are [B, M, C] (joint.py).

    Args:
      detach_teacher: no gradient of the KL flows into the teaching model, so that disagreement
        never makes it less confident. False: gradients flow, as in the authors' code.
      label_smoothing: of the cross-entropy.
      softening: how both are softened.

    Source: "Simplifying Knowledge Transfer in Pretrained Models", TMLR 2025, arXiv 2510.22208.
    """
    kl = functools.partial(losses.kl, softening=softening)

    def loss(outputs, batch):
        logits_MxBxC = jnp.moveaxis(outputs.student.logits, 1, 0)
        label_B = batch["label"]
        sure_MxB = partition.confidence(jax.lax.stop_gradient(logits_MxBxC), label_B=label_B)
        source_B = sure_MxB.argmax(axis=0)
        target_BxC = partition.take(logits_MxBxC, source_B)
        if detach_teacher:
            target_BxC = jax.lax.stop_gradient(target_BxC)
        label_loss_MxB = jax.vmap(
            lambda logits_BxC: losses.cross_entropy(
                logits_BxC, label_B=label_B, smoothing=label_smoothing
            )
        )(logits_MxBxC)
        kl_MxB = jax.vmap(lambda logits_BxC: kl(logits_BxC, target_BxC))(logits_MxBxC)
        taught_MxB = sure_MxB < sure_MxB.max(axis=0, keepdims=True)
        loss_B = jnp.sum(label_loss_MxB + jnp.where(taught_MxB, kl_MxB, 0), axis=0)
        aux = {f"taught_model_{i}": taught_B for i, taught_B in enumerate(taught_MxB)}
        right_MxB = logits_MxBxC.argmax(axis=-1) == label_B[None]
        return loss_B, aux | {"accuracy": right_MxB.mean(axis=0)}

    return stateless(loss)
