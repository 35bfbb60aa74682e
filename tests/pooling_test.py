"""Maxima over windows: their gradient on a CPU is XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax.models.networks import pooling


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 1), (3, 1, 1), (3, 2, 0), (2, 2, 1), (5, 3, 2)]
)
def test_gradients_agree(size, kernel, stride, pad):
    """Whole numbers, so that many maxima are equal, and sums of gradients exact."""
    x = jax.random.randint(jax.random.key(0), (2, *size, 3), 0, 4).astype(jnp.float32)

    def pooled(pool):
        y, back = jax.vjp(lambda x: pool(x, kernel, stride, pad), x)
        dy = jax.random.randint(jax.random.key(1), y.shape, 1, 9).astype(jnp.float32)
        return y, back(dy)[0]

    for ours, library in zip(*map(pooled, (pooling._on_cpu, pooling._library)), strict=True):
        np.testing.assert_array_equal(ours, library)


def test_by_hand():
    """Windows of three, two apart: at the maximum 5 of both, and at the first of two that are 1."""
    x = jnp.zeros((1, 4, 4, 1)).at[0, :2, :, 0].set(jnp.asarray([[1.0, 5, 0, 0], [1, 0, 0, 0]]))
    np.testing.assert_array_equal(pooling.max_pool(x, 3, 2, pad=1)[0, :, :, 0], [[5, 5], [1, 0]])
    dx = jax.grad(
        lambda x: (pooling.max_pool(x, 3, 2, pad=1) * jnp.arange(1.0, 5).reshape(1, 2, 2, 1)).sum()
    )
    np.testing.assert_array_equal(dx(x)[0, :2, :, 0], [[0, 3, 0, 0], [3, 4, 0, 0]])
