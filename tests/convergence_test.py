"""Whether models are at the end of their training: the rule by hand, and the job."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_jobs
from safetensors import numpy as safetensors_numpy

from ktjax.analysis import convergence
from ktjax.data import sources
from ktjax.experiment import training
from ktjax.jobs import convergence as job


def test_gain_by_hand():
    before_N = np.array([True, True, False, False])
    after_SxN = np.array([[True, True, True, True], [True, False, True, False]])
    found = convergence.gain(before_N, after_SxN)
    # Per image, the mean of two seeds: 0, -50, 100, 50; per seed: 50 and 0.
    per_image = np.array([0.0, -50.0, 100.0, 50.0])
    assert found.mean == 25
    assert found.se == pytest.approx(np.sqrt(per_image.var(ddof=1) / 4 + 1250 / 2))
    alone = convergence.gain(before_N, after_SxN[:1])  # one seed: its variance is not known
    assert alone.se == pytest.approx(np.sqrt(np.var([0, 0, 100, 100], ddof=1) / 4))
    with pytest.raises(ValueError, match="not N and SxN"):
        convergence.gain(before_N, after_SxN[:, :3])


def test_a_rate_is_picked_on_one_half_and_judged_on_the_other():
    before_N = np.zeros(8, bool)
    pick_N, judge_N = np.arange(4), np.arange(4, 8)
    good_where_picked = np.array([[1, 1, 1, 0, 0, 0, 0, 0]], bool)
    good_where_judged = np.array([[1, 0, 0, 0, 1, 1, 1, 1]], bool)
    found = convergence.check(
        before_N, {0.1: good_where_judged, 0.3: good_where_picked}, pick_N=pick_N, judge_N=judge_N
    )
    assert found.learning_rate == 0.3
    assert {rate: gain.mean for rate, gain in found.picked_on.items()} == {0.1: 25, 0.3: 75}
    assert found.gain.mean == found.upper == 0
    swapped = convergence.check(
        before_N, {0.1: good_where_judged, 0.3: good_where_picked}, pick_N=judge_N, judge_N=pick_N
    )
    assert (swapped.learning_rate, swapped.gain.mean) == (0.1, 25)
    assert swapped.upper == pytest.approx(25 + 1.6449 * swapped.gain.se, rel=1e-4)


def config_of(images, names, **fields):
    fields = dict(models=tuple(names), total_steps=4, eval_every_steps=4) | fields
    fields = dict(learning_rates=(0.03, 3.0), seeds=(1,)) | fields
    return small_jobs.load_config("convergence", f"data=folder:{images}", **fields)


@pytest.fixture(scope="module")
def done(images, zoo, compile_once, tmp_path_factory):
    """(workdir, results) of a job about two models."""
    workdir = tmp_path_factory.mktemp("convergence")
    return workdir, job.run(config_of(images, zoo[::2]), workdir)


def test_what_it_finds(done, zoo):
    workdir, results = done
    assert [check["model"] for check in results["checks"]] == zoo[::2]
    assert json.loads((workdir / "results.json").read_text())["checks"] == results["checks"]
    for check in results["checks"]:
        assert set(check["picked_on"]) == {"0.03", "3"}
        assert check["picked_on"][f"{check['learning_rate']:g}"] == max(check["picked_on"].values())
        assert check["at_its_end"] == (check["upper"] < 0.3)
        assert check["accuracy"] == results["models"][check["model"]]["accuracy"]
    assert len(list((workdir / "runs").iterdir())) == 2 * 2
    assert not list((workdir / "checkpoints").iterdir())
    page = (workdir / "report.html").read_text()
    assert re.search(r"\d of 2 models (is|are) converged: more training", page)
    assert "<h2>Figures</h2>" not in page  # there are none


def test_runs_of_other_jobs_are_taken_up(done, images, zoo, tmp_path, monkeypatch):
    """And only what is missing is trained."""
    (tmp_path / "runs").mkdir()
    for path in (done[0] / "runs").iterdir():
        (tmp_path / "runs" / path.name).write_bytes(path.read_bytes())
    removed = sorted((tmp_path / "runs").iterdir())[0]
    removed.unlink()
    trained = []
    fit = training.fit
    monkeypatch.setattr(
        training, "fit", lambda *args, run, **kw: trained.append(run) or fit(*args, run=run, **kw)
    )
    results = job.run(config_of(images, zoo[::2]), tmp_path)
    assert trained == [removed.stem]
    assert results["checks"] == done[1]["checks"]


def test_runs_are_combined_from_jobs_per_model_and_rate(done, images, zoo, tmp_path, monkeypatch):
    """Though each job has the runs of one model at one rate, they make the table of all."""
    (tmp_path / "all" / "runs").mkdir(parents=True)
    for i, (name, rate) in enumerate(itertools.product(zoo[::2], (0.03, 3.0))):
        config = config_of(images, [name], learning_rates=(rate,), most_gain=1.0)
        job.run(config, tmp_path / str(i))
        for path in (tmp_path / str(i) / "runs").iterdir():
            path.rename(tmp_path / "all" / "runs" / path.name)
    monkeypatch.setattr(training, "fit", None)  # nothing is trained
    results = job.run(config_of(images, zoo[::2]), tmp_path / "all")
    assert results["checks"] == done[1]["checks"]


def fewer_images(images, tmp_path, config):
    copy = shutil.copytree(images, tmp_path / "images")
    next(copy.rglob("*.png")).unlink()
    config.data = f"folder:{copy}"


def other_weights(images, tmp_path, config):
    """A model of the same name."""
    (name,) = config.models
    copy = shutil.copytree(name, tmp_path / "other" / Path(name).name)
    weights = safetensors_numpy.load_file(copy / "model.safetensors")
    weights = {name: array + np.float32(0.5) for name, array in weights.items()}
    safetensors_numpy.save_file(weights, copy / "model.safetensors")
    config.models = (str(copy),)


CHANGES = {
    r"total_steps \(4 there, 5 here\)": dict(total_steps=5, eval_every_steps=4),
    r"weight_decay \(0.0 there, 0.5 here\)": dict(weight_decay=0.5),
    r"image_size \(12 there, 14 here\)": dict(image_size=14),
    "data.*, images": fewer_images,
    "weights": other_weights,
}


@pytest.mark.parametrize("what", CHANGES)
def test_runs_of_other_settings_are_refused(what, done, images, zoo, tmp_path):
    shutil.copytree(done[0] / "runs", tmp_path / "workdir" / "runs")
    config, change = config_of(images, zoo[:1]), CHANGES[what]
    if callable(change):
        change(images, tmp_path, config)
    else:
        config.update(change)
    with pytest.raises(ValueError, match=rf"\.npz' is of another job: its config.* {what}\. Del"):
        job.run(config, tmp_path / "workdir")


def test_a_run_under_another_name_is_refused(done, images, zoo, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(done[0] / "runs", runs)
    first, second, *_ = sorted(runs.iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=r"learning_rate \(3.0 there, 0.03 here\)"):
        job.run(config_of(images, zoo[::2]), tmp_path)
    with np.load(second) as kept:  # as they were once written
        np.savez(first, tune=kept["tune"], validation=kept["validation"])
    with pytest.raises(ValueError, match=r"is of another job: it does not say which\. Delete it"):
        job.run(config_of(images, zoo[::2]), tmp_path)


def test_a_rate_at_which_a_model_diverges_is_left_out(images, zoo, tmp_path, monkeypatch):
    train = job._train

    def diverging(*given):
        if given[-1].endswith("-3-2"):  # the rate and the seed in the run's name
            raise FloatingPointError("not finite")
        return train(*given)

    monkeypatch.setattr(job, "_train", diverging)
    config = config_of(images, zoo[:1], seeds=(1, 2), total_steps=1, eval_every_steps=1)
    (check,) = job.run(config, tmp_path / "one")["checks"]
    assert check["learning_rate"] == 0.03 and check["picked_on"]["3"] is None
    assert "diverged" in (tmp_path / "one" / "report.html").read_text()
    config.learning_rates = (3.0,)
    with pytest.raises(FloatingPointError):
        job.run(config, tmp_path / "none")


def test_tune_that_cannot_be_halved_is_told_at_once(images, zoo, refused, monkeypatch):
    monkeypatch.setattr(sources, "halves", lambda *_, **__: (np.arange(1), np.arange(0)))
    refused(job.run, config_of(images, zoo[:1]), "has 1 tune images, too few to split in half")


def test_damaged_runs_are_told(done, images, zoo, tmp_path):
    (tmp_path / "runs").mkdir()
    for path in (done[0] / "runs").iterdir():
        (tmp_path / "runs" / path.name).write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"\.npz' was not written by ktjax, or is damaged"):
        job.run(config_of(images, zoo[::2]), tmp_path)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(seeds=(1, 1)), "seeds=.* has duplicates"),
        (dict(models=("nobody",)), "nobody"),
        (dict(learning_rates=()), "learning_rates"),
    ],
)
def test_refuses(fields, message, images, zoo, refused):
    refused(job.run, config_of(images, zoo[:1], **fields), message)
