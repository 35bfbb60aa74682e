"""Networks of MLPs over patches and over channels, as in timm's mlp_mixer.py.

MLP-Mixer (Tolstikhin et al. 2021), ResMLP (Touvron et al. 2021), gMLP (Liu et al. 2021) and timm's
gMixer. Layers over patches are as wide as there are patches: a checkpoint fixes the image size.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks import layers, positions, products
from ktjax.models.networks.convolution import Conv
from ktjax.models.networks.layers import DropPath
from ktjax.models.networks.norms import LayerNorm
from ktjax.models.networks.positions import Entry

_xavier = nn.initializers.xavier_uniform()
_tiny = nn.initializers.normal(1e-6)
_dense = functools.partial(products.Dense, kernel_init=_xavier)
_mlp_dense = functools.partial(_dense, bias_init=_tiny)
Mlp = functools.partial(layers.Mlp, dense=_mlp_dense)


def over_patches(layer: nn.Module, x_BxNxD: jax.Array) -> jax.Array:
    """Applies a layer over the patches of each channel."""
    return layer(x_BxNxD.swapaxes(1, 2)).swapaxes(1, 2)


def _halves(
    values: nn.initializers.Initializer, gates: nn.initializers.Initializer
) -> nn.initializers.Initializer:
    """Initializes a layer whose outputs are values and, after them, as many gates."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        of_values, of_gates = jax.random.split(key)
        is_value = jnp.broadcast_to(jnp.arange(shape[-1]) < shape[-1] // 2, shape)
        return jnp.where(is_value, values(of_values, shape, dtype), gates(of_gates, shape, dtype))

    return init


class GluMlp(nn.Module):
    """Two dense layers; between them one half of the channels gates the other, through a SiLU."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fc1 = products.Dense(
            self.hidden,
            kernel_init=_halves(_xavier, _tiny),
            bias_init=_halves(_tiny, nn.initializers.ones),
            name="fc1",
        )
        y, gate = jnp.split(fc1(x), 2, axis=-1)
        return _mlp_dense(x.shape[-1], name="fc2")(y * nn.silu(gate))


class SpatialGatingUnit(nn.Module):
    """One half of the channels gates the other, after a dense layer over the patches."""

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        y, gate = jnp.split(x_BxNxD, 2, axis=-1)
        gate = LayerNorm(epsilon=1e-5, name="norm")(gate)
        proj = products.Dense(
            x_BxNxD.shape[1], kernel_init=_tiny, bias_init=nn.initializers.ones, name="proj"
        )
        return y * over_patches(proj, gate)


class GatedMlp(nn.Module):
    """Two dense layers with a GELU and a spatial gate between them."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.gelu(_mlp_dense(self.hidden, name="fc1")(x))
        return _mlp_dense(x.shape[-1], name="fc2")(SpatialGatingUnit(name="gate")(y))


class Affine(nn.Module):
    """A gain and a bias per channel, instead of a normalization."""

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        shape = (1, 1, x_BxNxD.shape[-1])
        alpha = self.param("alpha", nn.initializers.ones, shape)
        return alpha * x_BxNxD + self.param("beta", nn.initializers.zeros, shape)


class MixerBlock(nn.Module):
    """An MLP over the patches and one over the channels, both normalized before, with shortcuts."""

    mlp_ratio: tuple[float, float]
    mlp: Callable[..., nn.Module]
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        tokens, channels = (int(ratio * x.shape[-1]) for ratio in self.mlp_ratio)
        drop_path = DropPath(self.drop_path)
        y = over_patches(self.mlp(tokens, name="mlp_tokens"), LayerNorm(name="norm1")(x))
        x += drop_path(y, train=train)
        y = self.mlp(channels, name="mlp_channels")(LayerNorm(name="norm2")(x))
        return x + drop_path(y, train=train)


class ResBlock(nn.Module):
    """ResMLP's: one dense layer over the patches, an MLP over the channels, layer scales."""

    init_values: float
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        _, patches, width = x.shape
        start = nn.initializers.constant(self.init_values)
        ls1, ls2 = (self.param(name, start, (width,))[None, None] for name in ("ls1", "ls2"))
        drop_path = DropPath(self.drop_path)
        y = over_patches(_dense(patches, name="linear_tokens"), Affine(name="norm1")(x))
        x += drop_path(ls1 * y, train=train)
        y = Mlp(4 * width, name="mlp_channels")(Affine(name="norm2")(x))
        return x + drop_path(ls2 * y, train=train)


class SpatialGatingBlock(nn.Module):
    """gMLP's: one MLP over the channels, with a gate that sees all patches."""

    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = GatedMlp(6 * x.shape[-1], name="mlp_channels")(LayerNorm(name="norm")(x))
        return x + DropPath(self.drop_path)(y, train=train)


class MlpMixer(nn.Module):
    """Patches, blocks of one kind, a normalization, the mean over the patches, a linear head.

    Attributes:
      block: MixerBlock, ResBlock or SpatialGatingBlock.
      block_options: further attributes of the block.
      norm: the last normalization.
    """

    num_classes: int
    patch_size: int
    num_blocks: int
    embed_dim: int
    block: type[nn.Module]
    block_options: Mapping[str, Any]
    norm: Callable[..., nn.Module] = LayerNorm
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        patch = (self.patch_size, self.patch_size)
        x = Conv(self.embed_dim, patch, patch, padding="VALID", name="stem.proj")(x)
        x = x.reshape(x.shape[0], -1, self.embed_dim)
        block = layers.remat(self.block, self.remat)
        for i in range(self.num_blocks):
            # Every block has the same rate.
            x = block(**self.block_options, drop_path=self.drop_path_rate, name=f"blocks.{i}")(
                x, train
            )
        x = self.norm(name="norm")(x).mean(axis=1)
        y = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        head = products.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")
        return Output(logits=head(y), features=x)

    def adapt(self, entry: Entry) -> np.ndarray:
        """Everything unchanged; ValueError if as many patches are in other rows."""
        return positions.in_rows(entry, functools.partial(positions.patches, side=self.patch_size))


def _mixer(patch_size: int, num_blocks: int, embed_dim: int) -> Callable[..., MlpMixer]:
    options = {"mlp_ratio": (0.5, 4.0), "mlp": Mlp}
    return _network(patch_size, num_blocks, embed_dim, block=MixerBlock, block_options=options)


def _gmixer(num_blocks: int) -> Callable[..., MlpMixer]:
    options = {"mlp_ratio": (1.0, 4.0), "mlp": GluMlp}
    return _network(16, num_blocks, 384, block=MixerBlock, block_options=options)


def _resmlp(
    patch_size: int, num_blocks: int, embed_dim: int, init_values: float
) -> Callable[..., MlpMixer]:
    options = {"block": ResBlock, "block_options": {"init_values": init_values}, "norm": Affine}
    return _network(patch_size, num_blocks, embed_dim, **options)


def _gmlp(embed_dim: int) -> Callable[..., MlpMixer]:
    return _network(16, 30, embed_dim, block=SpatialGatingBlock, block_options={})


def _network(
    patch_size: int, num_blocks: int, embed_dim: int, **options: object
) -> Callable[..., MlpMixer]:
    return functools.partial(
        MlpMixer, patch_size=patch_size, num_blocks=num_blocks, embed_dim=embed_dim, **options
    )


VARIANTS = {
    "mixer_s32_224": _mixer(32, 8, 512),
    "mixer_s16_224": _mixer(16, 8, 512),
    "mixer_b32_224": _mixer(32, 12, 768),
    "mixer_b16_224": _mixer(16, 12, 768),
    "mixer_l32_224": _mixer(32, 24, 1024),
    "mixer_l16_224": _mixer(16, 24, 1024),
    "gmixer_12_224": _gmixer(12),
    "gmixer_24_224": _gmixer(24),
    "resmlp_12_224": _resmlp(16, 12, 384, 1e-4),
    "resmlp_24_224": _resmlp(16, 24, 384, 1e-5),
    "resmlp_36_224": _resmlp(16, 36, 384, 1e-6),
    "resmlp_big_24_224": _resmlp(8, 24, 768, 1e-6),
    "gmlp_ti16_224": _gmlp(128),
    "gmlp_s16_224": _gmlp(256),
    "gmlp_b16_224": _gmlp(512),
}
