"""Swin Transformers (Liu et al. 2021) as in timm's swin_transformer.py, with its names.

Attention within windows, which every second block shifts; four stages, each at half the resolution
of the one before. S3 (Chen et al. 2021) has windows that differ by stage.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, norms, products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import DropPath
from ktjax.models.networks.positions import Entry

Size = tuple[int, int]  # height, width in tokens

_TABLE = "relative_position_bias_table"
_HEAD_WIDTH = 32
# timm truncates it at 100 standard deviations.
_init = nn.initializers.normal(0.02)
_dense = functools.partial(products.Dense, kernel_init=_init)
_layer_norm = functools.partial(norms.LayerNorm, epsilon=1e-5)


@functools.cache
def _relative_positions(window: Size) -> np.ndarray:
    """The index in the table of the bias for each pair of tokens in a window: int [N, N]."""
    height, width = window
    y, x = (a.ravel() for a in np.mgrid[:height, :width])
    dy, dx = (a[:, None] - a[None, :] for a in (y, x))
    return (dy + height - 1) * (2 * width - 1) + dx + width - 1


@functools.cache
def _regions(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Numbers of regions that only the cyclic shift brought together: int [windows, N].

    The regions of a side: before the last window, the part that was in it already, and the part
    that wrapped around from the start.
    """
    y, x = (
        np.searchsorted([side - w, side - s], np.arange(side), side="right")
        for side, w, s in zip(size, window, shift, strict=True)
    )
    region = 3 * y[:, None] + x[None, :]
    region = region.reshape(size[0] // window[0], window[0], size[1] // window[1], window[1])
    return region.transpose(0, 2, 1, 3).reshape(-1, window[0] * window[1])


class WindowAttention(nn.Module):
    """Attention of the tokens of each window to each other, biased by their positions."""

    window: Size

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array, region_WxN: np.ndarray | None) -> jax.Array:
        """B counts windows, W to an image; tokens of different regions do not see each other."""
        batch, tokens, width = x_BxNxD.shape
        heads = width // _HEAD_WIDTH
        positions = math.prod(2 * side - 1 for side in self.window)
        table = self.param(_TABLE, _init, (positions, heads))
        bias = table[_relative_positions(self.window)].transpose(2, 0, 1)[None]
        if region_WxN is not None:
            region = jnp.asarray(region_WxN)[:, None, :]
            hidden = jnp.where(region == region.swapaxes(1, 2), 0, -100).astype(bias.dtype)
            bias = jnp.tile(bias + hidden[:, None], (batch // len(hidden), 1, 1, 1))
        qkv = _dense(3 * width, name="qkv")(x_BxNxD).reshape(batch, tokens, 3, heads, -1)
        y = products.attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias=bias)
        return _dense(width, name="proj")(y.reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention within windows of at most `window`, shifted or not, and an MLP."""

    window: Size
    shifted: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self._attention(_layer_norm(name="norm1")(x))
        x = x + DropPath(self.drop_path)(y, train=train)
        y = layers.Mlp(4 * x.shape[-1], dense=_dense, name="mlp")(_layer_norm(name="norm2")(x))
        return x + DropPath(self.drop_path)(y, train=train)

    def _attention(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        sides = tuple(zip((height, width), self.window, strict=True))
        h, w = window = tuple(min(side, most) for side, most in sides)
        # A window that covers a whole side cannot be shifted.
        shift = tuple(most // 2 if self.shifted and side > most else 0 for side, most in sides)
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        # As in timm, attention sees the zeros that fill the last windows.
        x = jnp.pad(x, ((0, 0), (0, -height % h), (0, -width % w), (0, 0)))
        rows, columns = x.shape[1] // h, x.shape[2] // w
        region = _regions(x.shape[1:3], window, shift) if any(shift) else None
        x = x.reshape(batch, rows, h, columns, w, channels).transpose(0, 1, 3, 2, 4, 5)
        x = WindowAttention(window, name="attn")(x.reshape(-1, h * w, channels), region)
        x = x.reshape(batch, rows, columns, h, w, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows * h, columns * w, channels)[:, :height, :width]
        return jnp.roll(x, shift, (1, 2))


class PatchMerging(nn.Module):
    """2x2 tokens become one of twice the width; zeros complete odd sizes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = _layer_norm(name="norm")(x.reshape(batch, height // 2, width // 2, 4 * channels))
        return _dense(2 * channels, use_bias=False, name="reduction")(x)


class SwinTransformer(nn.Module):
    """4x4 patches, four stages of blocks, global average pooling, a linear head.

    Attributes:
      window_size: side of the windows in tokens, for all stages or one each; where a stage has
        fewer tokens than that, its window is all of them.
    """

    num_classes: int
    embed_dim: int
    depths: tuple[int, ...]
    window_size: int | tuple[int, ...]
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        patch = Conv(self.embed_dim, (4, 4), 4, padding="VALID", name="patch_embed.proj")
        x = _layer_norm(name="patch_embed.norm")(patch(x))
        windows = np.broadcast_to(self.window_size, len(self.depths)).tolist()
        rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        for i, (depth, window) in enumerate(zip(self.depths, windows, strict=True)):
            if i > 0:
                x = PatchMerging(name=f"layers.{i}.downsample")(x)
            for j in range(depth):
                x = layers.remat(Block, self.remat)(
                    window=(window, window),
                    shifted=j % 2 == 1,
                    drop_path=next(rates),
                    name=f"layers.{i}.blocks.{j}",
                )(x, train)
        x = _layer_norm(name="norm")(x).mean(axis=(1, 2))
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return Output(logits=_dense(self.num_classes, name="head.fc")(y), features=x)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Tables of relative positions for windows of another size, as timm resizes them."""
        array, shape = entry.array, entry.shape
        if not entry.name.endswith(_TABLE) or array.shape == shape or array.shape[1:] != shape[1:]:
            return array
        before, after = (math.isqrt(s[0]) for s in (array.shape, shape))
        if before**2 != array.shape[0] or after**2 != shape[0]:
            return array
        return resize_table(array, before, after)


def resize_table(table: np.ndarray, before: int, after: int) -> np.ndarray:
    """A table [before^2, heads] of biases by relative position, interpolated: [after^2, heads].

    Positions of the old table are spread over the new one in geometric progression, so that near
    ones stay the same and far ones are stretched (after BEiT, Bao et al. 2021).
    """
    half_before, half_after = before // 2, after // 2
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio**half_before) / (1 - ratio)
        low, high = (low, ratio) if reach > half_after else (ratio, high)
    far = np.cumsum(ratio ** np.arange(half_before))
    old = np.concatenate([-far[::-1], [0], far])
    new = np.arange(-half_after, half_after + 1)
    # The weight of each old position in each new one; extrapolated beyond the last ones.
    share = np.stack([np.interp(new, old, one) for one in np.eye(before)], axis=1)
    square = table.reshape(before, before, -1)
    resized = np.einsum("yi,xj,ijh->yxh", share, share, square)
    return resized.reshape(after**2, -1).astype(table.dtype)


def _swin(
    embed_dim: int, depths: tuple[int, ...], window_size: int | tuple[int, ...]
) -> Callable[..., SwinTransformer]:
    return functools.partial(
        SwinTransformer, embed_dim=embed_dim, depths=depths, window_size=window_size
    )


VARIANTS = {
    "swin_tiny_patch4_window7_224": _swin(96, (2, 2, 6, 2), 7),
    "swin_small_patch4_window7_224": _swin(96, (2, 2, 18, 2), 7),
    "swin_base_patch4_window7_224": _swin(128, (2, 2, 18, 2), 7),
    "swin_base_patch4_window12_384": _swin(128, (2, 2, 18, 2), 12),
    "swin_large_patch4_window7_224": _swin(192, (2, 2, 18, 2), 7),
    "swin_large_patch4_window12_384": _swin(192, (2, 2, 18, 2), 12),
    "swin_s3_tiny_224": _swin(96, (2, 2, 6, 2), (7, 7, 14, 7)),
    "swin_s3_small_224": _swin(96, (2, 2, 18, 2), (14, 14, 14, 7)),
    "swin_s3_base_224": _swin(96, (2, 2, 30, 2), (7, 7, 14, 7)),
}
