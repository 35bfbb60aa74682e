"""MLP-Mixer (Tolstikhin et al. 2021), parts named after timm's."""

import functools

import jax
from flax import linen as nn

from ktjax.models.classifier import Output
from ktjax.models.layers import Mlp


class MixerBlock(nn.Module):
    """An MLP over the tokens, then one over the channels, each with a shortcut."""

    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, name="norm1")(x_BxNxD).swapaxes(1, 2)
        x = x_BxNxD + Mlp(self.tokens_hidden, name="mlp_tokens")(y).swapaxes(1, 2)
        y = nn.LayerNorm(epsilon=1e-6, name="norm2")(x)
        return x + Mlp(self.channels_hidden, name="mlp_channels")(y)


class MlpMixer(nn.Module):
    """Patches, mixer blocks, average pooling, a linear head."""

    num_classes: int
    patch: int
    width: int
    depth: int
    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train
        patch = (self.patch, self.patch)
        x = nn.Conv(self.width, patch, patch, padding="VALID", name="stem")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        for i in range(self.depth):
            x = MixerBlock(self.tokens_hidden, self.channels_hidden, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x).mean(axis=1)
        return Output(logits=nn.Dense(self.num_classes, name="head")(x), features=x)


tiny_mixer = functools.partial(
    MlpMixer, patch=6, width=64, depth=3, tokens_hidden=32, channels_hidden=128
)
