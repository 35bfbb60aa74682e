"""The embedded zoo: what ships in ktjax/models/glyphs, and that it is as good as it says."""

import functools

import pytest

from ktjax import models
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


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_recorded_one(name, answers):
    accuracy = 100 * answers(name).correct_N.mean()
    assert accuracy == pytest.approx(config_of(name)["accuracy"], abs=0.05)
