"""Convolutions in the form that suits the backend, for `nn.Conv` as its conv_general_dilated.

XLA's own are fast on accelerators. On a CPU those with few channels per group are not: a depthwise
one takes up to 60 times as long as its arithmetic, the gradient of a grouped kernel hundreds of
times. There they are written as sums of shifted products, which XLA turns into plain loops. Those
of single pixels, those whose windows touch, and 3x3 ones of colors are matrix products. Those of
all channels reach half of the speed of matrix products: with 3x3 kernels, Winograd's form of them
needs fewer (winograd.py). All forms agree to float32 accuracy.

What was tried (milliseconds; 2 CPU cores beside other work, jax 0.10.2: only the ratios count, and
not to the last digit):

  depthwise 7x7 of 8x56x56x96   forward: library 150, shifts 11; as a part of a ConvNeXt block the
                                shifts of a whole batch lose half of that to what XLA fuses with
                                them, so it is an image at a time
                                gradient of the input: library 148, of the shifts 57, shifts with
                                the kernel turned round 11
  the same of 8x56x56x40        gradient of the kernel: a reduction per tap 250, a loop over the
                                rows of eight images 62, of one image 12
  32 groups, 3x3, 8x28x28x256   forward: library 53, products per group 76; gradient of the kernel:
                                library 11,700, products per group 81
  1x1 of 8x56x56, 64 to 256     gradient of the kernel: library 68, product of matrices 14; every
                                second pixel, 256 to 512: 133 and 20
  3x3 of all channels           library 19 to 22 at 1.9 GFLOP; products of shifts or patches 20 to
                                120

3x3 of all channels, idle: forward, gradients of the input and of the kernel, by the library and by
Winograd's form:

  8x56x56x64                    18.8 18.7 20.6     7.1  7.3 27.3
  8x28x28x128                    9.3  9.3 11.5     5.7  5.9  7.2
  32x28x28x128                  38.1 38.1 45.2    38.2 41.2 57.4
  8x14x14x256                    9.3  9.7  9.5     4.8  4.7  6.3
  32x14x14x256                  38.4 39.2 45.0    19.5 19.5 39.0
  8x7x7x512                     10.8 14.9  9.8     7.1  7.4  8.0
  64x24x24x32                    6.7  6.6  8.5     3.6  3.6 20.1
  64x24x24x16                    1.6  1.7  2.4     2.4  2.2  2.8
  64x12x12x64                    6.4  6.3  8.9     3.9  4.0  5.0
  64x6x6x128                     3.3  3.4  3.6     2.3  2.1  2.5

Stems and downsampling on an idle machine that is twice as fast: forward, gradients of the input and
of the kernel, by the library and as a product of the windows, each a row of a matrix:

  64x24x24x3, 3x3, stride 2, to 12   0.28 0.30 0.24     0.39 0.30 0.35
                             to 16   0.27 0.25 0.16     0.21 0.21 0.16
                             to 24   1.42 0.27 0.27     0.24 0.24 0.16
                             to 32   0.52 0.27 0.23     0.23 0.24 0.18
  8x224x224x3, the same,     to 16   1.86 2.32 1.17     1.87 1.70 2.26
                             to 24   16.1 2.49 3.65     2.13 1.77 2.61
                             to 32   5.11 2.53 2.97     2.01 1.94 2.51
                             to 64   1.93 3.09 6.66     2.43 3.05 3.90
  32x32x32x3, 3x3, to 64             0.53 1.15 1.10     0.43 0.49 0.67
  8x224x224x3, 7x7, stride 2, to 64  7.75 66.3 29.3     43.3 57.7 51.7
    with 2x2 pixels as channels                         57.4 17.1 67.6
    its kernel's gradient an image at a time, the taps of a row as channels: 10, with an error of
    0.0004, not 0.0156, of at most 1,195; with more channels that takes longer
  64x24x24x3, 4x4 windows, to 24     0.66 0.16 0.14     0.09 0.07 0.09
  64x24x24x3, 6x6, to 64             0.10 0.41 0.18     0.14 0.12 0.15
  64x12x12x32, 3x3, to 64            0.20 0.21 0.37     0.33 0.14 0.36
  64x6x6x24, 2x2, to 48              0.06 0.08 0.10     0.08 0.05 0.10
  8x224x224x3, 16x16, to 384         3.15 68.1 4.24     2.31 2.06 3.26
  8x224x224x3, 4x4, to 96            1.90 1.64 4.33     0.70 0.90 0.95
  8x56x56x96, 2x2, to 192            5.19 3.23 12.7     3.38 2.26 4.23

With fewer than 64 channels nothing of Winograd's form is left in whole steps. It costs compilation:
that of resnet18 <- resnet50 takes 12 seconds, not 4. XLA's flags for oneDNN, XNNPACK and YNNPACK
(jaxlib 0.10.2) change nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import windows, winograd
from ktjax.models.networks.windows import Padding

# Images [B, H, W, C] and kernels [K, K, I, O].
NHWC = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_COLORS = 4  # channels in, up to which
_MORE = 16  # and channels out, above which a 3x3 convolution is a product of its windows
_SMALL = 2**12  # pixels of an image up to which the library's gradient does for other colors
_MANY = 64  # channels in and out from which Winograd's transforms pay off
_MOST_NUMBERS = 2**23  # in all transformed tiles, up to which they do
_FEW_TILES = 2**12  # up to which they also do for the kernel's gradient
_FEW = 2**17  # numbers in an image batch up to which one reduction per tap is faster than a loop


def convolve(
    x_BxHxWxC: jax.Array,
    kernel_KxKxIxO: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with its arguments."""
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if dimension_numbers == NHWC and x_BxHxWxC.ndim == 4 and all(n == 1 for n in dilations):
        sides, strides = kernel_KxKxIxO.shape[:2], tuple(window_strides)
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x_BxHxWxC.shape[1:3], sides, strides, padding)
        pads = tuple((int(low), int(high)) for low, high in padding)
        form = form_for(x_BxHxWxC, kernel_KxKxIxO, strides, pads, groups=feature_group_count)
        if form is not None:
            return form(x_BxHxWxC, kernel_KxKxIxO, strides, pads)
    return jax.lax.conv_general_dilated(
        x_BxHxWxC,
        kernel_KxKxIxO,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        **options,
    )


Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


def form_for(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Padding, *, groups: int
) -> Any:
    """The form for a convolution of images [B, H, W, C]; None: the library's."""
    exact = x.dtype == kernel.dtype == jnp.float32  # sums in lower precision lose accuracy
    if jax.default_backend() != "cpu" or not exact:
        return None
    if groups > 1:
        return depthwise if groups == x.shape[-1] == kernel.shape[-1] else grouped
    apart = kernel.shape[:2] == tuple(strides) and pads == windows.NONE
    if apart or kernel.shape[:2] == (1, 1):
        return by_windows
    if kernel.shape[2] <= _COLORS:
        if kernel.shape[:2] == (3, 3):
            return by_windows if kernel.shape[3] > _MORE else None
        return by_images if x.shape[1] * x.shape[2] > _SMALL else None
    if kernel.shape[:2] != (3, 3):
        return None
    keeps_size = tuple(strides) == (1, 1) and pads == windows.ONE
    if not keeps_size or min(kernel.shape[2:]) < _MANY:
        return None
    numbers = 16 * winograd.count_tiles(x) * max(kernel.shape[2:])
    return by_winograd if numbers <= _MOST_NUMBERS else None


def _library(x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Padding) -> jax.Array:
    groups = x.shape[-1] // kernel.shape[2]
    return jax.lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=NHWC, feature_group_count=groups
    )


def by_windows(x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Padding) -> jax.Array:
    """A convolution of all channels: one matrix product, with a row for each window."""
    rows = windows.flat(x, kernel.shape[:2], strides, pads)
    y = rows.reshape(-1, rows.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*rows.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_winograd(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Padding
) -> jax.Array:
    """A 3x3 convolution of all channels that keeps the size."""
    del strides, pads  # one case of `form_for`
    return winograd.convolve(x, kernel)


def _winograd_forward(x, kernel, strides, pads):
    return by_winograd(x, kernel, strides, pads), (x, kernel)


def _winograd_backward(strides, pads, saved, dy):
    x, kernel = saved
    dx = winograd.input_gradient(dy, kernel)
    if winograd.count_tiles(x) <= _FEW_TILES:
        return dx, winograd.kernel_gradient(x, dy)
    return dx, jax.vjp(lambda kernel: _library(x, kernel, strides, pads), kernel)[1](dy)[0]


by_winograd.defvjp(_winograd_forward, _winograd_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Padding) -> jax.Array:
    """A convolution of each channel by itself: a sum of the image's shifts, weighted by channel."""
    return _shifts(x, kernel[:, :, 0], strides, pads)


def _shifts(x: jax.Array, kernel_KxKxC: jax.Array, strides: Any, pads: Padding) -> jax.Array:
    def of_image(x_HxWxC: jax.Array) -> jax.Array:
        taps = windows.taps(x_HxWxC[None], kernel_KxKxC.shape[:2], strides, pads)
        weighted = (x_at * kernel_KxKxC[None, i, j][None, None] for i, j, x_at in taps)
        return functools.reduce(jnp.add, weighted)[0]

    return jax.lax.map(of_image, x)


def _depthwise_forward(x, kernel, strides, pads):
    return depthwise(x, kernel, strides, pads), (x, kernel)


def _depthwise_backward(strides, pads, saved, dy):
    x, kernel = saved
    kernel_KxKxC = kernel[:, :, 0]
    if tuple(strides) == (1, 1):  # itself a convolution, with the flipped kernel
        turned = tuple(
            (side - 1 - low, side - 1 - high)
            for side, (low, high) in zip(kernel.shape[:2], pads, strict=True)
        )
        dx = _shifts(dy, jnp.flip(kernel_KxKxC, (0, 1)), strides, turned)
    else:
        dx = jax.vjp(lambda x: _shifts(x, kernel_KxKxC, strides, pads), x)[1](dy)[0]
    of_kernel = _by_taps if x.size <= _FEW else _by_rows
    return dx, of_kernel(x, dy, kernel.shape[:2], strides, pads)[:, :, None]


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _by_taps(x: jax.Array, dy: jax.Array, sides: Any, strides: Any, pads: Padding) -> jax.Array:
    """The gradient of a depthwise kernel [K, K, C]: a sum over all pixels for each of its taps."""
    found = [
        (x_at * dy).sum(axis=(0, 1, 2)) for _, _, x_at in windows.taps(x, sides, strides, pads)
    ]
    return jnp.stack(found).reshape(*sides, -1)


def _by_rows(x: jax.Array, dy: jax.Array, sides: Any, strides: Any, pads: Padding) -> jax.Array:
    """The same in a loop over rows, so that all taps read from the cache."""
    batch, height, width, channels = dy.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def add_row(number: jax.Array, sums_TxWxC: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        image, row = number // height, number % height
        dy_1x1xWxC = jax.lax.dynamic_slice(dy, (image, row, 0, 0), (1, 1, width, channels))
        at = (image, row * strides[0], 0, 0)
        rows = jax.lax.dynamic_slice(x, at, (1, sides[0], *x.shape[2:]))
        taps = windows.taps(rows, sides, (1, strides[1]), windows.NONE)
        return tuple(
            total_WxC + (x_at * dy_1x1xWxC)[0, 0]
            for total_WxC, (_, _, x_at) in zip(sums_TxWxC, taps, strict=True)
        )

    zeros = (jnp.zeros((width, channels), dy.dtype),) * (sides[0] * sides[1])
    sums_TxWxC = jax.lax.fori_loop(0, batch * height, add_row, zeros)
    return jnp.stack(sums_TxWxC).sum(axis=1).reshape(*sides, channels)


def _library_but(of_kernel: Callable[..., jax.Array]) -> Any:
    """The library's form with another gradient: of_kernel(x, dy, shape, strides, pads)."""
    form = jax.custom_vjp(_library, nondiff_argnums=(2, 3))

    def forward(x, kernel, strides, pads):
        return form(x, kernel, strides, pads), (x, kernel)

    def backward(strides, pads, saved, dy):
        x, kernel = saved
        dx = jax.vjp(lambda x: _library(x, kernel, strides, pads), x)[1](dy)[0]
        return dx, of_kernel(x, dy, kernel.shape, strides, pads)

    form.defvjp(forward, backward)
    return form


def _of_images(x: jax.Array, dy: jax.Array, shape: Any, strides: Any, pads: Padding) -> jax.Array:
    """The gradient of a kernel of all channels [K, K, I, O], an image at a time."""
    high, wide = shape[:2]

    def add_image(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x_HxWxC, dy_HxWxO = image
        row = windows.flat(x_HxWxC[None], (1, wide), (1, strides[1]), pads)  # of each window
        dy_NxO = dy_HxWxO.reshape(-1, dy_HxWxO.shape[-1])
        found = [
            row_at.reshape(-1, row.shape[-1]).T @ dy_NxO
            for _, _, row_at in windows.taps(row, (high, 1), (strides[0], 1), windows.NONE)
        ]
        return total + jnp.stack(found).reshape(shape), None

    return jax.lax.scan(add_image, jnp.zeros(shape, x.dtype), (x, dy))[0]


def _of_groups(x: jax.Array, dy: jax.Array, shape: Any, strides: Any, pads: Padding) -> jax.Array:
    """The gradient of a kernel of groups of channels: products per tap and group."""
    groups = x.shape[-1] // shape[2]
    dy_NxGxO = dy.reshape(-1, groups, dy.shape[-1] // groups)
    found = [
        jnp.einsum("ngi,ngo->igo", x_at.reshape(-1, groups, shape[2]), dy_NxGxO)
        for _, _, x_at in windows.taps(x, shape[:2], strides, pads)
    ]
    return jnp.stack(found).reshape(shape)


by_images = _library_but(_of_images)  # for large images of few channels
grouped = _library_but(_of_groups)
