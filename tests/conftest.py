"""What several tests share: the embedded data set, prepared once into a temporary folder."""

import functools
import subprocess
import sys

import jax
import pytest

from ktjax import data, evaluate, models, parallel, predictions
from ktjax.data import pipeline

# A [C] that meets a [B, C] is a mistake more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def glyphs_dir(tmp_path_factory):
    """A data_dir with glyphs in it; never the user's own."""
    folder = tmp_path_factory.mktemp("data")
    data.load("glyphs", data_dir=str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def validation(glyphs_dir):
    """The validation split of glyphs, decoded."""
    source = data.load("glyphs", data_dir=glyphs_dir).validation
    return pipeline.read(source, size=24, name="glyphs validation")


@pytest.fixture(scope="session")
def answers(validation):
    """answers(name): what a model of the embedded zoo says of them; each is run once."""

    @functools.cache
    def of(name):
        model = models.load(name)
        predict = evaluate.make_predict(model, batch_size=500)
        logits_NxC = predict(parallel.replicate(model.variables), validation)
        return predictions.of_logits(logits_NxC, validation.label_N)

    return of


@pytest.fixture(scope="session")
def python():
    """Runs code in a fresh interpreter and returns the words of its last line."""

    def run(code):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split()

    return run
