"""Paths of disks and of buckets; jobs in a bucket. With real clients: buckets_test.py."""

import pathlib
import time
from pathlib import Path

import buckets
import pytest
from lease_test import is_taken
from small_jobs import KilledError, check_same, kill_at, studying, transferring

from ktjax import files, models, paths
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import lease
from ktjax.experiment import workdir as workdir_lib
from ktjax.jobs import study, transfer
from ktjax.models.checkpoints import weights
from ktjax.targets import store as store_lib

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return buckets.in_memory(monkeypatch)


def test_paths_of_a_disk_are_as_ever(tmp_path):
    assert paths.of("some/where") == pathlib.Path("some/where")
    assert type(paths.of(tmp_path)) is type(tmp_path)
    assert paths.local(tmp_path) is tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("az://b/run", "'az://b/run': paths must be on a disk, or begin with gs://, s3://."),
        ("gs://b/run", r"'gs://b/run' needs nothing_like_it: pip install 'ktjax\[gcs\]'."),
        (pathlib.Path("gs://b/run"), "pass a string"),
    ],
)
def test_what_is_no_path(name, told, monkeypatch, images, tmp_path):
    lacking = paths.SCHEMES["gs"]._replace(package="nothing_like_it")
    monkeypatch.setitem(paths.SCHEMES, "gs", lacking)
    with pytest.raises(ValueError, match=told):
        transfer.run(transferring(images, "a", ["b"]), name)


@pytest.mark.parametrize("field", ["data", "data_dir"])
def test_images_lie_on_disks(field, images, zoo, tmp_path):
    config = transferring(images, *zoo[:1], zoo[1:2])
    config.update({field: "folder:gs://b/images" if field == "data" else "gs://b/data"})
    with pytest.raises(ValueError, match=f"{field}: 'gs://b/.* is not on a disk"):
        transfer.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_answer_is_a_sentence(bucket, monkeypatch, images, zoo):
    def refuse(*args, **kwargs):
        raise RuntimeError("Anonymous caller does not have storage.objects.get access.\nmore")

    monkeypatch.setattr(buckets.Bucket, "info", refuse)
    told = "'s3://bucket/run' cannot be reached: Anonymous caller .* access[.]$"
    with pytest.raises(ValueError, match=told):
        transfer.run(transferring(images, zoo[0], zoo[1:2]), str(bucket / "run"))


def test_objects(bucket, tmp_path):
    path = bucket / "runs" / "a" / "one.txt"
    files.write_whole(path, "first")
    assert paths.names(bucket / "runs") == ["a"] and paths.names(bucket / "none") == []
    assert not paths.create(path, b"other") and path.read_text() == "first"
    assert paths.create(path.with_name("two.txt"), b"2")
    assert abs(paths.modified(path) - time.time()) < 60
    assert paths.find(bucket, "one.txt") == [path]

    copy = paths.local(path)
    assert copy.read_text() == "first" and paths.local(path) == copy
    files.write_whole(path, "second")
    assert paths.local(path).read_text() == "second" != copy.read_text()
    written = tmp_path / "part"
    written.write_text("third")
    paths.upload(written, path, keep=True)
    assert path.read_text() == "third" == paths.local(path).read_text() and not written.exists()

    paths.move(bucket / "runs" / "a", bucket / "b", last="one.txt")
    assert not (bucket / "runs" / "a").exists()
    assert [*buckets.Bucket.store] == ["/bucket/b/two.txt", "/bucket/b/one.txt"]
    with pytest.raises(FileNotFoundError):
        paths.move(bucket / "runs" / "a", bucket / "c")
    paths.delete(bucket / "b")
    paths.delete(bucket / "b")
    assert not (bucket / "b").exists()


def test_lease_of_a_bucket(bucket):
    """One holder at a time; of one that gives no sign of life the next takes over what it did."""
    path = bucket / "runs" / "kl_dp-1"
    with lease.take(path, expiry=0.9) as held:
        files.write_whole(lease.enter(held) / "work", "half")
        with lease.take(path, expiry=0.9) as second:
            assert second is None
        time.sleep(1.2)
        assert held.held() and is_taken(path, expiry=0.9)  # as it gave signs meanwhile
    assert not is_taken(path)

    dead = held._replace(number=1)
    assert paths.create(dead.file, b'{"nonce": "of a dead one"}')
    assert is_taken(path)
    time.sleep(0.3)
    with lease.take(path, expiry=0.2) as after:
        assert after.number == 2 and not dead.held() and after.held()
        assert (lease.enter(after) / "work").read_text() == "half"
        assert not held.place.exists()
    assert [name for name in paths.names(path.parent) if name.endswith(".lease")] == []


def test_transfer_in_a_bucket_killed_and_resumed(bucket, noisy, quartet, tmp_path, monkeypatch):
    student, narrow, *_ = quartet
    fields = dict(targets="stored", eval_every_steps=2)
    here = dict(store=str(tmp_path / "store")) | fields
    there = dict(store=str(bucket / "store")) | fields
    transfer.run(transferring(noisy, student, [narrow], **here), tmp_path / "run")

    config, workdir = transferring(noisy, student, [narrow], **there), bucket / "run"
    with monkeypatch.context() as patched:
        kill_at(patched, Checkpoints, "save", calls=2)
        with pytest.raises(KilledError):
            transfer.run(config, str(workdir))
    (run,) = paths.names(workdir / files.CHECKPOINTS)
    assert paths.names(workdir / files.CHECKPOINTS / run) == ["2.tar", "4.tar"]
    assert not (workdir / files.RESULTS).exists()

    results = transfer.run(config, str(workdir))
    assert transfer.run(config, str(workdir)) == results
    assert "from step 4 of 6" in (workdir / "logs" / "process-0.log").read_text()
    check_same(workdir, tmp_path / "run")
    assert (workdir / files.REPORT).read_text().startswith("<!doctype html>")
    assert (workdir / "figures").exists() and paths.names(workdir / "tensorboard" / run)
    found = min(paths.names(bucket / "store"))  # of the teacher, and another of the student
    store = store_lib.open_store(f"store:{bucket / 'store' / found}")
    assert store.complete() and store.has("tune")
    assert len(store_lib.read_rows(store, "view-00000", store.form)) == store.examples

    exported = workdir / "students" / run
    model = models.load(str(exported))
    assert model.name == str(exported) and models.load(str(workdir)).origin == model.origin
    assert paths.local(exported / weights.WEIGHTS).is_file()
    with pytest.raises(ValueError, match="belongs to another experiment"):
        transfer.run(transferring(noisy, student, [narrow]), str(workdir))
    workdir_lib.clear(workdir)
    assert not workdir.exists()


@pytest.mark.full
def test_study_in_a_bucket(bucket, noisy, quartet):
    student, narrow, *_ = quartet
    config = studying(noisy, [student], [narrow])
    config.update(keep="best", targets="stored")
    found = study.run(config, str(bucket / "study"))
    assert len(found["rows"]) == 2 and all(row["error"] is None for row in found["rows"])
    assert not [name for name in buckets.Bucket.store if name.endswith(".lease") or "@" in name]
    assert study.run(config, str(bucket / "study"))["rows"] == found["rows"]


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.of("~/run") == paths.on_disk("~/run", "data") == tmp_path / "run"
    assert paths.of("~nobody-has-this-name/run") == Path("~nobody-has-this-name/run")
    assert paths.of("a/~") == Path("a/~")
