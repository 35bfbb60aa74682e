"""Residual networks (He et al. 2016), parts named after timm's."""

import functools

import jax
from flax import linen as nn

from ktjax.models.classifier import Output
from ktjax.models.layers import BatchNorm

GroupNorm = functools.partial(nn.GroupNorm, num_groups=8, epsilon=1e-5)
_conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False)


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
            x = nn.Conv(self.width, (1, 1), self.stride, use_bias=False, name="downsample_0")(x)
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
        return Output(logits=nn.Dense(self.num_classes, name="fc")(x), features=x)


tiny_resnet_narrow = functools.partial(ResNet, stage_sizes=(1, 1), widths=(12, 24))
tiny_resnet = functools.partial(ResNet, stage_sizes=(1, 1), widths=(24, 48))
tiny_resnet_wide = functools.partial(ResNet, stage_sizes=(1, 1, 1), widths=(32, 64, 96))
tiny_resnet_gn = functools.partial(
    ResNet, stage_sizes=(1, 1, 1), widths=(16, 32, 64), norm=GroupNorm
)
