"""Stochastic depth of students: the layer by hand, and where a transfer takes the rate from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_jobs
from small_jobs import transferring

from ktjax import models
from ktjax.experiment import shared
from ktjax.jobs import transfer
from ktjax.jobs.transfer import checks, job
from ktjax.models.checkpoints import weights
from ktjax.models.networks import layers
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe

SMALL = dict(num_blocks=2, embed_dim=16)


def test_whole_samples_skip_a_branch():
    x = np.arange(1, 4001, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    rngs = {"dropout": jax.random.key(0)}
    found = np.asarray(layers.DropPath(0.25).apply({}, jnp.asarray(x), train=True, rngs=rngs))
    kept = found[:, 0] > 0
    np.testing.assert_allclose(found[kept], x[kept] * 4 / 3, rtol=1e-6)
    assert not found[~kept].any()
    assert kept.mean() == pytest.approx(0.75, abs=0.02)  # 3 standard errors
    still = layers.DropPath(0.25).apply({}, jnp.asarray(x), train=False, rngs=rngs)
    np.testing.assert_array_equal(still, x)


@pytest.fixture(scope="module")
def mixers(tmp_path_factory):
    """Folders of a mixer, the same that was trained with a rate of 0.75, and a perceptron."""
    folder = tmp_path_factory.mktemp("mixers")
    for name, options in (("plain", {}), ("deep", dict(drop_path_rate=0.75))):
        mixer = models.create(
            "mixer_s32_224", classes=small_jobs.CLASSES, seed=0, size=(32, 32), **SMALL, **options
        )
        weights.export(mixer, folder / name)
    perceptron = models.create("tiny_mlp_narrow", classes=small_jobs.CLASSES, seed=1)
    weights.export(perceptron, folder / "perceptron")
    return folder


def config_of(images, mixers, student, teacher="perceptron", **fields):
    return transferring(images, mixers / student, [mixers / teacher], **fields)


@pytest.mark.parametrize(
    ("student", "rate", "expected"),
    [
        ("plain", None, None),
        ("plain", 0.5, 0.5),
        ("deep", None, 0.75),
        ("deep", 0.5, 0.5),
        ("deep", 0.0, 0.0),
    ],
)
def test_where_the_rate_comes_from(student, rate, expected, images, mixers):
    config = config_of(images, mixers, student, "deep" if student == "plain" else "plain")
    config.drop_path_rate = rate
    loaded = job._load(Transfer.read(config), shared.anew, {})
    assert loaded[config.student].options.get("drop_path_rate") == expected
    teacher = loaded[config.teachers[0]]  # is frozen: what it was built with stays
    assert teacher.options.get("drop_path_rate") == (0.75 if student == "plain" else None)


def test_all_that_train_at_once_have_the_rate(images, mixers):
    arg = "strategy=mutual"
    config = config_of(images, mixers, "plain", "deep", arg=arg, drop_path_rate=0.25)
    loaded = job._load(Transfer.read(config), shared.anew, {})
    assert [model.options["drop_path_rate"] for model in loaded.values()] == [0.25, 0.25]


def test_networks_without_stochastic_depth(images, mixers, refused):
    config = config_of(images, mixers, "perceptron", "plain", drop_path_rate=0.1)
    message = r"drop_path_rate=0.1: .*perceptron is a tiny_mlp_narrow, which has no stochastic"
    refused(transfer.run, config, message)
    config.drop_path_rate = 0.0
    checks.check(Transfer.read(config))  # there is nothing to turn off
    for rate in (-0.1, 1.0):
        config.drop_path_rate = rate
        refused(transfer.run, config, f"drop_path_rate={rate} must be")


def test_answers_do_not_depend_on_it(mixers):
    """So a student shares the store of the same model as a teacher, as before drop path."""
    plain = models.load(str(mixers / "plain"))
    deep = models.load(str(mixers / "plain"), drop_path_rate=0.75)
    x = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    answers = [model.apply(model.variables, x)[0].logits for model in (plain, deep)]
    np.testing.assert_array_equal(*answers)
    assert plain.options != deep.options
    assert describe.model(plain) == describe.model(deep)
    assert describe.model(plain)["options"] == json.dumps(dict(plain.options), sort_keys=True)


@pytest.mark.full
def test_a_student_is_trained_and_exported_with_it(images, mixers, tmp_path):
    trained, rates = {}, {}
    for rate in (None, 0.0, 0.75):
        config = config_of(images, mixers, "plain", total_steps=1, drop_path_rate=rate)
        workdir = tmp_path / str(rate)
        (row,) = transfer.run(config, workdir)["runs"]
        folder = workdir / "students" / row["run"]
        trained[rate] = (folder / weights.WEIGHTS).read_bytes()
        rates[rate] = models.blank(str(folder)).options.get("drop_path_rate")
    assert trained[None] == trained[0.0] != trained[0.75]
    assert rates == {None: None, 0.0: 0.0, 0.75: 0.75}
