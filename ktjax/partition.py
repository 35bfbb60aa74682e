"""Who teaches which sample (paper section 4.2).

The candidates are stacked with the frozen initial student first, so that one path serves one
teacher and many, and a tie goes to the initial student.
"""

import jax
import jax.numpy as jnp


def confidence(logits_SxBxC: jax.Array, *, label_B: jax.Array | None) -> jax.Array:
    """How sure each model is of each sample.

    Args:
      logits_SxBxC: logits of S models.
      label_B: the labels; None when unsupervised.

    Returns:
      float32 [S, B]: the log-probability of the label, or of the most probable class. (The paper
      compares probabilities; their logarithms have the same order, and keep it near 1.)
    """
    log_probs_SxBxC = jax.nn.log_softmax(logits_SxBxC.astype(jnp.float32), axis=-1)
    if label_B is None:
        return log_probs_SxBxC.max(axis=-1)
    index_1xBx1 = jnp.broadcast_to(label_B[None, :, None], (*log_probs_SxBxC.shape[:2], 1))
    return jnp.take_along_axis(log_probs_SxBxC, index_1xBx1, axis=-1)[..., 0]


def most_confident(logits_SxBxC: jax.Array, *, label_B: jax.Array | None) -> jax.Array:
    """The model that teaches each sample: int32 [B], 0 for the initial student, which wins ties."""
    return confidence(logits_SxBxC, label_B=label_B).argmax(axis=0)


def take(logits_SxBxC: jax.Array, source_B: jax.Array) -> jax.Array:
    """The logits [B, C] of the model that teaches each sample."""
    return jnp.take_along_axis(logits_SxBxC, source_B[None, :, None], axis=0)[0]
