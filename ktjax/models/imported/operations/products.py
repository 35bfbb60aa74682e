"""Products: matrices, convolutions, attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.models.imported.operations.dtypes import with_axes
from ktjax.models.imported.operations.random import native_dropout
from ktjax.models.imported.operations.reductions import safe_softmax
from ktjax.models.networks import convolution as networks
from ktjax.models.networks import products


def _linear(x, weight, bias=None):
    """`weight` is [out, in], as torch has it."""
    y = products.product(x, weight.swapaxes(0, -1), (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else y + with_axes(bias, y.ndim)


def _scaled(x, factor):
    return x if factor == 1 else x * factor


def _addmm(x, a, b, *, beta=1, alpha=1):
    product = jnp.matmul(a, b)
    return _scaled(with_axes(x, product.ndim), beta) + _scaled(product, alpha)


def _einsum(equation, arrays, *, path=None):
    del path
    return jnp.einsum(equation, *arrays)


def convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> jax.Array:
    """A convolution in one to three dimensions, of [B, C, ...] by [out, in / groups, ...].

    A transposed one has a weight [in, out / groups, ...].
    """
    sides = x.ndim - 2
    stride, padding, dilation, output_padding = (
        tuple(value) * (sides // len(value))
        for value in (stride, padding, dilation, output_padding)
    )
    if sides == 2 and not transposed:  # as native models: in the form that suits the backend
        y = networks.convolve(
            x.transpose(0, 2, 3, 1),
            weight.transpose(2, 3, 1, 0),
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=networks.NHWC,
            feature_group_count=groups,
        ).transpose(0, 3, 1, 2)
    elif transposed:
        y = _transposed(x, weight, stride, padding, dilation, output_padding, groups)
    else:
        y = jax.lax.conv_general_dilated(
            x,
            weight,
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            feature_group_count=groups,
        )
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * sides)


def _transposed(x, weight, stride, padding, dilation, output_padding, groups):
    """The gradient of a convolution with respect to its input."""
    sides = tuple(range(2, x.ndim))
    inward, outward = weight.shape[:2]
    kernel = jnp.flip(weight, sides).reshape(groups, inward // groups, *weight.shape[1:])
    kernel = jnp.swapaxes(kernel, 1, 2)
    kernel = kernel.reshape(groups * outward, inward // groups, *weight.shape[2:])
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    pads = [
        (r - p, r - p + extra) for r, p, extra in zip(reach, padding, output_padding, strict=True)
    ]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1,) * len(sides),
        pads,
        lhs_dilation=stride,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )


def _attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    *,
    scale=None,
    enable_gqa=False,
    drop_key=None,
):
    """Scaled dot product attention, [..., L, D]; a query that sees nothing gets zeros.

    Scores are float32 whatever the arguments are, as in jax.nn.dot_product_attention: bfloat16
    would round large ones by more than the softmax can hide.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (jnp.repeat(a, repeats, axis=-3) for a in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    key = jnp.swapaxes(key, -1, -2)
    logits = jnp.matmul(query, key, preferred_element_type=jnp.float32) * scale
    if is_causal:
        rows, columns = logits.shape[-2:]
        attn_mask = jnp.tril(jnp.ones((rows, columns), bool))
    if attn_mask is None:  # no mask
        weights = jax.nn.softmax(logits)
    else:
        mask = with_axes(attn_mask, logits.ndim)
        seen = jnp.where(mask, logits, -jnp.inf) if mask.dtype == bool else logits + mask
        weights = safe_softmax(seen, -1)
    weights = weights.astype(value.dtype)
    if dropout_p:
        weights, _ = native_dropout(weights, dropout_p, drop_key=drop_key)
    return jnp.matmul(weights, value)


def _flash_on_cpu(query, key, value, dropout_p=0.0, is_causal=False, **options):
    mask = options.pop("attn_mask", None)
    return (_attention(query, key, value, mask, dropout_p, is_causal, **options), None)


OPERATIONS = {
    "_scaled_dot_product_flash_attention_for_cpu": _flash_on_cpu,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "bmm": jnp.matmul,
    "convolution": convolution,
    "dot": jnp.dot,
    "einsum": _einsum,
    "linear": _linear,
    "matmul": jnp.matmul,
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    "scaled_dot_product_attention": _attention,
}
