"""Compresses logits to the k largest and a few statistics; brings several models to one form."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ktjax import losses, partition, topk
from ktjax.topk import TopK, Way


def compress(logits_BxC: jax.Array, *, label_B: jax.Array, k: int, ways: Sequence[Way]) -> TopK:
    """The k largest logits of each sample, and all others combined into one: float32.

    Args:
      logits_BxC: logits for more than k classes.
      label_B: -1 where unlabeled.
      k: number of classes kept individually.
      ways: the softenings for which the others are summed.
    """
    logits_BxC = logits_BxC.astype(jnp.float32)
    top_BxK, class_BxK = jax.lax.top_k(logits_BxC, k)
    largest_Bx1 = top_BxK[:, :1]
    relative_BxC = logits_BxC - largest_Bx1
    variance_B = logits_BxC.var(axis=-1)
    others_BxC = jnp.where(topk.is_kept(class_BxK, logits_BxC.shape[-1]), -jnp.inf, relative_BxC)

    def rest(way: Way) -> jax.Array:
        return jax.nn.logsumexp(others_BxC * _scale_Bx1(variance_B, way), axis=-1)

    return TopK(
        class_BxK=class_BxK,
        logit_BxK=top_BxK - largest_Bx1,
        rest_BxR=_columns([rest(way) for way in ways], len(logits_BxC)),
        largest_B=largest_Bx1[:, 0],
        mean_B=relative_BxC.mean(axis=-1),
        variance_B=variance_B,
        label_odds_B=partition.confidence(logits_BxC[None], label_B=label_B)[0],
        largest_odds_B=partition.confidence(logits_BxC[None], label_B=None)[0],
        ways=tuple(ways),
    )


def shorten(target: TopK, *, k: int, ways: Sequence[Way]) -> TopK:
    """The same with fewer classes and softenings: dropped classes are added to the others."""

    def rest(way: Way) -> jax.Array:
        cut_BxJ = target.logit_BxK[:, k:] * _scale_Bx1(target.variance_B, way)
        return jax.nn.logsumexp(
            jnp.concatenate([cut_BxJ, target.rest_B(way)[:, None]], axis=-1), axis=-1
        )

    return target.replace(
        class_BxK=target.class_BxK[:, :k],
        logit_BxK=target.logit_BxK[:, :k],
        rest_BxR=_columns([rest(way) for way in ways], len(target.largest_B)),
        ways=tuple(ways),
    )


def alike(
    targets: Sequence[jax.Array | TopK], *, label_B: jax.Array, ways: Sequence[Way]
) -> list[jax.Array] | list[TopK]:
    """Targets that can be stacked: unchanged if all are logits.

    Otherwise each becomes a TopK with the smallest k among them, and these ways.
    """
    kept = [target.k for target in targets if isinstance(target, TopK)]
    if not kept:
        return list(targets)
    return [
        shorten(target, k=min(kept), ways=ways)
        if isinstance(target, TopK)
        else compress(target, label_B=label_B, k=min(kept), ways=ways)
        for target in targets
    ]


def _columns(columns: Sequence[jax.Array], rows: int) -> jax.Array:
    return jnp.stack(columns, axis=-1) if columns else jnp.zeros((rows, 0))


def _scale_Bx1(variance_B: jax.Array, way: Way) -> jax.Array:
    return topk.scale_B(variance_B, way, floor=losses.SPREAD_FLOOR)[:, None]
