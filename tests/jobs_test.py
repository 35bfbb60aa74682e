"""The jobs through their front door, on a folder of generated images: results, resuming."""

import csv
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_jobs import (
    ARCHITECTURES,
    CLASSES,
    KilledError,
    accuracy_of,
    check_same,
    kill_at,
    lines,
    pretraining,
    read,
    transferring,
    tree,
)

import ktjax
from ktjax import data, evaluate, loop
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import training
from ktjax.experiment import workdir as workdir_lib
from ktjax.jobs import pretrain, transfer
from ktjax.writer import Writer

pytestmark = pytest.mark.usefixtures("compile_once")

RUN_KEYS = {
    *("student", "teachers", "objective", "seed", "accuracy_before", "accuracy_after", "delta"),
    *("delta_se", "gain", "loss", "rho_pos", "rho_neg", "taught", "seconds"),
}

# Of configs/transfer.py, those that stored targets suit.
ENTRIES = (
    *("xe", "self", "xe_self", "kl", "xe_kl", "xe_kl_mcl", "hinton", "adaptconf", "kl_dp"),
    *("kl_dp_unsupervised", "kl_dp_retain", "kl_dp_teach", "kl_dp_average"),
)

WITHOUT_TEACHER = ("xe", "self", "xe_self")


@pytest.fixture(scope="module")
def transferred(images, zoo, tmp_path_factory):
    """(workdir, results) of every objective from one teacher, on stored targets."""
    workdir = tmp_path_factory.mktemp("transferred")
    arg = f"objectives={'+'.join(ENTRIES)}"
    config = transferring(images, zoo[0], zoo[1:2], arg=arg, targets="stored")
    return workdir, transfer.run(config, workdir)


@pytest.fixture(scope="module")
def together(images, zoo, tmp_path_factory):
    """(workdir, results) of two objectives from both teachers at once, asked in every step."""
    workdir = tmp_path_factory.mktemp("together")
    arg = "objectives=kl+kl_dp_unsupervised,strategy=parallel"
    return workdir, transfer.run(transferring(images, zoo[0], zoo[1:], arg=arg), workdir)


# What the jobs find and leave behind.
def check_results(workdir, results, *, job):
    assert json.loads(json.dumps(results)) == read(workdir)
    assert results["job"] == job
    assert {"runs", "models", "environment", "config"} <= set(results)
    assert {"python", "jax", "flax", "devices"} <= set(results["environment"])
    for row in results["runs"]:
        assert set(row) >= RUN_KEYS
        assert row["delta"] == pytest.approx(row["accuracy_after"] - row["accuracy_before"])
        assert row["delta"] == pytest.approx(row["gain"] - row["loss"])
        assert row["delta_se"] >= 0 and row["seconds"] > 0
        assert [entry["step"] for entry in row["history"]][-1] == results["config"]["total_steps"]
        for entry in row["history"] if job == "transfer" else ():
            tune = entry["tune"]
            assert tune["accuracy"] == entry["accuracy"] == tune["accuracy_after"]
            assert tune["gain"] - tune["loss"] == pytest.approx(tune["delta"])
            if row["teachers"]:
                gap = tune["rho_pos"] - tune["rho_neg"]
                now = tune["rho_pos_after"] - tune["rho_neg_after"]
                assert gap - now == pytest.approx(tune["delta"])
            taught_by = [v for k, v in entry.items() if k.startswith("taught_")]
            assert not taught_by or sum(taught_by) == pytest.approx(entry["taught"])
    for facts in results["models"].values():
        calibration = {"temperature", "robustness"} if job == "transfer" else set()
        assert set(facts) == {"accuracy", "own_accuracy", "parameters", "origin"} | calibration
        assert 0 <= facts["accuracy"] <= 100 and facts["parameters"] > 1000


def check_files(workdir, results):
    runs = {line["run"] for line in lines(workdir)}
    assert len(runs) == len(results["runs"])
    for run in runs:
        steps = [line["step"] for line in lines(workdir) if line["run"] == run]
        assert steps == sorted(steps) and steps[-1] == results["config"]["total_steps"]
        (events,) = (workdir / "tensorboard" / run).iterdir()
        assert events.stat().st_size > 100
    page = (workdir / "report.html").read_text()
    assert page.lstrip().startswith("<!") and "http" not in page.split("<body")[1]
    for plot in workdir.rglob("*.png"):
        assert Image.open(plot).size[0] > 100
    for table in workdir.rglob("*.csv"):
        assert len(list(csv.reader(table.open()))) > 1
    assert not list(workdir.rglob("*.part"))


def test_pretraining(pretrained):
    workdir, results = pretrained
    check_results(workdir, results, job="pretrain")
    check_files(workdir, results)
    assert [row["student"] for row in results["runs"]] == list(ARCHITECTURES)
    assert set(results["models"]) == set(ARCHITECTURES)
    for row in results["runs"]:
        assert row["teachers"] == [] and row["objective"] == "xe"
        assert row["rho_pos"] is row["rho_neg"] is row["taught"] is None
        assert row["accuracy_after"] == results["models"][row["student"]]["accuracy"]
    assert max(row["accuracy_after"] for row in results["runs"]) > 50  # of four classes


@pytest.mark.smoke
def test_pretrained_models_load_and_say_the_same(pretrained, zoo, images):
    for folder in zoo:
        classifier = ktjax.load_model(folder)
        facts = pretrained[1]["models"][Path(folder).name]
        assert classifier.classes == CLASSES
        assert classifier.num_parameters() == facts["parameters"]
        assert classifier.origin == facts["origin"]
        assert accuracy_of(classifier, images) == facts["accuracy"]


def test_transfers_of_every_objective(transferred, zoo):
    workdir, results = transferred
    check_results(workdir, results, job="transfer")
    check_files(workdir, results)
    assert list(workdir.rglob("*.png"))
    found = {(row["objective"], *row["teachers"]) for row in results["runs"]}
    asked = {(name, zoo[1]) for name in ENTRIES if name not in WITHOUT_TEACHER}
    assert found == asked | {(name,) for name in WITHOUT_TEACHER}
    assert len(found) == len(results["runs"])
    assert set(results["models"]) == set(zoo[:2])


def test_peak_memory_is_told_where_the_backend_counts(pretrained, monkeypatch):
    assert pretrained[1]["environment"]["peak_device_bytes"] is None  # the CPU does not

    def device(**stats):
        return types.SimpleNamespace(device_kind="some", memory_stats=lambda: stats)

    devices = [device(peak_bytes_in_use=3, bytes_in_use=1), device(peak_bytes_in_use=5), device()]
    monkeypatch.setattr(workdir_lib.jax, "local_devices", lambda: devices)
    assert workdir_lib.environment()["peak_device_bytes"] == 5


def test_files_are_json_to_strict_readers_too(pretrained, transferred):
    for workdir in (pretrained[0], transferred[0]):
        for name in ("config.json", "results.json"):
            constants = []
            json.loads((workdir / name).read_text(), parse_constant=constants.append)
            assert not constants  # NaN and Infinity are JavaScript, not JSON


def test_measures_of_transfers(transferred, together, pretrained, zoo):
    accuracy = {f: pretrained[1]["models"][Path(f).name]["accuracy"] for f in zoo}
    for _, results in (transferred, together):
        for name, facts in results["models"].items():
            assert facts["accuracy"] == accuracy[name]
        for row in results["runs"]:
            assert row["accuracy_before"] == accuracy[zoo[0]]
            if len(row["teachers"]) == 1:
                gap = accuracy[row["teachers"][0]] - accuracy[zoo[0]]
                assert row["rho_pos"] - row["rho_neg"] == pytest.approx(gap)
        for pair in results["pairs"]:
            gap = accuracy[pair["teacher"]] - accuracy[pair["student"]]
            assert pair["rho_pos"] - pair["rho_neg"] == pytest.approx(gap)
    taught = {row["objective"]: row["taught"] for row in transferred[1]["runs"]}
    assert taught["xe"] is None and taught["self"] == 0
    assert taught["kl"] == taught["xe_kl"] == pytest.approx(100)
    assert 0 < taught["kl_dp"] < 100
    assert 0 < together[1]["runs"][1]["taught"] < 100  # kl_dp_unsupervised, by both teachers
    # A student that only follows itself stays where it is.
    of_self = next(row for row in transferred[1]["runs"] if row["objective"] == "self")
    assert of_self["history"][-1]["loss"] < 0.1
    others = {row["objective"]: row["history"][-1]["loss"] for row in transferred[1]["runs"]}
    assert others["kl"] > of_self["history"][-1]["loss"]


def test_teachers_at_once(together, zoo):
    workdir, results = together
    check_results(workdir, results, job="transfer")
    check_files(workdir, results)
    assert [(row["objective"], row["teachers"]) for row in results["runs"]] == [
        ("kl", zoo[1:]),
        ("kl_dp_unsupervised", zoo[1:]),
    ]


def test_exported_students_load_and_say_the_same(transferred, together, images):
    for workdir, results in (transferred, together):
        folders = sorted((workdir / "students").iterdir())
        assert len(folders) == len(results["runs"])
        after = [row["accuracy_after"] for row in results["runs"]]
        configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
        assert sorted(config["accuracy"] for config in configs) == sorted(after)
    classifier = ktjax.load_model(str(folders[0]))
    assert "after kl from" in classifier.origin
    assert accuracy_of(classifier, images) == results["runs"][0]["accuracy_after"]


# Resuming.
@pytest.mark.parametrize(
    ("owner", "method", "calls"),
    # Each model saves at steps 3, 6, 8; it logs at 2, 3, 4, 6, 8 and with each save once more.
    [(Writer, "write", 5), (Checkpoints, "save", 4)],
    ids=["first model, after its first checkpoint", "second model, at its second checkpoint"],
)
def test_resumed_pretraining(owner, method, calls, pretrained, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, owner, method, calls=calls)
        with pytest.raises(KilledError):
            pretrain.run(pretraining(images), tmp_path)
    assert not (tmp_path / "results.json").exists()
    pretrain.run(pretraining(images), tmp_path)
    check_same(tmp_path, pretrained[0])


def test_a_run_is_not_resumed_on_other_images(images, tmp_path, monkeypatch):
    folder = shutil.copytree(images, tmp_path / "images")
    config = pretraining(folder, names=("tiny_mlp_narrow",))
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            pretrain.run(config, tmp_path / "workdir")
    some = sorted(folder.glob("*/*.png"))
    for path in some[:5]:
        shutil.copy(path, path.with_name(f"more{path.name}"))
    with pytest.raises(ValueError, match=r"started on other images of .*train had 68 and has 7\d"):
        pretrain.run(config, tmp_path / "workdir")


def test_resumed_transfer(images, zoo, tmp_path, monkeypatch):
    config = transferring(images, zoo[0], [zoo[2]], arg="objectives=self+kl_dp", targets="stored")
    transfer.run(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=3)  # the second run's second
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path / "resumed")
    saved = [p.name for p in (tmp_path / "resumed" / "checkpoints").glob("*/*") if p.name.isdigit()]
    assert sorted(saved) == ["3", "3", "6"]
    transfer.run(config, tmp_path / "resumed")
    check_same(tmp_path / "resumed", tmp_path / "undisturbed")


@pytest.mark.parametrize("job", ["pretrain", "transfer"])
def test_finished_job_is_not_run_again(job, pretrained, together, images, zoo, monkeypatch, capsys):
    arg = "objectives=kl+kl_dp_unsupervised,strategy=parallel"
    run, config, (workdir, results) = {
        "pretrain": (pretrain.run, pretraining(images), pretrained),
        "transfer": (transfer.run, transferring(images, zoo[0], zoo[1:], arg=arg), together),
    }[job]
    for owner, name in ((loop, "run"), (data, "load"), (evaluate, "make_predict")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it works"))
    before = tree(workdir)
    assert run(config, workdir) == json.loads(json.dumps(results))
    assert tree(workdir) == before
    assert str(workdir / "report.html") in capsys.readouterr().out


def test_workdir_of_another_experiment_is_refused(pretrained, together, images, zoo):
    for run, config, (workdir, _) in (
        (pretrain.run, pretraining(images, seed=1, warmup=0.5), pretrained),
        (transfer.run, transferring(images, zoo[0], zoo[1:], seeds=(7,), warmup=0.5), together),
    ):
        before = tree(workdir)
        with pytest.raises(
            ValueError, match=r"another experiment.* seeds? \(.*, warmup \(0.* there, 0.5 here\)"
        ):
            run(config, workdir)
        assert tree(workdir) == before


def test_workdir_of_another_job_is_refused(pretrained, images, quartet):
    with pytest.raises(ValueError, match="its job is pretrain, not transfer. Use another"):
        transfer.run(transferring(images, quartet[0], quartet[1:2]), pretrained[0])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": '{"model_type": "bert"}', "models/m": ""}, "is not the config of a job"),
        ({"config.json": "[]"}, "is not the config of a job"),
        ({"config.json": "{"}, "is not valid JSON"),
        (
            {"results.json": "{}", "logs/l": ""},
            "holds results.json, logs, but no config.json shows",
        ),
    ],
)
def test_what_ktjax_did_not_write_stays(files, message, overwrite, images, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    config = pretraining(images, names=("tiny_mlp",), total_steps=3)
    with pytest.raises(ValueError, match=message):
        pretrain.run(config, tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_another_experiment_is_overwritten(images, tmp_path):
    """But for what ktjax did not write."""
    pretrain.run(pretraining(images, names=("tiny_mlp_narrow",)), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    config = pretraining(images, names=("tiny_mlp",), total_steps=3)
    with pytest.raises(
        ValueError, match=r"another experiment.* models .*, total_steps.*--overwrite"
    ):
        pretrain.run(config, tmp_path)
    pretrain.run(config, tmp_path, overwrite=True)
    pretrain.run(config, tmp_path / "fresh")
    check_same(tmp_path, tmp_path / "fresh")
    for folder in (".", "models", "checkpoints", "tensorboard", "figures", "logs"):
        found, fresh = (
            {path.name for path in (workdir / folder).iterdir()}
            for workdir in (tmp_path, tmp_path / "fresh")
        )
        assert found == fresh | ({"fresh", "notes.txt"} if folder == "." else set())
    # The same experiment is not run again.
    assert pretrain.run(config, tmp_path, overwrite=True) == read(tmp_path)


def test_divergence_stops_the_job(images, zoo, tmp_path):
    config = transferring(images, zoo[0], [zoo[2]], arg="objectives=xe", eval_every_steps=1)
    config.objectives.xe.learning_rate = 1e25
    with pytest.raises(FloatingPointError, match="xe-1: the logits after step 1 are not finite"):
        transfer.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    # What is saved is what a run can go on from.
    assert not [p for p in (tmp_path / "checkpoints" / "xe-1").iterdir() if p.name.isdigit()]


def test_nobody_leaves_before_the_results_are_there(images, zoo, tmp_path, monkeypatch):
    """JAX ends process 0 if it comes too late to where the others wait to leave."""
    there = {}

    def wait_for_all(name):
        there[name] = (tmp_path / "results.json").exists()

    monkeypatch.setattr(workdir_lib.parallel, "wait_for_all", wait_for_all)
    transfer.run(transferring(images, zoo[0], zoo[1:2], arg="objectives=xe"), tmp_path)
    assert there["finished"] and list(there)[-1] == "finished"


def test_waiting_for_input_is_measured(monkeypatch):
    clock = iter(range(100))  # a second passes whenever somebody looks
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    batches = [{"label": np.zeros(shape)} for shape in (16, 16, 16, (2, 8))]
    waited = training._Waited(iter(batches))  # at 0
    assert [next(waited), next(waited)] == batches[:2]  # from 1 to 2 and from 3 to 4
    found = {"input/wait_percent": 40.0, "input/images_per_s": 6.4}
    assert waited.measured() == found  # at 5
    assert waited.measured() == found  # another log of this moment: nothing was taken meanwhile
    for batch in batches[2:]:  # begun anew at 6; from 7 to 8, from 9 to 10
        assert next(waited) is batch
        assert waited.measured() == {"input/wait_percent": 100 / 3, "input/images_per_s": 16 / 3}
