"""Maxima over windows: their gradient on a CPU is XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax.models.networks import pooling, windows


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize(
    ("sides", "strides", "pads"),
    [
        ((3, 3), (2, 2), windows.ONE),
        ((3, 3), (1, 1), windows.ONE),
        ((3, 3), (2, 2), windows.NONE),
        ((2, 2), (2, 2), windows.ONE),
        ((5, 5), (3, 3), ((2, 2), (2, 2))),
        ((2, 3), (3, 2), ((0, 1), (1, 3))),
    ],
)
def test_gradients_agree(size, sides, strides, pads):
    """Whole numbers, so that many maxima are equal, and sums of gradients exact."""
    x = jax.random.randint(jax.random.key(0), (2, *size, 3), 0, 4).astype(jnp.float32)

    def pooled(pool):
        y, back = jax.vjp(lambda x: pool(x, sides, strides, pads), x)
        dy = jax.random.randint(jax.random.key(1), y.shape, 1, 9).astype(jnp.float32)
        return y, back(dy)[0]

    for ours, library in zip(*map(pooled, (pooling._on_cpu, pooling._library)), strict=True):
        np.testing.assert_array_equal(ours, library)


def test_by_hand():
    """Windows of three, two apart: at the maximum 5 of both, and at the first of two that are 1."""

    def pooled(x):
        return pooling.max_pool(x, (3, 3), (2, 2), windows.ONE)

    x = jnp.zeros((1, 4, 4, 1)).at[0, :2, :, 0].set(jnp.asarray([[1.0, 5, 0, 0], [1, 0, 0, 0]]))
    np.testing.assert_array_equal(pooled(x)[0, :, :, 0], [[5, 5], [1, 0]])
    dx = jax.grad(lambda x: (pooled(x) * jnp.arange(1.0, 5).reshape(1, 2, 2, 1)).sum())
    np.testing.assert_array_equal(dx(x)[0, :2, :, 0], [[0, 3, 0, 0], [3, 4, 0, 0]])
