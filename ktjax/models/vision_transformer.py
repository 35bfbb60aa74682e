"""Vision transformers (Dosovitskiy et al. 2021), parts named after timm's."""

import functools

import jax
from flax import linen as nn

from ktjax.models.classifier import Output
from ktjax.models.layers import Mlp


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    num_heads: int

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        batch, tokens, width = x_BxNxD.shape
        qkv = nn.Dense(3 * width, name="qkv")(x_BxNxD)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, width)
        return nn.Dense(width, name="proj")(x)


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut."""

    num_heads: int
    mlp_ratio: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, name="norm1")(x)
        x = x + Attention(self.num_heads, name="attn")(y)
        y = nn.LayerNorm(epsilon=1e-6, name="norm2")(x)
        return x + Mlp(int(x.shape[-1] * self.mlp_ratio), name="mlp")(y)


class VisionTransformer(nn.Module):
    """Tokens from a stem of stride-2 convolutions, blocks, average pooling, a linear head.

    The convolutional stem (Xiao et al. 2021) is what lets a small ViT learn from few images.
    """

    num_classes: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float
    stem_widths: tuple[int, ...]
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train
        for i, width in enumerate(self.stem_widths):
            x = nn.Conv(width, (3, 3), 2, padding=1, name=f"stem_{i}")(x)
            x = nn.relu(nn.LayerNorm(epsilon=1e-6, name=f"stem_norm_{i}")(x))
        patch = (self.patch, self.patch)
        x = nn.Conv(self.width, patch, patch, padding="VALID", name="patch_embed")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        shape = (1, *x.shape[1:])
        x = x + self.param("pos_embed", nn.initializers.truncated_normal(0.02), shape)
        for i in range(self.depth):
            x = Block(self.num_heads, self.mlp_ratio, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x).mean(axis=1)
        return Output(logits=nn.Dense(self.num_classes, name="head")(x), features=x)


tiny_vit = functools.partial(
    VisionTransformer, width=64, depth=3, num_heads=4, mlp_ratio=2, stem_widths=(32,), patch=3
)
