"""The forms of dense layers and of attention agree with the library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ktjax.models.networks import products


def draw(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


def value_and_gradients(call, *arguments):
    """What it gives, and the gradients of a sum of that, weighted differently everywhere."""
    weight = draw(9, *jax.eval_shape(call, *arguments).shape)

    def of(*arguments):
        y = call(*arguments)
        return (y * weight).sum(), y

    gradient = jax.grad(of, argnums=tuple(range(len(arguments))), has_aux=True)
    return jax.jit(gradient)(*arguments)


def check_same(ours, theirs, *arguments):
    pair = (value_and_gradients(call, *arguments) for call in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *pair)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (2, 2, 3, 6)], ids=len)
def test_dense_layers_agree(shape):
    x = draw(0, *shape)
    params = nn.Dense(4).init(jax.random.key(1), x)
    check_same(products.Dense(4).apply, nn.Dense(4).apply, params, x)


def test_a_dense_layer_sums_over_rows():
    """In the gradient too: no sum over two axes, which XLA copies all of its operands for."""
    params, x = {"params": {"kernel": draw(0, 6, 4), "bias": draw(1, 4)}}, draw(2, 2, 3, 6)
    loss = lambda params, x: (products.Dense(4).apply(params, x) ** 2).sum()  # noqa: E731
    found = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, x)
    dots = [e for e in found.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(dots) == 3
    for dot in dots:
        (left, right), _ = dot.params["dimension_numbers"]
        assert len(left) == len(right) == 1


@pytest.mark.parametrize("key_heads", [4, 1], ids=["a key each", "one key for all"])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("biases", [None, 1, 2])
def test_attentions_agree(key_heads, scale, biases):
    q, k, v = draw(0, 2, 5, 4, 3), draw(1, 2, 5, key_heads, 3), draw(2, 2, 5, key_heads, 3)
    bias = None if biases is None else draw(3, biases, 4, 5, 5)

    def call(attention):
        return lambda q, k, v, bias: attention(q, k, v, bias=bias, scale=scale)

    check_same(call(products.attention), call(jax.nn.dot_product_attention), q, k, v, bias)


def test_attention_of_fewer_queries_agrees():
    q, k, v = draw(0, 2, 1, 4, 3), draw(1, 2, 5, 4, 3), draw(2, 2, 5, 4, 3)
    check_same(products.attention, jax.nn.dot_product_attention, q, k, v)


def test_accelerators_and_half_precision_have_the_librarys(monkeypatch):
    said = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *_, **__: said.append("library"))
    x = draw(0, 1, 2, 1, 3)
    products.attention(*(x.astype(jnp.bfloat16),) * 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    products.attention(x, x, x)
    assert said == ["library"] * 2
    jaxpr = jax.make_jaxpr(lambda x, w: products.product(x, w, (((2,), (0,)), ((), ()))))
    assert [e.primitive.name for e in jaxpr(draw(0, 2, 3, 4), draw(1, 4, 5)).jaxpr.eqns] == [
        "dot_general"
    ]
