"""Data-efficient image transformers (Touvron et al. 2021, 2022) as in timm's deit.py.

DeiT and DeiT III are vision transformers; distilled ones have a second token, which learned from a
teacher, with its own head.
"""

import functools

import jax

from ktjax.classifier import Output
from ktjax.models.networks.vision_transformer import VisionTransformer


class VisionTransformerDistilled(VisionTransformer):
    """The logits are the mean of both heads, in training too, as by default in timm."""

    def _prefix(self) -> dict[str, tuple[int, float]]:
        return {"cls_token": (1, 1e-6), "dist_token": (1, 0.02)}

    def _answer(self, x: jax.Array, *, train: bool) -> Output:
        logits = self._head("head", x[:, 0], train=train)
        logits += self._head("head_dist", x[:, 1], train=train)
        return Output(logits=logits / 2, features=x[:, :2].mean(axis=1))


_P = functools.partial
_TINY = {"embed_dim": 192, "num_heads": 3}
_SMALL = {"embed_dim": 384, "num_heads": 6}
_MEDIUM = {"embed_dim": 512, "num_heads": 8}
_BASE = {"embed_dim": 768, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14}
_deit3 = _P(VisionTransformer, no_embed_class=True, init_values=1e-6)

VARIANTS = {
    "deit_tiny_patch16_224": _P(VisionTransformer, **_TINY),
    "deit_small_patch16_224": _P(VisionTransformer, **_SMALL),
    "deit_base_patch16_224": _P(VisionTransformer, **_BASE),
    "deit_base_patch16_384": _P(VisionTransformer, **_BASE),
    "deit_tiny_distilled_patch16_224": _P(VisionTransformerDistilled, **_TINY),
    "deit_small_distilled_patch16_224": _P(VisionTransformerDistilled, **_SMALL),
    "deit_base_distilled_patch16_224": _P(VisionTransformerDistilled, **_BASE),
    "deit_base_distilled_patch16_384": _P(VisionTransformerDistilled, **_BASE),
    "deit3_small_patch16_224": _P(_deit3, **_SMALL),
    "deit3_small_patch16_384": _P(_deit3, **_SMALL),
    "deit3_medium_patch16_224": _P(_deit3, **_MEDIUM),
    "deit3_base_patch16_224": _P(_deit3, **_BASE),
    "deit3_base_patch16_384": _P(_deit3, **_BASE),
    "deit3_large_patch16_224": _P(_deit3, **_LARGE),
    "deit3_large_patch16_384": _P(_deit3, **_LARGE),
    "deit3_huge_patch14_224": _P(_deit3, **_HUGE),
}
