"""Layer and group normalization in forms that a CPU does well.

XLA:CPU fuses the gradient of layer normalization that JAX derives into what uses it, and so
computes it several times, of several layers at once; that of our own is a few loops. It keeps the
statistics out of such fusions, too: a convolution that follows would compute the normalized image
anew for each of its taps. Group normalization has a gradient of its own for the same reason, from
two means of each channel. Accelerators have the same gradients, which were not measured there. They
have further derivatives in reverse mode, but none in forward mode (`jax.jvp`). Values and gradients
agree with the library's to float32 accuracy.

What was tried (jax 0.10.2; milliseconds of one idle core, and torch 2.14's):

  gradients of mixer_b16_224, batch 4           library 4,319, own 3,409, torch 3,548
  gradients of vit_small_patch16_224, batch 8   library 3,189, own 2,887, torch 2,762
  convnext_tiny, batch 8                        library 1,176, statistics apart 928, torch 1,034
  resnetv2_50x1_bit, batch 4, two cores         library 351, means of channels first 251
  its gradients                                 library 986 (668 MB), means of channels first 916
                                                (812 MB), a gradient of the normalized image 990
                                                (667): not kept
  the same, two faster cores                    means of channels first 598 to 706 (812 MB), a
                                                gradient from means of channels 548 to 560 (668)
  gradients of resnet50_gn, batch 4             473 to 524 (781 MB), 434 to 460 (606)
  tiny_resnet_gn, batch 64, its gradients       library 2.33, 6.44, own 1.86, 5.23, torch 1.25, 4.31
  a gradient of our own for GELU                within 1 % of the library's: not kept
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class LayerNorm(nn.Module):
    """Standardizes the channels of each pixel or token, [..., C]; parameters have Flax's names.

    Attributes:
      epsilon: added to the variance.
      scale_init: the initial gains.
    """

    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", self.scale_init, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y, _, _ = standardized(x.astype(jnp.float32), (x.ndim - 1,), self.epsilon)
        gains, shifts = (jnp.broadcast_to(a, y.shape) for a in (scale, bias))
        return (y * gains + shifts).astype(jnp.result_type(x, scale, bias))


class GroupNorm(nn.Module):
    """Standardizes groups of channels over each image, [B, H, W, C]; parameters have Flax's names.

    Attributes:
      num_groups: how many groups there are.
      group_size: channels of a group, instead; None: `num_groups` counts.
      epsilon: added to the variance.
    """

    num_groups: int = 32
    group_size: int | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = self.num_groups if self.group_size is None else channels // self.group_size
        if not groups or channels % groups or self.group_size not in (None, channels // groups):
            kind = f"{groups} groups" if self.group_size is None else f"groups of {self.group_size}"
            raise ValueError(f"{channels} channels cannot be divided into {kind}.")
        wide = (a.astype(jnp.float32) for a in (x, scale, bias))
        return _of_groups(*wide, groups, self.epsilon).astype(jnp.result_type(x, scale, bias))


def _group_norm(x, scale, bias, groups, epsilon):
    mean = _means(x.mean((1, 2), keepdims=True), groups)
    variance = _means(jnp.square(x - mean).mean((1, 2), keepdims=True), groups)
    mean, rstd = _apart((mean, jax.lax.rsqrt(variance + epsilon)))
    scale, bias = (a.reshape(1, 1, 1, -1) for a in (scale, bias))
    return (x - mean) * (rstd * scale) + bias, (x, mean, rstd, scale)


def _means(of_channels_Bx1x1xC: jax.Array, groups: int) -> jax.Array:
    """Of each group of channels, for each of its channels, [B, 1, 1, C].

    Pixels are averaged before: in arrays [B, H, W, groups, channels of one] loops over the few
    channels of a group would be the innermost ones.
    """
    batch, _, _, channels = of_channels_Bx1x1xC.shape
    means = of_channels_Bx1x1xC.reshape(batch, 1, 1, groups, -1).mean(axis=-1)
    return jnp.repeat(means, channels // groups, axis=-1)


def _group_norm_gradient(groups, epsilon, saved, dy):
    del epsilon
    x, mean, rstd, scale = saved
    # Of the pixels, all that the gradients need: two means of each channel of each image.
    of_dy = dy.mean((1, 2), keepdims=True)
    of_product = (dy * (x - mean)).mean((1, 2), keepdims=True) * rstd
    shift = rstd * _means(of_dy * scale, groups)
    slope = jnp.square(rstd) * _means(of_product * scale, groups)
    shift, slope = _apart((shift, slope))
    dx = dy * (rstd * scale) - (x - mean) * slope - shift
    pixels = x.shape[1] * x.shape[2]
    return dx, of_product.sum((0, 1, 2)) * pixels, of_dy.sum((0, 1, 2)) * pixels


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _of_groups(x, scale, bias, groups, epsilon):
    return _group_norm(x, scale, bias, groups, epsilon)[0]


_of_groups.defvjp(_group_norm, _group_norm_gradient)


def standardized(
    x: jax.Array, axes: Sequence[int], epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An array with mean 0 and variance 1 over axes, and what it was made with.

    Args:
      x: float32 or wider, of any shape.
      axes: those that the mean is taken over, counted from the front.
      epsilon: added to the variance. That is the mean square of what is left without the mean: the
        mean of squares minus the square of the mean would lose digits where the mean is far from 0.

    Returns:
      (x - mean) / sqrt(variance + epsilon); the mean and 1 / sqrt(variance + epsilon), with size 1
      along the axes: no gradient flows through these two.
    """
    y, mean, rstd = _standardize(x, tuple(axes), epsilon)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(rstd)


def _compute(x, axes, epsilon):
    mean = x.mean(axes, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + epsilon)
    mean, rstd = _apart((mean, rstd))
    return (x - mean) * rstd, mean, rstd


def _apart(statistics: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The same, on a CPU outside of what is fused with their use."""
    on_cpu = jax.default_backend() == "cpu"
    return jax.lax.optimization_barrier(statistics) if on_cpu else statistics


_standardize = jax.custom_vjp(_compute, nondiff_argnums=(1, 2))


def _forward(x, axes, epsilon):
    y, mean, rstd = _compute(x, axes, epsilon)  # not _standardize: rstd has a second derivative
    return (y, mean, rstd), (y, rstd)


def _backward(axes, epsilon, saved, gradients):
    del epsilon
    (y, rstd), (dy, _, _) = saved, gradients  # `standardized` stops those of the statistics
    along = (dy * y).mean(axes, keepdims=True)
    return (rstd * (dy - dy.mean(axes, keepdims=True) - y * along),)


_standardize.defvjp(_forward, _backward)
