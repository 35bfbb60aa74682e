"""The embedded zoo, ktjax/models/glyphs: it is as good as it says; the paper's figure 1 on it."""

import functools

import numpy as np
import pytest

from ktjax import models
from ktjax.analysis import pairs
from ktjax.data import glyphs
from ktjax.models.checkpoints import weights

NAMES = models.zoo()
load = functools.cache(models.load)


def config_of(name):
    return models.locate(name).config


def test_there_are_at_least_eight_models():
    assert len(NAMES) >= 8


@pytest.mark.smoke
def test_there_are_at_least_five_families():
    families = {models.MODELS[config_of(name)["architecture"]].build.func for name in NAMES}
    assert len(families) >= 5


def test_the_weights_are_small():
    files = [file for file in models.ZOO.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {weights.CONFIG, weights.WEIGHTS}
    assert sum(file.stat().st_size for file in files) < 4e6


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_with_the_classes_of_the_data(name):
    models.check_classes(load(name), glyphs.CLASSES, "glyphs")


# Sixteen thousand images take the others seconds.
QUICK = ("glyphs/tiny_mlp", "glyphs/tiny_mlp_narrow", "glyphs/tiny_resnet_narrow")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.full] * (n not in QUICK)) for n in NAMES]
)
def test_accuracy_is_the_recorded_one(name, answers):
    accuracy = 100 * answers(name).correct_N.mean()
    assert accuracy == pytest.approx(config_of(name)["accuracy"], abs=0.05)


# The paper's figure 1, on the zoo that ships with ktjax.


@pytest.mark.full
def test_every_pair_of_the_embedded_zoo_has_flips_on_more_than_two_percent(answers):
    correct_MxN = np.stack([answers(name).correct_N for name in NAMES])
    assert correct_MxN.shape == (9, 16000)
    both_MxM = pairs.both_right(correct_MxN)
    rho_pos_MxM = 100 * (np.diagonal(both_MxM)[:, None] - both_MxM) / 16000
    others_MxM = ~np.eye(9, dtype=bool)
    assert rho_pos_MxM[others_MxM].min() > 2
    assert rho_pos_MxM[others_MxM].min() == pytest.approx(2.64, abs=0.1)
