"""What the goldens of the MLP networks do not reach: how they begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ktjax.models.networks import mlp_mixer


@pytest.mark.parametrize("kind", [mlp_mixer.GluMlp, mlp_mixer.GatedMlp])
def test_gates_begin_open_and_blind(kind):
    """Whatever the input, a new network multiplies all its values by the same number."""
    mlp = kind(hidden=12)
    x = jax.random.normal(jax.random.key(1), (2, 3, 5))
    variables = mlp.init(jax.random.key(0), x)
    fc1, fc2 = (
        nn.Dense(n).bind({"params": variables["params"][name]})
        for n, name in ((12, "fc1"), (5, "fc2"))
    )
    y = fc1(x)
    if kind is mlp_mixer.GluMlp:
        values, opening = y[..., :6], nn.silu(1.0)
    else:
        values, opening = nn.gelu(y, approximate=False)[..., :6], 1.0
    assert jnp.abs(values).mean() > 0.1
    np.testing.assert_allclose(mlp.apply(variables, x), fc2(values * opening), atol=1e-4)
