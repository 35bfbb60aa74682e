"""Layers that several families share, with timm's arithmetic and names.

Modules have timm's names, dots included, so that the path of a Flax parameter is its name in timm
(weights.py). Convolutions pad symmetrically, as torch does, unlike "SAME".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax import parallel
from ktjax.models.networks import products
from ktjax.models.networks.convolution import Conv

Activation = Callable[[jax.Array], jax.Array]
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    name: str,
) -> nn.Conv:
    """A square convolution; `padding` is for each side, None: it keeps the size at stride 1."""
    return Conv(
        features,
        (kernel, kernel),
        stride,
        padding=(kernel - 1) // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=conv_init,
        name=name,
    )


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution at x, by the error function, as torch computes it.

    `nn.gelu` takes the complement of that function, which is exact for large negative x too, and
    makes an MLP with its gradients take 30 % more time on a CPU.
    """
    y = x.astype(jnp.float32)  # 1 + erf(y) loses half precision's digits at negative y
    return (y * (0.5 * (1 + jax.lax.erf(y * math.sqrt(0.5))))).astype(x.dtype)


def avg_pool(x: jax.Array, kernel: int, *, ceil: bool = False) -> jax.Array:
    """Means over adjacent square windows.

    With `ceil`, the remainder at the lower and right edge counts as a window, else it is left out.
    """
    remains = [(0, -side % kernel if ceil else 0) for side in x.shape[1:3]]
    window = (kernel, kernel)
    means = nn.avg_pool(x, window, window, remains, count_include_pad=False)
    return means.astype(x.dtype)  # Flax divides by float32 counts


class BatchNorm(nn.Module):
    """BatchNorm over all devices.

    It uses the batch's statistics (and updates the running ones) if `batch_stats` is mutable, else
    the running ones.
    As in torch, the running variance is the unbiased one of the samples.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9  # timm and torch call it 0.1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            mean, var, count = batch_statistics(x, tuple(range(x.ndim - 1)))
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        gain = jax.lax.rsqrt(var + self.epsilon) * scale.astype(jnp.float32)
        centered = x.astype(jnp.float32) - jnp.broadcast_to(mean, x.shape)
        y = centered * jnp.broadcast_to(gain, x.shape) + jnp.broadcast_to(bias, x.shape)
        return y.astype(x.dtype)


def batch_statistics(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance over some axes and all devices, and the count of numbers; float32.

    If no step runs on several devices, only the batch counts.
    """
    x = x.astype(jnp.float32)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = _over_devices(x.mean(axes))
    # Not the mean of squares minus the square of the mean: if a channel's mean is far from zero,
    # that leaves few digits, and gradients divide by the result.
    var = _over_devices(jnp.square(x - jnp.expand_dims(mean, axes)).mean(axes))
    if parallel.is_mapped():
        count = jax.lax.psum(count, parallel.AXIS)
    return mean, var, jnp.float32(count)


def _over_devices(mean: jax.Array) -> jax.Array:
    return jax.lax.pmean(mean, parallel.AXIS) if parallel.is_mapped() else mean


def remat(block: type[nn.Module], on: bool) -> type[nn.Module]:
    """A block, called as `block(...)(x, train)`, that rematerializes its activations if `on`.

    The backward pass recomputes them: that saves memory and takes a third more time.
    """
    return nn.remat(block, static_argnums=(2,)) if on else block


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training whole samples skip a branch."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or not self.rate:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


class LayerScale(nn.Module):
    """A learned gain per channel (Touvron et al. 2021)."""

    init_values: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.init_values)
        return x * self.param("gamma", init, (x.shape[-1],))[(None,) * (x.ndim - 1)]


class Mlp(nn.Module):
    """Two dense layers with an activation between them, and a norm if `norm_layer` is given."""

    hidden: int
    activation: Activation = gelu
    bias: bool = True
    norm_layer: Callable[..., nn.Module] | None = None
    dense: Callable[..., nn.Module] = products.Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = self.activation(self.dense(self.hidden, use_bias=self.bias, name="fc1")(x))
        x = x if self.norm_layer is None else self.norm_layer(name="norm")(x)
        return self.dense(width, use_bias=self.bias, name="fc2")(x)


def divisible(value: float, divisor: int = 8, *, floor_share: float = 0.9) -> int:
    """The multiple of `divisor` nearest to `value`, but no less than `floor_share` of it."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= floor_share * value else nearest + divisor


class SEModule(nn.Module):
    """Weights each channel by what is in the whole image (Hu et al. 2018).

    `hidden` is the inner width; None: `ratio` times the input's, rounded to a multiple of 8.
    """

    ratio: float = 1 / 16
    hidden: int | None = None
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        hidden = self.hidden or divisible(width * self.ratio, floor_share=0.0)
        y = x.mean(axis=(1, 2), keepdims=True)
        y = self.activation(conv(hidden, 1, bias=True, name="fc1")(y))
        return x * self.gate(conv(width, 1, bias=True, name="fc2")(y))
