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
    """The narrow network with the weights of the rule."""
    shapes, module = models.skeleton(architecture, CLASSES, (size, size), NARROW)
    return weights.fill(
        shapes,
        entries(golden),
        layout=layouts.timm,
        adapt=module.adapt,
        where=GOLDENS / architecture,
    )


@pytest.mark.parametrize("architecture", OPTIONS)
def test_options_are_timms(architecture):
    golden = OPTIONS[architecture]
    size = int(golden["size"])
    model = filled(architecture, golden, size)

    def forward(variables, x):
        return model.forward(variables, x, train=False, rngs=None, freeze_stats=False)[0].logits

    x = rule.images(size)
    run = jax.jit(forward).lower(model.variables, x).compile()
    assert distance(np.asarray(run(model.variables, x)), golden["logits"]) < TOLERANCE


@pytest.mark.parametrize(("architecture", "size"), SIZES)
def test_position_embeddings_are_resized_as_timm_does(architecture, size):
    model = filled(architecture, RESIZED[architecture], int(size))
    found, expected = model.variables["params"]["pos_embed"], RESIZED[architecture][size]
    np.testing.assert_allclose(found, expected, atol=2e-6, strict=True)


def test_position_embeddings_of_other_networks_do_not_fit():
    """Another width, or a grid that is not square: the weights are refused, not bent."""
    entry = {"names": np.frombuffer(b"pos_embed 1x17x40", np.uint8)}
    with pytest.raises(ValueError, match=r"misshapen pos_embed: file \(1, 17, 40\)"):
        filled("test_vit", entry, 32)
    shapes, module = models.skeleton("test_vit", CLASSES, (32, 48), NARROW)
    wanted = shapes.variables["params"]["pos_embed"].shape
    assert module.adapt("pos_embed", np.zeros((1, 17, 48)), wanted).shape == (1, 17, 48)
