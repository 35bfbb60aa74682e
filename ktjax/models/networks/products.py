"""Dense layers and attention in the form that suits the backend, as convolution.py has for images.

XLA's own are fast on accelerators. On a CPU the gradient of a dense layer on tokens [B, N, D] sums
over two axes, for which XLA first writes a transposed copy of the incoming gradient, and recomputes
that for each of its three uses, activations included; on rows [B * N, D] it does not. All forms
agree to float32 accuracy, and the values of dense layers to the bit.

What was tried (CPU milliseconds of loss and gradients; 2 cores beside other work, jax 0.10.2, so
only the ratios count):

  dense 384 to 1536 of 8x197 tokens, squared   tokens 82, rows 57
  vit_small_patch16_224, batch 8               tokens 5,250, rows 3,700
  mixer_b16_224, batch 4                       tokens 6,270, rows 4,910
  attention of 8x197 tokens, 6 heads of 64     library 16 forward and 40 with gradients, heads first
                                               9.5 and 35; an image and head at a time 11 and 34

Attention's mean has a gradient of our own, which keeps the weights once: gradients of
vit_small_patch16_224 need 750 MB beside parameters, not 929, in the same time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def product(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    **options: Any,
) -> jax.Array:
    """`jax.lax.dot_general`, with its arguments."""
    rows = dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ())) and rhs.ndim == 2
    if jax.default_backend() != "cpu" or not rows or lhs.ndim < 3:
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, **options)
    y = jax.lax.dot_general(
        lhs.reshape(-1, lhs.shape[-1]), rhs, (((1,), (0,)), ((), ())), **options
    )
    return y.reshape(*lhs.shape[:-1], rhs.shape[1])


Dense = functools.partial(nn.Dense, dot_general=product)


def attention(
    q_BxLxHxD: jax.Array,
    k_BxLxHxD: jax.Array,
    v_BxLxHxD: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """`jax.nn.dot_product_attention`, with its arguments and its result [B, L, H, D].

    Keys and values may have one head for all queries. The bias is [1 or B, H, L, L]; the scale is
    that of the scores, None: 1 / sqrt(D).
    """
    if jax.default_backend() != "cpu" or q_BxLxHxD.dtype != jnp.float32:
        return jax.nn.dot_product_attention(q_BxLxHxD, k_BxLxHxD, v_BxLxHxD, bias=bias, scale=scale)
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxD, k_BxLxHxD, v_BxLxHxD))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores_BxHxLxL = (q * scale) @ k.swapaxes(2, 3)
    if bias is not None:
        scores_BxHxLxL += bias
    return _mean(scores_BxHxLxL, v).swapaxes(1, 2)


@jax.custom_vjp
def _mean(scores_BxHxLxL: jax.Array, v_BxHxLxD: jax.Array) -> jax.Array:
    """The mean of values, weighted by the softmax of scores."""
    return jax.nn.softmax(scores_BxHxLxL) @ v_BxHxLxD


def _mean_forward(scores, v):
    weights = jax.nn.softmax(scores)
    return weights @ v, (weights, v)


def _mean_backward(saved, dy):
    weights, v = saved
    dv = weights.swapaxes(2, 3) @ dy
    if v.shape[1] < dv.shape[1]:  # one head for all queries
        dv = dv.sum(axis=1, keepdims=True)
    dw = dy @ v.swapaxes(2, 3)
    return weights * (dw - (weights * dw).sum(axis=-1, keepdims=True)), dv


_mean.defvjp(_mean_forward, _mean_backward)
