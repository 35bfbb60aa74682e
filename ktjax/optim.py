"""Optimizer, learning-rate schedule, and momentum weight interpolation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def make_schedule(
    kind: str, peak: float | jax.Array, *, warmup_steps: int, total_steps: int
) -> optax.Schedule:
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
    """SGD with momentum 0.9 and torch's weight decay: on all parameters, before the momentum."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=0.9))


def _adamw(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW; weight decay on kernels and embeddings, not on biases and gains, whatever their shape:
    an attention's biases have an axis for its heads, and some gains lead with axes of size 1.
    """

    def decayed(params: Any) -> Any:
        def leaf(path: Any, p: jax.Array) -> bool:
            name = str(getattr(path[-1], "key", "")).rpartition(".")[2]
            return name != "bias" and sum(size > 1 for size in p.shape) > 1

        return jax.tree_util.tree_map_with_path(leaf, params)

    return optax.adamw(schedule, weight_decay=weight_decay, mask=decayed)


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
SCHEDULES = ("constant", "cosine")


def make_optimizer(
    name: str,
    *,
    schedule: Callable[[float | jax.Array], optax.Schedule],
    peak: float | jax.Array,
    weight_decay: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """The optimizer named in OPTIMIZERS, with gradients clipped to a global norm if one is set.

    The peak learning rate, of which `schedule` makes a schedule, is a number in the optimizer's
    state, so one compiled step serves all learning rates.
    """

    def with_peak(peak: float | jax.Array) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](schedule(peak), weight_decay)
        if clip_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)

    return optax.inject_hyperparams(with_peak)(peak=peak)


def per_member(
    optimizer: optax.GradientTransformation, members: Sequence[str]
) -> optax.GradientTransformation:
    """One optimizer per member of a joint student, each with its own state and gradient norm."""
    labels = ({member: member for member in members}, ())  # params, and no objective params
    return optax.multi_transform(dict.fromkeys(members, optimizer), labels)


def only(optimizer: optax.GradientTransformation, chosen: Any) -> optax.GradientTransformation:
    """The optimizer on the `chosen` parameters only (a tree of bools); the others are frozen."""
    labels = (jax.tree.map(lambda c: "trained" if c else "frozen", chosen), ())
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def scaled(learning_rate: float, *, batch_size: int) -> float:
    """Learning rates are given per 256 samples (paper, appendix)."""
    return learning_rate * batch_size / 256


class SlowWeights(NamedTuple):
    """Momentum weight interpolation (paper section 4.1, MCL): a slowly following copy."""

    tau: float  # fraction of the slow weights that is kept
    every: int  # updates between interpolations


def interpolate(slow: Any, fast: Any, *, step: jax.Array, settings: SlowWeights) -> Any:
    """tau * slow + (1 - tau) * fast if `step` (completed updates) is a multiple of `every`."""

    def leaf(slow: jax.Array, fast: jax.Array) -> jax.Array:
        mixed = settings.tau * slow + (1 - settings.tau) * fast
        return jnp.where(step % settings.every == 0, mixed, slow)

    return jax.tree.map(leaf, slow, fast)


def mean_so_far(mean: Any, values: Any, *, count: jax.Array) -> Any:
    """The running mean of `count` values, the latest being `values`; `values` if they are first.

    Tail averaging (Jain et al. 2018) over the last steps of SGD.
    """
    weight = 1 / jnp.maximum(count, 1).astype(jnp.float32)
    return jax.tree.map(lambda mean, value: mean + weight * (value - mean), mean, values)
