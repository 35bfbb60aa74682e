"""Maxima over windows; on a CPU with a gradient of its own.

XLA's gradient goes through the windows one by one: at 8x112x112x64, for 3x3 windows two apart, it
takes 114 ms on 2 CPU cores (jax 0.10.2) where the maxima take 4, a sixth of a training step of a
ResNet-18. Here each pixel collects from the few windows that it is in.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import windows
from ktjax.models.networks.windows import Padding


def max_pool(
    x_BxHxWxC: jax.Array, sides: Sequence[int], strides: Sequence[int], pads: Padding
) -> jax.Array:
    """Maxima over windows of these sides; padding is never one.

    A gradient goes to the maximum; of several equal ones in a window to the first, as in torch.
    """
    of_backend = _on_cpu if jax.default_backend() == "cpu" else _library
    return of_backend(x_BxHxWxC, tuple(sides), tuple(strides), tuple(map(tuple, pads)))


def _library(x, sides, strides, pads):
    return nn.max_pool(x, sides, strides, pads)


_on_cpu = jax.custom_vjp(_library, nondiff_argnums=(1, 2, 3))


def _forward(x, sides, strides, pads):
    y = _library(x, sides, strides, pads)
    return y, (x, y)


def _backward(sides, strides, pads, saved, dy):
    x, y = saved
    height, width = x.shape[1:3]
    (top, _), (left, _) = pads
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    taps = list(windows.taps(x, sides, strides, windows.NONE))
    first = jnp.zeros(y.shape, jnp.int8)  # the number of the tap that is the maximum
    for number, (_, _, x_at) in reversed(list(enumerate(taps))):
        first = jnp.where(x_at == y, jnp.int8(number), first)
    first = jax.lax.optimization_barrier(first)
    # Pixels (high * m + i, wide * n + j), for each i and j an image of its own.
    high, wide = strides
    rows, columns = -(-x.shape[1] // high), -(-x.shape[2] // wide)
    zeros = jnp.zeros((len(x), rows, columns, x.shape[3]), dy.dtype)
    grid = [[zeros] * wide for _ in range(high)]
    for number, (i, j, _) in enumerate(taps):
        part = jnp.where(first == number, dy, 0)
        at = ((i // high, rows), (j // wide, columns))
        room = [(low, size - low - n) for (low, size), n in zip(at, y.shape[1:3], strict=True)]
        grid[i % high][j % wide] += jnp.pad(part, ((0, 0), *room, (0, 0)))
    return (windows.joined(grid)[:, top : top + height, left : left + width],)


_on_cpu.defvjp(_forward, _backward)
