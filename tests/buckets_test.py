"""Jobs in buckets through the real clients, against emulators on loopback; what is killed, too.

They need the extras gcs, s3 and emulators; what needs none is in paths_test.py.
"""

import signal
import socket
import subprocess
import sys
import time

import kill
import pytest
from small_jobs import ROOT, check_same, launch, lines

from ktjax import files, models, paths
from ktjax.experiment import lease

pytestmark = pytest.mark.full

LIMIT = 300  # seconds for one start


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def clients():
    """Sets the environment of clients, here and in processes that are started."""
    with pytest.MonkeyPatch.context() as patched:
        yield patched


@pytest.fixture(scope="module")
def google(clients, tmp_path_factory):
    """A bucket of Google's storage API, gs://."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package)
    address = f"http://127.0.0.1:{(port := free_port())}"
    clients.setenv("STORAGE_EMULATOR_HOST", address)
    clients.setenv("TENSORSTORE_GCS_HTTP_URL", address)
    clients.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    clients.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks for credentials
    folder = tmp_path_factory.mktemp("google")
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "emulator.py", str(port), folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout.readline() == "ready\n"
    yield paths.of("gs://ktjax-bucket")
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def amazon(clients):
    """A bucket of Amazon's, s3://."""
    s3fs, moto = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    clients.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    clients.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        clients.setenv(name, "none")
    s3fs.S3FileSystem().mkdir("ktjax-bucket")
    yield paths.of("s3://ktjax-bucket")
    server.stop()


@pytest.fixture(params=["google", "amazon"])
def bucket(request, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return request.getfixturevalue(request.param)


def trained(workdir):
    """The last step that has come to the bucket."""
    try:
        return lines(workdir)[-1]["step"]
    except (OSError, IndexError):
        return 0


def test_killed_and_resumed(bucket, images, zoo, cached, tmp_path):
    """Twice by SIGKILL and once by SIGTERM: the bits of a run on a disk that was not."""
    arguments = kill.transfer(images, zoo[1], zoo[2])
    kill.finish(kill.start(arguments, tmp_path / "undisturbed", **cached), 0)
    workdir, died = bucket / "runs" / "killed", []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        job, first, begin = kill.start(arguments, workdir, **cached), trained(workdir), time.time()
        while job.poll() is None and trained(workdir) < first + 30:
            time.sleep(0.05)
            assert time.time() < begin + LIMIT
        job.send_signal(number)
        job.communicate(timeout=LIMIT)
        died.append(trained(workdir))
    assert 0 < died[0] < died[1] < died[2] < kill.EPOCHS * kill.STEPS_PER_EPOCH
    kill.finish(kill.start(arguments, workdir, **cached), 0)
    check_same(workdir, tmp_path / "undisturbed")
    assert (workdir / files.REPORT).read_text().startswith("<!doctype html>")
    (run,) = paths.names(workdir / files.STUDENTS)
    assert len(paths.names(workdir / "tensorboard" / run)) == 4  # a file of each start

    done = launch(*arguments, f"--workdir={workdir}", **cached)
    assert done.returncode == 0 and "Already finished." in done.stdout
    said = launch("predict", str(workdir / files.STUDENTS / run), str(next(images.rglob("*.png"))))
    assert said.returncode == 0, said.stderr
    assert models.load(str(workdir)).name == str(workdir)


def test_no_such_bucket(bucket, images, zoo, cached):
    workdir = str(bucket).replace("ktjax-bucket", "nobodys-bucket") + "/run"
    done = launch(*kill.transfer(images, zoo[1], zoo[2]), f"--workdir={workdir}", **cached)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"The workdir '{workdir}' cannot be used: " in done.stderr


def test_exclusive(amazon):
    """The emulator of Google's API does not look at the conditions of gcsfs, this one does."""
    path = amazon / "leases" / "run"
    with lease.take(path, expiry=60) as held:
        with lease.take(path, expiry=60) as other:
            assert held.held() and other is None
        assert not paths.create(held.file, b"")
    with lease.take(path, expiry=60) as again:
        assert again.number == 0
