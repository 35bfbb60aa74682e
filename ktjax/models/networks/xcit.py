"""Cross-covariance image transformers (El-Nouby et al. 2021) as in timm's xcit.py, with its names.

Attention is between channels, not between patches, so its cost grows with the number of patches,
not with its square; 3x3 convolutions let neighboring patches talk. A class token reads the
result in two blocks of class attention (Touvron et al. 2021). No parameter depends on the size of
the image: positions are Fourier features, computed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import BatchNorm, DropPath
from ktjax.models.networks.norms import LayerNorm

_small = nn.initializers.normal(0.02)
# torch's default.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Dense = functools.partial(products.Dense, kernel_init=_small)
Conv3x3 = functools.partial(Conv, kernel_size=(3, 3), padding=1, kernel_init=_uniform)


def fourier_features(height: int, width: int, *, frequencies: int = 16) -> np.ndarray:
    """Sines and cosines of each patch's position: float32 [height, width, 4 * frequencies].

    Rows come first, then columns; each has a sine and a cosine per frequency. Positions run to 2 pi
    whatever the size, wavelengths grow geometrically by a factor of 10,000.
    """
    wavelengths = 10_000 ** (np.arange(frequencies) / frequencies)

    def of(side: int) -> np.ndarray:
        position = 2 * np.pi * np.arange(1, side + 1) / (side + 1e-6)
        phase = position[:, None] / wavelengths
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(side, -1)

    shape = (height, width, 2 * frequencies)
    rows = np.broadcast_to(of(height)[:, None], shape)
    columns = np.broadcast_to(of(width)[None, :], shape)
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)


class PatchEmbed(nn.Module):
    """3x3 convolutions of stride 2, twice as wide each, down to one pixel per patch."""

    width: int
    patch_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count = {8: 3, 16: 4}[self.patch_size]
        for i in range(count):
            width = self.width >> (count - 1 - i)
            x = layers.gelu(x) if i else x
            # timm also counts the activations between them.
            x = Conv3x3(width, strides=2, use_bias=False, name=f"proj.{2 * i}.0")(x)
            x = BatchNorm(name=f"proj.{2 * i}.1")(x)
        return x


class CrossCovarianceAttention(nn.Module):
    """Channels of a head attend to each other by their cosine similarity over all patches.

    Without jax.nn.dot_product_attention: its width of a head would be the number of patches here,
    which no fused kernel takes, and the scores are only as large as a head is wide.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        batch, *_, width = x_BxHxWxC.shape
        temperature = self.param("temperature", nn.initializers.ones, (self.num_heads, 1, 1))
        qkv = Dense(3 * width, name="qkv")(x_BxHxWxC)
        # Patches N, heads H of D channels.
        qkv = qkv.reshape(batch, -1, 3, self.num_heads, width // self.num_heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum(
            "bnhd,bnhe->bhde", _unit(q), _unit(k), preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(scores * temperature[None].astype(jnp.float32))
        y = jnp.einsum("bhde,bnhe->bnhd", weights.astype(v.dtype), v)
        return Dense(width, name="proj")(y.reshape(x_BxHxWxC.shape))


def _unit(x_BxNxHxD: jax.Array) -> jax.Array:
    """Scaled so that each channel has norm 1 over the patches."""
    x = x_BxNxHxD.astype(jnp.float32)
    squares = jnp.square(x).sum(axis=1, keepdims=True)
    return (x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x_BxNxHxD.dtype)


class LocalPatchInteraction(nn.Module):
    """Two depthwise 3x3 convolutions."""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        width = x_BxHxWxC.shape[-1]
        depthwise = functools.partial(Conv3x3, width, feature_group_count=width)
        x = layers.gelu(depthwise(name="conv1")(x_BxHxWxC))
        return depthwise(name="conv2")(BatchNorm(name="bn")(x))


class ClassAttention(nn.Module):
    """Attention of the class token, the first one, to all tokens: [B, 1, C]."""

    num_heads: int

    @nn.compact
    def __call__(self, x_BxNxC: jax.Array) -> jax.Array:
        batch, _, width = x_BxNxC.shape
        q, k, v = (
            Dense(width, name=name)(x).reshape(batch, -1, self.num_heads, width // self.num_heads)
            for name, x in (("q", x_BxNxC[:, :1]), ("k", x_BxNxC), ("v", x_BxNxC))
        )
        y = products.attention(q, k, v)
        return Dense(width, name="proj")(y.reshape(batch, 1, width))


class _Block(nn.Module):
    """What both kinds of block have in common; `eta` is the initial layer scale."""

    num_heads: int
    eta: float

    def _scaled(self, name: str, x: jax.Array) -> jax.Array:
        gamma = self.param(name, nn.initializers.constant(self.eta), x.shape[-1:])
        return x * jnp.broadcast_to(gamma, x.shape)

    def _mlp(self, x: jax.Array) -> jax.Array:
        return layers.Mlp(4 * x.shape[-1], dense=Dense, name="mlp")(x)


class PatchBlock(_Block):
    """Attention between channels, interaction of neighboring patches, an MLP; timm's XCABlock."""

    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = CrossCovarianceAttention(self.num_heads, name="attn")(LayerNorm(name="norm1")(x))
        x = x + DropPath(self.drop_path)(self._scaled("gamma1", y), train=train)
        y = LocalPatchInteraction(name="local_mp")(LayerNorm(name="norm3")(x))
        x = x + DropPath(self.drop_path)(self._scaled("gamma3", y), train=train)
        y = self._mlp(LayerNorm(name="norm2")(x))
        return x + DropPath(self.drop_path)(self._scaled("gamma2", y), train=train)


class ClassBlock(_Block):
    """Class attention and an MLP on the class token; timm's ClassAttentionBlock.

    The patches change, too: their own norm is added to them, then they are doubled. The published
    weights were trained that way.
    """

    tokens_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        y = LayerNorm(name="norm1")(x)
        y = jnp.concatenate([ClassAttention(self.num_heads, name="attn")(y), y[:, 1:]], axis=1)
        x = x + self._scaled("gamma1", y)
        norm = LayerNorm(name="norm2")
        x = norm(x) if self.tokens_norm else jnp.concatenate([norm(x[:, :1]), x[:, 1:]], axis=1)
        token = self._scaled("gamma2", self._mlp(x[:, :1]))
        return x + jnp.concatenate([token, x[:, 1:]], axis=1)


class Xcit(nn.Module):
    """Convolutional patches, blocks on them, two blocks of class attention, a linear head.

    Attributes:
      patch_size: 8 or 16 pixels.
      eta: the initial layer scale.
      tokens_norm: class attention blocks normalize the patches too before their MLP.
      global_pool: what the head reads: `token`, or `avg` for the mean of the patches.
    """

    num_classes: int
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    eta: float = 1.0
    tokens_norm: bool = True
    global_pool: str = "token"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = PatchEmbed(self.embed_dim, self.patch_size, name="patch_embed")(x)
        at = jnp.asarray(fourier_features(*x.shape[1:3])[None], x.dtype)
        project = Conv(
            self.embed_dim, (1, 1), kernel_init=_uniform, name="pos_embed.token_projection"
        )
        x = x + jnp.broadcast_to(project(at), x.shape)
        for i in range(self.depth):
            x = layers.remat(PatchBlock, self.remat)(
                self.num_heads, self.eta, self.drop_path_rate, name=f"blocks.{i}"
            )(x, train)

        token = self.param("cls_token", _small, (1, 1, self.embed_dim))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.embed_dim))
        x = jnp.concatenate([token, x.reshape(x.shape[0], -1, self.embed_dim)], axis=1)
        for i in range(2):
            x = layers.remat(ClassBlock, self.remat)(
                self.num_heads, self.eta, self.tokens_norm, name=f"cls_attn_blocks.{i}"
            )(x, train)
        x = x[:, 1:] if self.global_pool == "avg" else x[:, :1]
        x = LayerNorm(name="norm")(x).mean(axis=1)
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return Output(logits=Dense(self.num_classes, name="head")(y), features=x)


def _xcit(
    embed_dim: int, depth: int, num_heads: int, patch_size: int, **options: object
) -> Callable[..., Xcit]:
    return functools.partial(
        Xcit,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        patch_size=patch_size,
        eta=1.0 if depth == 12 else 1e-5,
        **options,
    )


VARIANTS = {
    "xcit_nano_12_p16_224": _xcit(128, 12, 4, 16, tokens_norm=False),
    "xcit_nano_12_p16_384": _xcit(128, 12, 4, 16, tokens_norm=False),
    "xcit_tiny_12_p16_224": _xcit(192, 12, 4, 16),
    "xcit_tiny_12_p16_384": _xcit(192, 12, 4, 16),
    "xcit_small_12_p16_224": _xcit(384, 12, 8, 16),
    "xcit_small_12_p16_384": _xcit(384, 12, 8, 16),
    "xcit_tiny_24_p16_224": _xcit(192, 24, 4, 16),
    "xcit_tiny_24_p16_384": _xcit(192, 24, 4, 16),
    "xcit_small_24_p16_224": _xcit(384, 24, 8, 16),
    "xcit_small_24_p16_384": _xcit(384, 24, 8, 16),
    "xcit_medium_24_p16_224": _xcit(512, 24, 8, 16),
    "xcit_medium_24_p16_384": _xcit(512, 24, 8, 16),
    "xcit_large_24_p16_224": _xcit(768, 24, 16, 16),
    "xcit_large_24_p16_384": _xcit(768, 24, 16, 16),
    "xcit_nano_12_p8_224": _xcit(128, 12, 4, 8, tokens_norm=False),
    "xcit_nano_12_p8_384": _xcit(128, 12, 4, 8, tokens_norm=False),
    "xcit_tiny_12_p8_224": _xcit(192, 12, 4, 8),
    "xcit_tiny_12_p8_384": _xcit(192, 12, 4, 8),
    "xcit_small_12_p8_224": _xcit(384, 12, 8, 8),
    "xcit_small_12_p8_384": _xcit(384, 12, 8, 8),
    "xcit_tiny_24_p8_224": _xcit(192, 24, 4, 8),
    "xcit_tiny_24_p8_384": _xcit(192, 24, 4, 8),
    "xcit_small_24_p8_224": _xcit(384, 24, 8, 8),
    "xcit_small_24_p8_384": _xcit(384, 24, 8, 8),
    "xcit_medium_24_p8_224": _xcit(512, 24, 8, 8),
    "xcit_medium_24_p8_384": _xcit(512, 24, 8, 8),
    "xcit_large_24_p8_224": _xcit(768, 24, 16, 8),
    "xcit_large_24_p8_384": _xcit(768, 24, 16, 8),
}
