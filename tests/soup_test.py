"""The uniform soup of several models."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import small_models

from ktjax.classifier import average
from ktjax.data import pipeline
from ktjax.experiment import statistics


@pytest.mark.smoke
def test_a_soup_is_the_mean_of_weights_and_statistics():
    models = [small_models.make(name) for name in ("a", "b", "c")]
    before = jax.device_get([dict(model.variables) for model in models])
    soup = average(models)
    assert set(soup.variables) == {"params", "batch_stats"}
    jax.tree.map(
        lambda mean, *leaves: np.testing.assert_allclose(mean, sum(leaves) / 3, atol=1e-6),
        dict(soup.variables),
        *before,
    )
    after = jax.device_get([dict(model.variables) for model in models])
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_statistics_are_the_mean_over_the_batches_of_an_epoch():
    """On paper: what BatchNorm sees is a dense layer of the pixels."""
    model, pixels = small_models.make("a"), small_models.images(11)
    images = pipeline.Images(pixels, np.zeros(11, np.int32))
    found = statistics.estimated(
        model,
        images,
        augment=lambda image, index, view: 255 - image,  # the views count
        seed=3,
        batch_size=4,
        layout="pmap",
    )
    kernel = np.asarray(model.variables["params"]["fc"]["kernel"], np.float64)
    seen_11xD = ((255 - pixels) / 255 * 2 - 1).reshape(11, -1) @ kernel
    order = [
        batch["index"]
        for batch in itertools.islice(
            pipeline.train_batches(images, batch_size=4, seed=3, first_step=0), 2
        )
    ]
    assert len({*order[0], *order[1]}) == 8  # three images are left over
    stats = found.variables["batch_stats"]["bn"]
    mean = np.mean([seen_11xD[index].mean(axis=0) for index in order], axis=0)
    var = np.mean([seen_11xD[index].var(axis=0, ddof=1) for index in order], axis=0)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)
    jax.tree.map(
        np.testing.assert_array_equal, found.variables["params"], model.variables["params"]
    )
    bare = small_models.make("bare", batch_norm=False)
    assert statistics.estimated(bare, images, augment=None, seed=0, batch_size=4, layout="") is bare


def test_a_soup_of_one_is_itself():
    model = small_models.make("a")
    soup = average([model])
    jax.tree.map(np.testing.assert_array_equal, soup.variables, model.variables)


def test_other_architectures_are_refused_with_both_named():
    first = small_models.make("first")
    other = dataclasses.replace(small_models.make("other"), architecture="another")
    with pytest.raises(ValueError, match="first is tiny of width 8, other is another"):
        average([first, small_models.make("alike"), other])


def test_other_widths_are_refused():
    first = small_models.make("first", width=8)
    other = dataclasses.replace(
        small_models.make("other", width=6), architecture=first.architecture
    )
    bare = dataclasses.replace(
        small_models.make("bare", batch_norm=False), architecture=first.architecture
    )
    for model in (other, bare):
        with pytest.raises(ValueError, match=f"first.*{model.name}"):
            average([first, model])
