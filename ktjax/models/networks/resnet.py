"""Residual networks (He et al. 2016) as in timm's resnet.py, with its names.

ResNet with the C, D, S and T stems of "Bag of Tricks" (He et al. 2019), ResNeXt, wide, SE, ECA,
anti-aliased (blur or average pooling) and ResNet-RS.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import convolution, layers, pooling, products, windows
from ktjax.models.networks.layers import BatchNorm, DropPath, SEModule, avg_pool, conv
from ktjax.models.networks.norms import GroupNorm

Norm = Callable[..., nn.Module]
Pool = Callable[[jax.Array], jax.Array]


def blur_pool_reflected(x: jax.Array) -> jax.Array:
    """Binomial 3x3 filter with stride 2 on the reflected image (Zhang 2019)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    row = jnp.asarray([0.25, 0.5, 0.25], x.dtype)
    filter_ = jnp.tile((row[:, None] @ row[None, :])[:, :, None, None], (1, 1, 1, x.shape[-1]))
    return convolution.convolve(
        x,
        filter_,
        (2, 2),
        "VALID",
        dimension_numbers=convolution.NHWC,
        feature_group_count=x.shape[-1],
    )


def halve(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels."""
    return avg_pool(x, 2)


class EfficientChannelAttention(nn.Module):
    """Weights each channel by a 1D convolution over its neighbors (Wang et al. 2020)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = int(abs(math.log2(x.shape[-1]) + 1) / 2)
        size = max(size if size % 2 else size + 1, 3)
        y = x.mean(axis=(1, 2))[..., None]
        y = nn.Conv(1, (size,), padding=size // 2, use_bias=False, name="conv")(y)
        return x * nn.sigmoid(y)[:, None, None, :, 0]


class _Block(nn.Module):
    """What both kinds of block have in common; `width` is what timm calls `planes`."""

    width: int
    stride: int
    groups: int
    base_width: int
    reduce_first: int
    norm: Norm
    attention: Norm | None
    pool: Pool | None
    shortcut: Norm | None
    drop_path: float

    def _end(self, x: jax.Array, y: jax.Array, *, train: bool) -> jax.Array:
        if self.attention is not None:
            y = self.attention(name="se")(y)
        y = DropPath(self.drop_path)(y, train=train)
        return nn.relu(y + (x if self.shortcut is None else self.shortcut(name="downsample")(x)))

    def _pooled(self, name: str, width: int, groups: int, norm: str, y: jax.Array) -> jax.Array:
        """The 3x3 convolution that has the stride; anti-aliased if there is a pool for it."""
        pooled = self.pool is not None and self.stride == 2
        y = conv(width, 3, stride=1 if pooled else self.stride, groups=groups, name=name)(y)
        y = nn.relu(self.norm(name=norm)(y))
        return self.pool(y) if pooled else y


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self._pooled("conv1", self.width // self.reduce_first, 1, "bn1", x)
        y = self.norm(name="bn2")(conv(self.width, 3, name="conv2")(y))
        return self._end(x, y, train=train)


class Bottleneck(_Block):
    """1x1, 3x3 (grouped) and 1x1 convolutions and a shortcut."""

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inner = math.floor(self.width * self.base_width / 64) * self.groups
        y = conv(inner // self.reduce_first, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self._pooled("conv2", inner, self.groups, "bn2", y)
        y = self.norm(name="bn3")(conv(self.expansion * self.width, 1, name="conv3")(y))
        return self._end(x, y, train=train)


class Downsample(nn.Module):
    """The shortcut if width or size change: a convolution, or average pooling and a 1x1 one."""

    width: int
    stride: int
    kernel: int
    average: bool
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.average:
            x = avg_pool(x, self.stride, ceil=True) if self.stride > 1 else x
            return self.norm(name="2")(conv(self.width, 1, name="1")(x))
        kernel = self.kernel if self.stride > 1 else 1
        return self.norm(name="1")(conv(self.width, kernel, stride=self.stride, name="0")(x))


class ResNet(nn.Module):
    """Stem, four stages of blocks, global average pooling, a linear head.

    Attributes:
      stem: `plain` (7x7), `deep` (three 3x3) or `tiered` (the same, widening).
      stem_width: channels of the first convolutions of a stem that is not plain; the last has twice
        as many.
      plain_width: channels of a plain stem.
      replace_pool: the stem ends in a convolution of stride 2, not in maximum pooling.
      pool: a low-pass filter of stride 2 that takes the strides; None: convolutions take them.
      average_down: shortcuts pool before their convolution.
    """

    num_classes: int
    depths: tuple[int, ...]
    blocks: tuple[type[_Block], ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "plain"
    stem_width: int = 64
    plain_width: int = 64
    replace_pool: bool = False
    pool: Pool | None = None
    average_down: bool = False
    down_kernel: int = 1
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    norm: Norm = BatchNorm
    attention: Norm | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = self._stem(x)
        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                x = self._block(i, j, stride, next(rates), x)(x, train)
        x = x.mean(axis=(1, 2))
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return Output(logits=products.Dense(self.num_classes, name="fc")(y), features=x)

    def _block(self, stage: int, number: int, stride: int, drop: float, x: jax.Array) -> _Block:
        block = self.blocks[stage]
        width_out = self.widths[stage] * block.expansion
        shortcut = None
        if number == 0 and (stride > 1 or x.shape[-1] != width_out):
            shortcut = functools.partial(
                Downsample,
                width=width_out,
                stride=stride,
                kernel=self.down_kernel,
                average=self.average_down,
                norm=self.norm,
            )
        return layers.remat(block, self.remat)(
            width=self.widths[stage],
            stride=stride,
            groups=self.groups,
            base_width=self.base_width,
            reduce_first=self.reduce_first,
            norm=self.norm,
            attention=self.attention,
            pool=self.pool,
            shortcut=shortcut,
            drop_path=drop,
            name=f"layer{stage + 1}.{number}",
        )

    def _stem(self, x: jax.Array) -> jax.Array:
        width = self.plain_width
        if self.stem == "plain":
            x = conv(width, 7, stride=2, name="conv1")(x)
        else:
            width = 2 * self.stem_width
            first = 3 * (self.stem_width // 4) if self.stem == "tiered" else self.stem_width
            x = conv(first, 3, stride=2, name="conv1.0")(x)
            x = nn.relu(self.norm(name="conv1.1")(x))
            x = conv(self.stem_width, 3, name="conv1.3")(x)
            x = nn.relu(self.norm(name="conv1.4")(x))
            x = conv(width, 3, name="conv1.6")(x)
        x = nn.relu(self.norm(name="bn1")(x))
        if self.replace_pool:
            x = conv(width, 3, stride=2, name="maxpool.0")(x)
            return nn.relu(self.norm(name="maxpool.1")(x))
        if self.pool is None:
            return pooling.max_pool(x, (3, 3), (2, 2), windows.ONE)
        if self.pool is not halve:
            x = pooling.max_pool(x, (3, 3), (1, 1), windows.ONE)
        return self.pool(x)


def _basic(depths: tuple[int, ...], **options: object) -> Callable[..., ResNet]:
    return functools.partial(ResNet, depths=depths, blocks=(BasicBlock,) * 4, **options)


def _bottleneck(depths: tuple[int, ...], **options: object) -> Callable[..., ResNet]:
    return functools.partial(ResNet, depths=depths, blocks=(Bottleneck,) * 4, **options)


_se, _se4 = SEModule, functools.partial(SEModule, ratio=0.25)
_eca = EfficientChannelAttention
C = {"stem": "deep", "stem_width": 32}
D = {**C, "average_down": True}
S = {"stem": "deep", "stem_width": 64}
T = {**D, "stem": "tiered"}
X4, X8, X16, X32 = ({"groups": 32, "base_width": width} for width in (4, 8, 16, 32))

VARIANTS = {
    "resnet10t": _basic((1, 1, 1, 1), **T),
    "resnet14t": _bottleneck((1, 1, 1, 1), **T),
    "resnet18": _basic((2, 2, 2, 2)),
    "resnet18d": _basic((2, 2, 2, 2), **D),
    "resnet34": _basic((3, 4, 6, 3)),
    "resnet34d": _basic((3, 4, 6, 3), **D),
    "resnet26": _bottleneck((2, 2, 2, 2)),
    "resnet26t": _bottleneck((2, 2, 2, 2), **T),
    "resnet26d": _bottleneck((2, 2, 2, 2), **D),
    "resnet50": _bottleneck((3, 4, 6, 3)),
    "resnet50c": _bottleneck((3, 4, 6, 3), **C),
    "resnet50d": _bottleneck((3, 4, 6, 3), **D),
    "resnet50s": _bottleneck((3, 4, 6, 3), **S),
    "resnet50t": _bottleneck((3, 4, 6, 3), **T),
    "resnet101": _bottleneck((3, 4, 23, 3)),
    "resnet101c": _bottleneck((3, 4, 23, 3), **C),
    "resnet101d": _bottleneck((3, 4, 23, 3), **D),
    "resnet101s": _bottleneck((3, 4, 23, 3), **S),
    "resnet152": _bottleneck((3, 8, 36, 3)),
    "resnet152c": _bottleneck((3, 8, 36, 3), **C),
    "resnet152d": _bottleneck((3, 8, 36, 3), **D),
    "resnet152s": _bottleneck((3, 8, 36, 3), **S),
    "resnet200": _bottleneck((3, 24, 36, 3)),
    "resnet200d": _bottleneck((3, 24, 36, 3), **D),
    "wide_resnet50_2": _bottleneck((3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": _bottleneck((3, 4, 23, 3), base_width=128),
    "resnet50_gn": _bottleneck((3, 4, 6, 3), norm=GroupNorm),
    "resnext50_32x4d": _bottleneck((3, 4, 6, 3), **X4),
    "resnext50d_32x4d": _bottleneck((3, 4, 6, 3), **D, **X4),
    "resnext101_32x4d": _bottleneck((3, 4, 23, 3), **X4),
    "resnext101_32x8d": _bottleneck((3, 4, 23, 3), **X8),
    "resnext101_32x16d": _bottleneck((3, 4, 23, 3), **X16),
    "resnext101_32x32d": _bottleneck((3, 4, 23, 3), **X32),
    "resnext101_64x4d": _bottleneck((3, 4, 23, 3), groups=64, base_width=4),
    "ecaresnet26t": _bottleneck((2, 2, 2, 2), **T, attention=_eca),
    "ecaresnet50d": _bottleneck((3, 4, 6, 3), **D, attention=_eca),
    "ecaresnet50t": _bottleneck((3, 4, 6, 3), **T, attention=_eca),
    "ecaresnetlight": _bottleneck((1, 1, 11, 3), stem_width=32, average_down=True, attention=_eca),
    "ecaresnet101d": _bottleneck((3, 4, 23, 3), **D, attention=_eca),
    "ecaresnet200d": _bottleneck((3, 24, 36, 3), **D, attention=_eca),
    "ecaresnet269d": _bottleneck((3, 30, 48, 8), **D, attention=_eca),
    "ecaresnext26t_32x4d": _bottleneck((2, 2, 2, 2), **T, **X4, attention=_eca),
    "ecaresnext50t_32x4d": _bottleneck((3, 4, 6, 3), **T, **X4, attention=_eca),
    "seresnet18": _basic((2, 2, 2, 2), attention=_se),
    "seresnet34": _basic((3, 4, 6, 3), attention=_se),
    "seresnet50": _bottleneck((3, 4, 6, 3), attention=_se),
    "seresnet50t": _bottleneck((3, 4, 6, 3), **T, attention=_se),
    "seresnet101": _bottleneck((3, 4, 23, 3), attention=_se),
    "seresnet152": _bottleneck((3, 8, 36, 3), attention=_se),
    "seresnet152d": _bottleneck((3, 8, 36, 3), **D, attention=_se),
    "seresnet200d": _bottleneck((3, 24, 36, 3), **D, attention=_se),
    "seresnet269d": _bottleneck((3, 30, 48, 8), **D, attention=_se),
    "seresnext26d_32x4d": _bottleneck((2, 2, 2, 2), **D, **X4, attention=_se),
    "seresnext26t_32x4d": _bottleneck((2, 2, 2, 2), **T, **X4, attention=_se),
    "seresnext50_32x4d": _bottleneck((3, 4, 6, 3), **X4, attention=_se),
    "seresnext101_32x4d": _bottleneck((3, 4, 23, 3), **X4, attention=_se),
    "seresnext101_32x8d": _bottleneck((3, 4, 23, 3), **X8, attention=_se),
    "seresnext101d_32x8d": _bottleneck((3, 4, 23, 3), **D, **X8, attention=_se),
    "seresnext101_64x4d": _bottleneck((3, 4, 23, 3), groups=64, base_width=4, attention=_se),
    "senet154": _bottleneck(
        (3, 8, 36, 3),
        **S,
        groups=64,
        base_width=4,
        attention=_se,
        down_kernel=3,
        reduce_first=2,
    ),
    "resnetblur18": _basic((2, 2, 2, 2), pool=blur_pool_reflected),
    "resnetblur50": _bottleneck((3, 4, 6, 3), pool=blur_pool_reflected),
    "resnetblur50d": _bottleneck((3, 4, 6, 3), **D, pool=blur_pool_reflected),
    "resnetblur101d": _bottleneck((3, 4, 23, 3), **D, pool=blur_pool_reflected),
    "resnetaa34d": _basic((3, 4, 6, 3), **D, pool=halve),
    "resnetaa50": _bottleneck((3, 4, 6, 3), pool=halve),
    "resnetaa50d": _bottleneck((3, 4, 6, 3), **D, pool=halve),
    "resnetaa101d": _bottleneck((3, 4, 23, 3), **D, pool=halve),
    "seresnetaa50d": _bottleneck((3, 4, 6, 3), **D, pool=halve, attention=_se),
    "seresnextaa101d_32x8d": _bottleneck((3, 4, 23, 3), **D, **X8, pool=halve, attention=_se),
    "seresnextaa201d_32x8d": _bottleneck(
        (3, 24, 36, 4),
        stem="deep",
        average_down=True,
        groups=32,
        base_width=8,
        pool=halve,
        attention=_se,
    ),
    "resnetrs50": _bottleneck((3, 4, 6, 3), **D, replace_pool=True, attention=_se4),
    "resnetrs101": _bottleneck((3, 4, 23, 3), **D, replace_pool=True, attention=_se4),
    "resnetrs152": _bottleneck((3, 8, 36, 3), **D, replace_pool=True, attention=_se4),
    "resnetrs200": _bottleneck((3, 24, 36, 3), **D, replace_pool=True, attention=_se4),
    "resnetrs270": _bottleneck((4, 29, 53, 4), **D, replace_pool=True, attention=_se4),
    "resnetrs350": _bottleneck((4, 36, 72, 4), **D, replace_pool=True, attention=_se4),
    "resnetrs420": _bottleneck((4, 44, 87, 4), **D, replace_pool=True, attention=_se4),
    "test_resnet": functools.partial(
        ResNet,
        depths=(1, 1, 1, 1),
        blocks=(BasicBlock, BasicBlock, Bottleneck, BasicBlock),
        stem="deep",
        stem_width=16,
        average_down=True,
        widths=(32, 48, 48, 96),
    ),
}
