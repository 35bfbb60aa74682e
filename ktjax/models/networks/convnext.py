"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023) as in timm's convnext.py."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import Activation, DropPath
from ktjax.models.networks.norms import LayerNorm

Norm = Callable[..., nn.Module]

# timm truncates at 100 standard deviations.
_init = nn.initializers.normal(0.02)
_dense = functools.partial(products.Dense, kernel_init=_init)


def _conv(
    features: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1, name: str
) -> nn.Conv:
    return Conv(
        features,
        (kernel, kernel),
        stride,
        padding=padding,
        feature_group_count=groups,
        kernel_init=_init,
        name=name,
    )


class SimpleNorm(nn.Module):
    """Divides by the channels' sample standard deviation, but keeps their mean."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(y.var(axis=-1, ddof=1, keepdims=True) + self.epsilon)
        return (y * jnp.broadcast_to(scale, x.shape)).astype(x.dtype)


class GlobalResponseNorm(nn.Module):
    """Weights each channel by its norm over the image, relative to the mean of all norms."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        y = x.astype(jnp.float32)
        # The derivative of a norm is not finite where a channel is zero all over the image.
        norm = optax.safe_norm(y, 0.0, axis=(1, 2), keepdims=True)
        weight = norm / (norm.mean(axis=-1, keepdims=True) + self.epsilon)
        y += y * weight * scale[None, None, None] + bias[None, None, None]
        return y.astype(x.dtype)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, normalization, an MLP per pixel, layer scale; and a shortcut."""

    kernel_size: int
    conv_mlp: bool
    use_grn: bool
    ls_init_value: float | None
    act: Activation
    norm: Norm
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        kernel = self.kernel_size
        y = _conv(width, kernel, padding=kernel // 2, groups=width, name="conv_dw")(x)
        y = self.norm(name="norm")(y)
        # The computation is the same, but the weights have other shapes.
        linear = functools.partial(_conv, kernel=1) if self.conv_mlp else _dense
        y = self.act(linear(4 * width, name="mlp.fc1")(y))
        if self.use_grn:
            y = GlobalResponseNorm(name="mlp.grn")(y)
        y = linear(width, name="mlp.fc2")(y)
        if self.ls_init_value is not None:
            start = nn.initializers.constant(self.ls_init_value)
            y *= self.param("gamma", start, (width,))[None, None, None]
        return x + DropPath(self.drop_path)(y, train=train)


class ConvNeXt(nn.Module):
    """Stem of stride 4, four stages of blocks, global average pooling, a linear head.

    Attributes:
      dims: widths of the stages.
      kernel_sizes: how large the kernels of the depthwise convolutions are, by stage.
      stem_type: `patch` (4x4), or two 3x3: `overlap`, `overlap_tiered` (the first is half as wide),
        `overlap_act` (an activation between them).
      conv_mlp: the MLPs' weights are those of 1x1 convolutions.
      use_grn: global response normalization in the MLPs (V2).
      ls_init_value: the initial layer scale; None: there is none.
      head_norm: the last normalization; None: the same as the others.
      head_norm_first: the last normalization comes before the pooling, not after it.
      head_hidden_size: width of a layer before the linear head; None: there is none.
    """

    num_classes: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
    stem_type: str = "patch"
    conv_mlp: bool = False
    use_grn: bool = False
    ls_init_value: float | None = 1e-6
    head_norm_first: bool = False
    head_hidden_size: int | None = None
    act: Activation = layers.gelu
    norm: Norm = LayerNorm
    head_norm: Norm | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = self._stem(x)
        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        block = layers.remat(ConvNeXtBlock, self.remat)
        for i, depth in enumerate(self.depths):
            if i > 0:
                x = self.norm(name=f"stages.{i}.downsample.0")(x)
                x = _conv(self.dims[i], 2, stride=2, name=f"stages.{i}.downsample.1")(x)
            for j in range(depth):
                x = block(
                    kernel_size=self.kernel_sizes[i],
                    conv_mlp=self.conv_mlp,
                    use_grn=self.use_grn,
                    ls_init_value=self.ls_init_value,
                    act=self.act,
                    norm=self.norm,
                    drop_path=next(rates),
                    name=f"stages.{i}.blocks.{j}",
                )(x, train)
        x = self._pooled(x)
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return Output(logits=_dense(self.num_classes, name="head.fc")(y), features=x)

    def _stem(self, x: jax.Array) -> jax.Array:
        width = self.dims[0]
        if self.stem_type == "patch":
            return self.norm(name="stem.1")(_conv(width, 4, stride=4, name="stem.0")(x))
        first = layers.divisible(width // 2) if self.stem_type == "overlap_tiered" else width
        x = _conv(first, 3, stride=2, padding=1, name="stem.0")(x)
        at = 1
        if self.stem_type == "overlap_act":
            x, at = self.act(x), 2
        x = _conv(width, 3, stride=2, padding=1, name=f"stem.{at}")(x)
        return self.norm(name=f"stem.{at + 1}")(x)

    def _pooled(self, x: jax.Array) -> jax.Array:
        norm = self.head_norm or self.norm
        if self.head_norm_first:
            return norm(name="norm_pre")(x).mean(axis=(1, 2))
        x = norm(name="head.norm")(x.mean(axis=(1, 2)))
        if self.head_hidden_size is not None:
            # GELU, whatever activation the blocks have.
            x = layers.gelu(_dense(self.head_hidden_size, name="head.pre_logits.fc")(x))
        return x


def _convnext(depths: tuple[int, ...], width: int, **options: object) -> Callable[..., ConvNeXt]:
    dims = (width, 2 * width, 4 * width, 8 * width)
    return functools.partial(ConvNeXt, depths=depths, dims=dims, **options)


_layer_norm_5 = functools.partial(LayerNorm, epsilon=1e-5)
_rms_norm = functools.partial(nn.RMSNorm, epsilon=1e-6, use_fast_variance=False)
CONV = {"conv_mlp": True}
TIERED = {**CONV, "stem_type": "overlap_tiered"}
ZEPTO = {**CONV, "norm": SimpleNorm}
V2 = {"use_grn": True, "ls_init_value": None}

VARIANTS = {
    "convnext_zepto_rms": _convnext((2, 2, 4, 2), 32, **ZEPTO),
    "convnext_zepto_rms_ols": _convnext((2, 2, 4, 2), 32, **ZEPTO, stem_type="overlap_act"),
    "convnext_atto": _convnext((2, 2, 6, 2), 40, **CONV),
    "convnext_atto_ols": _convnext((2, 2, 6, 2), 40, **TIERED),
    "convnext_atto_rms": _convnext((2, 2, 6, 2), 40, **CONV, norm=_rms_norm),
    "convnext_femto": _convnext((2, 2, 6, 2), 48, **CONV),
    "convnext_femto_ols": _convnext((2, 2, 6, 2), 48, **TIERED),
    "convnext_pico": _convnext((2, 2, 6, 2), 64, **CONV),
    "convnext_pico_ols": _convnext((2, 2, 6, 2), 64, **TIERED),
    "convnext_nano": _convnext((2, 2, 8, 2), 80, **CONV),
    "convnext_nano_ols": _convnext((2, 2, 8, 2), 80, **CONV, stem_type="overlap"),
    "convnext_tiny_hnf": _convnext((3, 3, 9, 3), 96, **CONV, head_norm_first=True),
    "convnext_tiny": _convnext((3, 3, 9, 3), 96),
    "convnext_small": _convnext((3, 3, 27, 3), 96),
    "convnext_base": _convnext((3, 3, 27, 3), 128),
    "convnext_large": _convnext((3, 3, 27, 3), 192),
    "convnext_large_mlp": _convnext((3, 3, 27, 3), 192, head_hidden_size=1536),
    "convnext_xlarge": _convnext((3, 3, 27, 3), 256),
    "convnext_xxlarge": _convnext((3, 4, 30, 3), 384, norm=_layer_norm_5),
    "convnextv2_atto": _convnext((2, 2, 6, 2), 40, **CONV, **V2),
    "convnextv2_femto": _convnext((2, 2, 6, 2), 48, **CONV, **V2),
    "convnextv2_pico": _convnext((2, 2, 6, 2), 64, **CONV, **V2),
    "convnextv2_nano": _convnext((2, 2, 8, 2), 80, **CONV, **V2),
    "convnextv2_tiny": _convnext((3, 3, 9, 3), 96, **V2),
    "convnextv2_small": _convnext((3, 3, 27, 3), 96, **V2),
    "convnextv2_base": _convnext((3, 3, 27, 3), 128, **V2),
    "convnextv2_large": _convnext((3, 3, 27, 3), 192, **V2),
    "convnextv2_huge": _convnext((3, 3, 27, 3), 352, **V2),
    "test_convnext": functools.partial(
        ConvNeXt, depths=(1, 2, 4, 2), dims=(24, 32, 48, 64), act=nn.gelu, norm=_layer_norm_5
    ),
    "test_convnext2": functools.partial(
        ConvNeXt, depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), act=nn.gelu, norm=_layer_norm_5
    ),
    "test_convnext3": functools.partial(
        ConvNeXt,
        depths=(1, 1, 1, 1),
        dims=(32, 64, 96, 128),
        kernel_sizes=(7, 5, 5, 3),
        act=nn.silu,
        norm=_layer_norm_5,
    ),
}
