"""EfficientNets: each function returns a network's attributes from a few numbers.

Stages are listed as in timm, whose efficientnet.py has the papers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from ktjax.models.networks.layers import divisible
from ktjax.models.networks.mobile.blocks import CondConvResidual
from ktjax.models.networks.mobile.stages import Stage, cn, ds, er, ir, scaled, widened

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
      network: the original, with one number of channels per stage.
      channels: how many come out of each stage.
      inner: how many are inside each block, by stage; the first stage is depthwise.
      hidden: how many the attention has, by stage and block, where that changed.
    """
    stages, before = [], network["stem_size"]
    for i, stage in enumerate(network["stages"]):
        found = []
        for j, block in enumerate(stage):
            if i > 0:
                squeezed = hidden.get((i, j), round(before * 0.25))
                block = block.but(inner=inner[i][j], se=squeezed / inner[i][j])
            before = stage[j].channels
            found.append(block._replace(channels=channels[i]))
        stages.append(tuple(found))
    return {**network, "stages": tuple(stages)}


def condconv(depth: float, experts: int) -> Definition:
    """EfficientNet with mixtures of kernels in its last stages (Yang et al. 2019)."""
    *plain, fifth, sixth, seventh = _b0(0.25)
    mixed = [
        (blocks.but(experts=experts)._replace(kind=CondConvResidual),)
        for (blocks,) in (fifth, sixth, seventh)
    ]
    stages = scaled((*plain, *mixed), widened(), depth)
    return dict(stages=stages, stem_size=32, num_features=1280, activation=nn.silu)


def lite(width: float, depth: float) -> Definition:
    """EfficientNet-Lite: there is no attention, and the ends are not scaled."""
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
        # Its inner width is that of a stem with 24 output channels.
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
    first[0] = first[0].but(se=0.25 / 4, space_to_depth=True)
    entry = entry.but(expand=expand / 4, se=0.25 / (expand / 4))._replace(stride=1)
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
    kinds = ((2, 4), (1, 6), (2, 6), (1, 6))  # stride and widening
    stages = (
        (
            er(depths[0], 3, 1, 1, channels[0])
            if fused_first
            else cn(depths[0], 3, 1, channels[0], skip=True),
        ),
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
