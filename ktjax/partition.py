"""Which model teaches which sample (paper section 4.2): the most confident, or by flips.

The candidates are stacked with the frozen initial student first, so that one code path serves one
teacher and many, and ties go to the initial student.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.topk import TopK

# A model's output for each sample; S models all use the same type, see `compress.alike`.
Said = jax.Array | TopK


def stack(said: Sequence[Said]) -> Any:
    """Stacks the outputs of S models along a new first axis."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *said)


def answer(said_BxC: Said) -> jax.Array:
    """The most probable class of each sample: int32 [B]."""
    if isinstance(said_BxC, TopK):
        return said_BxC.class_BxK[..., 0]
    return said_BxC.argmax(axis=-1)


def confidence(logits_SxBxC: Said, *, label_B: jax.Array | None) -> jax.Array:
    """How confident each model is on each sample.

    Args:
      logits_SxBxC: logits of S models.
      label_B: the labels; None when unsupervised.

    Returns:
      float32 [S, B]: the log-odds, log p / (1 - p), of the label, or of the most probable class.
      The paper compares probabilities. Log-odds have the same order, and still differ when two
      confident models' probabilities are both 1 in float32.
      `analysis.flips.confidence` is the same in NumPy, for the measures.
    """
    if isinstance(logits_SxBxC, TopK):  # computed before the other classes were dropped
        return logits_SxBxC.largest_odds_B if label_B is None else logits_SxBxC.label_odds_B
    logits_SxBxC = logits_SxBxC.astype(jnp.float32)
    label_1xB = logits_SxBxC.argmax(axis=-1) if label_B is None else label_B[None]
    is_label_SxBxC = jax.nn.one_hot(label_1xB, logits_SxBxC.shape[-1], dtype=bool)
    label_SxB = jnp.where(is_label_SxBxC, logits_SxBxC, -jnp.inf).max(axis=-1)
    others_SxB = jax.nn.logsumexp(jnp.where(is_label_SxBxC, -jnp.inf, logits_SxBxC), axis=-1)
    return label_SxB - others_SxB


def most_confident(
    logits_SxBxC: Said,
    *,
    label_B: jax.Array | None,
    temperatures_S: jax.Array | None = None,
) -> jax.Array:
    """The model that teaches each sample: int32 [B], 0 for the initial student, which wins ties.

    Args:
      logits_SxBxC: logits of the initial student and its teachers.
      label_B: the labels; None when unsupervised.
      temperatures_S: divides each model's logits before they are compared, see
        `analysis.calibration`; None: 1. A TopK supports only None.
    """
    if temperatures_S is not None:
        assert not isinstance(logits_SxBxC, TopK)  # jobs.transfer refuses it
        logits_SxBxC = logits_SxBxC / temperatures_S[:, None, None]
    return confidence(logits_SxBxC, label_B=label_B).argmax(axis=0)


def take(logits_SxBxC: Said, source_B: jax.Array) -> Any:
    """The output of the model that teaches each sample: logits [B, C], or a TopK."""

    def leaf(x_SxB: jax.Array) -> jax.Array:
        at = source_B.reshape(1, -1, *[1] * (x_SxB.ndim - 2))
        return jnp.take_along_axis(x_SxB, at, axis=0)[0]

    return jax.tree.map(leaf, logits_SxBxC)


def flips(student_BxC: jax.Array, teacher_BxC: Said, *, label_B: jax.Array) -> dict[str, jax.Array]:
    """The kind of flip on each sample (paper section 3): three bool [B].

    `positive`: the teacher is right and the student wrong; `negative`: the reverse; `neutral`: all
    others.
    """
    student_B = student_BxC.argmax(axis=-1) == label_B
    teacher_B = answer(teacher_BxC) == label_B
    return {
        "positive": teacher_B & ~student_B,
        "negative": student_B & ~teacher_B,
        "neutral": student_B == teacher_B,
    }
