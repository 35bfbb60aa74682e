"""The jobs through their front door, on a folder of generated images: results, resuming, errors."""

import csv
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import numpy as safetensors_numpy
from small_jobs import (
    ARCHITECTURES,
    CLASSES,
    KilledError,
    accuracy_of,
    check_same,
    kill_at,
    launch,
    lines,
    make_images,
    pretraining,
    read,
    transferring,
    tree,
)

import ktjax
from ktjax import data, evaluate, loop, parallel
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import training
from ktjax.experiment import workdir as workdir_lib
from ktjax.jobs import pretrain, transfer
from ktjax.models.checkpoints import weights
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
    assert 0 < taught["kl_dp"] < 100 and 0 < taught["kl_dp_unsupervised"] < 100
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
    with pytest.raises(ValueError, match=r"begun on other images of .*train had 68 and has 7\d"):
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


def test_workdir_of_another_job_is_refused(pretrained, images, zoo):
    with pytest.raises(ValueError, match="it is of the job pretrain, not transfer. Take another"):
        transfer.run(transferring(images, zoo[0], zoo[1:]), pretrained[0])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": '{"model_type": "bert"}', "models/m": ""}, "is no config of a job"),
        ({"config.json": "[]"}, "is no config of a job"),
        ({"config.json": "{"}, "is no JSON"),
        ({"results.json": "{}", "logs/l": ""}, "holds results.json, logs, and no config.json says"),
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
    with pytest.raises(FloatingPointError, match=r"xe-1: the loss .* step \d"):
        transfer.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert [p for p in (tmp_path / "checkpoints" / "xe-1").iterdir() if p.name.isdigit()]


# Errors: before anything is compiled or written.


OF_BOTH = [
    (dict(data="glyphz"), r"'glyphz'.*glyphs"),
    (dict(data="folder:/nowhere"), r"/nowhere"),
    (dict(optimizer="sdg"), r"optimizer='sdg'.*sgd, adamw"),
    (dict(schedule="linear"), r"schedule='linear'.*constant, cosine"),
    (dict(augment="flip"), r"augment='flip'.*none, shift_colour"),
    (dict(dtype="float16"), r"dtype='float16'.*float32, bfloat16"),
    (dict(batch_norm="none"), r"batch_norm='none'.*train, frozen"),
    (dict(parallel="ddp"), r"parallel='ddp'.*pmap, fsdp"),
    (dict(weight_decay=-0.1), r"weight_decay=-0.1 has to be 0 or more"),
    (dict(weight_decay=float("nan")), r"weight_decay=nan has to be a finite number"),
    (dict(microbatches=3), r"batch_size=16 .* the 1 devices times 3 microbatches: 18 does"),
    (dict(microbatches=0), r"microbatches=0 has to be 1 or more"),
    (dict(steps_per_dispatch=0), r"steps_per_dispatch=0 has to be 1 or more"),
    (dict(batch_size=0), r"batch_size=0 has to be 1 or more"),
    (dict(log_every=0), r"log_every=0 has to be 1 or more"),
]
OF_PRETRAINING = [
    (dict(batch_size=128), r"68 images.*batch_size=128"),
    (dict(total_epochs=1.0), r"one of config.total_steps=\d and config.total_epochs=1.0"),
    (dict(total_steps=0), r"total_steps=0 has to be 1 or more"),
    (
        dict(total_steps=None, total_epochs=float("inf")),
        r"epochs=inf has to be a finite",
    ),
    (dict(label_smoothing=2.0), r"label_smoothing=2.0 has to be below 1"),
    # Nearest by name, among the architectures first.
    (dict(names=("tiny_resent",)), r"'tiny_resent'.*(?<![/\w])tiny_resnet\b"),
]
XE = dict(objective="xe", learning_rate=0.1, label_smoothing=0.0)
SOFT = dict(temperature=1.0, top_k=None, standardized=False)
KL_DP = dict(objective="kl_dp", learning_rate=0.1, top_k_of="target") | SOFT
MUTUAL = (
    dict(learning_rate=0.1)
    | SOFT
    | dict(objective="mutual", detach_teacher=True, label_smoothing=0.0)
)
CD = XE | dict(objective="cd", weight=10.0, gamma=0.1)
OF_TRANSFER = [
    (dict(student="glyphs/tiny_vitt"), r"'glyphs/tiny_vitt'.*glyphs/tiny_vit\b"),
    (dict(teachers=("glyphs/tiny_mlpp",)), r"'glyphs/tiny_mlpp'.*glyphs/tiny_mlp\b"),
    (dict(teachers=("tiny_vit",)), r"'tiny_vit' is an architecture"),
    (dict(teachers=()), r"teachers has 0 entries"),
    (dict(seeds=()), r"seeds has 0 entries"),
    (dict(objectives={}), r"objectives has 0 entries"),
    (
        dict(objectives={"a": dict(objective="kd", learning_rate=1.0)}),
        r"'kd' is not known.*kl_dp",
    ),
    (
        dict(objectives={"a": dict(objective="kl", learning_rate=1.0)}),
        r"lacks .*'objectives.a.temperature'",
    ),
    (dict(objectives={"a": dict(objective="kl")}), r"lacks .*'objectives.a.learning_rate'"),
    (
        dict(objectives={"a": dict(learning_rate=1.0)}),
        r"lacks .*'objectives.a.objective'",
    ),
    (dict(objectives={"a/b": XE}), r"'a/b' names files"),
    (dict(objectives={"a": XE | dict(learning_rate=0.0)}), r"learning_rate=0.0 has to be above 0"),
    (
        dict(objectives={"a": XE | dict(label_smoothing=2)}),
        r"a.label_smoothing=2 has to be below 1",
    ),
    (dict(objectives={"a": KL_DP | dict(top_k=1)}), r"objectives.a.top_k=1 has to be 2 or more"),
    (dict(objectives={"a": MUTUAL}), r"'single' does not go with .*'mutual'.*takes xe, self, "),
    (dict(strategy="mutual"), r"'mutual' does not go with objective 'kl_dp': it takes mutual"),
    (dict(strategy="mutual", objectives={"a": MUTUAL}, calibrate=True), r"no frozen models"),
    (dict(strategy="mutual", objectives={"a": MUTUAL}, targets="stored"), r"no frozen models"),
    (dict(seeds=(1, 2**32 + 1)), r"seeds.1=4294967297 has to be below 4294967296"),
    (dict(objectives={"a": CD}, targets="stored"), r"'cd' compares features, .* live"),
    (dict(mcl={"kl": dict(tau=0.9, every=1)}), r"mcl='kl' is not known. Known: kl_dp"),
    (dict(mcl={"kl_dp": dict(tau=0.9)}), r"lacks the field 'mcl.kl_dp.every'"),
    (dict(mcl={"kl_dp": dict(tau=1.0, every=1)}), r"mcl.kl_dp.tau=1.0 has to be below 1"),
    (dict(mcl={"kl_dp": dict(tau=0.5, every=0)}), r"mcl.kl_dp.every=0 has to be 1 or more"),
    (dict(strategy="both"), r"strategy='both'.*single, parallel, sequential, soup, mutual"),
    (dict(order="up"), r"order='up'.*ascending, descending, given, random"),
    (dict(targets="cached"), r"targets='cached'.*live, stored"),
]


def ids(cases):
    return ["-".join(f"{k}={v}" for k, v in fields.items())[:40] for fields, _ in cases]


@pytest.mark.parametrize(
    ("fields", "message"), OF_BOTH + OF_PRETRAINING, ids=ids(OF_BOTH + OF_PRETRAINING)
)
def test_pretraining_refuses(fields, message, images, refused):
    refused(pretrain.run, pretraining(images, **fields), message)


@pytest.mark.parametrize(
    ("fields", "message"), OF_BOTH + OF_TRANSFER, ids=ids(OF_BOTH + OF_TRANSFER)
)
def test_transfer_refuses(fields, message, images, zoo, refused):
    config = transferring(images, zoo[0], zoo[1:])
    config.unlock()
    for name, value in fields.items():
        setattr(config, name, value)
    refused(transfer.run, config, message)


def test_student_may_not_teach_itself(images, zoo, refused):
    refused(transfer.run, transferring(images, zoo[0], [zoo[1], zoo[0]]), "have to differ")
    refused(transfer.run, transferring(images, zoo[0], [zoo[1], zoo[1]]), "have to differ")


def test_other_spelling_of_the_student_is_the_student(images, zoo, refused):
    refused(transfer.run, transferring(images, zoo[0], [f"{zoo[0]}/"]), "have to differ")


def test_batch_has_to_divide_by_the_devices(images, zoo, refused, monkeypatch):
    monkeypatch.setattr(parallel.jax, "device_count", lambda: 3)
    message = r"batch_size=16 does not divide by the 3 devices: 18"
    refused(pretrain.run, pretraining(images), message)
    refused(transfer.run, transferring(images, zoo[0], zoo[1:]), message)
    config = pretraining(images, batch_size=18)
    refused(pretrain.run, config, r"eval_batch_size=16 does not divide")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            CLASSES[:3],
            r"has 4 classes, 3 of them those of .*: a student has the classes of the data",
        ),
        (
            (*CLASSES[:3], "waves"),
            r"lacks 1 of the 4 classes of .*: .waves.\. config.classes=shared",
        ),
    ],
    ids=["fewer", "others"],
)
def test_models_have_to_know_the_classes(classes, message, zoo, refused, tmp_path):
    folder = make_images(tmp_path / "others", classes)
    refused(transfer.run, transferring(folder, zoo[0], zoo[1:]), message)
    refused(pretrain.run, pretraining(folder, names=(zoo[0],), head="keep"), message)


def test_images_have_to_decode(zoo, refused, tmp_path):
    folder = make_images(tmp_path / "images")
    bad = folder / "columns" / "07.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refused(pretrain.run, pretraining(folder), r"columns/07.png does not decode")
    refused(transfer.run, transferring(folder, zoo[0], zoo[1:]), r"columns/07.png does not decode")


def test_weights_have_to_fit(images, zoo, refused, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(zoo[2], folder)
    config = transferring(images, zoo[0], [folder])
    entries = safetensors_numpy.load_file(folder / weights.WEIGHTS)
    entries["params/head/bias"] = np.zeros(9, np.float32)
    entries["params/extra"] = entries.pop("params/fc_0/bias")
    safetensors_numpy.save_file(entries, folder / weights.WEIGHTS)
    message = r"(?s)missing params/fc_0/bias.*unexpected params/extra.*misshapen params/head/bias"
    refused(transfer.run, config, message)
    (folder / weights.WEIGHTS).write_bytes(b"not a model")
    refused(transfer.run, config, "not a whole safetensors file")


def test_workdir_has_to_be_a_folder(images, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"{workdir}' cannot be used"):
            pretrain.run(pretraining(images), workdir)
    assert (tmp_path / "file").read_text() == "in the way"


# The command line.


def test_command_line(images, cached, tmp_path):
    config = f"configs/pretrain.py:model=tiny_mlp_narrow,data=folder:{images},runlocal"
    steps = ("--config.total_epochs=None", "--config.total_steps=3")
    done = launch(
        f"--config={config}", f"--workdir={tmp_path}", "--config.seed=3", *steps, **cached
    )
    assert done.returncode == 0, done.stderr
    assert "tiny_mlp_narrow" in done.stdout and str(tmp_path / "report.html") in done.stdout
    results = read(tmp_path)
    assert results["runs"][0]["seed"] == results["config"]["seed"] == 3
    assert results["runs"][0]["history"][-1]["step"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian.py", "--config.seed=1"], "no config file 'configs/pretrian.py' in "),
        (["pretrain.py:data=glyphz"], "No data set 'glyphz'. Known: glyphs"),
        (["pretrain.py:dataa=glyphs"], "Unknown config argument 'dataa'. Known: data, model"),
        (["pretrain.py", "--config.lrr=1"], "the config has no field 'lrr'. Nearest: "),
        (
            ["pretrain.py", "--config.batchsize", "1"],
            "the config has no field 'batchsize'. Nearest: batch_size, eval_batch_size, ",
        ),
        (
            ["transfer.py", "--config.objectives.kl_dp.topk=1"],
            "config.objectives.kl_dp has no field 'topk'. Nearest: objectives.kl_dp.top_k, "
            "objectives.kl_dp.top_k_of, ",
        ),
        (
            ["transfer.py", "--config.learning_rate=1"],
            "the config has no field 'learning_rate'. Nearest: objectives.kl_dp.learning_rate, "
            "objectives.kl_pool.learning_rate, learning_rates.\n",
        ),
        (["pretrain.py", "--config.batch_size=big"], "flag --config.batch_size=big"),
        (["pretrain.py", "--config.batch_size=None"], "config.batch_size has to have a value"),
        (["pretrain.py", "--config.lrr=None"], "the config has no field 'lrr'. Nearest: "),
    ],
)
def test_command_line_error_is_a_sentence(arguments, message, tmp_path):
    workdir = tmp_path / "workdir"
    config, *others = arguments
    done = launch("--config", f"configs/{config}", *others, f"--workdir={workdir}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"ktjax: {message}")
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=pretrain:data=glyphz"], "No data set 'glyphz'"),
        (["--config=transfer", "--config.eval_data=folder:/nowhere"], "No folder '/nowhere'"),
        (["--config=transfer", "--config.batch_size=-1"], "config.batch_size=-1 has to be 1"),
        (["--config=transfer", "--config.job=tranfer"], "config.job='tranfer' is not known"),
        (["--config=transfer", "--config.batchsize=1"], "the config has no field 'batchsize'"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(words, message, python):
    code = (
        "import sys; from ktjax import main\n"
        f"sys.argv = ['ktjax', '--workdir=/nowhere', *{words}]\n"
        "try: main.cli()\n"
        "except SystemExit as end: print(f'{end.code}|', 'jax' in sys.modules)"
    )
    told, heavy = " ".join(python(code)).split("|")
    assert told.startswith(f"ktjax: {message}") and heavy == " False"


def test_console_script_has_help():
    script = "import sys; sys.argv = ['bin/ktjax', '--help']; from ktjax import main; main.cli()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "--workdir: " in done.stdout and "--[no]overwrite: " in done.stdout


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
