"""Attention between tokens as in timm's vision transformers, with its names."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import products
from ktjax.models.networks.layers import Activation, Mlp, gelu
from ktjax.models.networks.norms import LayerNorm

Norm = Callable[..., nn.Module]
# timm truncates its normal distributions at 100 standard deviations, so in effect not at all.
dense = functools.partial(products.Dense, kernel_init=nn.initializers.normal(0.02))


def multi_head(
    q_BxLxD: jax.Array,
    k_BxLxD: jax.Array,
    v_BxLxD: jax.Array,
    *,
    num_heads: int,
    qk_norm: Norm | None,
    bias_1xHxLxL: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot product attention; the module that calls it owns the norms of q and k.

    Args:
      q_BxLxD: queries.
      k_BxLxD: keys.
      v_BxLxD: values.
      num_heads: H; it divides D.
      qk_norm: normalizes each head's queries and keys; None: no normalization.
      bias_1xHxLxL: added to the logits.

    Returns:
      The heads' results side by side [B, L, D].
    """
    q, k, v = (_split(x, num_heads) for x in (q_BxLxD, k_BxLxD, v_BxLxD))
    q, k = _normalize(q, k, qk_norm)
    y = products.attention(q, k, v, bias=bias_1xHxLxL)
    return y.reshape(q_BxLxD.shape)


def differential(
    module: nn.Module,
    q_BxLxD: jax.Array,
    k_BxLxD: jax.Array,
    v_BxLxD: jax.Array,
    *,
    num_heads: int,
    qk_norm: Norm | None,
    depth: int,
) -> jax.Array:
    """The difference of two attentions for each head (Ye et al., arXiv 2410.05258).

    Args:
      module: owns the norms and the weight of the second attention.
      q_BxLxD: queries; a head has two, each half as wide as its value.
      k_BxLxD: keys, likewise.
      v_BxLxD: values.
      num_heads: H; 2H divides D.
      qk_norm: normalizes each half head's queries and keys; None: no normalization.
      depth: how many blocks come before; the second attention counts for more in later ones.

    Returns:
      The heads' results side by side [B, L, D].
    """
    q, k = _normalize(_split(q_BxLxD, 2 * num_heads), _split(k_BxLxD, 2 * num_heads), qk_norm)
    half = q.shape[-1]
    # Values must be as wide as queries: zeros beside a query and its key change no product.
    q, k = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, half))) for x in (q, k))
    v = jnp.repeat(_split(v_BxLxD, num_heads), 2, axis=2)
    y = products.attention(q, k, v, scale=half**-0.5)
    y = y.reshape(*y.shape[:2], num_heads, 2, 2 * half)

    def product(number: int) -> jax.Array:
        init = nn.initializers.normal(0.1)
        factors = (module.param(f"lambda_{x}{number}", init, (half,)) for x in "qk")
        return math.prod(f.astype(jnp.float32) for f in factors).sum()

    start = 0.8 - 0.6 * math.exp(-0.3 * depth)
    weight = jnp.exp(product(1)) - jnp.exp(product(2)) + start
    y = y[:, :, :, 0] - weight.astype(y.dtype) * y[:, :, :, 1]
    y = nn.RMSNorm(epsilon=1e-5, name="sub_norm")(y) * (1 - start)
    return y.reshape(q_BxLxD.shape)


def _split(x_BxLxD: jax.Array, num_heads: int) -> jax.Array:
    return x_BxLxD.reshape(*x_BxLxD.shape[:2], num_heads, -1)


def _normalize(q: jax.Array, k: jax.Array, norm: Norm | None) -> tuple[jax.Array, jax.Array]:
    return (q, k) if norm is None else (norm(name="q_norm")(q), norm(name="k_norm")(k))


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      qk_norm: each head's queries and keys are normalized.
      scale_norm: the result is normalized before its projection.
      depth: how many blocks come before; only differential attention uses it.
    """

    num_heads: int
    qkv_bias: bool = True
    qk_norm: bool = False
    scale_norm: bool = False
    proj_bias: bool = True
    norm_layer: Norm = LayerNorm
    depth: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        qkv = dense(3 * width, use_bias=self.qkv_bias, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        x = self._attend(query, key, value, bias)
        x = self.norm_layer(name="norm")(x) if self.scale_norm else x
        return dense(width, use_bias=self.proj_bias, name="proj")(x)

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        norm = self.norm_layer if self.qk_norm else None
        return multi_head(q, k, v, num_heads=self.num_heads, qk_norm=norm, bias_1xHxLxL=bias)


class DiffAttention(Attention):
    """Self-attention that is the difference of two attentions."""

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        assert bias is None, "No network of timm's has both."
        norm = self.norm_layer if self.qk_norm else None
        return differential(self, q, k, v, num_heads=self.num_heads, qk_norm=norm, depth=self.depth)


class AttentionPoolLatent(nn.Module):
    """Pooling by the attention of one learned query to all tokens, and an MLP (Zhai et al. 2022).

    Tokens [B, L, D] to [B, D].
    """

    num_heads: int
    mlp_ratio: float = 4.0
    norm_layer: Norm = LayerNorm
    act_layer: Activation = gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, _, width = x.shape
        latent = self.param("latent", nn.initializers.normal(width**-0.5), (1, 1, width))
        q = jnp.broadcast_to(dense(width, name="q")(latent), (batch, 1, width))
        k, v = jnp.split(dense(2 * width, name="kv")(x), 2, axis=-1)
        y = dense(width, name="proj")(multi_head(q, k, v, num_heads=self.num_heads, qk_norm=None))
        mlp = Mlp(int(width * self.mlp_ratio), self.act_layer, dense=dense, name="mlp")
        return (y + mlp(self.norm_layer(name="norm")(y)))[:, 0]
