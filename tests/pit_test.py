"""Position embeddings of PiT for images of another size."""

import dataclasses

import jax
import numpy as np
import pytest

from ktjax import models
from ktjax.models.checkpoints import weights
from ktjax.models.networks import pit
from ktjax.models.networks.positions import Entry

MAP = np.asarray([[1, 2, 4], [8, 16, 32], [-3, 5, -7]], np.float32)[None, None]
# torch.nn.functional.interpolate(MAP, (4, 2), mode="bicubic", antialias=True), torch 2.14.
RESIZED = [[0.8054, 2.1188], [7.5329, 20.0439], [7.0945, 17.4631], [-0.2350, -4.0054]]


@pytest.fixture(scope="module")
def network():
    return pit.VARIANTS["pit_ti_224"](num_classes=10)


def entry(name, array, shape):
    """The sizes of images do not matter: the shapes say them."""
    return Entry(name, array, shape, before=(224, 224), after=(224, 224))


def test_position_embeddings_are_resized_as_torch_does(network):
    found = network.adapt(entry("pos_embed", MAP, (1, 1, 4, 2)))
    np.testing.assert_allclose(found[0, 0], RESIZED, atol=1e-4)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shape"), [("cls_token", (1, 1, 4, 2)), ("pos_embed", (1, 2, 4, 2))]
)
def test_nothing_else_is_resized(network, name, shape):
    assert network.adapt(entry(name, MAP, shape)) is MAP


@pytest.mark.parametrize(("size", "side"), [((224, 224), 27), ((64, 64), 7), ((64, 72), (7, 8))])
def test_the_embedding_has_a_vector_for_each_patch(size, side):
    classifier, _ = models.skeleton("pit_ti_distilled_224", ("a", "b"), size, {})
    sides = side if isinstance(side, tuple) else (side, side)
    assert classifier.variables["params"]["pos_embed"].shape == (1, 64, *sides)
    assert classifier.variables["params"]["cls_token"].shape == (1, 2, 64)


def test_a_checkpoint_is_loaded_for_images_of_another_size(network, tmp_path):
    blank, _ = models.skeleton("pit_ti_224", ("a", "b"), (64, 64), {})
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.5, a.dtype), blank.variables)
    before = np.random.default_rng(0).normal(size=(1, 64, 7, 7)).astype(np.float32)
    variables["params"]["pos_embed"] = before
    weights.export(dataclasses.replace(blank, variables=variables), tmp_path, format="timm")
    after = models.load(str(tmp_path), size=(96, 64)).variables
    expected = network.adapt(entry("pos_embed", before, (1, 64, 11, 7)))
    np.testing.assert_array_equal(after["params"].pop("pos_embed"), expected)
    assert all((np.asarray(leaf) == 0.5).all() for leaf in jax.tree.leaves(after))
