"""The architectures of the embedded zoo: small ones of five families, for 24-pixel images.

They are small versions of a paper's models, and not timm's: see the family files for those.
"""

import functools

import jax
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import norms, positions, products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import BatchNorm, Mlp
from ktjax.models.networks.positions import Entry

# layers.gelu and norms.LayerNorm are faster and round differently: the zoo's reported results are
# with Flax's, here and below.
_gelu = functools.partial(nn.gelu, approximate=False)


class Perceptron(nn.Module):
    """A perceptron: dense layers with LayerNorm and GELU on the flattened image."""

    num_classes: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train  # nothing here differs in training
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.LayerNorm(name=f"norm_{i}")(products.Dense(width, name=f"fc_{i}")(x))
            x = _gelu(x)
        return Output(logits=products.Dense(self.num_classes, name="head")(x), features=x)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Everything unchanged; ValueError if as many pixels are in other rows."""
        return positions.in_rows(entry, lambda size: size)


tiny_mlp = functools.partial(Perceptron, widths=(192, 192))
tiny_mlp_narrow = functools.partial(Perceptron, widths=(96, 96))


class MixerBlock(nn.Module):
    """An MLP over the tokens, then one over the channels, each with a shortcut."""

    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, name="norm1")(x_BxNxD).swapaxes(1, 2)
        x = x_BxNxD + Mlp(self.tokens_hidden, _gelu, name="mlp_tokens")(y).swapaxes(1, 2)
        y = nn.LayerNorm(epsilon=1e-6, name="norm2")(x)
        return x + Mlp(self.channels_hidden, _gelu, name="mlp_channels")(y)


class MlpMixer(nn.Module):
    """Patches, mixer blocks, average pooling, a linear head."""

    num_classes: int
    patch: int
    width: int
    depth: int
    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train
        patch = (self.patch, self.patch)
        x = Conv(self.width, patch, patch, padding="VALID", name="stem")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        for i in range(self.depth):
            x = MixerBlock(self.tokens_hidden, self.channels_hidden, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x).mean(axis=1)
        return Output(logits=products.Dense(self.num_classes, name="head")(x), features=x)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Everything unchanged; ValueError if as many patches are in other rows."""
        return positions.in_rows(entry, functools.partial(positions.patches, side=self.patch))


tiny_mixer = functools.partial(
    MlpMixer, patch=6, width=64, depth=3, tokens_hidden=32, channels_hidden=128
)


# Flax's takes a quarter longer. Of 16,000 images no prediction differs; the reported results of
# training are with Flax's.
GroupNorm = functools.partial(norms.GroupNorm, num_groups=8)
_conv3x3 = functools.partial(Conv, kernel_size=(3, 3), padding=1, use_bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _conv3x3(self.width, strides=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.norm(name="bn2")(_conv3x3(self.width, name="conv2")(y))
        if x.shape != y.shape:
            x = Conv(self.width, (1, 1), self.stride, use_bias=False, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A 3x3 stem of stride 2, stages of basic blocks, global average pooling, a linear head."""

    num_classes: int
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    norm: type[nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train  # BatchNorm follows batch_stats, see layers.py
        x = _conv3x3(self.widths[0], strides=2, name="conv1")(x)
        x = nn.relu(self.norm(name="bn1")(x))
        for i, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = BasicBlock(width, stride, self.norm, name=f"layer{i + 1}_{j}")(x)
        x = x.mean(axis=(1, 2))
        return Output(logits=products.Dense(self.num_classes, name="fc")(x), features=x)


tiny_resnet_narrow = functools.partial(ResNet, stage_sizes=(1, 1), widths=(12, 24))
tiny_resnet = functools.partial(ResNet, stage_sizes=(1, 1), widths=(24, 48))
tiny_resnet_wide = functools.partial(ResNet, stage_sizes=(1, 1, 1), widths=(32, 64, 96))
tiny_resnet_gn = functools.partial(
    ResNet, stage_sizes=(1, 1, 1), widths=(16, 32, 64), norm=GroupNorm
)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, a pointwise MLP scaled per channel, and a shortcut."""

    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = Conv(
            width,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            feature_group_count=width,
            name="conv_dw",
        )(x)
        y = Mlp(4 * width, _gelu, name="mlp")(nn.LayerNorm(epsilon=1e-6, name="norm")(y))
        gamma = self.param("gamma", nn.initializers.constant(0.1), (width,))
        return x + gamma[None, None, None].astype(y.dtype) * y


class ConvNeXt(nn.Module):
    """A patch stem, stages of blocks with 2x2 downsampling between them, a linear head."""

    num_classes: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int = 4
    kernel: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i == 0:
                patch = (self.stem, self.stem)
                x = Conv(width, patch, patch, padding="VALID", name="stem_0")(x)
                x = nn.LayerNorm(epsilon=1e-6, name="stem_1")(x)
            else:
                x = nn.LayerNorm(epsilon=1e-6, name=f"stages_{i}_downsample_0")(x)
                x = Conv(width, (2, 2), 2, name=f"stages_{i}_downsample_1")(x)
            for j in range(depth):
                x = ConvNeXtBlock(self.kernel, name=f"stages_{i}_blocks_{j}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="head_norm")(x.mean(axis=(1, 2)))
        return Output(logits=products.Dense(self.num_classes, name="head_fc")(x), features=x)


tiny_convnext = functools.partial(ConvNeXt, depths=(2, 2), widths=(24, 48), stem=4, kernel=3)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    num_heads: int

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        batch, tokens, width = x_BxNxD.shape
        qkv = products.Dense(3 * width, name="qkv")(x_BxNxD)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = products.attention(q, k, v).reshape(batch, tokens, width)
        return products.Dense(width, name="proj")(x)


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut."""

    num_heads: int
    mlp_ratio: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, name="norm1")(x)
        x = x + Attention(self.num_heads, name="attn")(y)
        y = nn.LayerNorm(epsilon=1e-6, name="norm2")(x)
        return x + Mlp(int(x.shape[-1] * self.mlp_ratio), _gelu, name="mlp")(y)


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
            x = Conv(width, (3, 3), 2, padding=1, name=f"stem_{i}")(x)
            x = nn.relu(nn.LayerNorm(epsilon=1e-6, name=f"stem_norm_{i}")(x))
        patch = (self.patch, self.patch)
        x = Conv(self.width, patch, patch, padding="VALID", name="patch_embed")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        shape = (1, *x.shape[1:])
        x = x + self.param("pos_embed", nn.initializers.truncated_normal(0.02), shape)
        for i in range(self.depth):
            x = Block(self.num_heads, self.mlp_ratio, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x).mean(axis=1)
        return Output(logits=products.Dense(self.num_classes, name="head")(x), features=x)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Resizes position embeddings made for another image size; others are unchanged."""
        return positions.resized(entry, self._grid, prefix=0, resize=positions.bicubic)

    def _grid(self, size: positions.Grid) -> positions.Grid:
        """Rows and columns of the patches of an image."""
        for _ in self.stem_widths:
            size = -(-size[0] // 2), -(-size[1] // 2)
        return positions.patches(size, self.patch)


tiny_vit = functools.partial(
    VisionTransformer, width=64, depth=3, num_heads=4, mlp_ratio=2, stem_widths=(32,), patch=3
)
