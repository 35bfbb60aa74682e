"""Optimiser and learning-rate schedule."""

from typing import Any

import jax
import optax


def make_schedule(kind: str, *, peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Learning rate per step: linear warm-up, then `constant`, or `cosine` to zero."""
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps)),
    }[kind]
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def _sgd(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and torch's weight decay: of all parameters, before the momentum."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=0.9))


def _adamw(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW; weight decay of all parameters of two axes or more, not of biases and gains."""

    def decayed(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(schedule, weight_decay=weight_decay, mask=decayed)


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
SCHEDULES = ("constant", "cosine")


def make_optimizer(
    name: str, *, schedule: optax.Schedule, weight_decay: float, clip_norm: float | None
) -> optax.GradientTransformation:
    """The optimiser named in OPTIMIZERS, on gradients clipped to a global norm, if there is one."""
    optimizer = OPTIMIZERS[name](schedule, weight_decay)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def scaled(learning_rate: float, *, batch_size: int) -> float:
    """Learning rates are given per 256 samples (paper, appendix)."""
    return learning_rate * batch_size / 256
