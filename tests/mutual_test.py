"""Students that teach each other, through the front door."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from small_jobs import KilledError, accuracy_of, check_same, kill_at, transferring

import ktjax
from ktjax.checkpoint import Checkpoints
from ktjax.jobs import transfer
from ktjax.models.checkpoints import weights

pytestmark = pytest.mark.usefixtures("compile_once")


def make_config(images, names, **fields):
    return transferring(images, names[0], names[1:], arg="strategy=mutual", **fields)


@pytest.fixture(scope="module")
def three(images, quartet, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three")
    config = make_config(images, quartet[:3])
    return config, workdir, transfer.run(config, workdir)


def test_a_row_and_a_student_for_every_model(three, quartet, images):
    _, workdir, results = three
    names = quartet[:3]
    assert [row["student"] for row in results["runs"]] == names
    for row in results["runs"]:
        assert row["teachers"] == [name for name in names if name != row["student"]]
        assert row["accuracy_before"] == results["models"][row["student"]]["accuracy"]
        student = ktjax.load_model(str(workdir / "students" / row["run"]))
        assert student.architecture == ktjax.load_model(row["student"]).architecture
        assert accuracy_of(student, images) == row["accuracy_after"]
        assert row["taught_by"] is row["temperatures"] is None
        assert row["exported"] == "the last"
        assert [entry["step"] for entry in row["history"]] == [3, 6]
        for entry in row["history"]:
            assert entry["tune"]["gain"] - entry["tune"]["loss"] == pytest.approx(
                entry["tune"]["delta"]
            )
    # In each sample one of them is the surest, and teaches the two others.
    assert sum(row["taught"] for row in results["runs"]) == pytest.approx(200)
    assert len({row["taught"] for row in results["runs"]}) > 1
    page = (workdir / "report.html").read_text()
    assert all(f"Student {name.rpartition('/')[2]}: " in page for name in names)


def test_killed_and_resumed(three, tmp_path, monkeypatch):
    config, workdir, _ = three
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path)
    transfer.run(config, tmp_path)
    check_same(tmp_path, workdir)


@pytest.mark.full  # objectives_test.py has the gradients of both
def test_two_models_with_and_without_detached_teacher(images, quartet, tmp_path):
    found = {}
    for detached in (True, False):
        config = make_config(images, quartet[1:3])
        config.objectives.mutual.detach_teacher = detached
        workdir = tmp_path / str(detached)
        rows = transfer.run(config, workdir)["runs"]
        assert len(rows) == 2
        json.dumps(rows, allow_nan=False)
        path = workdir / "students" / rows[0]["run"] / weights.WEIGHTS
        found[detached] = safetensors_numpy.load_file(path)
    assert any(not np.array_equal(v, found[False][k]) for k, v in found[True].items())
