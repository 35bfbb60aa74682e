"""ConvNeXt (Liu et al. 2022), parts named after timm's."""

import functools

import jax
from flax import linen as nn

from ktjax.models.classifier import Output
from ktjax.models.layers import Mlp


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, a pointwise MLP scaled per channel, and a shortcut."""

    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = nn.Conv(
            width,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            feature_group_count=width,
            name="conv_dw",
        )(x)
        y = Mlp(4 * width, name="mlp")(nn.LayerNorm(epsilon=1e-6, name="norm")(y))
        gamma = self.param("gamma", nn.initializers.constant(0.1), (width,))
        return x + gamma[None, None, None].astype(y.dtype) * y


class ConvNeXt(nn.Module):
    """A patch stem, stages of blocks with 2x2 downsampling between them, a linear head."""

    num_classes: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int = 4
    kernel: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        del train
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i == 0:
                patch = (self.stem, self.stem)
                x = nn.Conv(width, patch, patch, padding="VALID", name="stem_0")(x)
                x = nn.LayerNorm(epsilon=1e-6, name="stem_1")(x)
            else:
                x = nn.LayerNorm(epsilon=1e-6, name=f"stages_{i}_downsample_0")(x)
                x = nn.Conv(width, (2, 2), 2, name=f"stages_{i}_downsample_1")(x)
            for j in range(depth):
                x = ConvNeXtBlock(self.kernel, name=f"stages_{i}_blocks_{j}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="head_norm")(x.mean(axis=(1, 2)))
        return Output(logits=nn.Dense(self.num_classes, name="head_fc")(x), features=x)


tiny_convnext = functools.partial(ConvNeXt, depths=(2, 2), widths=(24, 48), stem=4, kernel=3)
