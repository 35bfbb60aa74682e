"""Controls through the front door: run once, chosen on tune, subtracted on validation."""

import dataclasses

import numpy as np
import pytest
import small_jobs
from small_jobs import KilledError, accuracy_of, check_same, kill_at, lines, read, transferring

import ktjax
from ktjax import data
from ktjax.analysis import controls
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import training
from ktjax.jobs import transfer
from ktjax.report import tables

pytestmark = pytest.mark.usefixtures("compile_once")

ARG = "objectives=kl+kl_dp,controls=xe+xe_self+self"


def asks(images, names, *, rates=(0.1, 0.1), arg=ARG, **fields):
    config = transferring(images, names[0], names[1:], arg=arg, **fields)
    for entry, rate in zip(config.objectives.values(), rates, strict=False):
        entry.learning_rate = rate
    return config


def names_of(results):
    return [row["run"] for row in results["controls"]]


@pytest.fixture(scope="module")
def several(noisy, quartet, tmp_path_factory):
    """(config, workdir, results, runs that trained): two teachers, two rates and two seeds.

    `self` is asked for, and has nothing to learn from frozen statistics.
    """
    workdir = tmp_path_factory.mktemp("several")
    arg = "objectives=kl+kl_dp,controls=xe+self"
    fields = dict(arg=arg, seeds=(1, 2), targets="stored")
    config = asks(noisy, quartet[:3], rates=(0.1, 0.3), **fields)
    trained, fit = [], training.fit

    def watched(*arguments, **options):
        trained.append(options["run"])
        return fit(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", watched)
        return config, workdir, transfer.run(config, workdir), trained


def test_a_control_is_run_once_for_all_teachers_and_objectives(several, quartet):
    _, workdir, results, trained = several
    expected = [f"xe-{rate}-{seed}" for seed in (1, 2) for rate in (0.1, 0.3)]
    assert names_of(results) == expected
    assert len(trained) == len(set(trained)) == 2 * 2 * 2 + len(expected)
    assert {row["run"] for row in results["runs"]} | set(expected) == set(trained)
    assert {line["run"] for line in lines(workdir)} == set(trained)
    for row in results["controls"]:
        assert row["teachers"] == [] and row["student"] == quartet[0]
        assert f"-{row['learning_rate']}-" in row["run"]
        assert [entry["step"] for entry in row["history"]] == [3, 6]  # as the methods
        assert row["control"] is row["net"] is row["net_se"] is None
    rates = {row["objective"]: row["learning_rate"] for row in results["runs"]}
    assert rates == {"kl": 0.1, "kl_dp": 0.3}


def correct_after(workdir, run, split):
    model = ktjax.load_model(str(workdir / "students" / run))
    return small_jobs.logits_of(model, split).argmax(axis=1) == split.label_N


def test_net_of_the_students_that_came_out(several, noisy):
    _, workdir, results, _ = several
    mean = {}
    for row in results["controls"]:
        mean.setdefault(row["objective"], []).append(row["history"][-1]["tune"]["delta"])
    best = max(mean, key=lambda name: np.mean(mean[name]))
    chosen = best if np.mean(mean[best]) > 0 else controls.NONE
    assert {row["control"] for row in results["runs"]} == {chosen}
    split = small_jobs.splits(noisy).validation
    for row in results["runs"]:
        before = row["accuracy_before"]
        if chosen == controls.NONE:
            assert (row["net"], row["net_se"]) == (row["delta"], row["delta_se"])
            continue
        alone_N = correct_after(workdir, f"{chosen}-{row['seed']}", split)
        after_N = correct_after(workdir, row["run"], split)
        assert row["net"] == pytest.approx(100 * (after_N.mean() - alone_N.mean()))
        assert row["net"] == pytest.approx(row["delta"] - (100 * alone_N.mean() - before))
        error = np.std(after_N.astype(float) - alone_N) / len(after_N) ** 0.5
        assert row["net_se"] == pytest.approx(100 * error)


def test_outcomes_stand_in_the_results(several):
    _, workdir, results, _ = several
    assert results == read(workdir)
    assert len(results["outcomes"]) == 4 and {o["runs"] for o in results["outcomes"]} == {2}
    for outcome in results["outcomes"]:
        key = ("student", "teachers", "objective")
        same = [r for r in results["runs"] if [r[k] for k in key] == [outcome[k] for k in key]]
        assert outcome["net"] == pytest.approx(np.mean([row["net"] for row in same]))
        assert outcome["delta"] == pytest.approx(np.mean([row["delta"] for row in same]))
    of_kl = [o["net"] for o in results["outcomes"] if o["objective"] == "kl"]
    assert results["objectives"]["kl"]["mean_net"] == pytest.approx(np.mean(of_kl))


@pytest.mark.full
def test_killed_in_a_control(several, tmp_path, monkeypatch):
    """In the second of a seed, whose 4 transfers and 2 controls save twice each."""
    config, workdir, *_ = several
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=11)
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path)
    begun = [p.name for p in (tmp_path / "checkpoints").glob("xe*") if any(p.iterdir())]
    assert sorted(begun) == ["xe-0.1-1", "xe-0.3-1"]
    transfer.run(config, tmp_path)
    check_same(tmp_path, workdir)


def test_self_is_run_where_statistics_move(noisy, quartet, images, zoo, tmp_path):
    config = asks(images, zoo[1::-1], arg="objectives=kl,controls=self", batch_norm="train")
    results = transfer.run(config, tmp_path / "1")
    assert names_of(results) == ["self-0.1-1"]  # of a student with BatchNorm
    config = asks(noisy, quartet[:2], arg="objectives=kl,controls=xe+self", batch_norm="train")
    assert names_of(transfer.run(config, tmp_path / "2")) == ["xe-0.1-1"]


def test_without_labels_net_may_be_unknown(noisy, quartet, images, zoo, tmp_path, monkeypatch):
    load = data.load

    def unlabeled(name, **options):
        dataset = load(name, **options)
        hidden = np.full(len(dataset.train), -1, np.int32)
        return dataset._replace(train=dataclasses.replace(dataset.train, label_N=hidden))

    monkeypatch.setattr(data, "load", unlabeled)
    results = transfer.run(asks(noisy, quartet[:2], arg=f"{ARG},objectives=kl"), tmp_path / "1")
    (row,) = results["runs"]
    assert names_of(results) == []
    assert row["control"] is row["net"] is row["net_se"] is None
    told = tables.as_text(results)
    assert "net " not in told and "net:" not in told and "without a teacher" not in told
    config = asks(images, zoo[1::-1], arg=f"{ARG},objectives=kl", batch_norm="train")
    assert names_of(transfer.run(config, tmp_path / "2")) == ["self-0.1-1"]


def test_no_controls_no_net(noisy, quartet, tmp_path):
    results = transfer.run(asks(noisy, quartet[:2], arg="objectives=kl,controls="), tmp_path)
    assert results["controls"] == [] and results["runs"][0]["net"] is None
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "delta ± se points" in page and "net ± se points" not in page


def test_a_sequence_is_compared_with_as_many_steps(noisy, quartet, tmp_path):
    arg = "objectives=kl_dp,controls=xe_self,strategy=sequential"
    results = transfer.run(asks(noisy, quartet[:3], arg=arg), tmp_path)
    (row,), (control,) = results["runs"], results["controls"]
    assert [entry["step"] for entry in row["history"]] == [3, 6, 9, 12]
    assert [entry["step"] for entry in control["history"]] == [3, 6, 9, 12]
    first, second = control["stages"]
    assert first["teachers"] == second["teachers"] == []
    assert first["accuracy_after"] == second["accuracy_before"]
    assert control["accuracy_after"] == second["accuracy_after"]
    student = ktjax.load_model(str(tmp_path / "students" / control["run"]))
    assert accuracy_of(student, noisy) == control["accuracy_after"]
    gained = sum(stage["history"][-1]["tune"]["delta"] for stage in control["stages"])
    assert row["control"] == ("xe_self-0.1" if gained > 0 else controls.NONE)
    assert row["net"] == pytest.approx(row["delta"] - (control["delta"] if gained > 0 else 0.0))


def test_a_soup_is_compared_with_nothing(noisy, quartet, tmp_path):
    arg = "objectives=kl_dp,controls=xe,strategy=soup"
    results = transfer.run(asks(noisy, quartet[:3], arg=arg), tmp_path)
    assert names_of(results) == ["xe-0.1-1"]
    *singles, average = results["runs"]
    assert all(row["net"] is not None for row in singles)
    assert average["net"] is average["control"] is None


def test_each_of_mutual_students_has_its_controls(noisy, quartet, tmp_path):
    arg = "strategy=mutual,controls=xe"
    results = transfer.run(asks(noisy, quartet[:2], arg=arg), tmp_path)
    assert names_of(results) == ["xe-0.1-student-1", "xe-0.1-narrow-1"]
    for row, control in zip(results["runs"], results["controls"], strict=True):
        assert row["student"] == control["student"]
        assert row["accuracy_before"] == control["accuracy_before"]
        subtracted = 0.0 if row["control"] == controls.NONE else control["delta"]
        assert row["net"] == pytest.approx(row["delta"] - subtracted)
        student = ktjax.load_model(str(tmp_path / "students" / control["run"]))
        assert accuracy_of(student, noisy) == control["accuracy_after"]
        assert student.architecture == ktjax.load_model(row["student"]).architecture


@pytest.mark.full
def test_slow_weights_of_a_method_are_those_of_its_controls(noisy, quartet, tmp_path):
    slow = {"kl": dict(tau=1 - 1e-12, every=1)}
    config = asks(noisy, quartet[:2], arg="objectives=kl,controls=xe", mcl=slow)
    (row,) = transfer.run(config, tmp_path)["controls"]
    assert row["run"].startswith("xe-0.1-mcl-0.99") and row["run"].endswith("-1-1")
    # Nothing of what was learned is exported.
    before, after = (
        ktjax.load_model(path).variables["params"]["head"]["kernel"]
        for path in (quartet[0], str(tmp_path / "students" / row["run"]))
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
