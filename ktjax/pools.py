"""Objectives where the initial student and its teachers teach together.

Their target is a log-linear pool, softmax(sum_s w_s z_s), whose weights are fitted on labeled tune
images (analysis/pool.py). It combines all models where a partition chooses one of them, and needs
no labels for the training images. Without a teacher it is the initial student's own output at its
best temperature: the control for this target.

Most of what a student gains it loses again on other images (configs/pools.py). A hold on its logits
keeps more of its answers.
"""

import functools

import jax.numpy as jnp

from ktjax import losses
from ktjax.losses import Softening
from ktjax.objective import Objective, stateless


def make_kl_pool(*, hold: float, softening: Softening) -> Objective:
    """KL(T) to the pool of the initial student and its teachers, `Outputs.weights_S`.

    Args:
      hold: the weight of `losses.drift`; 0: none.
      softening: how student and target are softened.
    """
    return _make(softening, hold=hold)


def make_kl_pool_corrected(*, lead: float, softening: Softening) -> Objective:
    """KL(T) to the same pool, corrected so that the label leads: `losses.corrected`."""
    return _make(softening, lead=lead)


def make_self_pool(*, softening: Softening) -> Objective:
    """KL(T) to the calibrated initial student."""
    return _make(softening)


def _make(softening: Softening, *, lead: float | None = None, hold: float = 0.0) -> Objective:
    kl = functools.partial(losses.kl, softening=softening)

    def loss(outputs, batch):
        said = [model.logits.astype(jnp.float32) for model in (outputs.initial, *outputs.teachers)]
        weight_S = outputs.weights_S
        target_BxC = jnp.tensordot(weight_S, jnp.stack(said), axes=1, precision="highest")
        if lead is not None:
            target_BxC = losses.corrected(target_BxC, label_B=batch["label"], lead=lead)
        loss_B = kl(outputs.student.logits, target_BxC)
        if hold:
            loss_B += hold * losses.drift(outputs.student.logits, outputs.initial.logits)
        size_S = jnp.abs(weight_S)
        of_teachers = size_S[1:].sum() / jnp.maximum(size_S.sum(), jnp.finfo(jnp.float32).tiny)
        return loss_B, {"taught": jnp.full(loss_B.shape, of_teachers)}

    return stateless(loss)
