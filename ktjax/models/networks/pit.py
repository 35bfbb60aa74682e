"""Pooling-based vision transformers (Heo et al. 2021) as in timm's pit.py, with its names.

Overlapping patches, then three stages of a plain vision transformer; between them convolutions of
stride 2 halve the map of patches and double the channels, as residual networks do.
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
from ktjax.models.networks.layers import DropPath
from ktjax.models.networks.norms import LayerNorm
from ktjax.models.networks.positions import Entry

# torch's default.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Dense = functools.partial(products.Dense, kernel_init=_uniform)


class Attention(nn.Module):
    """Self-attention of all tokens."""

    num_heads: int

    @nn.compact
    def __call__(self, x_BxNxC: jax.Array) -> jax.Array:
        batch, tokens, width = x_BxNxC.shape
        qkv = Dense(3 * width, name="qkv")(x_BxNxC)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        y = products.attention(*(qkv[:, :, i] for i in range(3)))
        return Dense(width, name="proj")(y.reshape(x_BxNxC.shape))


class Block(nn.Module):
    """Attention and an MLP, each after its norm and with a shortcut."""

    num_heads: int
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = Attention(self.num_heads, name="attn")(LayerNorm(name="norm1")(x))
        x = x + DropPath(self.drop_path)(y, train=train)
        mlp = layers.Mlp(4 * x.shape[-1], dense=Dense, name="mlp")
        return x + DropPath(self.drop_path)(mlp(LayerNorm(name="norm2")(x)), train=train)


class Pooling(nn.Module):
    """Halves the patches' height and width and adds channels, to the tokens beside them too."""

    width: int

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, token_BxTxC: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = Conv(
            self.width,
            (3, 3),
            2,
            padding=1,
            feature_group_count=x_BxHxWxC.shape[-1],
            kernel_init=_uniform,
            name="conv",
        )(x_BxHxWxC)
        return x, Dense(self.width, name="fc")(token_BxTxC)


class PoolingVisionTransformer(nn.Module):
    """Patches with a position embedding, three stages, linear heads on the class token.

    Attributes:
      patch_size, stride: of the patches, in pixels.
      base_dims: how many channels a head has, by stage.
      depth: how many blocks there are, by stage.
      heads: how many the attention has, by stage.
      distilled: a second token with its own head (Touvron et al. 2021); the mean of both answers.
    """

    num_classes: int
    patch_size: int
    stride: int
    base_dims: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    distilled: bool = False
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        widths = [base * heads for base, heads in zip(self.base_dims, self.heads, strict=True)]
        x = Conv(
            widths[0],
            (self.patch_size, self.patch_size),
            self.stride,
            padding="VALID",
            kernel_init=_uniform,
            name="patch_embed.conv",
        )(x)
        small = nn.initializers.normal(0.02)
        position = self.param("pos_embed", small, (1, widths[0], *x.shape[1:3]))
        x = x + jnp.broadcast_to(position.transpose(0, 2, 3, 1), x.shape)
        token = self.param("cls_token", small, (1, 1 + self.distilled, widths[0]))
        token = jnp.broadcast_to(token, (x.shape[0], *token.shape[1:]))

        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depth)).tolist())
        for i, depth in enumerate(self.depth):
            stage = f"transformers.{i}"
            if i > 0:
                x, token = Pooling(widths[i], name=f"{stage}.pool")(x, token)
            tokens = jnp.concatenate([token, x.reshape(x.shape[0], -1, widths[i])], axis=1)
            for j in range(depth):
                block = layers.remat(Block, self.remat)(
                    self.heads[i], next(rates), name=f"{stage}.blocks.{j}"
                )
                tokens = block(tokens, train)
            token, patches = jnp.split(tokens, [token.shape[1]], axis=1)
            x = patches.reshape(x.shape)
        return self._heads(LayerNorm(name="norm")(token), train=train)

    def _heads(self, token_BxTxC: jax.Array, *, train: bool) -> Output:
        names = ("head", "head_dist") if self.distilled else ("head",)
        logits = []
        for i, name in enumerate(names):
            y = nn.Dropout(self.drop_rate)(token_BxTxC[:, i], deterministic=not train)
            logits.append(Dense(self.num_classes, name=name)(y))
        return Output(logits=sum(logits) / len(names), features=token_BxTxC.mean(axis=1))

    def adapt(self, entry: Entry) -> np.ndarray:
        """The position embedding for images of another size; everything else unchanged.

        timm does not resize PiT's: this is what it does for other vision transformers, without the
        detour via tokens.
        """
        array, shape = entry.array, entry.shape
        if entry.name != "pos_embed" or array.ndim != 4 or array.shape[:2] != shape[:2]:
            return array
        return np.asarray(jax.image.resize(array, shape, "bicubic", antialias=True))


def _pit(
    base_dim: int, depth: tuple[int, ...], heads: tuple[int, ...], **options: object
) -> Callable[..., PoolingVisionTransformer]:
    return functools.partial(
        PoolingVisionTransformer,
        **{"patch_size": 16, "stride": 8} | options,
        base_dims=(base_dim,) * 3,
        depth=depth,
        heads=heads,
    )


_b = functools.partial(_pit, 64, (3, 6, 4), (4, 8, 16), patch_size=14, stride=7)
_s = functools.partial(_pit, 48, (2, 6, 4), (3, 6, 12))
_xs = functools.partial(_pit, 48, (2, 6, 4), (2, 4, 8))
_ti = functools.partial(_pit, 32, (2, 6, 4), (2, 4, 8))

VARIANTS = {
    "pit_b_224": _b(),
    "pit_s_224": _s(),
    "pit_xs_224": _xs(),
    "pit_ti_224": _ti(),
    "pit_b_distilled_224": _b(distilled=True),
    "pit_s_distilled_224": _s(distilled=True),
    "pit_xs_distilled_224": _xs(distilled=True),
    "pit_ti_distilled_224": _ti(distilled=True),
}
