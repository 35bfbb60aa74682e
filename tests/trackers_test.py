"""Services that track runs, offline, read back by what they bring themselves."""

import json
import os
import struct
import sys
from pathlib import Path

import kill
import pytest
from small_jobs import ROOT, launch, read
from writer_test import lines, steps_of, write

from ktjax import trackers, writer

LOGGED = {2: 0.5, 4: 1.0, 6: 1.5}  # step -> train/loss, as `write` does


@pytest.fixture
def follow():
    yield trackers.follow
    trackers.follow(None)


class Fake:
    log_of: dict

    def __init__(self, workdir, run, folder):
        self.link, self.log_of = f"here://{run}", {}
        Fake.last = self

    def log(self, step, metrics):
        self.log_of[step] = metrics["train/loss"]

    def close(self):
        self.closed = True


def test_what_is_written_is_tracked(follow, monkeypatch, tmp_path):
    monkeypatch.setitem(trackers.TRACKERS, "json", Fake)
    write(tmp_path, "before", [2])
    assert writer.tracked(tmp_path) == {}
    follow("json")
    write(tmp_path, "one", [2, 4, 6])
    assert Fake.last.log_of == LOGGED and Fake.last.closed
    write(tmp_path, "two", [2])
    assert writer.tracked(tmp_path) == {"one": "here://one", "two": "here://two"}
    assert steps_of(tmp_path, "one") == [2, 4, 6] and len(lines(tmp_path)) == 5


def test_who_is_not_there(follow):
    with pytest.raises(ValueError, match="--tracker=tensorbored is not known. Known: wandb, "):
        follow("tensorbored")
    if "wandb" not in sys.modules and trackers.importlib.util.find_spec("wandb") is None:
        with pytest.raises(ValueError, match=r"needs wandb: pip install 'ktjax\[wandb\]'"):
            follow("wandb")


def leveldb(content):
    """The records of a log as wandb writes it: blocks of 32 KiB, of which records may be parts."""
    at, record = 7, b""  # the header of the file
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.full
def test_wandb_offline(python, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    for steps, first in (([2, 4], 0), ([6], 4)):  # killed, and gone on by another process
        python(
            "import pathlib; from writer_test import write; from ktjax import trackers\n"
            "trackers.follow('wandb')\n"
            f"write(pathlib.Path({str(tmp_path)!r}), 'one', {steps}, first_step={first})\n"
            "print('written')"
        )
    found = {}
    files = sorted(tmp_path.rglob("*.wandb"))
    assert len(files) == 2 and len({path.name for path in files}) == 1  # one run
    for path in files:
        for data in leveldb(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                told = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                found[told["_step"]] = told["train/loss"]
    assert found == LOGGED
    assert os.path.isdir(writer.tracked(tmp_path)["one"])


@pytest.mark.full
def test_a_job_that_is_tracked(images, zoo, cached, tmp_path):
    pytest.importorskip("wandb")
    arguments = [*kill.transfer(images, zoo[1], zoo[2]), "--config.total_epochs=2.0"]
    told = [f"--workdir={tmp_path}", "--tracker=wandb"]
    done = launch(*arguments, *told, WANDB_MODE="offline", **cached)
    assert done.returncode == 0, done.stderr
    ((run, link),) = read(tmp_path)["tracked"].items()
    assert run == read(tmp_path)["runs"][0]["run"] and list(Path(link).glob("*.wandb"))
    assert "Already finished." in launch(*arguments, f"--workdir={tmp_path}", **cached).stdout


@pytest.mark.full
def test_mlflow_on_disk(follow, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    follow("mlflow")
    write(tmp_path, "one", [2, 4])
    write(tmp_path, "one", [6], first_step=4)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(trackers.PROJECT).experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert {one.step: one.value for one in history} == LOGGED
    assert writer.tracked(tmp_path)["one"].endswith(run.info.run_id)


@pytest.mark.full
def test_trackio(follow, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # it looks when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    follow("trackio")
    write(tmp_path, "one", [2, 4])
    write(tmp_path, "one", [6], first_step=4)
    (run,) = SQLiteStorage.get_runs(trackers.PROJECT)
    logged = SQLiteStorage.get_logs(trackers.PROJECT, run)
    assert {line["step"]: line["train/loss"] for line in logged} == LOGGED
    assert writer.tracked(tmp_path)["one"] == "trackio show --project ktjax"
