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
    "windows that touch": (2, 6, 4, 5, 1, 3, 3, 0),
    "windows that touch, but for the edge": (2, 7, 3, 5, 1, 2, 2, "VALID"),
    "colors": (2, 6, 3, 24, 1, 3, 1, 1),
    "colors, halved": (2, 7, 3, 24, 1, 3, 2, 1),
    "colors, as TensorFlow pads": (2, 6, 3, 24, 1, 3, 2, "SAME"),
    "all channels": (2, 6, 4, 5, 1, 3, 1, 1),
    "all channels, of more": (2, 6, 64, 72, 1, 3, 1, 1),
    "all channels, an odd side": (3, 5, 72, 64, 1, 3, 1, "SAME"),
    "all channels, halved": (2, 6, 64, 64, 1, 3, 2, 1),
}

LARGE = {  # sums of thousands of numbers, up to 90
    "colors in large windows": (2, 66, 3, 4, 1, 7, 2, 3),
    "colors in large windows, as TensorFlow pads": (2, 65, 3, 4, 1, 6, 2, "SAME"),
}


def layer(kind, features, groups, kernel, stride, padding):
    return kind(features, (kernel, kernel), stride, padding=padding, feature_group_count=groups)


@pytest.mark.parametrize("few", [0, 2**20], ids=["rows", "taps"])
@pytest.mark.parametrize("case", CASES | LARGE)
def test_forms_agree(case, few, monkeypatch):
    monkeypatch.setattr(convolution, "_FEW", few)
    monkeypatch.setattr(convolution, "_FEW_TILES", few)
    batch, side, channels, *rest = (CASES | LARGE)[case]
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    plain, ours = layer(nn.Conv, *rest), layer(Conv, *rest)
    params = plain.init(jax.random.key(1), x)
    weight = jax.random.normal(jax.random.key(2), plain.apply(params, x).shape)

    def value(module):
        def of(params, x):
            y = module.apply(params, x)
            return (y * weight).sum(), y

        return jax.jit(jax.grad(of, argnums=(0, 1), has_aux=True))(params, x)

    atol = 1e-4 if case in LARGE else 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol),
        *(value(module) for module in (ours, plain)),
    )


def test_which_form(monkeypatch):
    def form(channels, features, groups, kernel=3, stride=1, pad=1, dtype=jnp.float32, side=8):
        x = jax.ShapeDtypeStruct((1, side, side, channels), dtype)
        weights = jax.ShapeDtypeStruct((kernel, kernel, channels // groups, features), dtype)
        pads = ((pad, pad), (pad, pad))
        return convolution.form_for(x, weights, (stride, stride), pads, groups=groups)

    assert form(8, 8, 8) is convolution.depthwise
    assert form(8, 16, 8) is convolution.grouped
    assert form(8, 8, 2) is convolution.grouped
    assert form(8, 16, 1, kernel=1) is convolution.by_windows
    assert form(3, 24, 1) is form(4, 24, 1, stride=2) is convolution.by_windows
    assert form(3, 16, 1) is form(5, 24, 1) is form(3, 24, 1, kernel=5) is None
    assert form(3, 24, 1, kernel=5, side=65) is convolution.by_images
    assert form(3, 16, 1, side=65) is form(5, 24, 1, kernel=5, side=65) is None
    assert form(3, 16, 1, kernel=4, stride=4, pad=0) is convolution.by_windows
    assert form(64, 96, 1, kernel=2, stride=2, pad=0) is convolution.by_windows
    assert form(3, 16, 1, kernel=4, stride=4) is form(3, 16, 1, kernel=4, stride=2, pad=0) is None
    assert form(64, 96, 1) is form(64, 64, 1, side=128) is convolution.by_winograd
    assert form(32, 64, 1) is form(64, 64, 1, stride=2) is form(64, 64, 1, pad=0) is None
    assert form(64, 64, 1, kernel=5) is form(64, 64, 1, side=256) is None
    assert form(8, 8, 8, dtype=jnp.bfloat16) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert form(8, 8, 8) is form(64, 64, 1) is None


@pytest.mark.parametrize("options", [dict(rhs_dilation=(2, 2)), dict(dimension_numbers=None)])
def test_what_is_not_plain_is_the_librarys(options, monkeypatch):
    monkeypatch.setattr(convolution, "form_for", None)
    x, kernel = jnp.ones((1, 8, 8, 8)), jnp.ones((8, 8, 8, 8))
    options = dict(dimension_numbers=convolution.NHWC) | options
    jax.eval_shape(lambda x, k: convolution.convolve(x, k, (1, 1), "SAME", **options), x, kernel)
