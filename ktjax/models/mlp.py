"""Multilayer perceptrons on raw pixels."""

import functools

import jax
from flax import linen as nn

from ktjax.models.classifier import Output


class MLP(nn.Module):
    """Dense layers with LayerNorm and GELU on the flattened image."""

    num_classes: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train  # nothing here behaves differently in training
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.LayerNorm(name=f"norm_{i}")(nn.Dense(width, name=f"fc_{i}")(x))
            x = nn.gelu(x, approximate=False)
        return Output(logits=nn.Dense(self.num_classes, name="head")(x), features=x)


tiny_mlp = functools.partial(MLP, widths=(192, 192))
tiny_mlp_narrow = functools.partial(MLP, widths=(96, 96))
