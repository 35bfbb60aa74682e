"""How stages of mobile networks scale, and how their kernels begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ktjax.models.networks import efficientnet, mobilenetv3
from ktjax.models.networks.mobile.blocks import convolve
from ktjax.models.networks.mobile.stages import ds, ir, scaled, widened


@pytest.mark.parametrize(
    ("architecture", "depths", "channels"),
    [
        ("efficientnet_b3", (2, 3, 3, 5, 5, 6, 2), (24, 32, 48, 96, 136, 232, 384)),
        ("efficientnet_lite1", (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("tinynet_e", (1, 1, 1, 2, 2, 2, 1), (8, 16, 24, 40, 56, 96, 160)),
    ],
)
def test_stages_are_as_deep_and_wide_as_the_papers(architecture, depths, channels):
    stages = efficientnet.VARIANTS[architecture](num_classes=1).stages
    assert tuple(map(len, stages)) == depths
    assert tuple(stage[0].channels for stage in stages) == channels


def test_only_the_first_block_of_a_stage_has_the_stride():
    stages = mobilenetv3.VARIANTS["mobilenetv3_large_150d"](num_classes=1).stages
    assert [[block.stride for block in stage] for stage in stages[:2]] == [[1, 1], [2, 1, 1]]


def test_the_last_of_a_stage_are_repeated_more():
    stage = (ir(1, 3, 2, 6, 24), ir(3, 5, 1, 6, 24))
    (found,) = scaled([stage], widened(), 1.3)  # 6 blocks, not 4
    assert [block.options["kernel"] for block in found] == [3, 3, 5, 5, 5, 5]
    (found,) = scaled([stage], widened(), 1.2, truncate=round)
    assert [block.options["kernel"] for block in found] == [3, 5, 5, 5, 5]


def test_options_of_all_blocks_yield_to_those_of_one():
    stages = scaled([(ds(1, 3, 1, 16), ds(1, 3, 1, 16, group_size=4))], widened(), group_size=8)
    assert [block.options["group_size"] for block in stages[0]] == [8, 4]


def test_depthwise_kernels_begin_as_loud_as_whole_ones():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return convolve(convolve(x, 512, 3, groups=512, name="depthwise"), 64, 3, name="whole")

    params = Net().init(jax.random.key(0), jnp.zeros((1, 4, 4, 512)))["params"]
    expected = {"depthwise": np.sqrt(2 / 9), "whole": np.sqrt(2 / (9 * 64))}
    for name, deviation in expected.items():
        np.testing.assert_allclose(params[name]["kernel"].std(), deviation, rtol=0.05)
