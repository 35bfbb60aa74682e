"""Stages of blocks as data, how they scale, and the trunk of EfficientNets and MobileNets."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from ktjax.models.networks import layers, products
from ktjax.models.networks.layers import Activation, divisible
from ktjax.models.networks.mobile.blocks import (
    Block,
    ConvBnAct,
    DepthwiseSeparable,
    EdgeResidual,
    InvertedResidual,
    Kernel,
    Norm,
    Pool,
    SqueezeExcite,
    convolve,
    norm_act,
)

Rounding = Callable[[float], int]


class Blocks(NamedTuple):
    """Equal blocks in a row; only the first of a stage has the stride."""

    kind: type[Block]
    repeats: int
    stride: int
    channels: int
    options: Mapping[str, Any]  # more attributes of the blocks

    def but(self, **options: Any) -> "Blocks":
        """The same with other options."""
        return self._replace(options={**self.options, **options})


Stage = tuple[Blocks, ...]


def cn(repeats: int, kernel: int, stride: int, channels: int, *, skip: bool = False) -> Blocks:
    """Convolutions."""
    options = dict(kernel=kernel, skip=skip, group_size=0)
    return Blocks(ConvBnAct, repeats, stride, channels, options)


def ds(repeats: int, kernel: int, stride: int, channels: int, **options: Any) -> Blocks:
    """Depthwise separable convolutions."""
    return Blocks(DepthwiseSeparable, repeats, stride, channels, dict(kernel=kernel, **options))


def dsa(repeats: int, kernel: int, stride: int, channels: int, **options: Any) -> Blocks:
    """The same, activated and without shortcut."""
    return ds(repeats, kernel, stride, channels, skip=False, active=True, **options)


def ir(
    repeats: int,
    kernel: Kernel,
    stride: int,
    expand: float,
    channels: int,
    *,
    se: float = 0.0,
    se_inner: float = 0.0,
    **options: Any,
) -> Blocks:
    """Inverted residuals.

    Hidden channels of the attention are a share of the block's input, `se`, or of its inner width,
    `se_inner`.
    """
    options |= dict(kernel=kernel, expand=expand, se=se_inner or se / expand)
    return Blocks(InvertedResidual, repeats, stride, channels, options)


def er(
    repeats: int,
    kernel: int,
    stride: int,
    expand: float,
    channels: int,
    *,
    se: float = 0.0,
    group_size: int = 0,
    **options: Any,
) -> Blocks:
    """Edge residuals; `se` is a share of the block's input."""
    options |= dict(kernel=kernel, expand=expand, se=se / expand, group_size=group_size)
    return Blocks(EdgeResidual, repeats, stride, channels, options)


def widened(width: float = 1.0, *, divisor: int = 8, floor_share: float = 0.9) -> Rounding:
    """Makes numbers of channels `width` times as large, as multiples of `divisor`."""
    return lambda channels: divisible(channels * width, divisor, floor_share=floor_share)


def scaled(
    stages: Sequence[Stage],
    rounded: Rounding,
    depth: float | Sequence[float] = 1.0,
    *,
    truncate: Callable[[float], int] = math.ceil,
    fixed_ends: bool = False,
    **options: Any,
) -> tuple[Stage, ...]:
    """Wider and deeper stages, whose Blocks are single blocks.

    Args:
      stages: the stages to scale.
      rounded: gives the new number of channels for each.
      depth: how many times as many blocks a stage has; one number for all, or one for each.
      truncate: turns a fraction into a number of blocks.
      fixed_ends: the first and the last stage stay as deep as they are.
      **options: for all blocks without their own.
    """
    depths = depth if isinstance(depth, Sequence) else [depth] * len(stages)
    if fixed_ends:
        depths = [1.0, *depths[1:-1], 1.0]
    found = []
    for stage, times in zip(stages, depths, strict=True):
        total = max(1, truncate(sum(blocks.repeats for blocks in stage) * times))
        repeats = _distributed([blocks.repeats for blocks in stage], total)
        single = [
            blocks._replace(
                repeats=1,
                stride=1,
                channels=rounded(blocks.channels),
                options={**options, **blocks.options},
            )
            for blocks, count in zip(stage, repeats, strict=True)
            for _ in range(count)
        ]
        found.append((single[0]._replace(stride=stage[0].stride), *single[1:]))
    return tuple(found)


def _distributed(repeats: Sequence[int], total: int) -> list[int]:
    """Repeats in these proportions: `total` of them, or a few more so that each has at least one.

    The last are set first, so that the first, which has the stride, is the least repeated.
    """
    found, left = [], sum(repeats)
    for count in reversed(repeats):
        found.append(max(1, round(count / left * total)))
        left, total = left - count, total - found[-1]
    return found[::-1]


class Trunk(nn.Module):
    """A convolution of stride 2 and stages of blocks; subclasses add a head.

    Attributes:
      stages: lists of single blocks, as `scaled` makes them.
      stem_size: how many channels the first convolution has.
      stem_kernel_size: its kernel.
      num_features: how many channels the last convolution has; 0: there is none.
      attention: makes that of the blocks with one, from `ratio` and `activation`.
      pool: a low-pass filter of stride 2 that takes the strides; None: convolutions take them.
      same: pad as TensorFlow's "SAME".
    """

    num_classes: int
    stages: tuple[Stage, ...]
    stem_size: int
    num_features: int
    stem_kernel_size: int = 3
    activation: Activation = nn.relu
    norm: Norm = norm_act
    attention: Callable[..., nn.Module] = SqueezeExcite
    pool: Pool | None = None
    same: bool = False
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    def _trunk(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = self.stem_kernel_size
        x = convolve(x, self.stem_size, kernel, stride=2, same=self.same, name="conv_stem")
        x = self.norm(x, self.activation, name="bn1")
        shared = dict(
            activation=self.activation,
            norm=self.norm,
            attention=self.attention,
            pool=self.pool,
            same=self.same,
        )
        number, total = 0, sum(map(len, self.stages))
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                x = layers.remat(block.kind, self.remat)(
                    channels=block.channels,
                    stride=block.stride,
                    drop_path=self.drop_path_rate * number / total,
                    **{**shared, **block.options},
                    name=f"blocks.{i}.{j}",
                )(x, train)
                number += 1
        return x

    def _classify(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return products.Dense(self.num_classes, kernel_init=init, name="classifier")(x)
