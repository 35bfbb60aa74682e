"""What a model says of its most probable classes, and of all the others as one.

A TopK stands where an array of logits stands: losses.py compares a student with it, partition.py
asks how sure it is. compress.py makes it of logits.
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
      class_BxK: their classes, the most probable first; of equals the first one.
      logit_BxK: their logits minus the largest.
      rest_BxR: log-sum-exp of all other logits minus the largest, softened in each of the `ways`.
      largest_B: the largest logit.
      mean_B: of all logits minus the largest.
      variance_B: of all logits.
      label_odds_B: log-odds of the label, see `partition.confidence`; -inf where it is not known.
      largest_odds_B: log-odds of the most probable class.
      ways: what the columns of `rest_BxR` are.
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
        """How many classes are told apart."""
        return self.class_BxK.shape[-1]

    def rest_B(self, way: Way) -> jax.Array:
        """The column of `rest_BxR` for a softening.

        ValueError: it has none.
        """
        if way not in self.ways:
            raise ValueError(
                f"What was kept of the other classes is at {told(self.ways)}, not at {told([way])}."
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
    """What differences of logits are multiplied by where they are softened this way.

    `floor` is the least standard deviation that logits are divided by, `losses.SPREAD_FLOOR`.
    """
    temperature, standardized = way
    if not standardized:
        return jnp.full(variance_B.shape, 1 / temperature, jnp.float32)
    return jax.lax.rsqrt(jnp.maximum(variance_B, floor**2)) / temperature
