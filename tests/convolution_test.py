"""The forms of a convolution agree with the library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ktjax.models.networks import convolution
from ktjax.models.networks.convolution import Conv

CASES = {  # batch, side, channels in and out, groups, kernel, stride, padding
    "depthwise": (2, 6, 4, 4, 4, 3, 1, 1),
    "depthwise of more than fits": (6, 5, 4, 4, 4, 7, 1, 3),
    "depthwise, halved": (3, 7, 4, 4, 4, 3, 2, 1),
    "depthwise, as TensorFlow pads": (2, 6, 4, 4, 4, 5, 2, "SAME"),
    "depthwise, unpadded": (2, 6, 4, 4, 4, 3, 1, 0),
    "two channels a group": (2, 6, 4, 6, 2, 3, 2, 1),
    "more out than in": (2, 6, 4, 8, 4, 3, 1, 1),
    "pointwise": (2, 6, 4, 5, 1, 1, 1, 0),
    "pointwise, halved": (2, 5, 4, 5, 1, 1, 2, 0),
    "pointwise, padded": (2, 5, 4, 5, 1, 1, 2, 1),
    "all channels": (2, 6, 4, 5, 1, 3, 1, 1),
}


def layer(kind, features, groups, kernel, stride, padding):
    return kind(features, (kernel, kernel), stride, padding=padding, feature_group_count=groups)


@pytest.mark.parametrize("few", [0, 2**20], ids=["rows", "taps"])
@pytest.mark.parametrize("case", CASES)
def test_forms_agree(case, few, monkeypatch):
    monkeypatch.setattr(convolution, "_FEW", few)
    batch, side, channels, *rest = CASES[case]
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    plain, ours = layer(nn.Conv, *rest), layer(Conv, *rest)
    params = plain.init(jax.random.key(1), x)
    weight = jax.random.normal(jax.random.key(2), plain.apply(params, x).shape)

    def value(module):
        def of(params, x):
            y = module.apply(params, x)
            return (y * weight).sum(), y

        return jax.jit(jax.grad(of, argnums=(0, 1), has_aux=True))(params, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *(value(module) for module in (ours, plain)),
    )


def test_which_form(monkeypatch):
    def form(channels, features, groups, kernel=3, dtype=jnp.float32, plain=True):
        x = jnp.zeros((1, 8, 8, channels), dtype)
        weights = jnp.zeros((kernel, kernel, channels // groups, features), dtype)
        return convolution.form_for(x, weights, groups, plain=plain)

    assert form(8, 8, 8) is convolution.depthwise
    assert form(8, 16, 8) is convolution.grouped
    assert form(8, 8, 2) is convolution.grouped
    assert form(8, 16, 1, kernel=1) is convolution.pointwise
    assert form(8, 16, 1) is None
    assert form(8, 8, 8, dtype=jnp.bfloat16) is None
    assert form(8, 8, 8, plain=False) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert form(8, 8, 8) is None
