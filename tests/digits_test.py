"""Real images from the command line: scikit-learn's handwritten digits as PNG files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.full
SIZE = "--config.image_size=8"  # the digits' own


def launch(config, workdir, *overrides, **environment):
    command = [sys.executable, "-m", "ktjax.main", f"--config=configs/{config}"]
    done = subprocess.run(
        [*command, f"--workdir={workdir}", SIZE, "--config.augment=none", *overrides],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "results.json").read_text())


def write(folder, image_NxHxW, label_N):
    """One directory of PNG files per digit."""
    for i, (image, label) in enumerate(zip(image_NxHxW, label_N, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((image * (255 / 16)).astype(np.uint8))
        image.save(folder / str(label) / f"{i:04}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    found = datasets.load_digits()
    return write(tmp_path_factory.mktemp("digits"), found.images, found.target)


@pytest.fixture(scope="module")
def noisy_digits(tmp_path_factory):
    """A fifth of the labels of train is wrong; those of validation are right."""
    folder, found = tmp_path_factory.mktemp("noisy"), datasets.load_digits()
    rng = np.random.default_rng(0)
    count = len(found.target)
    other_N = (found.target + rng.integers(1, 10, count)) % 10
    noisy_N = np.where(rng.random(count) < 0.2, other_N, found.target)
    held = rng.permutation(count) < count // 5
    write(folder / "train", found.images[~held], noisy_N[~held])
    write(folder / "val", found.images[held], found.target[held])
    return folder


def fit(folder, workdir, **cached):
    return launch(
        f"pretrain.py:data=folder:{folder}",
        workdir,
        "--config.models=('tiny_mlp', 'tiny_resnet_narrow')",
        "--config.total_epochs=6",
        "--config.eval_every_epochs=3",
        **cached,
    )


@pytest.fixture(scope="module")
def fitted(digits, cached, tmp_path_factory):
    """(workdir, results) of two families, fitted to the digits."""
    workdir = tmp_path_factory.mktemp("fitted")
    return workdir, fit(digits, workdir, **cached)


def test_both_families_learn_the_digits(fitted):
    _, results = fitted
    assert results["data"]["validation"] == pytest.approx(1797 / 5, abs=5)
    assert sum(results["class_counts"]) == results["data"]["validation"]
    for row in results["runs"]:
        assert row["accuracy_before"] < 40  # random weights
        assert row["accuracy_after"] > 80


def test_transfer_between_them(fitted, digits, cached, tmp_path):
    workdir, pretrained = fitted
    student, teacher = (workdir / "models" / name for name in ("tiny_resnet_narrow", "tiny_mlp"))
    arguments = f"student={student},teachers={teacher},data=folder:{digits},objectives=kl_dp"
    results = launch(
        f"transfer.py:{arguments},controls=",
        tmp_path,
        "--config.objectives.kl_dp.learning_rate=0.005",
        "--config.total_epochs=4",
        "--config.eval_every_epochs=2",
        "--config.export=last",  # so short a training is not surely better on 70 images
        **cached,
    )
    for folder in (student, teacher):
        accuracy = pretrained["models"][folder.name]["accuracy"]
        assert results["models"][str(folder)]["accuracy"] == pytest.approx(accuracy)
    (pair,) = results["pairs"]
    assert pair["rho_pos"] > 0 and pair["rho_neg"] > 0  # each knows what the other does not
    (row,) = results["runs"]
    assert (row["rho_pos"], row["rho_neg"]) == (pair["rho_pos"], pair["rho_neg"])
    assert row["taught"] > 50  # the teacher is the better one
    assert row["delta"] > -3
    assert row["gain"] > 0


def check_default(folder, models, workdir, **cached):
    """What the default gives the weaker model: better, or as it was; returns the rows."""
    student, teacher = (models / "models" / name for name in ("tiny_resnet_narrow", "tiny_mlp"))
    arguments = f"student={student},teachers={teacher},data=folder:{folder}"
    results = launch(f"transfer.py:{arguments}", workdir, **cached)
    assert [row["objective"] for row in results["runs"]] == ["kl_dp", "kl_pool"]
    assert len(results["controls"]) == 8  # xe and xe_self at four learning rates
    for row in results["runs"]:
        assert len(row["rates"]) == 4
        assert row["delta"] > 0 or row["abstained"]
        last = row["last_delta"] if row["last_delta"] is not None else row["delta"]
        assert last > 1  # what was learned, whether or not 70 images show that
    return results["runs"]


def test_the_default_does_no_harm(fitted, digits, cached, tmp_path):
    check_default(digits, fitted[0], tmp_path, **cached)


def test_the_default_with_wrong_labels(noisy_digits, cached, tmp_path):
    """The teacher knows better than a fifth of them."""
    fit(noisy_digits, tmp_path / "models", **cached)
    rows = check_default(noisy_digits, tmp_path / "models", tmp_path / "run", **cached)
    assert max(row["ensemble_accuracy"] for row in rows) > rows[0]["accuracy_before"]
