"""Studies that are killed: by SIGKILL at random moments, and workers of Ray."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from small_jobs import ROOT, studying
from study_test import ARG, check_same

from ktjax.jobs import study

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("compile_once")]

LIMIT = 600  # seconds for one start
MAIN = (
    "import json, sys\n"
    "from ktjax.jobs import study\n"
    "from ktjax.settings.study import Study\n"
    "if __name__ == '__main__':\n"
    "    study.execute(Study.read(json.loads(sys.argv[1])), sys.argv[2])\n"
)


@pytest.fixture(scope="module")
def config(noisy, quartet):
    student, narrow, weak, wide = quartet
    fields = dict(keep="all", total_steps=60, eval_every_steps=6)
    return studying(noisy, (student, narrow), (weak, wide), arg=ARG, **fields)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    study.run(config, workdir)
    return workdir


def start(config, workdir, cached, **fields):
    given = json.dumps(config.to_dict() | fields)
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, given, str(workdir)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | cached,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(job, code=0):
    said, _ = job.communicate(timeout=LIMIT)
    assert job.returncode == code, said


def saved(workdir):
    """The checkpoints of all runs that are under way, and the runs that are done."""
    under_way = {str(path) for path in workdir.glob("runs/*/*/*@*/checkpoints/*/[0-9]*")}
    return under_way | {str(path) for path in workdir.glob("runs/*/*/*/results.json")}


def wait_for_more(workdir, job, seen):
    begun = time.monotonic()
    while job.poll() is None and not saved(workdir) - seen:
        time.sleep(0.01)
        assert time.monotonic() - begun < LIMIT, "no progress"


def test_killed_at_random_moments(config, undisturbed, cached, tmp_path):
    rng = random.Random(0)
    for _ in range(5):
        seen = saved(tmp_path)
        job = start(config, tmp_path, cached)
        wait_for_more(tmp_path, job, seen)
        time.sleep(rng.uniform(0, 0.5))
        job.send_signal(signal.SIGKILL)
        finish(job, -signal.SIGKILL)
    finish(start(config, tmp_path, cached))
    check_same(tmp_path, undisturbed)


def test_two_processes_at_once(config, undisturbed, cached, tmp_path):
    """Neither shard knows of the other; one dies, and the plain start beside it goes on."""
    jobs = [start(config, tmp_path, cached) for _ in range(2)]
    wait_for_more(tmp_path, jobs[0], set())
    jobs[0].send_signal(signal.SIGKILL)
    finish(jobs[0], -signal.SIGKILL)
    finish(jobs[1])
    check_same(tmp_path, undisturbed)


def workers_of(workdir, job):
    """The processes that have a run each, when two of them have."""
    begun = time.monotonic()
    workers = set()
    while len(workers) < 2:
        for path in workdir.glob("runs/*/*/*.lease"):
            with contextlib.suppress(FileNotFoundError):
                if text := path.read_text():
                    workers.add(json.loads(text)["process"])
        time.sleep(0.05)
        assert job.poll() is None and time.monotonic() - begun < LIMIT
    return workers


def is_running(process):
    """Nobody may have asked yet how an orphan ended: then it is there, as a zombie."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_one_of_several_processes_is_killed(config, undisturbed, cached, tmp_path):
    job = start(config, tmp_path, cached, processes=2)
    workers = workers_of(tmp_path, job)
    wait_for_more(tmp_path, job, saved(tmp_path))
    os.kill(min(workers), signal.SIGKILL)
    finish(job)
    check_same(tmp_path, undisturbed)


def test_several_processes_end_with_the_first(config, undisturbed, cached, tmp_path):
    """Killed or asked to end, it leaves none behind."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        job = start(config, tmp_path, cached, processes=2)
        workers = workers_of(tmp_path, job)
        job.send_signal(number)
        job.communicate(timeout=LIMIT)  # which waits for all who have its output
        assert not any(map(is_running, workers))
    finish(start(config, tmp_path, cached, processes=2))
    check_same(tmp_path, undisturbed)


def test_a_worker_of_ray_is_killed(config, undisturbed, cached, tmp_path):
    pytest.importorskip("ray")
    job = start(config, tmp_path, cached, engine="ray")
    workers = workers_of(tmp_path, job)
    wait_for_more(tmp_path, job, saved(tmp_path))
    os.kill(min(workers), signal.SIGKILL)
    finish(job)
    check_same(tmp_path, undisturbed)
