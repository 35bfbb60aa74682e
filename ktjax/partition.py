"""Who teaches which sample (paper section 4.2): the most confident, or by flips.

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
      float32 [S, B]: the log-odds, log p / (1 - p), of the label, or of the most probable class.
      The paper compares probabilities. Their log-odds have the same order, and still differ where
      two sure models' probabilities are both 1 in float32.
      `analysis.flips.confidence` is the same in NumPy, for the measures.
    """
    logits_SxBxC = logits_SxBxC.astype(jnp.float32)
    label_1xB = logits_SxBxC.argmax(axis=-1) if label_B is None else label_B[None]
    is_label_SxBxC = jax.nn.one_hot(label_1xB, logits_SxBxC.shape[-1], dtype=bool)
    label_SxB = jnp.where(is_label_SxBxC, logits_SxBxC, -jnp.inf).max(axis=-1)
    others_SxB = jax.nn.logsumexp(jnp.where(is_label_SxBxC, -jnp.inf, logits_SxBxC), axis=-1)
    return label_SxB - others_SxB


def most_confident(
    logits_SxBxC: jax.Array,
    *,
    label_B: jax.Array | None,
    temperatures_S: jax.Array | None = None,
) -> jax.Array:
    """The model that teaches each sample: int32 [B], 0 for the initial student, which wins ties.

    Args:
      logits_SxBxC: logits of the initial student and its teachers.
      label_B: the labels; None when unsupervised.
      temperatures_S: what each model's logits are divided by before they are compared, see
        `analysis.calibration`; None: 1.
    """
    if temperatures_S is not None:
        logits_SxBxC = logits_SxBxC / temperatures_S[:, None, None]
    return confidence(logits_SxBxC, label_B=label_B).argmax(axis=0)


def take(logits_SxBxC: jax.Array, source_B: jax.Array) -> jax.Array:
    """The logits [B, C] of the model that teaches each sample."""
    return jnp.take_along_axis(logits_SxBxC, source_B[None, :, None], axis=0)[0]


def flips(
    student_BxC: jax.Array, teacher_BxC: jax.Array, *, label_B: jax.Array
) -> dict[str, jax.Array]:
    """What student and teacher make of each sample (paper section 3): three bool [B].

    `positive`: the teacher is right and the student wrong; `negative`: the reverse; `neutral`: the
    others.
    """
    student_B = student_BxC.argmax(axis=-1) == label_B
    teacher_B = teacher_BxC.argmax(axis=-1) == label_B
    return {
        "positive": teacher_B & ~student_B,
        "negative": student_B & ~teacher_B,
        "neutral": student_B == teacher_B,
    }
