"""Image towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023) as classifiers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks.attention import dense
from ktjax.models.networks.vision_transformer import VisionTransformer


class ImageTower(VisionTransformer):
    """A vision transformer whose logits are scaled cosines of the image with texts, one per class.

    The kernel of `head`, unit vectors [D, C], holds the text tower's embeddings of these; features
    are the image's unit vector. Cosines are computed in float32, for their scale is about 100.

    Attributes:
      projection: the width of the embedding that images and texts share; None: the tower's own.
      logit_bias: whether the same number is added to all logits, as SigLIP does.
    """

    projection: int | None = None
    logit_bias: bool = False

    def _answer(self, x: jax.Array, *, train: bool) -> Output:
        x = self._pool(x)
        if self.projection is not None:
            x = dense(self.projection, use_bias=False, name="visual_projection")(x)
        x = x.astype(jnp.float32)
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return Output(logits=self._head("head", x, train=train), features=x)

    def _head(self, name: str, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        texts = nn.Dense(
            self.num_classes,
            use_bias=False,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=nn.initializers.normal(0.02),
            name=name,
        )
        scale = self.param("logit_scale", nn.initializers.constant(jnp.log(1 / 0.07)), ())
        logits = jnp.exp(scale.astype(jnp.float32)) * texts(x)
        if self.logit_bias:
            logits = logits + self.param("logit_bias", nn.initializers.zeros, ())
        return logits
