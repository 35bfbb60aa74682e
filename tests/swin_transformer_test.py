"""Swin Transformers whose windows are not those that the weights were trained with."""

from pathlib import Path

import numpy as np
import pytest
from goldens import rule

from ktjax import models
from ktjax.models.checkpoints import layouts, weights
from ktjax.models.networks import swin_transformer

ARCHITECTURE = "swin_tiny_patch4_window7_224"
SMALL = {"embed_dim": 32, "depths": (1, 2, 1, 1)}
# What timm.layers.resize_rel_pos_bias_table makes of a table drawn by the rule, for windows of the
# first size, when they become of the second: as rule.projection.
RESIZED = {
    (7, 12): (7.329993297218764, -0.14963072616966233),
    (12, 7): (4.842408270978012, 0.14401002603010005),
    (7, 2): (1.4287669991177665, 0.3258218821392695),
    (3, 4): (2.6733355859722665, 0.25955352438918505),
}


@pytest.mark.parametrize(("before", "after"), RESIZED)
def test_tables_are_resized_as_timm_resizes_them(before, after):
    table = rule.weight("table", ((2 * before - 1) ** 2, 3))
    found = swin_transformer.resize_table(table, 2 * before - 1, 2 * after - 1)
    assert found.shape == ((2 * after - 1) ** 2, 3) and found.dtype == np.float32
    projection = rule.projection("table", found)
    np.testing.assert_allclose(projection, RESIZED[before, after], atol=1e-5)


def filled(size, found, **options):
    blank, module = models.skeleton(ARCHITECTURE, ("a", "b"), size, SMALL | options)
    return weights.fill(
        blank,
        found,
        layout=layouts.timm,
        adapt=module.adapt,
        made_for=(64, 64),
        where=Path("a file"),
    )


def test_weights_fit_images_and_windows_of_another_size():
    small = models.create(ARCHITECTURE, classes=("a", "b"), seed=0, size=(64, 64), **SMALL)
    arrays = weights.to_arrays(small, layout=layouts.timm)
    for size, options in (((224, 224), {}), ((96, 96), {"window_size": (5, 6, 3, 2)})):
        larger = weights.to_arrays(filled(size, arrays, **options), layout=layouts.timm)
        for name, array in arrays.items():
            if larger[name].shape != array.shape:
                before, after = (int(a.shape[0] ** 0.5) for a in (array, larger[name]))
                array = swin_transformer.resize_table(array, before, after)
            np.testing.assert_array_equal(larger[name], array, err_msg=name)


def test_other_misfits_remain_errors():
    small = models.create(ARCHITECTURE, classes=("a", "b"), seed=0, size=(64, 64), **SMALL)
    arrays = weights.to_arrays(small, layout=layouts.timm)
    with pytest.raises(ValueError, match=r"misshapen layers\.0\.blocks\.0\.attn\.proj\.bias"):
        filled((64, 64), arrays, embed_dim=64)
    # Windows are not square: which of the sides is which the table does not say.
    with pytest.raises(ValueError, match=r"misshapen layers\.2\.blocks\.0\.attn\.relative_pos"):
        filled((64, 96), arrays)
