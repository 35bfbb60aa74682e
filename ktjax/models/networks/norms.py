"""Layer and group normalization in forms that a CPU does well, with gradients of our own.

XLA:CPU fuses the gradient that JAX derives into what uses it, and so computes it several times, of
several layers at once; this one is a few loops. On a CPU the statistics are also kept out of such
fusions: a convolution that follows would compute the normalized image anew for each of its taps.
Values agree with the library's to float32 accuracy, and so do gradients.

What was tried (jax 0.10.2; milliseconds of one idle core, and torch 2.14's):

  gradients of mixer_b16_224, batch 4           library 4,319, own 3,409, torch 3,548
  gradients of vit_small_patch16_224, batch 8   library 3,189, own 2,887, torch 2,762
  convnext_tiny, batch 8                        library 1,176, statistics apart 928, torch 1,034
  resnetv2_50x1_bit, batch 4, two cores         library 351, sums of channels first 251; with
                                                gradients 986 and 990
  a gradient of our own for GELU or attention   within 1 % of the library's: not kept
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class LayerNorm(nn.Module):
    """Standardizes each pixel's or token's channels; scale and bias have Flax's names."""

    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", self.scale_init, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        dtype = jnp.result_type(x, scale, bias)
        y, _, _ = standardized(x.astype(jnp.float32), (x.ndim - 1,), self.epsilon)
        scale, bias = (jnp.broadcast_to(a, x.shape) for a in (scale, bias))
        return (y * scale + bias).astype(dtype)


def standardized(
    x: jax.Array, axes: Sequence[int], epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x - mean) / std over axes; the mean, and 1 / std, which keep these axes and no gradient.

    The variance is the mean square of what is left without the mean: the mean of squares minus the
    square of the mean would lose digits where the mean is far from zero.
    """
    y, mean, rstd = _standardize(x, tuple(axes), epsilon)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(rstd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _standardize(x, axes, epsilon):
    mean = x.mean(axes, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + epsilon)
    mean, rstd = _apart((mean, rstd))
    return (x - mean) * rstd, mean, rstd


def _apart(statistics: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The same, on a CPU outside of what is fused with their use."""
    return (
        jax.lax.optimization_barrier(statistics) if jax.default_backend() == "cpu" else statistics
    )


def _forward(x, axes, epsilon):
    y, mean, rstd = _standardize(x, axes, epsilon)
    return (y, mean, rstd), (y, rstd)


def _backward(axes, epsilon, saved, gradients):
    del epsilon
    (y, rstd), (dy, _, _) = saved, gradients  # the statistics have none
    along = (dy * y).mean(axes, keepdims=True)
    return (rstd * (dy - dy.mean(axes, keepdims=True) - y * along),)


_standardize.defvjp(_forward, _backward)


class GroupNorm(nn.Module):
    """Standardizes groups of channels over each whole image; scale and bias have Flax's names.

    Attributes:
      num_groups: how many groups there are.
      group_size: channels of a group, instead; None: `num_groups` counts.
    """

    num_groups: int = 32
    group_size: int | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        dtype = jnp.result_type(x, scale, bias)
        groups = self.num_groups if self.group_size is None else x.shape[-1] // self.group_size
        y = _standardize_groups(x.astype(jnp.float32), groups, self.epsilon)
        scale, bias = (jnp.broadcast_to(a, x.shape) for a in (scale, bias))
        return (y * scale + bias).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _standardize_groups(x_BxHxWxC, groups, epsilon):
    return _forward_of_groups(x_BxHxWxC, groups, epsilon)[0]


def _forward_of_groups(x_BxHxWxC, groups, epsilon):
    centered = x_BxHxWxC - jnp.broadcast_to(_means(x_BxHxWxC, groups), x_BxHxWxC.shape)
    rstd = jax.lax.rsqrt(_means(jnp.square(centered), groups) + epsilon)
    y = centered * jnp.broadcast_to(rstd, x_BxHxWxC.shape)
    return y, (y, rstd)


def _backward_of_groups(groups, epsilon, saved, dy):
    del epsilon
    y, rstd = saved
    mean, along, rstd = (
        jnp.broadcast_to(a, dy.shape) for a in (_means(dy, groups), _means(dy * y, groups), rstd)
    )
    return (rstd * (dy - mean - y * along),)


_standardize_groups.defvjp(_forward_of_groups, _backward_of_groups)


def _means(x_BxHxWxC: jax.Array, groups: int) -> jax.Array:
    """Of each image and group of channels, for each of its channels: [B, 1, 1, C].

    Sums of channels come first: in arrays [B, H, W, groups, channels of one] loops over the few
    channels of a group would be the innermost ones.
    """
    batch, _, _, channels = x_BxHxWxC.shape
    of_channels = x_BxHxWxC.mean(axis=(1, 2)).reshape(batch, groups, -1)
    means = jnp.broadcast_to(of_channels.mean(axis=2, keepdims=True), of_channels.shape)
    return means.reshape(batch, 1, 1, channels)
