"""Classifiers of a few hundred parameters, which compile in a second."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ktjax import objectives
from ktjax.classifier import Classifier, InputSpec, Output, linen_forward
from ktjax.models.networks.layers import BatchNorm

CLASSES = ("a", "b", "c", "d")


class Tiny(nn.Module):
    width: int
    batch_norm: bool
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = nn.Dense(self.width, use_bias=False, name="fc")(x.reshape(len(x), -1))
        x = BatchNorm(name="bn")(x) if self.batch_norm else x
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(x))
        return Output(nn.Dense(len(CLASSES), name="head")(x), x)


def make(name, *, width=8, size=6, batch_norm=True, dropout=0.0):
    """The weights follow from the name; running statistics are not those of a fresh model."""
    module = Tiny(width, batch_norm, dropout)
    generator = np.random.default_rng(zlib.crc32(name.encode()))

    def draw(path, leaf):
        noise = generator.normal(0, 0.5, leaf.shape)
        near_one = path[-1].key in ("scale", "var")
        return jnp.asarray(1 + np.abs(noise) if near_one else noise, leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return Classifier(
        name=name,
        architecture=f"tiny of width {width}",
        forward=linen_forward(module),
        variables=jax.tree_util.tree_map_with_path(draw, shapes),
        input=InputSpec((size, size)),
        classes=CLASSES,
        origin="drawn by a test",
    )


def images(number, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 6, 6, 3), dtype=np.uint8)


def weighted(objective, frozen):
    """What a step takes of an initial student and two teachers, with the weights of a pool."""
    entry = objectives.OBJECTIVES[objective]
    if not entry.pool:
        return frozen
    teachers = frozen.teachers if entry.teachers else ()
    weight_S = jnp.asarray([0.6, 0.3, -0.1])[: 1 + len(teachers)]
    return frozen._replace(teachers=teachers, weights_S=weight_S)
