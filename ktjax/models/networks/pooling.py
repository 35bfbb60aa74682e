"""Maxima over windows; on a CPU with a gradient of its own.

XLA's gradient goes through the windows one by one: at 8x112x112x64, for 3x3 windows two apart, it
takes 114 ms on 2 CPU cores (jax 0.10.2) where the maxima take 4, a sixth of a training step of a
ResNet-18. Here each pixel collects from the few windows that it is in.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import windows


def max_pool(x_BxHxWxC: jax.Array, kernel: int, stride: int, *, pad: int) -> jax.Array:
    """Maxima over square windows; the padding, `pad` pixels on each side, is never one.

    A gradient goes to the maximum; of several equal ones in a window to the first, as in torch.
    """
    of_backend = _on_cpu if jax.default_backend() == "cpu" else _library
    return of_backend(x_BxHxWxC, kernel, stride, pad)


def _library(x: jax.Array, kernel: int, stride: int, pad: int) -> jax.Array:
    return nn.max_pool(x, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))


_on_cpu = jax.custom_vjp(_library, nondiff_argnums=(1, 2, 3))


def _forward(x, kernel, stride, pad):
    y = _library(x, kernel, stride, pad)
    return y, (x, y)


def _backward(kernel, stride, pad, saved, dy):
    x, y = saved
    height, width = x.shape[1:3]
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    x = jnp.pad(x, around, constant_values=-jnp.inf)
    taps = list(windows.taps(x, (kernel, kernel), (stride, stride), windows.NONE))
    first = jnp.zeros(y.shape, jnp.int8)  # the number of the tap that is the maximum
    for number, (_, _, x_at) in reversed(list(enumerate(taps))):
        first = jnp.where(x_at == y, jnp.int8(number), first)
    first = jax.lax.optimization_barrier(first)
    # Pixels (stride * m + i, stride * n + j), for each i and j an image of its own.
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    grid = [
        [jnp.zeros((len(x), rows, columns, x.shape[3]), dy.dtype)] * stride for _ in range(stride)
    ]
    for number, (i, j, _) in enumerate(taps):
        part = jnp.where(first == number, dy, 0)
        at = ((i // stride, rows), (j // stride, columns))
        room = [(low, size - low - n) for (low, size), n in zip(at, y.shape[1:3], strict=True)]
        grid[i % stride][j % stride] += jnp.pad(part, ((0, 0), *room, (0, 0)))
    return (windows.joined(grid)[:, pad : pad + height, pad : pad + width],)


_on_cpu.defvjp(_forward, _backward)
