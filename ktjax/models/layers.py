"""Layers that several families share."""

import jax
from flax import linen as nn

from ktjax import parallel


class BatchNorm(nn.Module):
    """BatchNorm over all devices, with timm's momentum and epsilon.

    Uses (and updates) the batch's statistics where `batch_stats` is mutable, else the running ones.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9  # timm and torch call it 0.1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(
            use_running_average=not self.is_mutable_collection("batch_stats"),
            axis_name=parallel.AXIS,
            momentum=self.momentum,
            epsilon=self.epsilon,
            name="norm",
        )(x)


class Mlp(nn.Module):
    """Two dense layers with GELU between them."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.gelu(nn.Dense(self.hidden, name="fc1")(x), approximate=False)
        return nn.Dense(width, name="fc2")(x)
