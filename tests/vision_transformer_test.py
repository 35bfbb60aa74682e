"""Options of large vision transformers, in narrow ones, and resized position embeddings."""

import collections

import jax
import numpy as np
import pytest
from families_test import CLASSES, GOLDENS, TOLERANCE, distance, entries
from goldens import rule

from ktjax import models
from ktjax.models.checkpoints import layouts, weights

# As tests/goldens/make_vision_transformer.py has it.
NARROW = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def _read():
    options, resized = collections.defaultdict(dict), collections.defaultdict(dict)
    with np.load(GOLDENS / "vision_transformer_options.npz") as arrays:
        for key in arrays.files:
            architecture, *middle, name = key.split("/")
            (resized if middle else options)[architecture][name] = arrays[key]
    return options, resized


OPTIONS, RESIZED = _read()
SIZES = [(name, size) for name, golden in RESIZED.items() for size in golden if size != "names"]


def filled(architecture, golden, size):
    """The narrow network with the weights of the rule, which are for images of 64x64."""
    shapes, module = models.skeleton(architecture, CLASSES, size, NARROW)
    return weights.fill(
        shapes,
        entries(golden),
        layout=layouts.timm,
        adapt=module.adapt,
        made_for=(64, 64),
        where=GOLDENS / architecture,
    )


@pytest.mark.parametrize("architecture", OPTIONS)
def test_options_are_timms(architecture):
    golden = OPTIONS[architecture]
    size = int(golden["size"])
    model = filled(architecture, golden, (size, size))

    def forward(variables, x):
        return model.forward(variables, x, train=False, rngs=None, freeze_stats=False)[0].logits

    x = rule.images(size)
    run = jax.jit(forward).lower(model.variables, x).compile()
    assert distance(np.asarray(run(model.variables, x)), golden["logits"]) < TOLERANCE


@pytest.mark.parametrize(("architecture", "size"), SIZES)
def test_position_embeddings_are_resized_as_timm_does(architecture, size):
    model = filled(architecture, RESIZED[architecture], tuple(map(int, size.split("x"))))
    found, expected = model.variables["params"]["pos_embed"], RESIZED[architecture][size]
    np.testing.assert_allclose(found, expected, atol=2e-6, strict=True)


def test_position_embeddings_of_other_networks_do_not_fit():
    """Another width, or a grid of unknown sides: the weights are refused, not bent."""
    for shape, told in (("1x17x40", r"\(1, 17, 40\)"), ("1x16x48", r"\(1, 16, 48\)")):
        entry = {"names": np.frombuffer(f"pos_embed {shape}".encode(), np.uint8)}
        with pytest.raises(ValueError, match=f"misshapen pos_embed: file {told}"):
            filled("test_vit", entry, (32, 32))


@pytest.mark.parametrize(
    ("architecture", "options", "before", "after"),
    [("test_vit", {"depth": 1}, 64, (32, 128)), ("tiny_vit", {}, 24, (12, 48))],
)
def test_as_many_patches_in_other_rows_have_other_positions(
    architecture, options, before, after, tmp_path
):
    model = models.create(architecture, classes=CLASSES, seed=0, size=(before, before), **options)
    weights.export(model, tmp_path / "square")
    wide = models.load(str(tmp_path / "square"), size=after)
    old, new = (np.asarray(one.variables["params"]["pos_embed"][0]) for one in (model, wide))
    prefix = len(old) - 16
    assert old.shape == new.shape == (16 + prefix, old.shape[1])
    np.testing.assert_array_equal(new[:prefix], old[:prefix])
    expected = jax.image.resize(
        old[prefix:].reshape(4, 4, -1), (2, 8, old.shape[1]), "bicubic", antialias=True
    )
    np.testing.assert_allclose(new[prefix:], expected.reshape(16, -1), atol=1e-6)
    # An export says what its embeddings are of, so there is a way back, and no second resizing.
    weights.export(wide, tmp_path / "wide")
    again = models.load(str(tmp_path / "wide")).variables["params"]["pos_embed"]
    np.testing.assert_array_equal(again[0], new)
    back = models.load(str(tmp_path / "wide"), size=(before, before)).variables["params"]
    assert not np.array_equal(back["pos_embed"][0], new)


@pytest.mark.parametrize(
    ("architecture", "options", "before", "after"),
    [
        ("tiny_mlp_narrow", {}, 12, (6, 24)),
        ("tiny_mixer", {}, 24, (12, 48)),
        ("mixer_s32_224", {"num_blocks": 1, "embed_dim": 8}, 64, (32, 128)),
    ],
)
def test_layers_over_all_patches_are_for_their_rows(architecture, options, before, after, tmp_path):
    model = models.create(architecture, classes=CLASSES, seed=0, size=(before, before), **options)
    weights.export(model, tmp_path)
    with pytest.raises(ValueError, match=r"span the (\d+)x\1 places of an image, row by row"):
        models.load(str(tmp_path), size=after)
    with pytest.raises(ValueError, match="misshapen"):
        models.load(str(tmp_path), size=(2 * before, 2 * before))
