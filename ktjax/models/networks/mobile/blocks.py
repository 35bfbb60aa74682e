"""Blocks of timm's EfficientNets and MobileNets, with its names and arithmetic.

A block's attributes are those that differ between blocks, and those that a whole network shares:
the normalization, activation, attention, padding, and the pool that takes strides.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import Activation, BatchNorm, DropPath, divisible
from ktjax.models.networks.norms import LayerNorm

Kernel = int | tuple[int, ...]  # several: each convolves a share of the channels
Norm = Callable[..., jax.Array]  # norm(x, activation or None, name=...)
Pool = Callable[[jax.Array], jax.Array]


def convolve(
    x: jax.Array,
    features: int,
    kernel: Kernel,
    *,
    stride: int = 1,
    groups: int = 1,
    same: bool = False,
    bias: bool = False,
    init: nn.initializers.Initializer | None = None,
    name: str,
) -> jax.Array:
    """A square convolution, or several of them side by side (MixConv, Tan and Le 2019).

    Args:
      x: [B, H, W, channels].
      features: how many channels come out.
      kernel: its size; if there are several, each sees a share of the channels.
      stride: how many input pixels one output pixel moves.
      groups: how many groups of channels; with several kernels either 1 or one per channel.
      same: pad as TensorFlow's "SAME", which depends on the size of the image; else as torch does.
      bias: whether there is one.
      init: initializes the kernel; None: as in TensorFlow's networks.
      name: the layer's name.
    """
    if isinstance(kernel, tuple):
        starts = list(itertools.accumulate(_shares(x.shape[-1], len(kernel))))[:-1]
        shares = zip(jnp.split(x, starts, axis=-1), _shares(features, len(kernel)), strict=True)
        parts = [
            convolve(
                part,
                width,
                size,
                stride=stride,
                groups=1 if groups == 1 else width,
                same=same,
                bias=bias,
                init=init,
                name=f"{name}.{i}",
            )
            for i, ((part, width), size) in enumerate(zip(shares, kernel, strict=True))
        ]
        return jnp.concatenate(parts, axis=-1)
    return Conv(
        features,
        (kernel, kernel),
        stride,
        padding="SAME" if same else (kernel - 1) // 2,
        feature_group_count=groups,
        use_bias=bias,
        # Flax counts the outputs of all groups, TensorFlow those of one.
        kernel_init=init or nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal"),
        name=name,
    )(x)


def _shares(channels: int, count: int) -> list[int]:
    """The channels in `count` equal parts; the first also has the remainder."""
    part = channels // count
    return [channels - part * (count - 1)] + [part] * (count - 1)


def norm_act(
    x: jax.Array,
    activation: Activation | None,
    *,
    name: str,
    norm: Callable[..., nn.Module] = BatchNorm,
) -> jax.Array:
    """Normalizes, then activates."""
    x = norm(name=name)(x)
    return x if activation is None else activation(x)


# The norm of TensorFlow's networks.
tf_norm = functools.partial(norm_act, norm=functools.partial(BatchNorm, epsilon=1e-3))


def evo_norm(
    x: jax.Array, activation: Activation | None, *, name: str, group_size: int
) -> jax.Array:
    """EvoNorm-S0, which brings its own activation; without one it is only the affine map."""
    return MobileEvoNorm(group_size, active=activation is not None, name=name)(x)


class MobileEvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al. 2020) of groups of one size; it can leave out the activation."""

    group_size: int
    active: bool
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def parameter(name, init):
            value = self.param(name, init, (x.shape[-1],))
            return jnp.broadcast_to(value, x.shape)

        scale = parameter("scale", nn.initializers.ones)
        bias = parameter("bias", nn.initializers.zeros)
        if self.active:
            grouped = x.reshape(*x.shape[:-1], -1, self.group_size).astype(jnp.float32)
            variance = grouped.var(axis=(1, 2, 4), keepdims=True)
            gain = jnp.broadcast_to(jax.lax.rsqrt(variance + self.epsilon), grouped.shape)
            y = x * nn.sigmoid(x * parameter("v", nn.initializers.ones))
            x = y * gain.reshape(x.shape).astype(x.dtype)
        return x * scale + bias


def blur_pool_zeros(x: jax.Array) -> jax.Array:
    """Binomial 3x3 filter with stride 2, zeros around the image: means of means of 2x2 pixels."""
    x = nn.avg_pool(x, (2, 2), padding=((1, 1), (1, 1)))
    return nn.avg_pool(x, (2, 2), (2, 2))


class SqueezeExcite(nn.Module):
    """Weights each channel by what is in the whole image (Hu et al. 2018).

    Attributes:
      ratio: hidden channels per channel.
      activation: the block's.
      own: an activation instead of the block's.
      gate: turns numbers into weights.
      rounded: turns a fraction into a number of channels.
    """

    ratio: float
    activation: Activation
    own: Activation | None = None
    gate: Activation = nn.sigmoid
    rounded: Callable[[float], int] = round

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = x.mean(axis=(1, 2), keepdims=True)
        y = convolve(y, self.rounded(width * self.ratio), 1, bias=True, name="conv_reduce")
        y = (self.own or self.activation)(y)
        return x * self.gate(convolve(y, width, 1, bias=True, name="conv_expand"))


class GlobalContext(nn.Module):
    """Weights each channel by an attended mean over the image (Cao et al. 2019)."""

    ratio: float
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        at = convolve(x, 1, 1, bias=True, name="conv_attn").astype(jnp.float32)
        at = jax.nn.softmax(at, axis=(1, 2)).astype(x.dtype)
        y = jnp.einsum("bhwc,bhwo->boc", x, at)[:, :, None]
        hidden = divisible(width * self.ratio, 1, floor_share=0.0)
        y = convolve(y, hidden, 1, bias=True, name="mlp_scale.fc1")
        y = LayerNorm(name="mlp_scale.norm")(y)
        y = convolve(self.activation(y), width, 1, bias=True, name="mlp_scale.fc2")
        return x * nn.sigmoid(y)


class Block(nn.Module):
    """What all kinds of block have in common.

    Attributes:
      channels: how many come out.
      stride: how many input pixels one output pixel moves.
      kernel: that of the convolution with the stride.
      expand: how many times wider than the input it is inside.
      inner: how wide it is inside, instead.
      se: hidden channels of the attention per channel inside; 0: no attention.
      skip: whether the input is added if the shapes allow it.
      group_size: channels per group of the convolution with the stride; 0: there is one group.
      pool: takes strides of 2, after the activation; None: the convolution takes them.
      same: pad as TensorFlow does.
    """

    channels: int
    stride: int = 1
    kernel: Kernel = 3
    expand: float = 1.0
    inner: int | None = None
    se: float = 0.0
    skip: bool = True
    group_size: int = 1
    activation: Activation = nn.relu
    norm: Norm = norm_act
    attention: Callable[..., nn.Module] = SqueezeExcite
    pool: Pool | None = None
    same: bool = False
    drop_path: float = 0.0

    def _inner(self, x: jax.Array) -> int:
        return self.inner or divisible(x.shape[-1] * self.expand)

    def _groups(self, channels: int) -> int:
        return channels // self.group_size if self.group_size else 1

    def _strided(
        self,
        x: jax.Array,
        width: int,
        kernel: Kernel,
        stride: int,
        activation: Activation | None,
        *,
        name: str,
        norm: str,
    ) -> jax.Array:
        """A convolution in groups; anti-aliased if there is a stride and a pool for it."""
        pooled = self.pool is not None and stride == 2
        y = convolve(
            x,
            width,
            kernel,
            stride=1 if pooled else stride,
            groups=self._groups(width),
            same=self.same,
            name=name,
        )
        y = self.norm(y, activation, name=norm)
        return self.pool(y) if pooled else y

    def _attend(self, x: jax.Array) -> jax.Array:
        if not self.se:
            return x
        return self.attention(ratio=self.se, activation=self.activation, name="se")(x)

    def _end(self, x: jax.Array, y: jax.Array, *, train: bool) -> jax.Array:
        if not self.skip or x.shape != y.shape:
            return y
        return x + DropPath(self.drop_path)(y, train=train)


class ConvBnAct(Block):
    """A convolution, normalized and activated."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self.channels, self.kernel, self.stride)
        y = self._strided(x, *shape, self.activation, name="conv", norm="bn1")
        return self._end(x, y, train=train)


class DepthwiseSeparable(Block):
    """A depthwise and a 1x1 convolution (MobileNet, Howard et al. 2017).

    Attributes:
      active: whether the result is activated.
      space_to_depth: a convolution of stride 2 before, with four times the channels.
    """

    active: bool = False
    space_to_depth: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.space_to_depth:
            width, kernel = 4 * x.shape[-1], (self.kernel + 1) // 2
            y = convolve(x, width, 2, stride=2, same=True, name="conv_s2d")
            y = self.norm(y, self.activation, name="bn_s2d")
            groups = self._groups(width)
            y = convolve(y, width, kernel, groups=groups, same=True, name="conv_dw")
            y = self.norm(y, self.activation, name="bn1")
        else:
            shape = (x.shape[-1], self.kernel, self.stride)
            y = self._strided(x, *shape, self.activation, name="conv_dw", norm="bn1")
        y = convolve(self._attend(y), self.channels, 1, name="conv_pw")
        y = self.norm(y, self.activation if self.active else None, name="bn2")
        return self._end(x, y, train=train)


class InvertedResidual(Block):
    """A 1x1, a depthwise and a 1x1 convolution, wide inside (MobileNetV2, Sandler et al. 2018).

    Attributes:
      expand_kernel, project_kernel: the kernels of the 1x1 convolutions, one or several.
    """

    expand_kernel: Kernel = 1
    project_kernel: Kernel = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inner = self._inner(x)
        y = convolve(x, inner, self.expand_kernel, name="conv_pw")
        y = self.norm(y, self.activation, name="bn1")
        shape = (inner, self.kernel, self.stride)
        y = self._strided(y, *shape, self.activation, name="conv_dw", norm="bn2")
        y = convolve(self._attend(y), self.channels, self.project_kernel, name="conv_pwl")
        y = self.norm(y, None, name="bn3")
        return self._end(x, y, train=train)


class EdgeResidual(Block):
    """A full convolution that widens, and a 1x1 one (EfficientNet-EdgeTPU; "fused" in V2)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self._inner(x), self.kernel, self.stride)
        y = self._strided(x, *shape, self.activation, name="conv_exp", norm="bn1")
        y = convolve(self._attend(y), self.channels, 1, name="conv_pwl")
        y = self.norm(y, None, name="bn2")
        return self._end(x, y, train=train)


class CondConv(nn.Module):
    """A convolution with a kernel for each image, mixed from learned ones (Yang et al. 2019)."""

    features: int
    kernel: int
    experts: int
    stride: int = 1
    groups: int = 1
    same: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, routing_BxE: jax.Array) -> jax.Array:
        shape = (self.features, x.shape[-1] // self.groups, self.kernel, self.kernel)
        deviation = math.sqrt(2.0 * self.groups / (self.features * self.kernel**2))
        init = nn.initializers.normal(deviation)
        weight = self.param("weight", init, (self.experts, math.prod(shape)))
        by_image = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(self.stride, self.stride),
            padding="SAME" if self.same else [((self.kernel - 1) // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=self.groups,
        )
        kernels = (routing_BxE @ weight).reshape(-1, *shape)
        return jax.vmap(by_image)(x[:, None], kernels)[:, 0]


class CondConvResidual(Block):
    """InvertedResidual whose kernels are mixtures of `experts` learned ones."""

    experts: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inner = self._inner(x)
        init = nn.initializers.variance_scaling(1 / 6, "fan_avg", "uniform")
        routing = products.Dense(self.experts, kernel_init=init, name="routing_fn")(
            x.mean(axis=(1, 2))
        )
        mixed = functools.partial(CondConv, experts=self.experts, same=self.same)
        routing = nn.sigmoid(routing)
        y = mixed(inner, 1, name="conv_pw")(x, routing)
        y = self.norm(y, self.activation, name="bn1")
        depthwise = mixed(inner, self.kernel, stride=self.stride, groups=inner, name="conv_dw")
        y = self.norm(depthwise(y, routing), self.activation, name="bn2")
        y = mixed(self.channels, 1, name="conv_pwl")(self._attend(y), routing)
        y = self.norm(y, None, name="bn3")
        return self._end(x, y, train=train)
