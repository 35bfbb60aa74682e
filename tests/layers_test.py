"""Layers that networks share, by hand."""

import jax.numpy as jnp
import numpy as np

from ktjax.models.networks import layers


def test_batch_statistics_far_from_zero():
    """The mean of squares less the square of the mean would be wrong in the first digit."""
    x = (1000 + np.random.default_rng(0).standard_normal((4, 2, 2, 8))).astype(np.float32)
    mean, var, count = layers.batch_statistics(jnp.asarray(x), (0, 1, 2))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var((0, 1, 2), dtype=np.float64), rtol=1e-3)
    assert count == 16
