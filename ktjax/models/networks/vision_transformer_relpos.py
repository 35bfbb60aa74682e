"""Vision transformers with relative positions, as in timm's vision_transformer_relpos.py.

In place of position embeddings a small MLP turns the offset between two patches into a bias of the
attention between them (as in Swin V2, Liu et al. 2022), so the image size changes no parameter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.models.networks import products
from ktjax.models.networks.vision_transformer import VisionTransformer
from ktjax.models.networks.vit_blocks import ResPostBlock


def log_offsets(grid: tuple[int, int]) -> np.ndarray:
    """sign(d) log(1 + |d|) of all offsets d between positions, float32 [(2H - 1)(2W - 1), 2]."""
    axes = (np.arange(1 - side, side, dtype=np.float32) for side in grid)
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.sign(offsets) * np.log1p(np.abs(offsets))


def offset_index(grid: tuple[int, int]) -> np.ndarray:
    """The number of the offset from each position to each other one, int [H W, H W]."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    down = rows[:, None] - rows[None, :] + grid[0] - 1
    right = columns[:, None] - columns[None, :] + grid[1] - 1
    return down * (2 * grid[1] - 1) + right


class RelPosMlp(nn.Module):
    """The bias that is added to the attention's logits, [1, heads, L, L].

    Attributes:
      grid: rows and columns of patches.
      num_heads: how many heads the attention has.
      hidden_dim: how wide the MLP is inside.
      prefix_tokens: tokens without a position that come first; their bias is 0.
    """

    grid: tuple[int, int]
    num_heads: int
    hidden_dim: int
    prefix_tokens: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype, *, train: bool) -> jax.Array:
        x = jnp.asarray(log_offsets(self.grid), dtype)
        x = nn.relu(products.Dense(self.hidden_dim, name="mlp.fc1")(x))
        x = nn.Dropout(0.125)(x, deterministic=not train)  # timm has no option for it
        x = products.Dense(self.num_heads, name="mlp.fc2")(x)
        bias_LxLxH = x[offset_index(self.grid)]
        before = (self.prefix_tokens, 0)
        return jnp.pad(bias_LxLxH.transpose(2, 0, 1), ((0, 0), before, before))[None]


class VisionTransformerRelPos(VisionTransformer):
    """A vision transformer whose blocks know the offset between two patches.

    Attributes:
      rel_pos_dim: width of the MLPs that make the biases.
      share_rel_pos: all blocks have the same bias.
    """

    class_token: bool = False
    global_pool: str = "avg"
    use_fc_norm: bool | None = False
    init_values: float | None = 1e-6
    rel_pos_dim: int = 128
    share_rel_pos: bool = False

    def _placed(self, x: jax.Array) -> jax.Array:
        return x

    def _blocks(self, x: jax.Array, grid: tuple[int, int], *, train: bool) -> jax.Array:
        rel_pos = functools.partial(
            RelPosMlp,
            grid=grid,
            num_heads=self.num_heads,
            hidden_dim=self.rel_pos_dim,
            prefix_tokens=self._prefix_length,
        )
        if self.share_rel_pos:
            bias = rel_pos(name="shared_rel_pos")(x.dtype, train=train)
        for number in range(self.depth):
            if self.share_rel_pos:
                x = self._block(number)(x, train, bias)
            else:
                x = self._block(number, rel_pos=rel_pos)(x, train)
        return x


_P = functools.partial
_small = _P(VisionTransformerRelPos, embed_dim=384, num_heads=6, qkv_bias=False)
_medium = _P(VisionTransformerRelPos, embed_dim=512, num_heads=8, qkv_bias=False)
_base = _P(VisionTransformerRelPos, qkv_bias=False)
_plus = _P(VisionTransformerRelPos, embed_dim=896, num_heads=14)
_CLS = {"class_token": True, "global_pool": "token"}

VARIANTS = {
    "vit_relpos_small_patch16_224": _P(_small, use_fc_norm=True),
    "vit_relpos_medium_patch16_224": _P(_medium, use_fc_norm=True),
    "vit_relpos_base_patch16_224": _P(_base, use_fc_norm=True),
    "vit_relpos_base_patch16_plus_240": _plus,
    "vit_relpos_base_patch32_plus_rpn_256": _P(_plus, patch_size=32, block_fn=ResPostBlock),
    "vit_relpos_small_patch16_rpn_224": _P(_small, block_fn=ResPostBlock),
    "vit_relpos_medium_patch16_rpn_224": _P(_medium, block_fn=ResPostBlock),
    "vit_relpos_base_patch16_rpn_224": _P(_base, block_fn=ResPostBlock),
    "vit_relpos_medium_patch16_cls_224": _P(_medium, rel_pos_dim=256, **_CLS),
    "vit_relpos_base_patch16_cls_224": _P(_base, **_CLS),
    "vit_relpos_base_patch16_clsgap_224": _P(_base, class_token=True, use_fc_norm=True),
    "vit_srelpos_small_patch16_224": _P(_small, rel_pos_dim=384, share_rel_pos=True),
    "vit_srelpos_medium_patch16_224": _P(_medium, rel_pos_dim=512, share_rel_pos=True),
    "test_vit_relpos": _P(
        VisionTransformerRelPos,
        embed_dim=96,
        depth=9,
        num_heads=3,
        mlp_ratio=2,
        qkv_bias=False,
        use_fc_norm=True,
    ),
}
