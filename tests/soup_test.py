"""The uniform soup of several models."""

import dataclasses

import jax
import numpy as np
import pytest
import small_models

from ktjax.classifier import average


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
