"""Layer and group normalization agree with the library's, and so do their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ktjax.models.networks import norms


def drawn(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


def check_same(ours, theirs, x):
    params = jax.tree.map(lambda y: y + drawn(1, *y.shape), theirs.init(jax.random.key(0), x))
    assert jax.tree.structure(params) == jax.tree.structure(ours.init(jax.random.key(0), x))
    weight = drawn(2, *x.shape)

    def value_and_gradients(module):
        def of(params, x):
            y = module.apply(params, x)
            return (y * weight).sum(), y

        return jax.jit(jax.grad(of, argnums=(0, 1), has_aux=True))(params, x)

    pair = value_and_gradients(ours), value_and_gradients(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), *pair)


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8), (2, 3, 4, 8)], ids=len)
def test_layer_norms_agree(shape):
    """Also far from zero, where the mean of squares has no digits left."""
    x = 100 + drawn(3, *shape)
    theirs = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    check_same(norms.LayerNorm(epsilon=1e-5), theirs, x)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({"num_groups": 2}, {"num_groups": 2}), ({"group_size": 2}, {"num_groups": 4})],
    ids=["count", "size"],
)
def test_group_norms_agree(ours, theirs):
    theirs = nn.GroupNorm(**theirs, epsilon=1e-5, use_fast_variance=False)
    check_same(norms.GroupNorm(**ours), theirs, 10 + drawn(3, 2, 3, 4, 8))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_groups": 3}, "3 groups"), ({"group_size": 3}, "of 3"), ({"group_size": 16}, "of 16")],
)
def test_groups_that_do_not_divide_are_refused(options, said):
    with pytest.raises(ValueError, match=f"8 channels cannot be divided into .*{said}"):
        norms.GroupNorm(**options).init(jax.random.key(0), drawn(0, 1, 2, 2, 8))


def test_second_derivatives_agree():
    """Those of a penalty on the size of a gradient, say."""
    x, weight = drawn(0, 3, 6), drawn(1, 3, 6)

    def library(x):
        mean = x.mean(1, keepdims=True)
        var = jnp.square(x - mean).mean(1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + 1e-6)

    def penalty(standardize):
        inner = jax.grad(lambda x: (standardize(x) * weight).sum())
        return jax.grad(lambda x: jnp.square(inner(x)).sum())(x)

    ours = penalty(lambda x: norms.standardized(x, (1,), 1e-6)[0])
    np.testing.assert_allclose(ours, penalty(library), rtol=1e-4, atol=1e-5)


def test_second_derivatives_of_groups_agree():
    theirs = nn.GroupNorm(num_groups=2, epsilon=1e-5, use_fast_variance=False)
    ours, x_BxHxWxC = norms.GroupNorm(num_groups=2), drawn(0, 2, 3, 4, 8)
    params = jax.tree.map(
        lambda y: y + drawn(1, *y.shape), theirs.init(jax.random.key(0), x_BxHxWxC)
    )

    def of_groups(module):
        def size(params, x):
            inner = jax.grad(lambda x: (module.apply(params, x) * drawn(2, *x.shape)).sum())
            return jnp.square(inner(x)).sum()

        return jax.grad(size, argnums=(0, 1))(params, x_BxHxWxC)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        of_groups(ours),
        of_groups(theirs),
    )


@pytest.mark.parametrize("norm", [norms.LayerNorm(), norms.GroupNorm(num_groups=2)], ids=type)
def test_half_precision_is_computed_in_float32(norm):
    x = (100 + drawn(3, 2, 5, 3, 8)).astype(jnp.bfloat16)
    params = norm.init(jax.random.key(0), x)
    half = jax.tree.map(lambda y: y.astype(jnp.bfloat16), params)
    y = norm.apply(half, x)
    assert y.dtype == jnp.bfloat16
    wide = norm.apply(params, x.astype(jnp.float32))
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    gradients = jax.grad(lambda params: norm.apply(params, x).astype(jnp.float32).sum())(half)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(gradients))


def test_statistics_have_no_gradient():
    def of(x):
        _, mean, rstd = norms.standardized(x, (1,), 1e-6)
        return (mean + rstd).sum()

    assert not jax.grad(of)(drawn(0, 3, 4)).any()
