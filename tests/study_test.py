"""Studies through the front door: what is run, once; what of it stays; and the table."""

import collections
import contextlib
import csv
import errno
import importlib.util
import json
import multiprocessing
import os
import shutil
import types
from pathlib import Path

import jax
import pytest
import small_jobs
from controls_test import make_run
from safetensors import numpy as safetensors_numpy
from small_jobs import KilledError, kill_at, load_config, read, studying, without_seconds

from ktjax import files, paths
from ktjax.checkpoint import Checkpoints, Unwritten
from ktjax.experiment import evaluation, lease, room, training
from ktjax.experiment.shared import Shared
from ktjax.jobs import study, transfer
from ktjax.jobs.study import in_processes, job, on_ray, plan, work
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.transfer import setup
from ktjax.models.checkpoints import hub, weights
from ktjax.report import tables
from ktjax.settings.study import Study
from ktjax.targets import store

pytestmark = pytest.mark.usefixtures("compile_once")

ARG = "objectives=kl_dp+xe,controls=xe"
LONG = ((training, "fit"), (setup, "make_recipe"), (store, "write_rows"))


@pytest.fixture(scope="module")
def config(noisy, quartet):
    """Two students, two teachers; xe is an objective, and the only control."""
    student, narrow, weak, wide = quartet
    return studying(noisy, (student, narrow), (weak, wide), arg=ARG, keep="all")


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """(workdir, results, how often what takes long was made)."""
    workdir, made = tmp_path_factory.mktemp("whole"), collections.Counter()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in LONG:
            count(patch, owner, name, made)
        return workdir, study.run(config, workdir), made


def count(patch, owner, name, made):
    work = getattr(owner, name)

    def counted(*arguments, **options):
        made[name] += 1
        return work(*arguments, **options)

    patch.setattr(owner, name, counted)


def trained_by(monkeypatch, config, workdir, **options):
    """How many runs a start trains, and what it finds."""
    made = collections.Counter()
    with monkeypatch.context() as patch:
        count(patch, training, "fit", made)
        results = study.run(config, workdir, **options)
    return made["fit"], results


def table(workdir):
    with (workdir / "pairs.csv").open() as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def students(workdir):
    """The bits of every student below a workdir."""
    return {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob(weights.WEIGHTS)}


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.unlock()
    config.update(fields)
    return config


def check_same(found, expected):
    assert table(found) == table(expected)
    assert students(found) == students(expected)
    assert without_seconds(read(found)["rows"]) == without_seconds(read(expected)["rows"])
    left = [p.name for p in (found / "runs").rglob("*") if "@" in p.name or p.name == "checkpoints"]
    assert not left


def test_a_row_for_every_run(whole, quartet):
    workdir, results, _ = whole
    student, narrow, weak, wide = quartet
    asked = [
        (learner, teacher, objective)
        for learner in (student, narrow)
        for teacher, objective in (("", "xe"), (weak, "kl_dp"), (wide, "kl_dp"))
    ]
    found = table(workdir)
    assert [(row["student"], row["teacher"], row["objective"]) for row in found] == asked
    assert {(row["seed"], row["status"], row["error"]) for row in found} == {("1", "done", "")}
    for row, kept in zip(found, results["rows"], strict=True):
        for name, text in row.items():
            assert text == ("" if kept[name] is None else str(kept[name]))
    assert results == read(workdir)
    assert set(results["success"]) == {"kl_dp"}
    assert "Success rate (median over 2 students): kl_dp" in tables.as_text(results)
    assert (workdir / "report.html").exists() and (workdir / "figures" / "pairs.png").exists()
    assert "process 0 of 1" in (workdir / "logs" / "process-0.log").read_text()


def test_each_thing_is_made_once(whole):
    """A step for each student and objective, six trainings; and what four models say: of two views,
    of tune and of validation.
    """
    assert whole[2] == {"fit": 6, "make_recipe": 4, "write_rows": 4 * 4}


def test_pairs_refer_to_the_control_that_tune_chose(whole):
    _, results, _ = whole
    for student in {row["student"] for row in results["rows"]}:
        own = [row for row in results["rows"] if row["student"] == student]
        (alone,) = (row for row in own if row["teacher"] is None)
        chosen = results["chosen"][student]
        assert chosen in ("none", "xe")
        expected = alone["delta"] if chosen == "xe" else 0.0
        for row in own:
            if row["teacher"] is None:
                assert row["control"] is row["net"] is None
            else:
                assert row["control"] == chosen
                assert row["net"] == pytest.approx(row["delta"] - expected)


def test_a_run_is_the_transfer_by_itself(whole, config, tmp_path):
    workdir, _, _ = whole
    settings = Study.read(config)
    run = plan.plan(settings, labeled=True)[1]
    transfer.execute(plan.transfer_of(settings, run), tmp_path)
    assert (tmp_path / "report.html").exists()
    assert students(tmp_path) == students(workdir / run.folder)
    assert without_seconds(read(tmp_path)["runs"]) == without_seconds(
        read(workdir / run.folder)["runs"]
    )


def test_a_store_may_teach(whole, noisy, quartet, tmp_path):
    """The one that the study made: the student learns the same of it as of the model."""
    workdir, results, _ = whole
    (folder,) = (workdir / files.STORE).glob("wide-*")
    config = studying(noisy, quartet[:1], (f"store:{folder}",), keep="all")
    (_, taught) = study.run(config, tmp_path)["rows"]
    assert taught["teacher"] == f"store:{folder}"
    assert taught["after"] == results["rows"][2]["after"]
    (found,) = (bits for path, bits in students(tmp_path).items() if "no_teacher" not in path)
    assert found in students(workdir).values()


def test_finished_before(whole, config, monkeypatch, capsys):
    trained, results = trained_by(monkeypatch, config, whole[0])
    assert trained == 0 and results["rows"] == whole[1]["rows"]
    assert "Success rate" in capsys.readouterr().out


def test_lists_may_grow(whole, config, monkeypatch, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "workdir")
    before = table(workdir)
    more = changed(config, seeds=(1, 2), students=config.students[:1])
    trained, results = trained_by(monkeypatch, more, workdir)
    assert trained == 3
    found = table(workdir)
    assert len(found) == 9
    # The other student is still there, with the control that it had.
    assert [row for row in found if row["seed"] == "1"] == before
    assert results["config"]["students"] == list(config.students)
    assert {pair["runs"] for pair in results["pairs"]} == {1, 2}
    trained, _ = trained_by(monkeypatch, config, workdir)
    assert trained == 0 and table(workdir) == found


def test_lists_may_grow_while_a_start_is_at_work(whole, config, monkeypatch, tmp_path):
    """The other start, with another student, ends first."""
    shutil.copytree(whole[0] / files.RUNS, tmp_path / files.RUNS)
    first, second = (changed(config, students=(student,)) for student in config.students)

    def another(*_, **__):
        monkeypatch.setitem(job.ENGINES, "local", lambda *_, **__: None)
        study.run(second, tmp_path)

    monkeypatch.setitem(job.ENGINES, "local", another)
    results = study.run(first, tmp_path)
    assert set(results["config"]["students"]) == set(config.students)
    assert len(table(tmp_path)) == len(table(whole[0]))


def test_an_objective_that_was_a_control_before_is_not_run_again(
    noisy, quartet, monkeypatch, tmp_path
):
    small = (noisy, quartet[:1], quartet[2:3])
    assert trained_by(monkeypatch, studying(*small), tmp_path)[0] == 2
    before = table(tmp_path)
    assert [row["objective"] for row in before] == ["xe-0.1", "kl_dp"]
    more = studying(*small, arg=ARG)
    assert trained_by(monkeypatch, more, tmp_path)[0] == 0 and table(tmp_path) == before
    # Nor where it is all that is asked for, so that nothing is compared.
    only = changed(more)
    del only.objectives.kl_dp
    assert trained_by(monkeypatch, only, tmp_path)[0] == 0 and table(tmp_path) == before
    # With another seed, too: controls are compared over all seeds.
    settings = Study.read(changed(more, seeds=(1, 2)))

    def alone():
        planned = plan.plan(settings, labeled=True, workdir=tmp_path)
        return [(run.objective, run.is_control) for run in planned if run.teacher is None]

    assert alone() == [("xe-0.1", True)] * 2
    (tmp_path / plan.plan(settings, labeled=True)[0].folder).mkdir()  # as by earlier versions
    assert alone() == [("xe", True)] * 2


def test_an_objective_with_the_name_of_another_control_is_an_error(noisy, quartet, tmp_path):
    """It was not run, and nobody said so."""
    config = studying(noisy, quartet[:1], quartet[2:3], arg=ARG)
    config.unlock()
    config.objectives.kl_dp.learning_rate = config.objectives.xe.learning_rate = 1e-5
    config.objectives["xe-1e-05"] = config.objectives.xe.copy_and_resolve_references()
    del config.objectives.xe
    assert len(plan.plan(Study.read(config), labeled=True)) == 2  # the control, by its own name
    config.objectives["xe-1e-05"].learning_rate = 0.01
    with pytest.raises(ValueError, match="'xe-1e-05', too: rename it in config.objectives"):
        study.run(config, tmp_path / "w")


def test_no_model_of_a_hub_is_asked_for_at_the_start(config, monkeypatch):
    """Each start of each shard would download all of them; one that fails would fail the study."""
    monkeypatch.setattr(hub, "download", lambda name, file: pytest.fail(f"{name} is asked for"))
    names = ("timm/resnet18.a1_in1k", "hf:timm/resnet18.a1_in1k", "hf:a/b")
    settings = Study.read(changed(config, students=names[:1], teachers=names))
    study.check(settings)
    assert job._weights(settings) == {}
    assert [teacher for _, teacher in plan.pairs(settings)] == ["hf:a/b"]


def test_other_weights_of_a_model_are_noticed(whole, config, quartet, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "workdir")
    teacher = shutil.copytree(quartet[2], tmp_path / "weak")
    more = changed(config, teachers=(str(teacher),), students=config.students[:1])
    study.run(more, workdir)
    shutil.copy(f"{quartet[3]}/model.safetensors", teacher)
    message = rf"started with other weights or answers of {teacher}, and a resumed"
    with pytest.raises(ValueError, match=message):
        study.run(changed(more, seeds=(1, 2)), workdir)
    # Once it is gone, others can still be asked for.
    shutil.rmtree(teacher)
    study.run(config, workdir)
    assert {row["teacher"] for row in table(workdir)} == {"", *config.teachers, str(teacher)}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"objectives": {"kl_dp": {"learning_rate": 0.2}}}, "objectives"),
        ({"mcl": {"kl_dp": {"tau": 0.5, "every": 1}}}, "mcl"),
    ],
)
def test_other_changes_are_refused(fields, named, whole, config):
    before = small_jobs.tree(whole[0])
    with pytest.raises(ValueError, match=f"another experiment: its config differs in {named}"):
        study.run(changed(config, **fields), whole[0])
    assert small_jobs.tree(whole[0]) == before


def test_runs_of_another_study_are_refused(whole, config, tmp_path):
    """Their folders were copied: the names are the same, whatever the settings."""
    shutil.copytree(whole[0] / files.RUNS, tmp_path / files.RUNS)
    own = study.run(changed(config, decode_threads=1, keep="none"), tmp_path)
    assert own["rows"] == whole[1]["rows"]
    shutil.copytree(tmp_path / files.RUNS, tmp_path / "other" / files.RUNS)
    message = r"runs/.*/xe-1' is of another study: its config differs in weight_decay \(.* there,"
    with pytest.raises(ValueError, match=message):
        study.run(changed(config, weight_decay=0.5), tmp_path / "other")
    # The same settings, and the images of train as they were before.
    kept = tmp_path / plan.plan(Study.read(config), labeled=True)[-1].folder / files.DATA
    seen = json.loads(kept.read_text())
    seen["images"]["train"]["contents"] = "others"
    kept.write_text(json.dumps(seen))
    with pytest.raises(ValueError, match=r"another study: it saw other images of train\. Delete"):
        study.run(changed(config, keep="none"), tmp_path)
    kept.unlink()
    with pytest.raises(ValueError, match=r"' is damaged \(.*data.json.*delete it, and the run is"):
        study.run(changed(config, keep="none"), tmp_path)


def test_how_it_is_started_is_no_part_of_it(whole, config, monkeypatch):
    fields = dict(shard="1/2", only_failed=True, lease_expiry=7.0)
    assert trained_by(monkeypatch, changed(config, **fields), whole[0])[0] == 0


@pytest.mark.parametrize("calls", [pytest.param(0, marks=pytest.mark.full), 3])
def test_interrupted(calls, whole, config, tmp_path, monkeypatch):
    """At the first checkpoint of a run, and at its second one."""
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=calls)
        with pytest.raises(KilledError):
            study.run(config, tmp_path)
    assert [p.name for p in (tmp_path / "runs").rglob("results.json")] == ["results.json"] * (
        calls // 2
    )
    with monkeypatch.context() as patch:  # and go on without room for what two models have
        patch.setattr(job, "Shared", lambda room_gb: Shared(0.0))
        study.run(config, tmp_path)
    check_same(tmp_path, whole[0])


def test_shards(whole, config, tmp_path, monkeypatch, capsys):
    counts = [trained_by(monkeypatch, changed(config, shard=f"{i}/2"), tmp_path)[0] for i in (0, 0)]
    assert counts == [3, 0] and not (tmp_path / "results.json").exists()
    assert "3 of 6 runs are left" in capsys.readouterr().out
    assert table(tmp_path) == table(whole[0])[:3]
    run = plan.plan(Study.read(config), labeled=True)[-1]
    (tmp_path / run.folder).parent.mkdir(parents=True)
    made = collections.Counter()
    with lease.take(tmp_path / run.folder, expiry=60), monkeypatch.context() as patch:
        count(patch, evaluation, "ask", made)  # while another process is at a run
        assert trained_by(monkeypatch, changed(config, shard="1/2"), tmp_path)[0] == 2
    assert made["ask"] == 2 + 1  # the second student before it; the store has what teachers say
    assert trained_by(monkeypatch, config, tmp_path)[0] == 1
    check_same(tmp_path, whole[0])


def test_several_processes(whole, config, tmp_path, monkeypatch):
    assert trained_by(monkeypatch, changed(config, processes=2), tmp_path)[0] == 0  # here
    check_same(tmp_path, whole[0])


@pytest.mark.full
def test_what_one_of_several_processes_raises(config, tmp_path):
    """A file where the store is to be: nothing that a run fails by, and the next may not."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        study.run(changed(config, processes=2, store=str(tmp_path / "file")), tmp_path / "w")


def test_all_of_several_processes_killed_is_an_error(config, tmp_path, monkeypatch):
    def start(process):
        begin(process)
        process.kill()

    kind = multiprocessing.get_context("spawn").Process
    begin = kind.start
    monkeypatch.setattr(kind, "start", start)
    with pytest.raises(ChildProcessError, match="All processes of the study were killed"):
        study.run(changed(config, processes=2), tmp_path)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (1, [(0, 1, 2, 3, 4)]),
        (2, [(0, 1), (2, 3, 4)]),
        (7, [(0,), (1,), (2,), (3,), (4,), (0,), (1,)]),
    ],
)
def test_each_process_has_its_cores(processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 3, 2, 1, 0}, raising=False)
    assert in_processes.shares(processes) == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    assert in_processes.shares(processes) == [()] * processes


def test_a_failed_run_stops_no_other(whole, config, quartet, tmp_path, monkeypatch):
    """And runs again when it is asked for."""
    broken = shutil.copytree(quartet[3], tmp_path / "wide")
    entries = safetensors_numpy.load_file(broken / weights.WEIGHTS)
    good = (broken / weights.WEIGHTS).read_bytes()
    spoiled = {name: array * float("nan") for name, array in entries.items()}
    safetensors_numpy.save_file(spoiled, broken / weights.WEIGHTS)
    mended = changed(config, teachers=(quartet[2], str(broken)))
    workdir = tmp_path / "workdir"
    results = study.run(mended, workdir)
    failed = [row for row in results["rows"] if row["status"] == "failed"]
    assert [(row["teacher"], row["delta"]) for row in failed] == [(str(broken), None)] * 2
    assert "logits that are not finite" in failed[0]["error"]
    assert "2 of 6 runs failed" in tables.as_text(results)
    (broken / weights.WEIGHTS).write_bytes(good)
    assert trained_by(monkeypatch, mended, workdir)[0] == 0
    trained, results = trained_by(monkeypatch, changed(mended, only_failed=True), workdir)
    assert trained == 2
    for row, expected in zip(results["rows"], whole[1]["rows"], strict=True):
        assert row["after"] == expected["after"] and row["status"] == "done"


def test_a_study_of_which_all_fails_has_failed(config, quartet, tmp_path):
    broken = shutil.copytree(quartet[3], tmp_path / "wide")
    entries = safetensors_numpy.load_file(broken / weights.WEIGHTS)
    spoiled = {name: array * float("nan") for name, array in entries.items()}
    safetensors_numpy.save_file(spoiled, broken / weights.WEIGHTS)
    of_it = changed(config, students=quartet[:1], teachers=(str(broken),))
    with of_it.unlocked():
        del of_it.objectives.xe
    with pytest.raises(ValueError, match=r"All 1 transfers failed; the first one: Value.*finite"):
        study.run(of_it, tmp_path / "workdir")
    assert (tmp_path / "workdir" / "report.html").exists()


def test_models_where_none_are_named():
    """Of other data than glyphs students have to be, and teach each other."""
    named = Study.read(load_config("study", "students=a+b,data=folder:/"))
    assert named.teachers == named.students == ("a", "b")
    for config in (
        load_config("study", "data=glyphs_few"),
        load_config("study", "", data="glyphs"),
    ):
        found = Study.read(config)
        assert found.teachers == found.students == ("zoo:glyphs",)
    for config in (
        load_config("study", "data=folder:/"),
        load_config("study", "", data="folder:/"),
    ):
        with pytest.raises(ValueError, match="config.students: name the models of 'folder:/'"):
            job.check(Study.read(config))


def test_room_for_all_answers_is_checked_first(config, tmp_path, monkeypatch, capsys):
    """Else every run would fail once the disk is full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5000))
    (tmp_path / "store" / "of-another").mkdir(parents=True)
    (tmp_path / "store" / "of-another" / "view-00000.npy").write_bytes(bytes(10**6))
    with pytest.raises(ValueError, match=r"/store' would take 0.00 GB more, and 0.00 GB are free"):
        study.run(config, tmp_path)
    assert "Answers of 4 models, stored once for all runs in" in capsys.readouterr().out
    assert not list((tmp_path / "runs").rglob("*"))


def test_only_answers_of_the_study_itself_are_counted(whole, config, noisy, monkeypatch):
    settings = Study.read(changed(config, store=str(whole[0] / files.STORE)))

    def stored(settings, used):
        asked = settings.transfer(used[0], (), settings.objectives, seeds=settings.seeds, mcl={})
        train = transfer.load_data(asked, Shared()).dataset.train
        return room.stored_bytes(asked, train, used)

    arrays = list((whole[0] / files.STORE).glob("*/*.npy"))  # of views, tune and validation
    names = (*settings.students, *settings.teachers)
    assert stored(settings, names) == sum(path.stat().st_size for path in arrays) > 0
    assert 0 < stored(settings, names[:1]) < stored(settings, names)
    for other in (
        dict(seeds=(2,)),
        dict(augment="weak"),
        dict(max_examples=20),
        dict(store_top_k=2),
    ):
        assert stored(Study.read(changed(config, store=settings.store, **other)), names) == 0
    of_some_skipped = Study.read(changed(config, store=settings.store, on_bad_image="skip"))
    assert stored(of_some_skipped, names) == stored(settings, names)


@pytest.mark.parametrize("only_failed", [False, True])
def test_what_another_has_done_meanwhile_is_left(only_failed, whole, config, tmp_path, monkeypatch):
    """Between the look at a run and its lease."""
    settings = Study.read(changed(config, only_failed=only_failed))
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)
    if only_failed:
        (tmp_path / run.folder).mkdir(parents=True)
        (tmp_path / run.folder / "error.json").write_text('{"error": "no memory"}')
    failed, take = work.failures(runs, [run]), runs.take

    def take_late(run):
        shutil.rmtree(tmp_path / run.folder, ignore_errors=True)
        shutil.copytree(whole[0] / run.folder, tmp_path / run.folder)
        return take(run)

    monkeypatch.setattr(runs, "take", take_late)
    monkeypatch.setattr(runs, "do", lambda *_: pytest.fail("it is done again"))
    work.work(settings, runs, [run], failed=failed, shared=Shared(), wait=True)
    assert runs.has_found(run)


def test_what_fails_again_is_not_repeated_by_each_process(config, tmp_path, monkeypatch):
    """A process may start when another has already repeated a run, in vain."""
    settings = Study.read(changed(config, only_failed=True))
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)
    (tmp_path / run.folder).mkdir(parents=True)
    error = tmp_path / run.folder / "error.json"
    error.write_text('{"error": "no memory"}')
    os.utime(error, (0, 0))
    failed = work.failures(runs, [run])
    again = []

    def do(run, *_):
        again.append(run)
        error.write_text('{"error": "no memory"}')
        return True

    monkeypatch.setattr(runs, "do", do)
    for _ in range(2):
        work.work(settings, runs, [run], failed=failed, shared=Shared(), wait=True)
    assert again == [run]


def test_an_error_is_over_once_the_run_is_finished(whole, config, tmp_path):
    """A process was killed between writing it and moving the folder; the next one went on there."""
    settings = Study.read(config)
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)
    shutil.copytree(whole[0] / run.folder, tmp_path / run.folder)
    (tmp_path / run.folder / "error.json").write_text('{"error": "FloatingPointError: at step 1"}')
    assert runs.has_found(run) and runs.failure(run) is None and not runs.diverged(run)
    (tmp_path / run.folder / files.RESULTS).unlink()
    runs = Runs(tmp_path, settings)  # what is finished stays so for who has seen it
    assert runs.diverged(run) and runs.failure(run) is not None


def test_who_was_only_asleep_gives_nothing_away(whole, config, tmp_path):
    """Another has taken its run over, and done it."""
    settings = Study.read(config)
    run = plan.plan(settings, labeled=True)[0]
    done, runs = Runs(whole[0], settings), Runs(tmp_path, settings)
    with runs.take(run) as sleeper:
        os.utime(sleeper.file, (0, 0))
        with runs.take(run) as living:
            shutil.copytree(done.workdir / run.folder, lease.enter(living), dirs_exist_ok=True)
            os.rename(living.place, tmp_path / run.folder)
        before = small_jobs.tree(tmp_path)
        assert not runs.do(run, plan.transfer_of(settings, run), sleeper, Shared())
    assert small_jobs.tree(tmp_path) == before


@pytest.mark.parametrize(("keep", "kept"), [("all", 6), ("best", 2), ("none", 0)])
def test_students_are_kept_as_asked(keep, kept, whole, config, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole[0], tmp_path / "workdir")
    trained_by(monkeypatch, changed(config, keep=keep), workdir)
    assert len(students(workdir)) == kept


def test_the_best_is_that_of_tune(config, tmp_path, monkeypatch):
    teachers = {None: 0.9, "t1": 0.1, "t2": 0.5, "t3": 0.3}
    runs = [plan.Run("s", teacher, "kl", 1, None, False) for teacher in teachers]
    for run in runs:
        (tmp_path / run.folder / files.STUDENTS).mkdir(parents=True)
        (tmp_path / run.folder / files.RESULTS).touch()
    on_disk = Runs(tmp_path, Study.read(config))

    def found(run):
        tune = teachers[run.teacher]
        row = make_run("kl", -tune, tune=tune, tune_delta=tune)
        return types.SimpleNamespace(row=row)

    monkeypatch.setattr(on_disk, "found", found)
    on_disk.keep(runs, "best")
    kept = [run.teacher for run in runs if (tmp_path / run.folder / files.STUDENTS).exists()]
    assert kept == ["t2"]


def test_the_best_of_those_that_nobody_teaches(config, tmp_path, monkeypatch):
    runs = [plan.Run("s", None, name, 1, None, name == "self") for name in ("xe", "kl", "self")]
    for run in runs:
        (tmp_path / run.folder / files.STUDENTS).mkdir(parents=True)
        (tmp_path / run.folder / files.RESULTS).touch()
    on_disk = Runs(tmp_path, Study.read(config))

    def found(run):
        tune = {"xe": 0.1, "kl": 0.3, "self": 0.5}[run.objective]
        return types.SimpleNamespace(row=make_run(run.objective, 0.0, tune=tune, tune_delta=tune))

    monkeypatch.setattr(on_disk, "found", found)
    on_disk.keep(runs, "best")
    kept = [run.objective for run in runs if (tmp_path / run.folder / files.STUDENTS).exists()]
    assert kept == ["kl"]


def test_a_longer_study_asks_no_more_about_each_of_its_runs(tmp_path, monkeypatch):
    """A bucket takes long to answer; runs must not ask about one another."""
    settings = Study.read(load_config("study", "", keep="none"))
    asks = collections.Counter()
    for owner, name in (
        *((Path, name) for name in ("exists", "is_dir", "read_text", "unlink")),
        *((paths, name) for name in ("names", "modified", "delete")),
    ):
        count(monkeypatch, owner, name, asks)

    def asked_of_each(teachers, seeds):
        asked = [
            plan.Run(student, teacher, "kl", seed, plan.Control(None, None), False)
            for student in ("s", "u")
            for teacher in map(str, range(teachers))
            for seed in range(seeds)
        ]
        runs = Runs(tmp_path / f"{teachers}-{seeds}", settings)

        def do(run, *_):
            folder = runs.workdir / run.folder
            (folder / files.STUDENTS).mkdir(parents=True)
            if run.seed % 2:
                files.write_json(folder / "error.json", {"error": "no memory"})
            else:
                files.write_json(folder / files.RESULTS, {})
            return True

        row = make_run("kl", 0.0, accuracy_before=60.0, accuracy_after=60.0, seconds=1.0)
        monkeypatch.setattr(runs, "do", do)
        monkeypatch.setattr(runs, "take", lambda run: contextlib.nullcontext(run))
        monkeypatch.setattr(runs, "found", lambda run: types.SimpleNamespace(row=row))
        asks.clear()
        bar = work.Progress(runs, asked)
        work.work(settings, runs, asked, failed={}, wait=True, told=bar.update)
        bar.close()
        found = asks.total() / len(asked)
        assert all(map(runs.is_done, asked))
        kept = [run for run in asked if (runs.workdir / run.folder / files.STUDENTS).exists()]
        assert all(runs.error(run) for run in kept)  # `do` would have deleted these
        return found

    monkeypatch.setattr(work, "transfer_of", lambda *_: None)
    asked_of_each(teachers=1, seeds=1)  # what is imported only now is read, too
    few = asked_of_each(teachers=2, seeds=4)
    assert asked_of_each(teachers=2, seeds=24) <= few
    assert asked_of_each(teachers=12, seeds=4) <= few


@pytest.mark.parametrize("done", [True, False])
def test_who_falls_asleep_at_the_end_gives_nothing_away(done, whole, config, tmp_path, monkeypatch):
    """Right after it has seen that its lease counts another takes over, and may even be done."""
    settings = Study.read(config)
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)
    held = lease.Lease.held

    def held_just_now(self):
        monkeypatch.setattr(lease.Lease, "held", held)
        os.utime(self.file, (0, 0))
        living = awake.enter_context(runs.take(run))
        place = lease.enter(living)
        if done:
            shutil.copytree(whole[0] / run.folder, place, dirs_exist_ok=True)
            os.rename(place, tmp_path / run.folder)
        return True

    monkeypatch.setattr(transfer, "execute", lambda *_, **__: None)
    with runs.take(run) as sleeper, contextlib.ExitStack() as awake:
        monkeypatch.setattr(lease.Lease, "held", held_just_now)
        assert not runs.do(run, plan.transfer_of(settings, run), sleeper, Shared())
        assert runs.has_found(run) == done


def test_who_loses_its_folder_in_the_middle_gives_nothing_away(config, tmp_path, monkeypatch):
    """Another has taken its run over and renamed the folder: a file is not there any more."""
    settings = Study.read(config)
    run = plan.plan(settings, labeled=True)[0]
    runs = Runs(tmp_path, settings)

    def gone(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / run.folder / "config.json"))

    monkeypatch.setattr(transfer, "execute", gone)
    with runs.take(run) as sleeper:
        with pytest.raises(FileNotFoundError):  # nobody has: it is another fault
            runs.do(run, plan.transfer_of(settings, run), sleeper, Shared())
        os.utime(sleeper.file, (0, 0))
        with runs.take(run):
            assert not runs.do(run, plan.transfer_of(settings, run), sleeper, Shared())


@pytest.mark.parametrize(
    "error",
    [
        *(MemoryError("full"), ImportError("no torch"), KeyError("k")),
        *(PermissionError(errno.EACCES, "no", "/models/a"), OSError(errno.EIO, "no answer")),
        jax.errors.JaxRuntimeError("INTERNAL: cuDNN has no algorithm"),  # but the device is there
    ],
)
def test_whatever_a_run_fails_by_is_kept(error, config, tmp_path, monkeypatch):
    settings = Study.read(config)
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(transfer, "execute", fails)
    with runs.take(run) as held:
        assert runs.do(run, plan.transfer_of(settings, run), held, Shared())
    assert runs.is_done(run) and runs.error(run) == f"{type(error).__name__}: {error}"


def test_a_disk_that_all_runs_write_to_ends_the_study(config, tmp_path, monkeypatch):
    settings = Study.read(changed(config, store=str(tmp_path / "store")))
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path / "workdir", settings)
    for error in (
        Unwritten("full"),  # as Orbax and TensorStore tell it: without a number or a file
        OSError(errno.ENOSPC, "full", "/models/a"),
        OSError(errno.EIO, "no answer", str(runs.workdir / "a")),
        OSError(errno.EIO, "no answer", "elsewhere", None, str(tmp_path / "store" / "a")),
    ):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr(transfer, "execute", fails)
        with runs.take(run) as held, pytest.raises(OSError, match=error.strerror or "full"):
            runs.do(run, plan.transfer_of(settings, run), held, Shared())
        assert not runs.is_done(run)


@pytest.mark.parametrize(("answer", "ends"), [("INTERNAL", True), ("RESOURCE_EXHAUSTED", False)])
def test_a_device_that_has_died_ends_the_study(answer, ends, config, tmp_path, monkeypatch):
    """What it leaves undone would count as done; a device that is full goes on."""
    settings = Study.read(config)
    run, runs = plan.plan(settings, labeled=True)[0], Runs(tmp_path, settings)

    def fails(*_, **__):
        raise jax.errors.JaxRuntimeError(f"{answer}: CUDA_ERROR")

    monkeypatch.setattr(transfer, "execute", fails)
    monkeypatch.setattr(jax, "block_until_ready", fails)
    told = pytest.raises(jax.errors.JaxRuntimeError, match=answer)
    with runs.take(run) as held, told if ends else contextlib.nullcontext():
        runs.do(run, plan.transfer_of(settings, run), held, Shared())
    assert runs.is_done(run) != ends


def test_refused(refused, config, quartet, noisy):
    controls = studying(noisy, quartet[:1], quartet[1:2], arg="objectives=kl_dp,controls=self_pool")
    refused(study.run, changed(controls, store_top_k=2), "self_pool.* needs all logits")
    refused(study.run, changed(config, shard="2/2"), r"shard='2/2' must be i/n")
    refused(study.run, changed(config, processes=2, engine="ray"), "only with config.engine=local")
    refused(study.run, changed(config, pairs=5), "only 4 pairs")
    refused(study.run, changed(config, teachers=("glyphs/tiny_vitt",)), "No model 'glyphs/tiny_vi")
    alone = studying(noisy, quartet[:1], quartet[:1])
    refused(study.run, alone, "nothing to run")


def test_relative_paths_are_refused_where_ray_has_other_machines(
    refused, config, quartet, noisy, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    # Ray is not needed to check paths.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ray" or find(name))
    monkeypatch.chdir(noisy.parent)
    there = os.path.relpath(quartet[3])
    fields = dict(data=f"folder:{noisy.name}", teachers=(there, quartet[2]), data_dir="data")
    relative = changed(config, engine="ray", **fields)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job.check(Study.read(relative))  # its tasks are on this machine, and start here
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    refused(study.run, relative, rf"absolute paths instead of '{there}', '{noisy.name}', 'data'\.")
    job.check(Study.read(changed(config, engine="ray")))


def test_gpus_that_no_task_of_ray_gets_are_told(config, caplog):
    settings = Study.read(config)
    on_ray._say_unused(settings, 0)
    assert not caplog.messages
    on_ray._say_unused(settings, 8)
    (said,) = caplog.messages
    assert "config.ray.gpus=0, but the cluster has 8 GPUs" in said


@pytest.mark.parametrize(
    ("gpus", "given", "fraction"),
    [(0.5, {}, "0.450"), (0.5, {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".3"}, None), (1.0, {}, None)],
)
def test_tasks_of_ray_that_share_a_gpu_share_its_memory(
    gpus, given, fraction, config, tmp_path, monkeypatch
):
    fields = Study.read(changed(config, ray=dict(cpus=1.0, gpus=gpus, retries=3))).to_json()
    found = []
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(work, "work", lambda *_, **__: found.append(dict(os.environ)))
    on_ray._student(fields, str(tmp_path), fields["students"][0], True, {}, None, None)
    assert [one.get("XLA_CLIENT_MEM_FRACTION") for one in found] == [fraction]


@pytest.mark.parametrize(("controls", "told"), [("xe+xe_self", True), ("self_pool", False)])
def test_controls_that_need_labels_are_missed_in_a_pool(
    controls, told, noisy, quartet, tmp_path, monkeypatch
):
    for i, path in enumerate(sorted(noisy.rglob("*.png"))[:32]):
        (tmp_path / "pool").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "pool" / f"{i}.png")
    monkeypatch.setitem(job.ENGINES, "local", lambda *arguments, **options: None)
    arg = f"objectives=kl_dp_unsupervised,controls={controls}"
    config = studying(tmp_path / "pool", quartet[:1], quartet[2:3], arg=arg, total_steps=2)
    study.run(changed(config, eval_data=f"folder:{noisy}"), tmp_path / "w")
    log = (tmp_path / "w" / "logs" / "process-0.log").read_text()
    assert (f"none of the controls ({controls.replace('+', ', ')}) can train" in log) == told


def test_each_teacher_is_asked_for_once_by_a_student(noisy, quartet):
    """Not objective by objective: there may be no room for all teachers at a time."""
    student, narrow, *teachers = quartet
    config = studying(noisy, (student, narrow), tuple(teachers), arg="objectives=kl+kl_dp")
    planned = plan.plan(Study.read(changed(config, seeds=(1, 2))), labeled=True)
    done = work._by_teacher(planned)
    assert len(done) == len(planned) == len({*done, *planned})
    pairs = [(run.student, run.teacher) for run in done]
    turns = [pair for pair, before in zip(pairs, [None, *pairs], strict=False) if pair != before]
    assert turns == [(one, other) for one in (student, narrow) for other in (None, *teachers)]


def test_pairs_are_drawn_by_their_names(config, quartet):
    """A drawn pair stays drawn when more of them are, whatever the order of the lists."""

    def drawn(number, names=quartet):
        settings = Study.read(changed(config, students=names, teachers=names, pairs=number))
        return set(plan.pairs(settings))

    assert len(drawn(3)) == 3 and len(drawn(None)) == 12
    assert drawn(3) < drawn(5) < drawn(None)
    assert drawn(3, names=tuple(reversed(quartet))) == drawn(3)


def test_a_student_that_is_gone_has_all_its_controls(noisy, quartet):
    """Its finished runs stay in the table: which they are, only its files would tell."""
    gone, teachers = "/gone/student", quartet[2:3]

    def alone(student):
        config = studying(noisy, (student,), teachers, arg="objectives=kl_dp,controls=xe+self")
        settings = Study.read(changed(config, batch_norm="train"))
        planned = plan.plan(settings, labeled=True)
        return {run.objective for run in planned if run.student == student and run.is_control}

    assert alone(gone) == {"xe-0.1", "self-0.1"}
    assert alone(quartet[0]) == {"xe-0.1"}  # it has no batch statistics


def test_folders_of_models():
    """Short, different, and the same whatever else there is."""
    names = ("glyphs/tiny_mlp", "timm/resnet50.a1_in1k", "hf:google/vit", "/a/b/c", "/d/b/c")
    folders = [plan.Run(name, None, "kl", 1, None, False).folder.parts[1] for name in names]
    assert folders[:3] == ["glyphs.tiny_mlp", "timm.resnet50.a1_in1k", "hf.google.vit"]
    assert len(set(folders)) == 5 and all(name.startswith("b.c-") for name in folders[3:])
