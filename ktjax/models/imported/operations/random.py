"""Operations that draw: from a key, or without one what is drawn in the mean, so nothing.

DRAWING is which operations `evaluate` gives a key.
"""

import jax
import jax.numpy as jnp

from ktjax.models.imported.operations.dtypes import of_torch


def _bernoulli(x, p=None, *, drop_key):
    probability = x if p is None else p
    if drop_key is None:
        return jnp.broadcast_to(jnp.asarray(probability, x.dtype), x.shape)
    return jax.random.bernoulli(drop_key, probability, x.shape).astype(x.dtype)


def native_dropout(x, p, train=True, *, drop_key):
    """(x with a share p of zeros, the others larger; what is kept)."""
    if drop_key is None or not train or p == 0:
        return x, jnp.ones(x.shape, bool)
    kept = jax.random.bernoulli(drop_key, 1 - p, x.shape)
    return jnp.where(kept, x / (1 - p), jnp.zeros_like(x)), kept


def _rand(size, *, dtype=None, drop_key):
    dtype = of_torch(dtype, jnp.float32)
    if drop_key is None:
        return jnp.full(size, 0.5, dtype)
    return jax.random.uniform(drop_key, size, dtype)


def _rand_like(x, *, dtype=None, drop_key):
    return _rand(x.shape, drop_key=drop_key).astype(of_torch(dtype, x.dtype))


OPERATIONS = {
    "bernoulli": _bernoulli,
    "native_dropout": native_dropout,
    "rand": _rand,
    "rand_like": _rand_like,
}
# Attention draws if its `dropout_p` is not 0.
_ATTENTION = ("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
DRAWING = frozenset((*OPERATIONS, *_ATTENTION))
