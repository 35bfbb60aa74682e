"""RegNet X, Y, Z and V (Radosavovic et al. 2020, Dollar et al. 2021) as in timm's regnet.py.

Bottlenecks of grouped convolutions, whose widths are a line quantized to four stages.
Names are timm's.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, products
from ktjax.models.networks.layers import (
    Activation,
    BatchNorm,
    DropPath,
    SEModule,
    avg_pool,
    conv,
)
from ktjax.models.networks.norms import GroupNorm

Norm = Callable[..., nn.Module]


def stages(
    depth: int, w0: int, wa: float, wm: float, *, multiple: int = 8
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depths of the stages.

    Block i would be w0 + i * wa wide; its width becomes the nearest w0 * wm^k, then the nearest
    multiple of `multiple` (section 3.3 of Radosavovic et al.). Blocks of one width are a stage.
    """
    line = w0 + wa * np.arange(depth)
    power = np.round(np.log(line / w0) / math.log(wm))
    widths = (np.round(w0 * wm**power / multiple) * multiple).astype(int)
    widths, depths = np.unique(widths, return_counts=True)
    return tuple(widths.tolist()), tuple(depths.tolist())


def fit_groups(
    width: int, bottle_ratio: float, group_size: int, *, floor_share: float
) -> tuple[int, int]:
    """Width of a stage, and of its groups, chosen so that groups divide the inner width.

    `floor_share` 0: the nearest multiple; else that of `layers.divisible`, as torchvision rounds.
    """
    inner = int(width * bottle_ratio)
    group_size = min(group_size, inner)
    if floor_share:
        inner = layers.divisible(inner, group_size, floor_share=floor_share)
    else:
        inner = round(inner / group_size) * group_size
    return int(inner / bottle_ratio), group_size


class ConvNormAct(nn.Module):
    """A convolution and its norm, then an activation if one is given."""

    width: int
    kernel: int
    norm: Norm
    activation: Activation | None = None
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv(self.width, self.kernel, stride=self.stride, groups=self.groups, name="conv")(x)
        x = self.norm(name="bn")(x)
        return x if self.activation is None else self.activation(x)


class _Block(nn.Module):
    """What both kinds of block have in common.

    Attributes:
      width: how many channels come out.
      inner: how many the grouped convolution has.
      se_ratio: hidden channels of squeeze-and-excitation per input channel; 0: there is none.
      downsample: the shortcut if width or size change, a convolution (`conv1x1`) or one after
        average pooling (`avg`); None: there is no shortcut then.
      linear_out: there is no activation after the shortcut is added.
    """

    width: int
    inner: int
    stride: int
    groups: int
    se_ratio: float
    downsample: str | None
    linear_out: bool
    norm: Norm
    activation: Activation
    drop_path: float

    def _changes(self, x: jax.Array) -> bool:
        return self.stride > 1 or x.shape[-1] != self.width

    def _excited(self, y: jax.Array, input_width: int) -> jax.Array:
        if not self.se_ratio:
            return y
        hidden = round(input_width * self.se_ratio)
        return SEModule(hidden=hidden, activation=self.activation, name="se")(y)


class Bottleneck(_Block):
    """1x1, 3x3 (grouped) and 1x1 convolutions, each with its norm, and a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv_norm = functools.partial(ConvNormAct, norm=self.norm)
        act = self.activation
        y = conv_norm(self.inner, 1, activation=act, name="conv1")(x)
        y = conv_norm(
            self.inner,
            3,
            activation=act,
            stride=self.stride,
            groups=self.groups,
            name="conv2",
        )(y)
        y = conv_norm(self.width, 1, name="conv3")(self._excited(y, x.shape[-1]))
        if not self._changes(x):
            y = x + DropPath(self.drop_path)(y, train=train)
        elif self.downsample is not None:
            shortcut = conv_norm(self.width, 1, stride=self.stride, name="downsample")(x)
            y = shortcut + DropPath(self.drop_path)(y, train=train)
        return y if self.linear_out else act(y)


class PreBottleneck(_Block):
    """The same with norms before convolutions; even the plain shortcut takes normalized input."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.activation(self.norm(name="norm1")(x))
        y = conv(self.inner, 1, name="conv1")(x)
        y = self.activation(self.norm(name="norm2")(y))
        y = conv(self.inner, 3, stride=self.stride, groups=self.groups, name="conv2")(y)
        y = self.activation(self.norm(name="norm3")(self._excited(y, x.shape[-1])))
        y = DropPath(self.drop_path)(conv(self.width, 1, name="conv3")(y), train=train)
        if not self._changes(x):
            return x + y
        if self.downsample == "avg":
            x = avg_pool(x, self.stride, ceil=True) if self.stride > 1 else x
            return conv(self.width, 1, name="downsample.1")(x) + y
        return conv(self.width, 1, stride=self.stride, name="downsample")(x) + y


class RegNet(nn.Module):
    """Stem, four stages of blocks, global average pooling, a linear head.

    Attributes:
      widths, depths: of the stages.
      stem_width: how many channels the first convolution has.
      group_size: how many channels a group has, at most.
      bottle_ratio: channels of a block's grouped convolution per output channel.
      group_min_ratio: how stages are rounded to groups, see `fit_groups`.
      preact: blocks normalize before they convolve.
      num_features: how many channels a last convolution has; 0: there is none.
      The others are those of the blocks.
    """

    num_classes: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group_size: int
    stem_width: int = 32
    bottle_ratio: float = 1.0
    group_min_ratio: float = 0.0
    se_ratio: float = 0.0
    downsample: str | None = "conv1x1"
    linear_out: bool = False
    preact: bool = False
    num_features: int = 0
    norm: Norm = BatchNorm
    activation: Activation = nn.relu
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        conv_norm_act = functools.partial(ConvNormAct, norm=self.norm, activation=self.activation)
        if self.preact:
            x = conv(self.stem_width, 3, stride=2, name="stem")(x)
        else:
            x = conv_norm_act(self.stem_width, 3, stride=2, name="stem")(x)
        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for j in range(depth):
                x = self._block(i, j, width, next(rates))(x, train)
        if self.num_features:
            x = conv_norm_act(self.num_features, 1, name="final_conv")(x)
        elif self.linear_out or self.preact:
            x = self.activation(x)
        x = x.mean(axis=(1, 2))
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        head = products.Dense(
            self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head.fc"
        )
        return Output(logits=head(y), features=x)

    def _block(self, stage: int, number: int, width: int, drop_path: float) -> _Block:
        width, group_size = fit_groups(
            width, self.bottle_ratio, self.group_size, floor_share=self.group_min_ratio
        )
        inner = round(width * self.bottle_ratio)
        return layers.remat(PreBottleneck if self.preact else Bottleneck, self.remat)(
            width=width,
            inner=inner,
            stride=2 if number == 0 else 1,
            groups=inner // group_size,
            se_ratio=self.se_ratio,
            downsample=self.downsample,
            linear_out=self.linear_out,
            norm=self.norm,
            activation=self.activation,
            drop_path=drop_path,
            name=f"s{stage + 1}.b{number + 1}",
        )


def _x(
    depth: int, w0: int, wa: float, wm: float, group_size: int, **options: object
) -> Callable[..., RegNet]:
    widths, depths = stages(depth, w0, wa, wm)
    return functools.partial(RegNet, widths=widths, depths=depths, group_size=group_size, **options)


_y = functools.partial(_x, se_ratio=0.25)
_v = functools.partial(_y, preact=True, activation=nn.silu)
_z = functools.partial(_y, bottle_ratio=4.0, downsample=None, linear_out=True, activation=nn.silu)
_grouped = functools.partial(GroupNorm, group_size=16)
TV = {"group_min_ratio": 0.9}

VARIANTS = {
    "regnetx_002": _x(13, 24, 36.44, 2.49, 8),
    "regnetx_004": _x(22, 24, 24.48, 2.54, 16),
    "regnetx_004_tv": _x(22, 24, 24.48, 2.54, 16, **TV),
    "regnetx_006": _x(16, 48, 36.97, 2.24, 24),
    "regnetx_008": _x(16, 56, 35.73, 2.28, 16),
    "regnetx_016": _x(18, 80, 34.01, 2.25, 24),
    "regnetx_032": _x(25, 88, 26.31, 2.25, 48),
    "regnetx_040": _x(23, 96, 38.65, 2.43, 40),
    "regnetx_064": _x(17, 184, 60.83, 2.07, 56),
    "regnetx_080": _x(23, 80, 49.56, 2.88, 120),
    "regnetx_120": _x(19, 168, 73.36, 2.37, 112),
    "regnetx_160": _x(22, 216, 55.59, 2.1, 128),
    "regnetx_320": _x(23, 320, 69.86, 2.0, 168),
    "regnety_002": _y(13, 24, 36.44, 2.49, 8),
    "regnety_004": _y(16, 48, 27.89, 2.09, 8),
    "regnety_006": _y(15, 48, 32.54, 2.32, 16),
    "regnety_008": _y(14, 56, 38.84, 2.4, 16),
    "regnety_008_tv": _y(14, 56, 38.84, 2.4, 16, **TV),
    "regnety_016": _y(27, 48, 20.71, 2.65, 24),
    "regnety_032": _y(21, 80, 42.63, 2.66, 24),
    "regnety_040": _y(22, 96, 31.41, 2.24, 64),
    "regnety_064": _y(25, 112, 33.22, 2.27, 72),
    "regnety_080": _y(17, 192, 76.82, 2.19, 56),
    "regnety_080_tv": _y(17, 192, 76.82, 2.19, 56, **TV),
    "regnety_120": _y(19, 168, 73.36, 2.37, 112),
    "regnety_160": _y(18, 200, 106.23, 2.48, 112),
    "regnety_320": _y(20, 232, 115.89, 2.53, 232),
    "regnety_640": _y(20, 352, 147.48, 2.4, 328),
    "regnety_1280": _y(27, 456, 160.83, 2.52, 264),
    "regnety_2560": _y(27, 640, 230.83, 2.53, 373),
    "regnety_040_sgn": _y(22, 96, 31.41, 2.24, 64, norm=_grouped, activation=nn.silu),
    "regnetv_040": _v(22, 96, 31.41, 2.24, 64),
    "regnetv_064": _v(25, 112, 33.22, 2.27, 72, downsample="avg"),
    "regnetz_005": _z(21, 16, 10.7, 2.51, 4, num_features=1024),
    "regnetz_040": _z(28, 48, 14.5, 2.226, 8),
    "regnetz_040_h": _z(28, 48, 14.5, 2.226, 8, num_features=1536),
}
