"""The blocks of timm's vision transformers, with its names: tokens [B, L, D] to tokens."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.models.networks import products
from ktjax.models.networks.attention import Attention, Norm, dense, differential, multi_head
from ktjax.models.networks.layers import Activation, DropPath, LayerScale, Mlp, gelu
from ktjax.models.networks.norms import LayerNorm


def quick_gelu(x: jax.Array) -> jax.Array:
    """The approximation of GELU that OpenAI's CLIP was trained with."""
    return x * nn.sigmoid(1.702 * x)


class SwiGLU(nn.Module):
    """An MLP whose hidden layer is gated by another one (Shazeer 2020)."""

    hidden: int
    activation: Activation
    bias: bool
    norm_layer: Norm | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        open_gate = {
            "kernel_init": nn.initializers.normal(1e-6),
            "bias_init": nn.initializers.ones,
        }
        gate = products.Dense(self.hidden, use_bias=self.bias, name="fc1_g", **open_gate)(x)
        x = self.activation(gate) * dense(self.hidden, use_bias=self.bias, name="fc1_x")(x)
        x = x if self.norm_layer is None else self.norm_layer(name="norm")(x)
        return dense(width, use_bias=self.bias, name="fc2")(x)


class SwiGLUPacked(nn.Module):
    """The same with gate and layer from one product: `hidden` is the width of both together."""

    hidden: int
    activation: Activation
    bias: bool
    norm_layer: Norm | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        gate, x = jnp.split(dense(self.hidden, use_bias=self.bias, name="fc1")(x), 2, axis=-1)
        x = self.activation(gate) * x
        x = x if self.norm_layer is None else self.norm_layer(name="norm")(x)
        return dense(width, use_bias=self.bias, name="fc2")(x)


class _Block(nn.Module):
    """What all blocks have in common; names are those of timm's arguments.

    Attributes:
      depth: how many blocks come before.
      init_values: the initial gains at the end of each branch; None: there are no gains.
      rel_pos: makes the bias for the attention's logits; None: the caller may give one.
    """

    num_heads: int
    depth: int
    mlp_ratio: float
    qkv_bias: bool
    qk_norm: bool
    scale_attn_norm: bool
    scale_mlp_norm: bool
    proj_bias: bool
    init_values: float | None
    drop_path: float
    norm_layer: Norm = LayerNorm
    act_layer: Activation = gelu
    mlp_layer: Callable[..., nn.Module] = functools.partial(Mlp, dense=dense)
    attn_layer: type[Attention] = Attention
    rel_pos: Callable[..., nn.Module] | None = None

    def _attend(
        self, name: str, x: jax.Array, *, train: bool, bias: jax.Array | None = None
    ) -> jax.Array:
        if self.rel_pos is not None:
            bias = self.rel_pos(name=f"{name}.rel_pos")(x.dtype, train=train)
        attention = self.attn_layer(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            scale_norm=self.scale_attn_norm,
            proj_bias=self.proj_bias,
            norm_layer=self.norm_layer,
            depth=self.depth,
            name=name,
        )
        return attention(x, bias)

    def _mlp(self, name: str, x: jax.Array) -> jax.Array:
        return self.mlp_layer(
            hidden=int(x.shape[-1] * self.mlp_ratio),
            activation=self.act_layer,
            bias=self.proj_bias,
            norm_layer=self.norm_layer if self.scale_mlp_norm else None,
            name=name,
        )(x)

    def _end(self, scale: str, y: jax.Array, *, train: bool) -> jax.Array:
        """The end of each branch."""
        if self.init_values is not None:
            y = LayerScale(self.init_values, name=scale)(y)
        return DropPath(self.drop_path)(y, train=train)


class Block(_Block):
    """Attention, then an MLP, each after a norm and with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array | None = None) -> jax.Array:
        y = self._attend("attn", self.norm_layer(name="norm1")(x), train=train, bias=bias)
        x = x + self._end("ls1", y, train=train)
        y = self._mlp("mlp", self.norm_layer(name="norm2")(x))
        return x + self._end("ls2", y, train=train)


class ResPostBlock(_Block):
    """Norms come at the ends of the branches, and their gains are the layer scale."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array | None = None) -> jax.Array:
        gain = nn.initializers.constant(1.0 if self.init_values is None else self.init_values)
        norm = functools.partial(self.norm_layer, scale_init=gain)
        y = norm(name="norm1")(self._attend("attn", x, train=train, bias=bias))
        x = x + DropPath(self.drop_path)(y, train=train)
        y = norm(name="norm2")(self._mlp("mlp", x))
        return x + DropPath(self.drop_path)(y, train=train)


class ParallelThingsBlock(_Block):
    """Two attentions side by side, then two MLPs side by side (Touvron et al. 2022)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for kind, branch in (("attns", self._attention_of), ("ffns", self._mlp_of)):
            ends = []
            for name in (f"{kind}.0", f"{kind}.1"):
                y = branch(name, self.norm_layer(name=f"{name}.norm")(x), train)
                ends.append(self._end(f"{name}.ls", y, train=train))
            x = x + sum(ends)
        return x

    def _attention_of(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        return self._attend(f"{name}.attn", x, train=train)

    def _mlp_of(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        del train
        return self._mlp(f"{name}.mlp", x)


class ParallelScalingBlock(_Block):
    """Attention and an MLP side by side, from one product (Dehghani et al. 2023)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        hidden = int(width * self.mlp_ratio)
        y = self.norm_layer(name="in_norm")(x)
        y = dense(hidden + 3 * width, use_bias=self.qkv_bias, name="in_proj")(y)
        h, q, k, v = jnp.split(y, [hidden, hidden + width, hidden + 2 * width], axis=-1)
        if not self.qkv_bias:
            h = h + self.param("mlp_bias", nn.initializers.zeros, (hidden,))[None, None]
        y = self._project(self._attend_to(q, k, v), self.act_layer(h))
        return x + self._end("ls", y, train=train)

    def _attend_to(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        norm = self.norm_layer if self.qk_norm else None
        return multi_head(q, k, v, num_heads=self.num_heads, qk_norm=norm)

    def _project(self, attended: jax.Array, h: jax.Array) -> jax.Array:
        project = functools.partial(dense, attended.shape[-1], use_bias=self.proj_bias)
        return project(name="attn_out_proj")(attended) + project(name="mlp_out_proj")(h)


class DiffParallelScalingBlock(ParallelScalingBlock):
    """The same with differential attention, and one product at the end too."""

    def _attend_to(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        norm = self.norm_layer if self.qk_norm else None
        return differential(self, q, k, v, num_heads=self.num_heads, qk_norm=norm, depth=self.depth)

    def _project(self, attended: jax.Array, h: jax.Array) -> jax.Array:
        both = jnp.concatenate([attended, h], axis=-1)
        return dense(attended.shape[-1], use_bias=self.proj_bias, name="out_proj")(both)
