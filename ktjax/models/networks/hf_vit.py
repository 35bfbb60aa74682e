"""transformers' vision transformers that differ from timm's: DeiT, DINOv2 and BEiT."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.models.networks.attention import Attention, dense, multi_head
from ktjax.models.networks.vision_transformer import VisionTransformer


class DeiT(VisionTransformer):
    """It has a second token, without its distillation head; the first one's head is used."""

    def _prefix(self) -> dict[str, tuple[int, float]]:
        return {"cls_token": (1, 1e-6), "dist_token": (1, 1e-6)}


class DINOv2(VisionTransformer):
    """The head reads the class token and the mean of the patches side by side."""

    def _pool(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[:, 0], x[:, 1:].mean(axis=1)], axis=-1)


def torch_bicubic(image_HxWxC: jax.Array, *, shape: tuple[int, int, int]) -> jax.Array:
    """torch's bicubic interpolation without antialiasing, as `jax.image.resize` is called.

    Its cubic has a = -0.75; that of PIL, JAX and torch's antialiased one, -0.5 (Keys 1981).
    """
    rows, columns = (
        jnp.asarray(_cubic_weights(old, new))
        for old, new in zip(image_HxWxC.shape[:2], shape[:2], strict=True)
    )
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, image_HxWxC)


def _cubic_weights(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """The weight of each old pixel of a line in each new one: float32 [new, old]."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(at).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        d = np.abs(at - (first + tap))
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        # The pixels at the border are repeated beyond it.
        inside = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), inside), np.where(d <= 1, near, far))
    return weights.astype(np.float32)


class _Attention(Attention):
    """Keys have no bias: it would not change attention."""

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        q, k, v = jnp.split(dense(3 * width, use_bias=False, name="qkv")(x), 3, axis=-1)
        zeros = nn.initializers.zeros
        q = q + self.param("q_bias", zeros, (width,))[None, None]
        v = v + self.param("v_bias", zeros, (width,))[None, None]
        y = multi_head(q, k, v, num_heads=self.num_heads, qk_norm=None, bias_1xHxLxL=bias)
        return dense(width, name="proj")(y)


class _RelativePositions(nn.Module):
    """A bias for each pair of tokens in a grid by their offset, and for the class token."""

    grid: tuple[int, int]  # height, width in tokens
    num_heads: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype, *, train: bool = False) -> jax.Array:
        del train
        height, width = self.grid
        shape = ((2 * height - 1) * (2 * width - 1) + 3, self.num_heads)
        table = self.param("relative_position_bias_table", nn.initializers.zeros, shape)
        bias = table[_pairs(self.grid)].transpose(2, 0, 1)[None]
        return bias.astype(dtype)


@functools.cache
def _pairs(grid: tuple[int, int]) -> np.ndarray:
    """The index in the table of the bias for each pair of tokens, class token first: int [L, L]."""
    height, width = grid
    y, x = (a.ravel() for a in np.mgrid[:height, :width])
    dy, dx = (a[:, None] - a[None, :] for a in (y, x))
    pairs = (dy + height - 1) * (2 * width - 1) + dx + width - 1
    count = (2 * height - 1) * (2 * width - 1)
    pairs = np.pad(pairs, ((1, 0), (1, 0)))
    pairs[0, :], pairs[:, 0], pairs[0, 0] = count, count + 1, count + 2
    return pairs


class BEiT(VisionTransformer):
    """Relative positions, in each block or the same in all (Bao et al. 2021).

    Attributes:
      absolute: there are position embeddings, too.
      relative: `blocks`, `shared`, or None: there are no relative positions.
    """

    attn_layer: type[Attention] = _Attention
    absolute: bool = False
    relative: str | None = "blocks"

    def _placed(self, x: jax.Array) -> jax.Array:
        return super()._placed(x) if self.absolute else x

    def _blocks(self, x: jax.Array, grid: tuple[int, int], *, train: bool) -> jax.Array:
        positions = functools.partial(_RelativePositions, grid, self.num_heads)
        if self.relative == "shared":
            bias = positions(name="rel_pos_bias")(x.dtype)
            for number in range(self.depth):
                x = self._block(number)(x, train, bias)
            return x
        own = {"rel_pos": positions} if self.relative == "blocks" else {}
        for number in range(self.depth):
            x = self._block(number, **own)(x, train)
        return x
