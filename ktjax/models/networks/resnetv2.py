"""Residual networks that normalize first (He et al. 2016) as in timm's resnetv2.py, with its names.

Big Transfer (BiT, Kolesnikov et al. 2020) with standardized kernels and GroupNorm; BatchNorm with
the stems of resnet.py; GroupNorm, EvoNorm and filter response normalization instead.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import convolution, layers, pooling, windows
from ktjax.models.networks.layers import Activation, BatchNorm, DropPath, avg_pool
from ktjax.models.networks.norms import GroupNorm

Norm = Callable[..., nn.Module]
Conv = Callable[..., nn.Module]


class StandardizedConv(nn.Module):
    """A convolution whose kernels have mean 0 and variance 1 (Qiao et al. 2019); no bias."""

    features: int
    kernel: int
    stride: int = 1
    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", layers.conv_init, shape).astype(jnp.float32)
        kernel -= kernel.mean(axis=(0, 1, 2), keepdims=True)
        variance = jnp.square(kernel).mean(axis=(0, 1, 2), keepdims=True)
        kernel *= jax.lax.rsqrt(variance + self.epsilon)
        padding = (self.kernel // 2, self.kernel // 2)
        return convolution.convolve(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            (padding, padding),
            dimension_numbers=convolution.NHWC,
        )


class EvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al. 2020): gates each channel, divides by its group's deviation."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias, v = _channels(self, x.shape[-1], scale=1, bias=0, v=1)
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.groups, -1)
        deviation = jnp.sqrt(grouped.var(axis=(1, 2, 4), keepdims=True) + self.epsilon)
        deviation = jnp.broadcast_to(deviation, grouped.shape).reshape(x.shape)
        return x * nn.sigmoid(x * v) / deviation.astype(x.dtype) * scale + bias


class FilterResponseNorm(nn.Module):
    """Divides each channel by its root mean square, and cuts at a threshold (Singh et al. 2020)."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias, tau = _channels(self, x.shape[-1], scale=1, bias=0, tau=0)
        mean_square = jnp.square(x.astype(jnp.float32)).mean(axis=(1, 2), keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + self.epsilon).astype(x.dtype)
        return jnp.maximum(x * scale + bias, tau)


def _channels(module: nn.Module, width: int, **initially: float) -> list[jax.Array]:
    """Parameters per channel, initialized to these values: each [1, 1, 1, width]."""
    parameters = (
        module.param(name, nn.initializers.constant(value), (width,))
        for name, value in initially.items()
    )
    return [parameter[None, None, None] for parameter in parameters]


class _Block(nn.Module):
    """What both kinds of block have in common.

    Attributes:
      width: how many channels come out.
      inner: how many the convolutions before the last have.
      first: whether it is the first block of its stage.
    """

    width: int
    inner: int
    stride: int
    first: bool
    conv: Conv
    norm: Norm
    activation: Activation
    average_down: bool
    drop_path: float

    def _normalized(self, name: str, x: jax.Array) -> jax.Array:
        return self.activation(self.norm(name=name)(x))

    def _shortcut(self, x: jax.Array) -> jax.Array:
        """A 1x1 convolution of normalized input; it, or average pooling, takes the stride."""
        if self.average_down and self.stride > 1:
            x = avg_pool(x, self.stride, ceil=True)
        stride = 1 if self.average_down else self.stride
        return self.conv(self.width, 1, stride=stride, name="downsample.conv")(x)


class PreActBasic(_Block):
    """Two 3x3 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self._normalized("norm1", x)
        changes = self.stride > 1 or x.shape[-1] != self.width
        x = self._shortcut(y) if self.first and changes else x
        y = self.conv(self.inner, 3, stride=self.stride, name="conv1")(y)
        y = self.conv(self.width, 3, name="conv2")(self._normalized("norm2", y))
        return x + DropPath(self.drop_path)(y, train=train)


class PreActBottleneck(_Block):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self._normalized("norm1", x)
        x = self._shortcut(y) if self.first else x
        y = self.conv(self.inner, 1, name="conv1")(y)
        y = self._normalized("norm2", y)
        y = self.conv(self.inner, 3, stride=self.stride, name="conv2")(y)
        y = self.conv(self.width, 1, name="conv3")(self._normalized("norm3", y))
        return x + DropPath(self.drop_path)(y, train=train)


class ResNetV2(nn.Module):
    """Stem, four stages of blocks, a last norm, global average pooling, a linear head.

    Attributes:
      bottle_ratio: channels of a block's inner convolutions per output channel.
      width_factor: what all widths are multiplied by.
      stem: `plain` (7x7), `fixed` (the same, its maximum pooling padded with zeros as in BiT),
        `deep` (three 3x3) or `tiered` (the same, widening).
      average_down: shortcuts pool before their convolution.
      activation: what follows each norm.
    """

    num_classes: int
    depths: tuple[int, ...]
    block: type[_Block] = PreActBottleneck
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    bottle_ratio: float = 0.25
    width_factor: int = 1
    stem: str = "plain"
    average_down: bool = False
    conv: Conv = layers.conv
    norm: Norm = BatchNorm
    activation: Activation = nn.relu
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = self._stem(x)
        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for j in range(depth):
                x = layers.remat(self.block, self.remat)(
                    width=width * self.width_factor,
                    inner=int(width * self.width_factor * self.bottle_ratio),
                    stride=2 if i > 0 and j == 0 else 1,
                    first=j == 0,
                    conv=self.conv,
                    norm=self.norm,
                    activation=self.activation,
                    average_down=self.average_down,
                    drop_path=next(rates),
                    name=f"stages.{i}.blocks.{j}",
                )(x, train)
        x = self.activation(self.norm(name="norm")(x)).mean(axis=(1, 2))
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        # timm's head is a 1x1 convolution.
        head = convolution.Conv(
            self.num_classes, (1, 1), kernel_init=nn.initializers.normal(0.01), name="head.fc"
        )
        return Output(logits=head(y[:, None, None])[:, 0, 0], features=x)

    def _stem(self, x: jax.Array) -> jax.Array:
        width = 64 * self.width_factor
        if self.stem in ("deep", "tiered"):
            first = 3 * width // 8 if self.stem == "tiered" else width // 2
            x = self.conv(first, 3, stride=2, name="stem.conv1")(x)
            x = self.activation(self.norm(name="stem.norm1")(x))
            x = self.conv(width // 2, 3, name="stem.conv2")(x)
            x = self.activation(self.norm(name="stem.norm2")(x))
            x = self.conv(width, 3, name="stem.conv3")(x)
        else:
            x = self.conv(width, 7, stride=2, name="stem.conv")(x)
        if self.stem == "fixed":
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return pooling.max_pool(x, (3, 3), (2, 2), windows.NONE)
        return pooling.max_pool(x, (3, 3), (2, 2), windows.ONE)


def _itself(x: jax.Array) -> jax.Array:
    return x


def _basic(depths: tuple[int, ...], **options: object) -> Callable[..., ResNetV2]:
    return functools.partial(
        ResNetV2,
        depths=depths,
        block=PreActBasic,
        widths=(64, 128, 256, 512),
        bottle_ratio=1.0,
        **options,
    )


def _bottleneck(depths: tuple[int, ...], **options: object) -> Callable[..., ResNetV2]:
    return functools.partial(ResNetV2, depths=depths, **options)


def _bit(depths: tuple[int, ...], width_factor: int) -> Callable[..., ResNetV2]:
    return functools.partial(
        ResNetV2,
        depths=depths,
        width_factor=width_factor,
        stem="fixed",
        conv=StandardizedConv,
        norm=GroupNorm,
    )


D = {"stem": "deep", "average_down": True}
T = {"stem": "tiered", "average_down": True}

VARIANTS = {
    "resnetv2_50x1_bit": _bit((3, 4, 6, 3), 1),
    "resnetv2_50x3_bit": _bit((3, 4, 6, 3), 3),
    "resnetv2_101x1_bit": _bit((3, 4, 23, 3), 1),
    "resnetv2_101x3_bit": _bit((3, 4, 23, 3), 3),
    "resnetv2_152x2_bit": _bit((3, 8, 36, 3), 2),
    "resnetv2_152x4_bit": _bit((3, 8, 36, 3), 4),
    "resnetv2_18": _basic((2, 2, 2, 2)),
    "resnetv2_18d": _basic((2, 2, 2, 2), **D),
    "resnetv2_34": _basic((3, 4, 6, 3)),
    "resnetv2_34d": _basic((3, 4, 6, 3), **D),
    "resnetv2_50": _bottleneck((3, 4, 6, 3)),
    "resnetv2_50d": _bottleneck((3, 4, 6, 3), **D),
    "resnetv2_50t": _bottleneck((3, 4, 6, 3), **T),
    "resnetv2_101": _bottleneck((3, 4, 23, 3)),
    "resnetv2_101d": _bottleneck((3, 4, 23, 3), **D),
    "resnetv2_152": _bottleneck((3, 8, 36, 3)),
    "resnetv2_152d": _bottleneck((3, 8, 36, 3), **D),
    "resnetv2_50d_gn": _bottleneck((3, 4, 6, 3), **D, norm=GroupNorm),
    "resnetv2_50d_evos": _bottleneck((3, 4, 6, 3), **D, norm=EvoNorm, activation=_itself),
    "resnetv2_50d_frn": _bottleneck((3, 4, 6, 3), **D, norm=FilterResponseNorm, activation=_itself),
}
