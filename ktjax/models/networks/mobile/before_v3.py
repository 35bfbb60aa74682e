"""The mobile networks before MobileNetV3: attributes for an EfficientNet.

Stages are listed as in timm, whose efficientnet.py has the papers.
"""

from collections.abc import Sequence

from flax import linen as nn

from ktjax.models.networks.mobile.efficientnets import Definition
from ktjax.models.networks.mobile.stages import cn, ds, dsa, er, ir, scaled, widened


def mnasnet(width: float) -> Definition:
    """MnasNet B1 (Tan et al. 2019)."""
    rounded = widened(width)
    stages = (
        (ds(1, 3, 1, 16, skip=False),),
        (ir(3, 3, 2, 3, 24),),
        (ir(3, 5, 2, 3, 40),),
        (ir(3, 5, 2, 6, 80),),
        (ir(2, 3, 1, 6, 96),),
        (ir(4, 5, 2, 6, 192),),
        (ir(1, 3, 1, 6, 320, skip=False),),
    )
    return dict(stages=scaled(stages, rounded), stem_size=rounded(32), num_features=1280)


def semnasnet(width: float) -> Definition:
    """MnasNet A1, with attention."""
    rounded = widened(width)
    stages = (
        (ds(1, 3, 1, 16, skip=False),),
        (ir(2, 3, 2, 6, 24),),
        (ir(3, 5, 2, 3, 40, se=0.25),),
        (ir(4, 3, 2, 6, 80),),
        (ir(2, 3, 1, 6, 112, se=0.25),),
        (ir(3, 5, 2, 6, 160, se=0.25),),
        (ir(1, 3, 1, 6, 320),),
    )
    return dict(stages=scaled(stages, rounded), stem_size=rounded(32), num_features=1280)


def mnasnet_small() -> Definition:
    """A small MnasNet."""
    stages = (
        (ds(1, 3, 1, 8),),
        (ir(1, 3, 2, 3, 16),),
        (ir(2, 3, 2, 6, 16),),
        (ir(4, 5, 2, 6, 32, se=0.25),),
        (ir(3, 3, 1, 6, 32, se=0.25),),
        (ir(3, 5, 2, 6, 88, se=0.25),),
        (ir(1, 3, 1, 6, 144),),
    )
    return dict(stages=scaled(stages, widened()), stem_size=8, num_features=1280)


def mobilenetv1(width: float, *, head: bool = False) -> Definition:
    """MobileNet (Howard et al. 2017); with `head` there is a convolution before the pooling."""
    rounded = widened(width)
    stages = (
        (dsa(1, 3, 1, 64),),
        (dsa(2, 3, 2, 128),),
        (dsa(2, 3, 2, 256),),
        (dsa(6, 3, 2, 512),),
        (dsa(2, 3, 2, 1024),),
    )
    return dict(
        stages=scaled(stages, rounded),
        stem_size=rounded(32),
        num_features=max(1024, rounded(1024)) if head else 0,
        activation=nn.relu6,
    )


def mobilenetv2(width: float, depth: float = 1.0, *, fixed_ends: bool = False) -> Definition:
    """MobileNetV2 (Sandler et al. 2018); with `fixed_ends` stem and head do not widen."""
    rounded = widened(width)
    stages = (
        (ds(1, 3, 1, 16),),
        (ir(2, 3, 2, 6, 24),),
        (ir(3, 3, 2, 6, 32),),
        (ir(4, 3, 2, 6, 64),),
        (ir(3, 3, 1, 6, 96),),
        (ir(3, 3, 2, 6, 160),),
        (ir(1, 3, 1, 6, 320),),
    )
    return dict(
        stages=scaled(stages, rounded, depth, fixed_ends=fixed_ends),
        stem_size=32 if fixed_ends else rounded(32),
        num_features=1280 if fixed_ends else max(1280, rounded(1280)),
        activation=nn.relu6,
    )


def fbnetc() -> Definition:
    """FBNet-C (Wu et al. 2019)."""
    stages = (
        (ir(1, 3, 1, 1, 16),),
        (ir(1, 3, 2, 6, 24), ir(2, 3, 1, 1, 24)),
        (ir(1, 5, 2, 6, 32), ir(1, 5, 1, 3, 32), ir(1, 5, 1, 6, 32), ir(1, 3, 1, 6, 32)),
        (ir(1, 5, 2, 6, 64), ir(1, 5, 1, 3, 64), ir(2, 5, 1, 6, 64)),
        (ir(3, 5, 1, 6, 112), ir(1, 5, 1, 3, 112)),
        (ir(4, 5, 2, 6, 184),),
        (ir(1, 3, 1, 6, 352),),
    )
    return dict(stages=scaled(stages, widened()), stem_size=16, num_features=1984)


def spnasnet() -> Definition:
    """Single-Path NAS (Stamoulis et al. 2019)."""
    stages = (
        (ds(1, 3, 1, 16, skip=False),),
        (ir(3, 3, 2, 3, 24),),
        (ir(1, 5, 2, 6, 40), ir(3, 3, 1, 3, 40)),
        (ir(1, 5, 2, 6, 80), ir(3, 3, 1, 3, 80)),
        (ir(1, 5, 1, 6, 96), ir(3, 5, 1, 3, 96)),
        (ir(4, 5, 2, 6, 192),),
        (ir(1, 3, 1, 6, 320, skip=False),),
    )
    return dict(stages=scaled(stages, widened()), stem_size=32, num_features=1280)


_EXPAND = {"expand_kernel": (1, 1)}
_PROJECT = {"project_kernel": (1, 1)}
_BOTH = {**_EXPAND, **_PROJECT}
_HALF = {"se": 0.5, "activation": nn.silu}
_QUARTER = {"se": 0.25, "activation": nn.silu}


def mixnet_s() -> Definition:
    """MixNet S (Tan and Le 2019), with kernels of several sizes side by side."""
    stages = (
        (ds(1, 3, 1, 16),),
        (ir(1, 3, 2, 6, 24, **_BOTH), ir(1, 3, 1, 3, 24, **_BOTH)),
        (ir(1, (3, 5, 7), 2, 6, 40, **_HALF), ir(3, (3, 5), 1, 6, 40, **_BOTH, **_HALF)),
        (
            ir(1, (3, 5, 7), 2, 6, 80, **_PROJECT, **_QUARTER),
            ir(2, (3, 5), 1, 6, 80, **_PROJECT, **_QUARTER),
        ),
        (
            ir(1, (3, 5, 7), 1, 6, 120, **_BOTH, **_HALF),
            ir(2, (3, 5, 7, 9), 1, 3, 120, **_BOTH, **_HALF),
        ),
        (
            ir(1, (3, 5, 7, 9, 11), 2, 6, 200, **_HALF),
            ir(2, (3, 5, 7, 9), 1, 6, 200, **_PROJECT, **_HALF),
        ),
    )
    return dict(stages=scaled(stages, widened()), stem_size=16, num_features=1536)


def mixnet_m(width: float, depth: float = 1.0) -> Definition:
    """MixNet M, and L when it is wider."""
    rounded = widened(width)
    stages = (
        (ds(1, 3, 1, 24),),
        (ir(1, (3, 5, 7), 2, 6, 32, **_BOTH), ir(1, 3, 1, 3, 32, **_BOTH)),
        (ir(1, (3, 5, 7, 9), 2, 6, 40, **_HALF), ir(3, (3, 5), 1, 6, 40, **_BOTH, **_HALF)),
        (
            ir(1, (3, 5, 7), 2, 6, 80, **_QUARTER),
            ir(3, (3, 5, 7, 9), 1, 6, 80, **_BOTH, **_QUARTER),
        ),
        (ir(1, 3, 1, 6, 120, **_HALF), ir(3, (3, 5, 7, 9), 1, 3, 120, **_BOTH, **_HALF)),
        (
            ir(1, (3, 5, 7, 9), 2, 6, 200, **_HALF),
            ir(3, (3, 5, 7, 9), 1, 6, 200, **_PROJECT, **_HALF),
        ),
    )
    stages = scaled(stages, rounded, depth, truncate=round)
    return dict(stages=stages, stem_size=rounded(24), num_features=1536)


def edgetpu() -> Definition:
    """MobileNet-EdgeTPU."""
    stages = (
        (cn(1, 1, 1, 16),),
        (er(1, 3, 2, 8, 32), er(3, 3, 1, 4, 32)),
        (er(1, 3, 2, 8, 48), er(3, 3, 1, 4, 48)),
        (ir(1, 3, 2, 8, 96), ir(3, 3, 1, 4, 96)),
        (ir(1, 3, 1, 8, 96, skip=False), ir(3, 3, 1, 4, 96)),
        (ir(1, 5, 2, 8, 160), ir(3, 5, 1, 4, 160)),
        (ir(1, 3, 1, 8, 192),),
    )
    return dict(stages=scaled(stages, widened()), stem_size=32, num_features=1280)


def edgetpu_v2(
    channels: Sequence[int],
    *,
    stem_size: int = 64,
    stem_kernel_size: int = 5,
    group_size: int = 64,
    num_features: int = 1280,
) -> Definition:
    """MobileNet-EdgeTPU-V2 (Akin et al. 2022), with this many channels in its stages."""
    a, b, c, d, e, f, g = channels
    grouped = {"group_size": group_size}
    stages = (
        (cn(1, 1, 1, a),),
        (er(1, 3, 2, 8, b), er(1, 3, 1, 4, b, **grouped)),
        (
            er(1, 3, 2, 8, c),
            er(1, 3, 1, 4, c, **grouped),
            er(1, 3, 1, 4, c),
            er(1, 3, 1, 4, c, **grouped),
        ),
        (er(1, 3, 2, 8, d), ir(3, 3, 1, 4, d)),
        (ir(1, 3, 1, 8, e), ir(3, 3, 1, 4, e)),
        (ir(1, 3, 2, 8, f), ir(3, 3, 1, 4, f)),
        (ir(1, 3, 1, 8, g),),
    )
    return dict(
        stages=scaled(stages, widened()),
        stem_size=stem_size,
        stem_kernel_size=stem_kernel_size,
        num_features=num_features,
    )


EDGETPU_V2_XS = dict(channels=(16, 32, 48, 96, 144, 160, 192), stem_size=32, stem_kernel_size=3)
EDGETPU_V2_M = dict(channels=(32, 64, 80, 160, 192, 240, 320), num_features=1344)
EDGETPU_V2_L = dict(
    channels=(32, 64, 96, 192, 240, 256, 384),
    stem_kernel_size=7,
    group_size=128,
    num_features=1408,
)
