"""MobileNetV3 and its like: each function returns a network's attributes from a few numbers.

Stages are listed as in timm, whose mobilenetv3.py has the papers.
"""

import functools
from collections.abc import Sequence

from flax import linen as nn

from ktjax.models.networks.layers import divisible, gelu
from ktjax.models.networks.mobile.blocks import SqueezeExcite
from ktjax.models.networks.mobile.blocks_v4 import (
    MobileAttention,
    UniversalInvertedResidual,
    mqa,
    uib,
)
from ktjax.models.networks.mobile.efficientnets import Definition
from ktjax.models.networks.mobile.stages import Stage, cn, ds, dsa, er, ir, scaled, widened

_SE = functools.partial(SqueezeExcite, gate=nn.hard_sigmoid)
_SE_RELU = functools.partial(_SE, own=nn.relu)
_RELU = {"activation": nn.relu}


def rw() -> Definition:
    """MobileNetV3 large (Howard et al. 2019), from before the paper's weights were published."""
    stages = (
        (ds(1, 3, 1, 16, skip=False, **_RELU),),
        (ir(1, 3, 2, 4, 24, **_RELU), ir(1, 3, 1, 3, 24, **_RELU)),
        (ir(3, 5, 2, 3, 40, se_inner=0.25, **_RELU),),
        (ir(1, 3, 2, 6, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)),
        (ir(2, 3, 1, 6, 112, se_inner=0.25),),
        (ir(3, 5, 2, 6, 160, se_inner=0.25),),
        (cn(1, 1, 1, 960),),
    )
    return dict(
        stages=scaled(stages, widened()),
        stem_size=16,
        num_features=1280,
        activation=nn.hard_swish,
        attention=_SE,
        head_bias=False,
    )


def _v3(stages: Sequence[Stage], width: float, depth: float, num_features: int) -> Definition:
    rounded = widened(width)
    return dict(
        stages=scaled(stages, rounded, depth),
        stem_size=16 if width < 0.75 else rounded(16),
        num_features=num_features,
        activation=nn.hard_swish,
        attention=functools.partial(_SE_RELU, rounded=divisible),
    )


def large(width: float, depth: float = 1.0) -> Definition:
    """MobileNetV3 large (Howard et al. 2019)."""
    stages = (
        (ds(1, 3, 1, 16, **_RELU),),
        (ir(1, 3, 2, 4, 24, **_RELU), ir(1, 3, 1, 3, 24, **_RELU)),
        (ir(3, 5, 2, 3, 40, se_inner=0.25, **_RELU),),
        (ir(1, 3, 2, 6, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)),
        (ir(2, 3, 1, 6, 112, se_inner=0.25),),
        (ir(3, 5, 2, 6, 160, se_inner=0.25),),
        (cn(1, 1, 1, 960),),
    )
    return _v3(stages, width, depth, 1280)


def large_minimal() -> Definition:
    """The same without attention, hard swish and kernels of 5x5."""
    stages = (
        (ds(1, 3, 1, 16),),
        (ir(1, 3, 2, 4, 24), ir(1, 3, 1, 3, 24)),
        (ir(3, 3, 2, 3, 40),),
        (ir(1, 3, 2, 6, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)),
        (ir(2, 3, 1, 6, 112),),
        (ir(3, 3, 2, 6, 160),),
        (cn(1, 1, 1, 960),),
    )
    return {**_v3(stages, 1.0, 1.0, 1280), **_RELU}


def small(width: float) -> Definition:
    """MobileNetV3 small (Howard et al. 2019)."""
    stages = (
        (ds(1, 3, 2, 16, se=0.25, **_RELU),),
        (ir(1, 3, 2, 4.5, 24, **_RELU), ir(1, 3, 1, 3.67, 24, **_RELU)),
        (ir(1, 5, 2, 4, 40, se_inner=0.25), ir(2, 5, 1, 6, 40, se_inner=0.25)),
        (ir(2, 5, 1, 3, 48, se_inner=0.25),),
        (ir(3, 5, 2, 6, 96, se_inner=0.25),),
        (cn(1, 1, 1, 576),),
    )
    return _v3(stages, width, 1.0, 1024)


def small_minimal() -> Definition:
    """The same without attention, hard swish and kernels of 5x5."""
    stages = (
        (ds(1, 3, 2, 16),),
        (ir(1, 3, 2, 4.5, 24), ir(1, 3, 1, 3.67, 24)),
        (ir(1, 3, 2, 4, 40), ir(2, 3, 1, 6, 40)),
        (ir(2, 3, 1, 3, 48),),
        (ir(3, 3, 2, 6, 96),),
        (cn(1, 1, 1, 576),),
    )
    return {**_v3(stages, 1.0, 1.0, 1024), **_RELU}


def _fbnetv3(stages: Sequence[Stage], stem_size: int) -> Definition:
    rounded = widened(floor_share=0.95)
    return dict(
        stages=scaled(stages, rounded),
        stem_size=stem_size,
        num_features=1984,
        activation=nn.hard_swish,
        attention=functools.partial(_SE, rounded=rounded),
        head_bias=False,
    )


def fbnetv3_b() -> Definition:
    """FBNetV3-B (Dai et al. 2021)."""
    stages = (
        (ds(2, 3, 1, 16),),
        (ir(1, 5, 2, 4, 24), ir(3, 5, 1, 2, 24)),
        (ir(1, 5, 2, 5, 40, se=0.25), ir(4, 5, 1, 3, 40, se=0.25)),
        (ir(1, 5, 2, 5, 72), ir(4, 3, 1, 3, 72)),
        (ir(1, 3, 1, 5, 120, se=0.25), ir(5, 5, 1, 3, 120, se=0.25)),
        (
            ir(1, 3, 2, 6, 184, se=0.25),
            ir(5, 5, 1, 4, 184, se=0.25),
            ir(1, 5, 1, 6, 224, se=0.25),
        ),
        (cn(1, 1, 1, 1344),),
    )
    return _fbnetv3(stages, 16)


def fbnetv3_d() -> Definition:
    """FBNetV3-D."""
    stages = (
        (ds(2, 3, 1, 16),),
        (ir(1, 3, 2, 5, 24), ir(5, 3, 1, 2, 24)),
        (ir(1, 5, 2, 4, 40, se=0.25), ir(4, 3, 1, 3, 40, se=0.25)),
        (ir(1, 3, 2, 5, 72), ir(4, 3, 1, 3, 72)),
        (ir(1, 3, 1, 5, 128, se=0.25), ir(6, 5, 1, 3, 128, se=0.25)),
        (
            ir(1, 3, 2, 6, 208, se=0.25),
            ir(5, 5, 1, 5, 208, se=0.25),
            ir(1, 5, 1, 6, 240, se=0.25),
        ),
        (cn(1, 1, 1, 1440),),
    )
    return _fbnetv3(stages, 24)


def fbnetv3_g() -> Definition:
    """FBNetV3-G."""
    stages = (
        (ds(3, 3, 1, 24),),
        (ir(1, 5, 2, 4, 40), ir(4, 5, 1, 2, 40)),
        (ir(1, 5, 2, 4, 56, se=0.25), ir(4, 5, 1, 3, 56, se=0.25)),
        (ir(1, 5, 2, 5, 104), ir(4, 3, 1, 3, 104)),
        (ir(1, 3, 1, 5, 160, se=0.25), ir(8, 5, 1, 3, 160, se=0.25)),
        (
            ir(1, 3, 2, 6, 264, se=0.25),
            ir(6, 5, 1, 5, 264, se=0.25),
            ir(2, 5, 1, 6, 288, se=0.25),
        ),
        (cn(1, 1, 1, 1728),),
    )
    return _fbnetv3(stages, 32)


def lcnet(width: float) -> Definition:
    """PP-LCNet (Cui et al. 2021)."""
    rounded = widened(width)
    stages = (
        (dsa(1, 3, 1, 32),),
        (dsa(2, 3, 2, 64),),
        (dsa(2, 3, 2, 128),),
        (dsa(1, 3, 2, 256), dsa(1, 5, 1, 256)),
        (dsa(4, 5, 1, 256),),
        (dsa(2, 5, 2, 512, se=0.25),),
    )
    return dict(
        stages=scaled(stages, rounded),
        stem_size=rounded(16),
        num_features=1280,
        activation=nn.hard_swish,
        attention=_SE_RELU,
    )


def _v4(
    stages: Sequence[Stage], width: float, stem_size: int, *, layer_scale: float | None = None
) -> Definition:
    rounded = widened(width)
    scales = (UniversalInvertedResidual, MobileAttention)
    found = tuple(
        tuple(
            block.but(layer_scale=layer_scale) if block.kind in scales else block for block in stage
        )
        for stage in scaled(stages, rounded)
    )
    return dict(
        stages=found,
        stem_size=stem_size if width < 1.0 else rounded(stem_size),
        num_features=1280,
        head_bias=False,
        head_norm=True,
    )


def v4_small(width: float) -> Definition:
    """MobileNetV4 Conv-S (Qin et al. 2024)."""
    stages = (
        (cn(1, 3, 2, 32), cn(1, 1, 1, 32)),
        (cn(1, 3, 2, 96), cn(1, 1, 1, 64)),
        (uib(1, 5, 5, 2, 3, 96), uib(4, 0, 3, 1, 2, 96), uib(1, 3, 0, 1, 4, 96)),
        (
            uib(1, 3, 3, 2, 6, 128),
            uib(1, 5, 5, 1, 4, 128),
            uib(1, 0, 5, 1, 4, 128),
            uib(1, 0, 5, 1, 3, 128),
            uib(2, 0, 3, 1, 4, 128),
        ),
        (cn(1, 1, 1, 960),),
    )
    return _v4(stages, width, 32)


def v4_medium() -> Definition:
    """MobileNetV4 Conv-M."""
    stages = (
        (er(1, 3, 2, 4, 48),),
        (uib(1, 3, 5, 2, 4, 80), uib(1, 3, 3, 1, 2, 80)),
        (
            uib(1, 3, 5, 2, 6, 160),
            uib(2, 3, 3, 1, 4, 160),
            uib(1, 3, 5, 1, 4, 160),
            uib(1, 3, 3, 1, 4, 160),
            uib(1, 3, 0, 1, 4, 160),
            uib(1, 0, 0, 1, 2, 160),
            uib(1, 3, 0, 1, 4, 160),
        ),
        (
            uib(1, 5, 5, 2, 6, 256),
            uib(1, 5, 5, 1, 4, 256),
            uib(2, 3, 5, 1, 4, 256),
            uib(1, 0, 0, 1, 4, 256),
            uib(1, 3, 0, 1, 4, 256),
            uib(1, 3, 5, 1, 2, 256),
            uib(1, 5, 5, 1, 4, 256),
            uib(2, 0, 0, 1, 4, 256),
            uib(1, 5, 0, 1, 2, 256),
        ),
        (cn(1, 1, 1, 960),),
    )
    return _v4(stages, 1.0, 32)


def v4_large() -> Definition:
    """MobileNetV4 Conv-L."""
    stages = (
        (er(1, 3, 2, 4, 48),),
        (uib(1, 3, 5, 2, 4, 96), uib(1, 3, 3, 1, 4, 96)),
        (
            uib(1, 3, 5, 2, 4, 192),
            uib(3, 3, 3, 1, 4, 192),
            uib(1, 3, 5, 1, 4, 192),
            uib(5, 5, 3, 1, 4, 192),
            uib(1, 3, 0, 1, 4, 192),
        ),
        (
            uib(4, 5, 5, 2, 4, 512),
            uib(1, 5, 0, 1, 4, 512),
            uib(1, 5, 3, 1, 4, 512),
            uib(2, 5, 0, 1, 4, 512),
            uib(1, 5, 3, 1, 4, 512),
            uib(1, 5, 5, 1, 4, 512),
            uib(3, 5, 0, 1, 4, 512),
        ),
        (cn(1, 1, 1, 960),),
    )
    return _v4(stages, 1.0, 24)


def v4_hybrid_medium(width: float) -> Definition:
    """MobileNetV4 Hybrid-M, with attention in two stages."""
    attention, wide = mqa(4, 64, 160, kv_stride=2), mqa(4, 64, 256)
    stages = (
        (er(1, 3, 2, 4, 48),),
        (uib(1, 3, 5, 2, 4, 80), uib(1, 3, 3, 1, 2, 80)),
        (
            uib(1, 3, 5, 2, 6, 160),
            uib(1, 0, 0, 1, 2, 160),
            uib(1, 3, 3, 1, 4, 160),
            uib(1, 3, 5, 1, 4, 160),
            attention,
            uib(1, 3, 3, 1, 4, 160),
            attention,
            uib(1, 3, 0, 1, 4, 160),
            attention,
            uib(1, 3, 3, 1, 4, 160),
            attention,
            uib(1, 3, 0, 1, 4, 160),
        ),
        (
            uib(1, 5, 5, 2, 6, 256),
            uib(1, 5, 5, 1, 4, 256),
            uib(2, 3, 5, 1, 4, 256),
            uib(1, 0, 0, 1, 2, 256),
            uib(1, 3, 5, 1, 2, 256),
            uib(1, 0, 0, 1, 2, 256),
            uib(1, 0, 0, 1, 4, 256),
            wide,
            uib(1, 3, 0, 1, 4, 256),
            wide,
            uib(1, 5, 5, 1, 4, 256),
            wide,
            uib(1, 5, 0, 1, 4, 256),
            wide,
            uib(1, 5, 0, 1, 4, 256),
        ),
        (cn(1, 1, 1, 960),),
    )
    return _v4(stages, width, 32, layer_scale=1e-5)


def v4_hybrid_large(width: float) -> Definition:
    """MobileNetV4 Hybrid-L."""
    attention, wide = mqa(8, 48, 192, kv_stride=2), mqa(8, 64, 512)
    stages = (
        (er(1, 3, 2, 4, 48),),
        (uib(1, 3, 5, 2, 4, 96), uib(1, 3, 3, 1, 4, 96)),
        (
            uib(1, 3, 5, 2, 4, 192),
            uib(3, 3, 3, 1, 4, 192),
            uib(1, 3, 5, 1, 4, 192),
            uib(2, 5, 3, 1, 4, 192),
            attention,
            uib(1, 5, 3, 1, 4, 192),
            attention,
            uib(1, 5, 3, 1, 4, 192),
            attention,
            uib(1, 5, 3, 1, 4, 192),
            attention,
            uib(1, 3, 0, 1, 4, 192),
        ),
        (
            uib(4, 5, 5, 2, 4, 512),
            uib(1, 5, 0, 1, 4, 512),
            uib(1, 5, 3, 1, 4, 512),
            uib(2, 5, 0, 1, 4, 512),
            uib(1, 5, 3, 1, 4, 512),
            uib(1, 5, 5, 1, 4, 512),
            wide,
            uib(1, 5, 0, 1, 4, 512),
            wide,
            uib(1, 5, 0, 1, 4, 512),
            wide,
            uib(1, 5, 0, 1, 4, 512),
            wide,
            uib(1, 5, 0, 1, 4, 512),
        ),
        (cn(1, 1, 1, 960),),
    )
    return {**_v4(stages, width, 24, layer_scale=1e-5), "activation": gelu}
