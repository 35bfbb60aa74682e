"""Several teachers through the front door; slow weights, calibration, unlabeled images."""

import dataclasses
import gc
import json
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
import small_jobs
from safetensors import numpy as safetensors_numpy
from small_jobs import KilledError, accuracy_of, check_same, kill_at, read, transferring

import ktjax
from ktjax import data, evaluate
from ktjax.analysis import decision, flips
from ktjax.checkpoint import Checkpoints
from ktjax.jobs import transfer
from ktjax.jobs.transfer import stages
from ktjax.models.checkpoints import weights
from ktjax.targets import live

pytestmark = pytest.mark.usefixtures("compile_once")


def exported(workdir, run):
    return safetensors_numpy.load_file(workdir / "students" / run / weights.WEIGHTS)


def logits_of_zoo(names, split):
    return [small_jobs.logits_of(ktjax.load_model(name), split) for name in names]


@pytest.fixture(scope="module")
def sequential(images, quartet, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sequential")
    arg = "objectives=kl_dp+xe,strategy=sequential,order=descending"
    config = transferring(images, quartet[0], quartet[1:], arg=arg, targets="stored")
    return config, workdir, transfer.run(config, workdir)


def test_a_stage_begins_where_the_one_before_ended(sequential, quartet, images):
    _, workdir, results = sequential
    taught, alone = results["runs"]
    split = small_jobs.splits(images)
    tune = {
        name: evaluate.accuracy(logits, split.tune.label_N)
        for name, logits in zip(quartet, logits_of_zoo(quartet, split.tune), strict=True)
    }
    order = sorted(quartet[1:], key=lambda name: -tune[name])
    assert taught["teachers"] == order
    assert [stage["teachers"] for stage in taught["stages"]] == [[name] for name in order]
    assert alone["teachers"] == alone["stages"] == []
    first, second, third = taught["stages"]
    assert taught["accuracy_before"] == first["accuracy_before"]
    assert first["accuracy_after"] == second["accuracy_before"]
    assert second["accuracy_after"] == third["accuracy_before"]
    assert third["accuracy_after"] == taught["accuracy_after"]
    assert sum(stage["delta"] for stage in taught["stages"]) == pytest.approx(taught["delta"])
    assert (
        accuracy_of(ktjax.load_model(str(workdir / "students" / taught["run"])), images)
        == (taught["accuracy_after"])
    )


@pytest.mark.parametrize(
    ("objectives", "steps"), [("kl_dp", "3 x 1,000"), ("kl_dp+xe", "up to 3 x 1,000")]
)
def test_the_start_counts_the_steps_of_all_stages(
    objectives, steps, images, quartet, tmp_path, monkeypatch, capsys
):
    kill_at(monkeypatch, stages, "transfer", calls=0)
    arg = f"objectives={objectives},strategy=sequential"
    config = transferring(images, quartet[0], quartet[1:], arg=arg, total_steps=1000)
    with pytest.raises(KilledError):
        transfer.run(config, tmp_path)
    assert f"and 0 controls of {steps} steps each. The" in capsys.readouterr().out


def test_one_history_of_all_stages(sequential):
    taught = sequential[2]["runs"][0]
    assert [entry["step"] for entry in taught["history"]] == [3, 6, 9, 12, 15, 18]
    assert [entry["stage"] for entry in taught["history"]] == [1, 1, 2, 2, 3, 3]
    assert taught["seconds"] == pytest.approx(sum(s["seconds"] for s in taught["stages"]))
    shares = [stage["taught"] for stage in taught["stages"]]
    assert taught["taught"] == pytest.approx(np.mean(shares))
    for stage in taught["stages"]:  # no partition was between all teachers
        assert len(stage["taught_by"]) == 1
    assert taught["taught_by"] is None


def test_two_stages_are_two_transfers(images, quartet, tmp_path):
    arg = "objectives=kl_dp,strategy=sequential"
    config = transferring(images, quartet[0], quartet[1:3], arg=arg)
    (row,) = transfer.run(config, tmp_path / "both")["runs"]
    (first,) = transfer.run(transferring(images, *quartet[:1], quartet[1:2]), tmp_path / "1")[
        "runs"
    ]
    student = tmp_path / "1" / "students" / first["run"]
    (second,) = transfer.run(transferring(images, student, quartet[2:3]), tmp_path / "2")["runs"]
    expected = exported(tmp_path / "2", second["run"])
    for name, array in exported(tmp_path / "both", row["run"]).items():
        np.testing.assert_array_equal(array, expected[name])
    assert second["accuracy_after"] == row["accuracy_after"]


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(1, id="first", marks=pytest.mark.full),
        pytest.param(3, id="second"),
        pytest.param(5, id="third", marks=pytest.mark.full),
    ],
)
def test_killed_in_a_stage(calls, sequential, tmp_path, monkeypatch):
    config, workdir, _ = sequential
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=calls)
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path)
    begun = [p.name for p in (tmp_path / "checkpoints").glob("kl_dp*/*")]
    assert len(begun) == (calls + 1) // 2  # at the right teacher
    transfer.run(config, tmp_path)
    check_same(tmp_path, workdir)


@pytest.mark.full  # state_test.py has the memory in a checkpoint, test_killed_in_a_stage the stages
def test_killed_with_a_memory_and_slow_weights(images, quartet, tmp_path, monkeypatch):
    arg = "objectives=crd,strategy=sequential"
    mcl = {"crd": dict(tau=0.5, every=2)}
    config = transferring(images, quartet[0], quartet[1:3], arg=arg, mcl=mcl)
    transfer.run(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=3)
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path / "resumed")
    transfer.run(config, tmp_path / "resumed")
    check_same(tmp_path / "resumed", tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def soup(images, zoo, quartet, tmp_path_factory):
    """Of a student with BatchNorm, whose statistics change."""
    workdir = tmp_path_factory.mktemp("soup")
    arg = "objectives=kl_dp+xe,strategy=soup"
    fields = dict(targets="stored", batch_norm="train")
    config = transferring(images, zoo[1], quartet[1:], arg=arg, **fields)
    return workdir, transfer.run(config, workdir)


def test_a_soup_is_the_mean_of_its_students(soup, quartet, images):
    workdir, results = soup
    *singles, average, alone = results["runs"]
    assert [row["teachers"] for row in singles] == [[name] for name in quartet[1:]]
    assert average["objective"] == "kl_dp soup" and average["teachers"] == quartet[1:]
    assert alone["run"] == "xe-1"  # nothing to average
    students = [exported(workdir, row["run"]) for row in singles]
    mixed = exported(workdir, average["run"])
    assert any("batch_stats" in name for name in mixed)
    for name, array in mixed.items():
        mean = np.mean([student[name] for student in students], axis=0)
        np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(students[0][name], students[1][name])
    folder = workdir / "students" / average["run"]
    assert accuracy_of(ktjax.load_model(str(folder)), images) == average["accuracy_after"]
    assert average["seconds"] == pytest.approx(sum(row["seconds"] for row in singles))
    assert "kl_dp soup" in (workdir / "report.html").read_text()


def test_statistics_of_a_soup_are_estimated_if_asked_for(images, zoo, quartet, tmp_path):
    arg = "objectives=kl,strategy=soup"
    fields = dict(targets="stored", soup_batch_norm="estimate", total_steps=1)
    config = transferring(images, zoo[1], quartet[1:3], arg=arg, **fields)
    *singles, average = transfer.run(config, tmp_path)["runs"]
    students = [exported(tmp_path, row["run"]) for row in singles]
    for name, array in exported(tmp_path, average["run"]).items():
        mean = np.mean([student[name] for student in students], axis=0)
        same = np.allclose(array, mean, rtol=1e-5, atol=1e-6)
        assert same == ("batch_stats" not in name), name
    folder = tmp_path / "students" / average["run"]
    assert accuracy_of(ktjax.load_model(str(folder)), images) == average["accuracy_after"]


@pytest.mark.parametrize("better", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_soup_abstains_unless_it_is_better(better, images, zoo, quartet, tmp_path, monkeypatch):
    """It shares its level with the decisions about its students."""
    levels = []

    def decide(was_N, is_N, label_N, *, decisions):
        levels.append(decisions)
        return better or decisions == 1

    monkeypatch.setattr(decision, "is_better", decide)
    config = transferring(
        images, zoo[1], quartet[1:3], arg="objectives=kl,strategy=soup", export="no_regret"
    )
    *singles, soup = transfer.run(config, tmp_path)["runs"]
    assert levels == [1, 1, 3] and not any(row["abstained"] for row in singles)
    assert soup["abstained"] != better
    assert soup["exported"] == ("all students together" if better else "the student before")
    assert (soup["last_delta"] is None) == better
    if not better:
        assert soup["delta"] == soup["tune_delta"] == 0
    folder = tmp_path / "students" / soup["run"]
    assert accuracy_of(ktjax.load_model(str(folder)), images) == soup["accuracy_after"]


def test_models_of_other_architectures_make_no_soup(quartet):
    student, narrow, weak, _ = map(ktjax.load_model, quartet)
    with pytest.raises(
        ValueError, match="the same architecture: .*weak is tiny_mlp, .*student is tiny_mlp_n"
    ):
        ktjax.classifier.average([weak, student])
    head = dict(narrow.variables["params"]["head"])
    head["kernel"] = head["kernel"][:, :2]
    params = dict(narrow.variables["params"]) | {"head": head}
    other = dataclasses.replace(narrow, variables={"params": params})
    with pytest.raises(ValueError, match="the same architecture"):
        ktjax.classifier.average([narrow, other])


def test_slow_weights_are_exported(images, quartet, tmp_path):
    rows, arrays = {}, {}
    for name, mcl in (
        ("plain", {}),
        ("none stays", {"kl_dp": dict(tau=0.0, every=1)}),
        ("slow", {"kl_dp": dict(tau=0.9, every=2)}),
    ):
        config = transferring(images, quartet[0], quartet[1:2], mcl=mcl, targets="stored")
        (rows[name],) = transfer.run(config, tmp_path / name)["runs"]
        arrays[name] = exported(tmp_path / name, rows[name]["run"])
    before = safetensors_numpy.load_file(Path(quartet[0]) / weights.WEIGHTS)
    distance = {
        name: sum(np.abs(found[key] - before[key]).sum() for key in before)
        for name, found in arrays.items()
    }
    assert 0 < distance["slow"] < 0.5 * distance["plain"]
    for key, array in arrays["plain"].items():
        np.testing.assert_array_equal(arrays["none stays"][key], array)
    # What was trained is the same: the fast weights.
    losses = [[entry["loss"] for entry in row["history"]] for row in rows.values()]
    assert losses[0] == losses[1] == losses[2]


def test_calibrated_partition(images, quartet, tmp_path):
    arg = "objectives=kl_dp_unsupervised,strategy=parallel"
    config = transferring(images, quartet[0], quartet[1:], arg=arg, calibrate=True)
    results = transfer.run(config, tmp_path)
    (row,) = results["runs"]
    expected = [results["models"][name]["temperature"] for name in quartet]
    assert row["temperatures"] == expected and len(set(expected)) == 4
    split = small_jobs.splits(images).validation
    scaled = [
        logits / temperature
        for logits, temperature in zip(logits_of_zoo(quartet, split), expected, strict=True)
    ]
    source_N = flips.confidence(np.stack(scaled)).argmax(axis=0)
    shares = [100 * np.mean(source_N == k) for k in (1, 2, 3)]
    assert row["taught_by"] == pytest.approx(shares)
    answer_N = np.stack(scaled)[source_N, np.arange(len(source_N))].argmax(axis=1)
    line = pytest.approx(100 * np.mean(answer_N == split.label_N))
    assert row["ensemble_accuracy"] == line
    for teacher, pair in enumerate(results["pairs"], 1):  # the line of each teacher alone
        source_N = flips.confidence(np.stack([scaled[0], scaled[teacher]])).argmax(axis=0)
        answers_2xN = np.stack([scaled[0], scaled[teacher]]).argmax(axis=2)
        answer_N = answers_2xN[source_N, np.arange(len(source_N))]
        expected = 100 * np.mean(answer_N == split.label_N)
        assert pair["ensemble_accuracy"] == pytest.approx(expected)
    plain = transferring(images, quartet[0], quartet[1:], arg=arg)
    (other,) = transfer.run(plain, tmp_path / "plain")["runs"]
    assert other["temperatures"] is None
    assert other["ensemble_accuracy"] != line
    assert other["history"][0]["taught"] != row["history"][0]["taught"]


def test_features_are_asked_live(images, quartet, tmp_path):
    config = transferring(images, quartet[0], quartet[1:3], arg="objectives=cd,strategy=parallel")
    (row,) = transfer.run(config, tmp_path)["runs"]
    assert row["taught"] == pytest.approx(100)
    assert row["teachers"] == quartet[1:3]


def test_live_teachers_make_room_for_the_next(images, quartet, tmp_path, monkeypatch):
    placed, alive, place = [], [], live.frozen_variables

    def watched(model, **options):
        gc.collect()
        alive.append(sum(leaf() is not None for leaf in placed))
        frozen = place(model, **options)
        placed.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(frozen))
        return frozen

    monkeypatch.setattr(live, "frozen_variables", watched)
    arg = "objectives=kl,strategy=single"
    transfer.run(transferring(images, quartet[0], quartet[1:3], arg=arg, total_steps=1), tmp_path)
    assert alive == [0, 0]


def test_stored_answers_make_room_for_the_next_seed(images, quartet, tmp_path, monkeypatch):
    """Those of a seed are made once for its transfers and its controls."""
    placed, alive, store = [], [], live.store

    def watched(*arguments, **options):
        gc.collect()
        seed = options["seed"]
        alive.append((seed, sorted({of for of, leaf in placed if leaf() is not None})))
        kept = store(*arguments, **options)
        placed.extend((seed, weakref.ref(leaf)) for leaf in jax.tree.leaves(kept))
        return kept

    monkeypatch.setattr(live, "store", watched)
    arg = "objectives=kl+kl_dp,strategy=single,controls=self"
    fields = dict(targets="stored", seeds=(1, 2), total_steps=1)
    transfer.run(transferring(images, quartet[0], quartet[1:2], arg=arg, **fields), tmp_path)
    # Of a teacher and the initial student.
    assert alive == [(1, []), (1, [1]), (2, []), (2, [2])]


def test_without_labels(images, quartet, refused, monkeypatch):
    load, splits = data.load, ["train"]

    def unlabeled(name, **options):
        dataset = load(name, **options)
        hidden = {k: getattr(dataset, k) for k in splits}
        return dataset._replace(
            **{
                k: dataclasses.replace(source, label_N=np.full(len(source), -1, np.int32))
                for k, source in hidden.items()
            }
        )

    monkeypatch.setattr(data, "load", unlabeled)

    def asks(objectives, **fields):
        return transferring(
            images, quartet[0], quartet[1:2], arg=f"objectives={objectives}", **fields
        )

    message = r"kl_dp, xe_kl cannot train: take kl_dp_unsupervised instead of kl_dp, kl instead of"
    refused(transfer.run, asks("kl+kl_dp+xe_kl"), message)
    config = asks("kl")
    config.objectives.kl.flips = ("positive",)
    message = "kl cannot train: take all flips for kl: positive, negative, neutral"
    refused(transfer.run, config, message)
    refused(transfer.run, asks("xe"), "xe cannot train: take self instead of xe")
    refused(transfer.run, asks("mutual", strategy="mutual"), "take another strategy than mutual")
    for name in ("tune", "validation"):
        splits[:] = ["train", name]
        refused(transfer.run, asks("kl"), f"has {name} images without labels")


@pytest.mark.full  # jobs_test.py has one of a plain transfer
def test_command_line(images, quartet, cached, tmp_path):
    arg = f"teachers={'+'.join(quartet[1:])},data=folder:{images},objectives=kl_dp,runlocal"
    done = small_jobs.launch(
        f"--config=configs/transfer.py:{arg},strategy=sequential,order=ascending,controls=xe",
        f"--workdir={tmp_path}",
        *("--config.image_size=12", "--config.augment=shift_colour"),
        f"--config.student={quartet[0]}",
        "--config.objectives.kl_dp.top_k=3",
        **cached,
    )
    assert done.returncode == 0, done.stderr
    assert "Teacher after teacher." in done.stdout
    results = read(tmp_path)
    assert results["config"]["objectives"]["kl_dp"]["top_k"] == 3
    assert [len(row["stages"]) for row in results["runs"]] == [3]
    assert [len(row["stages"]) for row in results["controls"]] == [3]
    assert "net ± se points" in done.stdout and "Controls of " in done.stdout
    json.dumps(results, allow_nan=False)


# On the embedded zoo, as configs_test.py runs quickstart on it.

EMBEDDED = "teachers=glyphs/tiny_mlp+glyphs/tiny_mlp_narrow+glyphs/tiny_mixer,runlocal"


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["parallel", "soup", "mutual"])
def test_embedded_zoo(strategy, tmp_path):
    arg = f"student=glyphs/tiny_resnet_narrow,{EMBEDDED},strategy={strategy},controls="
    config = small_jobs.load_config("transfer", arg, image_size=24)
    results = transfer.run(config, tmp_path)
    assert len(results["runs"]) == {"parallel": 2, "soup": 8, "mutual": 4}[strategy]
    assert "report" in {path.stem for path in tmp_path.iterdir()}
