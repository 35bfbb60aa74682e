"""Vision transformers (Dosovitskiy et al. 2021) as in timm's vision_transformer.py, with its names.

ViT, CLIP's, SigLIP's, DINOv2's, EVA's, BEiT-3's, AIMv2's, C-RADIO's, FlexiViT, and timm's own with
registers, differential attention and parallel blocks.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, positions
from ktjax.models.networks.attention import (
    Attention,
    AttentionPoolLatent,
    Norm,
    dense,
)
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import Activation, Mlp, gelu
from ktjax.models.networks.norms import LayerNorm
from ktjax.models.networks.positions import Entry
from ktjax.models.networks.vit_blocks import Block


class VisionTransformer(nn.Module):
    """Patches, tokens before them, blocks, pooling, a linear head (none if there are no classes).

    Attributes have the names of timm's arguments, except for:
      embed_norm: patches are normalized as they are embedded.
      use_fc_norm: the last norm comes after pooling, not before; None: if the pooling is `avg`.
      resize: resizes position embeddings.
    `global_pool` is `token` (the first one), `avg` (the mean of the patches) or `map` (attention).
    """

    num_classes: int
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    scale_attn_norm: bool = False
    scale_mlp_norm: bool = False
    proj_bias: bool = True
    init_values: float | None = None
    class_token: bool = True
    no_embed_class: bool = False
    reg_tokens: int = 0
    embed_norm: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    use_fc_norm: bool | None = None
    global_pool: str = "token"
    pool_include_prefix: bool = False
    norm_layer: Norm = LayerNorm
    act_layer: Activation = gelu
    mlp_layer: Callable[..., nn.Module] = functools.partial(Mlp, dense=dense)
    attn_layer: type[Attention] = Attention
    block_fn: type[nn.Module] = Block
    resize: positions.Resize = positions.bicubic
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        grid = (x.shape[1] // self.patch_size, x.shape[2] // self.patch_size)
        x = self._with_prefix(self._patches(x))
        x = self.norm_layer(name="norm_pre")(x) if self.pre_norm else x
        x = self._blocks(x, grid, train=train)
        x = self.norm_layer(name="norm")(x) if self.final_norm and not self._norm_last else x
        return self._answer(x, train=train)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Resizes position embeddings made for another image size; others are unchanged."""
        grid_of = functools.partial(positions.patches, side=self.patch_size)
        prefix = 0 if self.no_embed_class else self._prefix_length
        return positions.resized(entry, grid_of, prefix=prefix, resize=self.resize)

    def _prefix(self) -> dict[str, tuple[int, float]]:
        """The tokens before the patches: their number, and their initial deviation."""
        tokens = {"cls_token": int(self.class_token), "reg_token": self.reg_tokens}
        return {name: (count, 1e-6) for name, count in tokens.items() if count}

    @property
    def _prefix_length(self) -> int:
        return sum(count for count, _ in self._prefix().values())

    @property
    def _norm_last(self) -> bool:
        return self.global_pool == "avg" if self.use_fc_norm is None else self.use_fc_norm

    def _patches(self, x: jax.Array) -> jax.Array:
        x = Conv(
            self.embed_dim,
            (self.patch_size, self.patch_size),
            self.patch_size,
            padding="VALID",
            use_bias=not self.pre_norm,
            name="patch_embed.proj",
        )(x)
        x = x.reshape(x.shape[0], -1, self.embed_dim)
        return self.norm_layer(name="patch_embed.norm")(x) if self.embed_norm else x

    def _with_prefix(self, x: jax.Array) -> jax.Array:
        tokens = []
        for name, (count, deviation) in self._prefix().items():
            init = nn.initializers.normal(deviation)
            token = self.param(name, init, (1, count, self.embed_dim))
            tokens.append(jnp.broadcast_to(token, (x.shape[0], count, self.embed_dim)))
        if self.no_embed_class:
            return jnp.concatenate([*tokens, self._placed(x)], axis=1)
        return self._placed(jnp.concatenate([*tokens, x], axis=1))

    def _placed(self, x: jax.Array) -> jax.Array:
        """Adds position embeddings."""
        return x + self.param("pos_embed", nn.initializers.normal(0.02), (1, *x.shape[1:]))

    def _blocks(self, x: jax.Array, grid: tuple[int, int], *, train: bool) -> jax.Array:
        del grid  # position embeddings already encode where patches are
        for number in range(self.depth):
            x = self._block(number)(x, train)
        return x

    def _block(self, number: int, **options: object) -> nn.Module:
        rates = np.linspace(0, self.drop_path_rate, self.depth)
        return layers.remat(self.block_fn, self.remat)(
            num_heads=self.num_heads,
            depth=number,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            scale_attn_norm=self.scale_attn_norm,
            scale_mlp_norm=self.scale_mlp_norm,
            proj_bias=self.proj_bias,
            init_values=self.init_values,
            drop_path=float(rates[number]),
            norm_layer=self.norm_layer,
            act_layer=self.act_layer,
            mlp_layer=self.mlp_layer,
            attn_layer=self.attn_layer,
            name=f"blocks.{number}",
            **options,
        )

    def _answer(self, x: jax.Array, *, train: bool) -> Output:
        x = self._pool(x)
        x = self.norm_layer(name="fc_norm")(x) if self.final_norm and self._norm_last else x
        return Output(logits=self._head("head", x, train=train), features=x)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.global_pool == "token":
            return x[:, 0]
        x = x if self.pool_include_prefix else x[:, self._prefix_length :]
        if self.global_pool == "avg":
            return x.mean(axis=1)
        return AttentionPoolLatent(
            self.num_heads, self.mlp_ratio, self.norm_layer, self.act_layer, name="attn_pool"
        )(x)

    def _head(self, name: str, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return dense(self.num_classes, name=name)(x) if self.num_classes else x
