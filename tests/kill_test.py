"""A job that is killed and started again ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys
import time

import kill
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from small_jobs import read

from ktjax import interruption
from ktjax.models.checkpoints import weights


@pytest.fixture(scope="module")
def arguments(images, zoo):
    return kill.transfer(images, zoo[1], zoo[2])


@pytest.fixture(scope="module")
def undisturbed(arguments, cached, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    kill.finish(kill.start(arguments, workdir, **cached), 0)
    return workdir


@pytest.mark.parametrize(
    ("name", "kills"), [("SIGKILL", 1), pytest.param("SIGTERM", 2, marks=pytest.mark.full)]
)
def test_killed(name, kills, arguments, undisturbed, cached, tmp_path):
    number = signal.Signals[name]
    kill.check(arguments, tmp_path, undisturbed, kills=kills, number=number, seed=0, **cached)


@pytest.mark.full
def test_goes_on_with_other_devices(arguments, undisturbed, cached, tmp_path):
    """From one to four, which hold a part of the state each, and back."""
    kill.run_and_kill(
        *([*arguments, "--config.parallel=fsdp"], tmp_path),
        kills=2,
        number=signal.SIGTERM,
        seed=1,
        devices=(1, 4, 1),
        **cached,
    )
    begun = kill.logged(tmp_path, "from step ")
    assert 0 == begun[0] < begun[1] < begun[2] < kill.EPOCHS * kill.STEPS_PER_EPOCH
    assert "4 of 4 devices" in (tmp_path / "logs" / "process-0.log").read_text()
    (path,) = (undisturbed / "students").rglob(weights.WEIGHTS)
    expected = safetensors_numpy.load_file(path)
    found = safetensors_numpy.load_file(tmp_path / path.relative_to(undisturbed))
    for name, value in expected.items():
        # Sums of another order: 1e-5 after a few steps (processes_test.py), more after 240.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.full
def test_interrupted_while_nothing_trains(arguments, undisturbed, cached, tmp_path):
    """It ends at once, with the same exit code, and goes on from nothing."""
    job = kill.start(arguments, tmp_path, **cached)
    while job.poll() is None and not (tmp_path / "config.json").exists():
        time.sleep(0.005)
    job.send_signal(signal.SIGTERM)
    kill.finish(job, interruption.EXIT_CODE)
    kill.finish(kill.start(arguments, tmp_path, **cached), 0)
    assert read(tmp_path)["runs"][0]["delta"] == read(undisturbed)["runs"][0]["delta"]


def test_second_interrupt_stops_at_once():
    """Even where the first one would wait: the step is never done."""
    code = (
        "import signal, time\n"
        "from ktjax import interruption\n"
        "interruption.listen()\n"
        "with interruption.deferred():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(1000):\n"
        "        time.sleep(0.1)\n"  # a signal just before one long sleep would wait for its end
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=kill.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGINT)
    assert "saving a checkpoint first" in job.stderr.readline() + job.stderr.readline()
    assert job.poll() is None
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=10) == -signal.SIGINT


def test_an_interrupt_that_python_ignores_comes_again():
    """What is raised while an object is deleted reaches nobody."""
    code = (
        "import os, signal, sys, time\n"
        "from ktjax import interruption\n"
        "interruption.listen()\n"
        "class Deleted:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "try:\n"
        "    Deleted()\n"
        "    for _ in range(1000):\n"
        "        time.sleep(0.01)\n"
        "except interruption.Interrupted:\n"
        "    sys.exit(interruption.EXIT_CODE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=kill.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == interruption.EXIT_CODE
    assert "Traceback" not in done.stderr
