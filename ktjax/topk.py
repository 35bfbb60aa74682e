"""A model's output for its most probable classes, with all others combined into one.

A TopK takes the place of an array of logits: losses.py compares a student with it, partition.py
reads its confidence. compress.py makes it from logits.
"""

import flax.struct
import jax
import jax.numpy as jnp

# How logits are softened before they are compared: (temperature, whether they are standardized).
Way = tuple[float, bool]


@flax.struct.dataclass
class TopK:
    """The k largest logits of each sample. All arrays may have more axes before B.

    Attributes:
      class_BxK: their classes, the most probable first; ties go to the lower class.
      logit_BxK: their logits minus the largest.
      rest_BxR: log-sum-exp of all other logits minus the largest, softened in each of the `ways`.
      largest_B: the largest logit.
      mean_B: mean of all logits minus the largest.
      variance_B: variance of all logits.
      label_odds_B: log-odds of the label, see `partition.confidence`; -inf where it is unknown.
      largest_odds_B: log-odds of the most probable class.
      ways: the softening of each column of `rest_BxR`.
    """

    class_BxK: jax.Array
    logit_BxK: jax.Array
    rest_BxR: jax.Array
    largest_B: jax.Array
    mean_B: jax.Array
    variance_B: jax.Array
    label_odds_B: jax.Array
    largest_odds_B: jax.Array
    ways: tuple[Way, ...] = flax.struct.field(pytree_node=False)

    @property
    def k(self) -> int:
        """Number of classes kept individually."""
        return self.class_BxK.shape[-1]

    def rest_B(self, way: Way) -> jax.Array:
        """The column of `rest_BxR` for a softening.

        ValueError: there is no such column.
        """
        if way not in self.ways:
            raise ValueError(
                f"The other classes are summed at {told(self.ways)}, not at {told([way])}."
            )
        return self.rest_BxR[..., self.ways.index(way)]


def told(ways) -> str:
    """The softenings in words."""
    return ", ".join(
        f"temperature {temperature}{' of standardized logits' if standardized else ''}"
        for temperature, standardized in ways
    )


def is_kept(class_BxK: jax.Array, classes: int) -> jax.Array:
    """Which of all classes are among these: bool [B, C]."""
    return jax.nn.one_hot(class_BxK, classes, dtype=bool).any(axis=-2)


def scale_B(variance_B: jax.Array, way: Way, *, floor: float) -> jax.Array:
    """The factor by which this softening multiplies differences of logits.

    `floor` is the smallest standard deviation that logits are divided by, `losses.SPREAD_FLOOR`.
    """
    temperature, standardized = way
    if not standardized:
        return jnp.full(variance_B.shape, 1 / temperature, jnp.float32)
    return jax.lax.rsqrt(jnp.maximum(variance_B, floor**2)) / temperature
