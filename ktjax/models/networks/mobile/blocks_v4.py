"""Blocks of MobileNetV4 (Qin et al. 2024): universal inverted bottlenecks and mobile attention."""

import jax
from flax import linen as nn

from ktjax.models.networks import products
from ktjax.models.networks.layers import LayerScale
from ktjax.models.networks.mobile.blocks import Block, convolve
from ktjax.models.networks.mobile.stages import Blocks


class _Scaled(Block):
    """A block whose output may have learned gains.

    Attributes:
      layer_scale: the initial gains; None: there are none.
    """

    layer_scale: float | None = None

    def _scaled_end(self, x: jax.Array, y: jax.Array, *, train: bool) -> jax.Array:
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="layer_scale")(y)
        return self._end(x, y, train=train)


class UniversalInvertedResidual(_Scaled):
    """An inverted residual with a depthwise convolution before, inside, in both places or none.

    Attributes:
      start: the kernel of the convolution before; 0: there is none. `kernel` is the one inside.
    """

    start: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y, inner = x, self._inner(x)
        if self.start:
            shape = (x.shape[-1], self.start, 1 if self.kernel else self.stride)
            y = self._strided(y, *shape, None, name="dw_start.conv", norm="dw_start.bn")
        y = convolve(y, inner, 1, name="pw_exp.conv")
        y = self.norm(y, self.activation, name="pw_exp.bn")
        if self.kernel:
            shape = (inner, self.kernel, self.stride)
            y = self._strided(y, *shape, self.activation, name="dw_mid.conv", norm="dw_mid.bn")
        y = convolve(y, self.channels, 1, name="pw_proj.conv")
        y = self.norm(y, None, name="pw_proj.bn")
        return self._scaled_end(x, y, train=train)


class MobileAttention(_Scaled):
    """Attention between pixels: several heads of queries share their keys and values.

    Attributes:
      heads: how many heads of queries there are, with `head_dim` channels each.
      kv_stride: the stride of a depthwise convolution before keys and values; 1: there is none.
    """

    heads: int = 8
    head_dim: int = 64
    kv_stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        y = self.norm(x, None, name="norm")

        def projected(name: str, heads: int, kv_stride: int) -> jax.Array:
            z, width = y, y.shape[-1]
            if kv_stride > 1:
                shape = dict(stride=kv_stride, groups=width, same=self.same)
                z = convolve(z, width, self.kernel, **shape, init=init, name=f"{name}.down_conv")
                z = self.norm(z, None, name=f"{name}.norm")
            z = convolve(z, heads * self.head_dim, 1, init=init, name=f"{name}.proj")
            return z.reshape(len(z), -1, heads, self.head_dim)

        query = projected("attn.query", self.heads, 1)
        key = projected("attn.key", 1, self.kv_stride)
        value = projected("attn.value", 1, self.kv_stride)
        z = products.attention(query, key, value)
        z = z.reshape(*x.shape[:3], self.heads * self.head_dim)
        y = convolve(z, self.channels, 1, init=init, name="attn.output.proj")
        return self._scaled_end(x, y, train=train)


def uib(repeats: int, start: int, kernel: int, stride: int, expand: float, channels: int) -> Blocks:
    """Universal inverted bottlenecks; `start` and `kernel` may be 0."""
    options = dict(start=start, kernel=kernel, expand=expand)
    return Blocks(UniversalInvertedResidual, repeats, stride, channels, options)


def mqa(heads: int, head_dim: int, channels: int, *, kv_stride: int = 1) -> Blocks:
    """Multi-query attention."""
    options = dict(heads=heads, head_dim=head_dim, kv_stride=kv_stride)
    return Blocks(MobileAttention, 1, 1, channels, options)
