"""What EfficientNets and their like consist of: attributes of a network, from a few numbers each.

Stages are listed as in timm, whose efficientnet.py has the papers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from ktjax.models.efficientnet_blocks import CondConvResidual
from ktjax.models.efficientnet_stages import (
    Blocks,
    Stage,
    cn,
    ds,
    dsa,
    er,
    ir,
    scaled,
    widened,
)
from ktjax.models.layers import divisible

Definition = dict[str, Any]


def _b0(se: float) -> tuple[Stage, ...]:
    return (
        (ds(1, 3, 1, 16, se=se),),
        (ir(2, 3, 2, 6, 24, se=se),),
        (ir(2, 5, 2, 6, 40, se=se),),
        (ir(3, 3, 2, 6, 80, se=se),),
        (ir(3, 5, 1, 6, 112, se=se),),
        (ir(4, 5, 2, 6, 192, se=se),),
        (ir(1, 3, 1, 6, 320, se=se),),
    )


def _but(blocks: Blocks, **options: Any) -> Blocks:
    """The blocks with other options."""
    return blocks._replace(options={**blocks.options, **options})


def b(width: float, depth: float, *, divisor: int = 8, group_size: int = 1) -> Definition:
    """EfficientNet (Tan and Le 2019)."""
    rounded = widened(width, divisor=divisor)
    return dict(
        stages=scaled(_b0(0.25), rounded, depth, group_size=group_size),
        stem_size=rounded(32),
        num_features=rounded(1280),
        activation=nn.silu,
    )


def pruned(
    network: Definition,
    channels: Sequence[int],
    inner: Sequence[Sequence[int]],
    hidden: Mapping[tuple[int, int], int],
) -> Definition:
    """A network whose inverted residuals have lost channels (Aflalo et al. 2020).

    Args:
      network: what it was, with one number of channels in a stage.
      channels: that come out of each stage.
      inner: those inside each block, by stage; the first stage is depthwise.
      hidden: those of the attention, by stage and block, where they are not what they were.
    """
    stages, before = [], network["stem_size"]
    for i, stage in enumerate(network["stages"]):
        found = []
        for j, block in enumerate(stage):
            if i > 0:
                squeezed = hidden.get((i, j), round(before * 0.25))
                block = _but(block, inner=inner[i][j], se=squeezed / inner[i][j])
            before = stage[j].channels
            found.append(block._replace(channels=channels[i]))
        stages.append(tuple(found))
    return {**network, "stages": tuple(stages)}


def condconv(depth: float, experts: int) -> Definition:
    """EfficientNet with mixtures of kernels in its last stages (Yang et al. 2019)."""
    *plain, fifth, sixth, seventh = _b0(0.25)
    mixed = [
        (_but(blocks, experts=experts)._replace(kind=CondConvResidual),)
        for (blocks,) in (fifth, sixth, seventh)
    ]
    stages = scaled((*plain, *mixed), widened(), depth)
    return dict(stages=stages, stem_size=32, num_features=1280, activation=nn.silu)


def lite(width: float, depth: float) -> Definition:
    """EfficientNet-Lite: without attention, and ends as they are."""
    stages = scaled(_b0(0.0), widened(width), depth, fixed_ends=True)
    return dict(stages=stages, stem_size=32, num_features=1280, activation=nn.relu6)


def tinynet(width: float, depth: float) -> Definition:
    """TinyNet (Han et al. 2020): EfficientNet made smaller."""
    stages = scaled(_b0(0.25), widened(width), depth, truncate=round)
    return dict(stages=stages, stem_size=32, num_features=1280, activation=nn.silu)


def edge(width: float, depth: float) -> Definition:
    """EfficientNet-EdgeTPU."""
    rounded = widened(width)
    stages = (
        # As wide inside as if 24 channels came out of the stem.
        (er(1, 3, 1, 4, 24, inner=divisible(rounded(24) * 4), skip=False),),
        (er(2, 3, 2, 8, 32),),
        (er(4, 3, 2, 8, 48),),
        (ir(5, 5, 2, 8, 96),),
        (ir(4, 5, 1, 8, 144),),
        (ir(2, 5, 2, 8, 192),),
    )
    stages = scaled(stages, rounded, depth)
    return dict(stages=stages, stem_size=rounded(32), num_features=rounded(1280))


def x(width: float, depth: float, expand: float) -> Definition:
    """EfficientNet-X (Li et al. 2021): pixels become channels before the second stage.

    So the first stage is four times as wide on a quarter of the pixels, and the block after it
    needs neither its stride nor as much widening.
    """
    rounded = widened(width)
    fused = dict(se=0.25, activation=nn.relu)
    first, (entry, *second), *others = scaled(
        (
            (ds(1, 3, 1, 16, se=0.25),),
            (er(2, 3, 2, expand, 24, **fused),),
            (er(2, 5, 2, expand, 40, **fused),),
            (ir(3, 3, 2, expand, 80, se=0.25),),
            *_b0(0.25)[4:],
        ),
        rounded,
        depth,
    )
    first = [block._replace(channels=4 * block.channels) for block in first]
    first[0] = _but(first[0], se=0.25 / 4, space_to_depth=True)
    entry = _but(entry, expand=expand / 4, se=0.25 / (expand / 4))._replace(stride=1)
    return dict(
        stages=(tuple(first), (entry, *second), *others),
        stem_size=rounded(32),
        num_features=rounded(1280),
        activation=nn.silu,
    )


def v2_base(width: float, depth: float) -> Definition:
    """EfficientNetV2 B0 to B3 (Tan and Le 2021)."""
    rounded = widened(width, floor_share=0.0)
    stages = (
        (cn(1, 3, 1, 16, skip=True),),
        (er(2, 3, 2, 4, 32),),
        (er(2, 3, 2, 4, 48),),
        (ir(3, 3, 2, 4, 96, se=0.25),),
        (ir(5, 3, 1, 6, 112, se=0.25),),
        (ir(8, 3, 2, 6, 192, se=0.25),),
    )
    return dict(
        stages=scaled(stages, rounded, depth),
        stem_size=rounded(32),
        num_features=rounded(1280),
        activation=nn.silu,
    )


def v2(
    depths: Sequence[int],
    channels: Sequence[int],
    *,
    fused_first: bool = False,
    num_features: int = 1280,
    width: float = 1.0,
    depth: float | Sequence[float] = 1.0,
) -> Definition:
    """EfficientNetV2 S to XL: six or seven stages of these depths and channels.

    `fused_first` is for timm's own networks, from before the paper's were published: the first
    stage is of edge residuals.
    """
    rounded = widened(width)
    first = er if fused_first else cn
    begin = (1,) if fused_first else ()  # the widening, which plain convolutions do not have
    options = {} if fused_first else {"skip": True}
    kinds = ((2, 4), (1, 6), (2, 6), (1, 6))  # stride and widening
    stages = (
        (first(depths[0], 3, 1, *begin, channels[0], **options),),
        (er(depths[1], 3, 2, 4, channels[1]),),
        (er(depths[2], 3, 2, 4, channels[2]),),
        *(
            (ir(repeats, 3, *kind, width_out, se=0.25),)
            for repeats, kind, width_out in zip(depths[3:], kinds, channels[3:], strict=False)
        ),
    )
    return dict(
        stages=scaled(stages, rounded, depth),
        stem_size=rounded(channels[0]),
        num_features=rounded(num_features),
        activation=nn.silu,
    )


def v2_test() -> Definition:
    """A tiny network with most kinds of blocks, for tests."""
    stages = (
        (cn(1, 3, 1, 16, skip=True),),
        (er(1, 3, 2, 4, 24),),
        (er(1, 3, 2, 4, 32),),
        (ir(1, 3, 2, 4, 48, se=0.25),),
        (ir(1, 3, 2, 4, 64, se=0.25),),
    )
    stages = scaled(stages, widened())
    return dict(stages=stages, stem_size=24, num_features=256, activation=nn.silu)


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
    """MobileNet-EdgeTPU-V2 (Akin et al. 2022), with these channels of stages."""
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

# Arguments of `pruned`: channels of stages, those inside the blocks, exceptions.
B1_PRUNED = (
    (16, 12, 35, 74, 67, 192, 320),
    (
        (),
        (48, 62, 48),
        (70, 61, 51),
        (175, 188, 137, 164),
        (399, 201, 160, 213),
        (637, 806, 798, 891, 990),
        (1152, 1912),
    ),
    {(5, 0): 27},
)
B2_PRUNED = (
    (16, 17, 42, 85, 116, 208, 352),
    (
        (),
        (54, 69, 61),
        (86, 72, 98),
        (245, 274, 254, 292),
        (502, 315, 354, 443),
        (719, 1148, 1160, 1182, 1228),
        (1248, 2112),
    ),
    {},
)
B3_PRUNED = (
    (24, 12, 40, 93, 120, 232, 384),
    (
        (),
        (27, 49, 48),
        (83, 90, 85),
        (215, 261, 219, 254, 236),
        (480, 235, 217, 226, 340),
        (802, 1030, 924, 1016, 1130, 1266),
        (1392, 2301),
    ),
    {(4, 3): 33},
)
