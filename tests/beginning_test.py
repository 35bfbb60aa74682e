"""What a run begins with has to be there when it goes on, and be the same in all processes."""

import hashlib
import json
import os
import shutil

import complementarity_test
import numpy as np
import pytest
from small_jobs import (
    KilledError,
    check_same,
    kill_at,
    load_config,
    pretraining,
    read,
    transferring,
    tree,
)

from ktjax import data, files, parallel
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import beginning, inputs, lease
from ktjax.experiment import workdir as workdir_lib
from ktjax.jobs import complementarity, convergence, pretrain, transfer
from ktjax.jobs.study import job
from ktjax.settings.study import Study
from ktjax.settings.transfer import Transfer

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def folder(images, tmp_path):
    return shutil.copytree(images, tmp_path / "images")


def seen(folder):
    return beginning.seen(data.load(f"folder:{folder}"), {"student": "ab12"})


def rename(folder):
    (folder / "rows" / "03.png").rename(folder / "rows" / "03a.png")


def swap(folder):
    for name, other in (("rows", "x"), ("columns", "rows"), ("x", "columns")):
        (folder / name).rename(folder / other)


def edit(folder):
    """One byte of one image, of which the size stays."""
    path = folder / "rows" / "03.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def grow(folder):
    with (folder / "rows" / "03.png").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename, "other names"),
        (swap, "other (sizes and )?contents"),
        (edit, "other contents"),
        (grow, "other sizes and contents"),
    ],
)
def test_other_images_are_noticed(change, told, folder, tmp_path):
    beginning.note(tmp_path, seen(folder))
    beginning.check(tmp_path, "mine", seen(folder))
    change(folder)
    message = rf"was started on other images of 'mine' \(\w+ had {told}"
    with pytest.raises(ValueError, match=message):
        beginning.check(tmp_path, "mine", seen(folder))


def test_a_fingerprint_follows_a_selection(folder):
    train = data.load(f"folder:{folder}").train
    taken = train.select(np.arange(5))
    assert taken.fingerprint != train.select(np.arange(1, 6)).fingerprint
    assert taken.fingerprint == train.take(len(train)).select(np.arange(5)).fingerprint
    assert "sizes" in taken.fingerprint and "contents" in taken.fingerprint


def test_other_images_of_the_decision_are_noticed(folder, tmp_path):
    found = data.load(f"folder:{folder}")

    def with_accept(count):
        return beginning.seen(found, {}, found.tune.take(count))

    beginning.note(tmp_path, with_accept(4))
    beginning.check(tmp_path, "mine", with_accept(4))
    with pytest.raises(ValueError, match=r"other images of 'mine' \(accept had 4 and has 3\)"):
        beginning.check(tmp_path, "mine", with_accept(3))


def test_a_study_notices_other_images_of_its_decisions(folder, tmp_path):
    settings = Study.read(load_config("study", f"students=a+b,data=folder:{folder}"))
    loaded = inputs.Loaded(data.load(f"folder:{folder}"))

    def claim(count):
        decide = loaded.dataset.tune.take(count)
        job.claim(tmp_path, settings, loaded._replace(accept=decide), overwrite=False)

    job.claim(tmp_path, settings, loaded, overwrite=False)  # as studies did at first
    claim(4)
    claim(4)
    with pytest.raises(ValueError, match=r"other images of .*\(accept had 4 and has 3\)"):
        claim(3)


def test_pretrained_weights_are_noticed(images, zoo, tmp_path, monkeypatch):
    """A model that is trained further, and was another when the run began."""
    model = shutil.copytree(zoo[0], tmp_path / "model")
    config = pretraining(images, names=(str(model),))
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            pretrain.run(config, tmp_path / "workdir")
    description = files.read_json(tmp_path / "workdir" / files.DATA)
    description["models"] = {str(model): "cd34"}
    files.write_json(tmp_path / "workdir" / files.DATA, description)
    with pytest.raises(
        ValueError, match=f"started with other weights or answers of {model}, and a resumed"
    ):
        pretrain.run(config, tmp_path / "workdir")


def test_other_weights_are_noticed(folder, tmp_path):
    found = seen(folder)
    beginning.note(tmp_path, found)
    with pytest.raises(
        ValueError, match="with other weights or answers of student, and a resumed run"
    ):
        beginning.check(tmp_path, "mine", found | {"models": {"student": "cd34"}})


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", '{"images": 5, "models": {}}', '{"images": {"train": 1}}', "{"]
)
def test_what_is_not_as_it_was_written_is_told(content, folder, tmp_path):
    (tmp_path / files.DATA).write_text(content)
    with pytest.raises(ValueError, match=r"data.json' is (not as ktjax writes it|not valid JSON)"):
        beginning.check(tmp_path, "mine", seen(folder))


def test_processes_that_differ_are_told(monkeypatch):
    config = load_config("transfer", "objectives=kl_dp")
    settings, found = Transfer.read(config), {"images": {"train": {"names": "a1"}}, "models": {}}
    config.objectives.kl_dp.learning_rate = 0.5
    other = Transfer.read(config)

    def check(**theirs):
        def told_by_all(mine):
            return [mine, json.dumps(json.loads(mine) | theirs)]

        monkeypatch.setattr(parallel, "told_by_all", told_by_all)
        beginning.check_processes(settings, found)

    check()
    for theirs, told in (
        ({"config": other.identity()}, r"config.objectives.kl_dp.learning_rate \(None here, 0.5"),
        ({"package": {"jax": "0.1"}}, r"package\.\w"),
        ({"images": {"train": {"names": "b2"}}}, r"images.train.names \(a1 here, b2 there\)"),
        ({"models": {"A": "b2"}}, r"models.A \(None here, b2 there\)"),
    ):
        with pytest.raises(ValueError, match=rf"Process 1 was started differently .*: {told}"):
            check(**theirs)


@pytest.fixture(scope="module")
def killed(images, tmp_path_factory):
    """(images, config, workdir) of a run that was killed after its first checkpoint."""
    tmp_path = tmp_path_factory.mktemp("killed")
    folder = shutil.copytree(images, tmp_path / "images")
    config = pretraining(folder, names=("tiny_mlp_narrow",))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            pretrain.run(config, tmp_path / "workdir")
    assert not list((tmp_path / "workdir").glob("writer*"))  # it is given back
    return folder, config, tmp_path / "workdir"


@pytest.fixture
def unfinished(killed, tmp_path):
    """The same, with a workdir of one's own."""
    folder, config, workdir = killed
    return folder, config.copy_and_resolve_references(), shutil.copytree(workdir, tmp_path / "run")


@pytest.mark.parametrize(
    ("lost", "error", "message"),
    [
        ("config.json", ValueError, "holds data.json, metrics.jsonl.*no config.json shows that"),
        ("config.json for another", OSError, "the latest: it differs in config"),
        ("data.json", OSError, "None of .* the latest: it differs in images"),
    ],
)
def test_old_checkpoints_are_not_relabeled(lost, error, message, unfinished):
    """They know themselves what they are of, whatever becomes of the files that say so."""
    folder, config, workdir = unfinished
    if lost == "data.json":
        (workdir / "data.json").unlink()
        rename(folder)
    else:
        config.learning_rate = 1e-4
        said = json.loads((workdir / "config.json").read_text())
        (workdir / "config.json").unlink()
        if lost != "config.json":
            (workdir / "config.json").write_text(json.dumps(said | {"learning_rate": 1e-4}))
    with pytest.raises(error, match=message):
        pretrain.run(config, workdir)
    if lost == "data.json":
        (folder / "rows" / "03a.png").rename(folder / "rows" / "03.png")
    assert not (workdir / "results.json").exists()


def test_one_writer(unfinished):
    _, config, workdir = unfinished
    with lease.alone(workdir / files.WRITER, expiry=60):
        before = tree(workdir)
        message = f"Process {os.getpid()} on .* is working in '{workdir}': stop it first"
        with pytest.raises(ValueError, match=message):
            pretrain.run(config, workdir)
        assert {k: v for k, v in tree(workdir).items() if "writer" not in k} == {
            k: v for k, v in before.items() if "writer" not in k
        }


@pytest.mark.parametrize("job", [pretrain, transfer, convergence, complementarity])
def test_what_another_job_did_meanwhile_stays(job, pretrained, images, zoo, tmp_path, monkeypatch):
    """It began and ended after this one looked at the workdir, and before this one's first step."""
    workdir = shutil.copytree(pretrained[0], tmp_path / "workdir")
    before = tree(workdir)
    config = {
        pretrain: pretraining(images, seed=1),
        transfer: transferring(images, zoo[0], zoo[1:2]),
        convergence: load_config("convergence", f"data=folder:{images}", models=tuple(zoo[:1])),
        complementarity: complementarity_test.config_of(),
    }[job]
    monkeypatch.setattr(workdir_lib, "finished", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"belongs to another experiment.*--overwrite"):
        job.run(config, workdir)
    assert tree(workdir) == before


def test_weights_of_models_are_compared(images, quartet, noisy, tmp_path, monkeypatch):
    """A teacher that was trained on meanwhile."""
    teacher = shutil.copytree(quartet[1], tmp_path / "teacher")
    config = transferring(noisy, quartet[0], [teacher])
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            transfer.run(config, tmp_path / "workdir")
    shutil.copy(f"{quartet[0]}/model.safetensors", teacher)
    message = rf"started with other weights or answers of {teacher}, and a resumed"
    with pytest.raises(ValueError, match=message):
        transfer.run(config, tmp_path / "workdir")


def test_results_name_their_checkpoints(pretrained):
    workdir, _ = pretrained
    for row in read(workdir)["runs"]:
        step = row["history"][-1]["step"]
        assert row["checkpoint"]["path"] == f"checkpoints/{row['run']}/{step}"
        record = json.loads((workdir / row["checkpoint"]["path"] / "record/metadata").read_text())
        arrays = json.dumps(record["arrays"], sort_keys=True).encode()
        assert row["checkpoint"]["digest"] == hashlib.sha256(arrays).hexdigest()


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


@pytest.mark.full  # checkpoint_test.py restores what was damaged so, and trains nothing
def test_a_flipped_byte_changes_no_result(images, tmp_path):
    """At every tenth of the latest checkpoint of a run that was killed: what comes is the same."""
    fields = dict(total_steps=8, eval_every_steps=2)
    config = pretraining(images, names=("tiny_mlp_narrow",), **fields)
    pretrain.run(config, tmp_path / "undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=3)
        with pytest.raises(KilledError):
            pretrain.run(config, tmp_path / "killed")
    (latest,) = (tmp_path / "killed" / "checkpoints").glob("*/6")
    paths = [path for path in sorted(latest.rglob("*")) if path.is_file() and path.stat().st_size]
    ends = np.cumsum([path.stat().st_size for path in paths])
    gone_back = 0
    for tenth, place in enumerate(np.linspace(0, ends[-1] - 1, 11).astype(int)):
        run = shutil.copytree(tmp_path / "killed", tmp_path / f"run-{tenth}")
        i = int(np.searchsorted(ends, place, side="right"))
        at = int(place - ends[i])  # from the end of the file
        flipped(run / paths[i].relative_to(tmp_path / "killed"), at)
        pretrain.run(config, run)
        gone_back += bool(list(run.glob("checkpoints/*/unreadable-6")))
        check_same(run, tmp_path / "undisturbed")
    assert gone_back > 5
