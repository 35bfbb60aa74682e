"""What goes wrong outside of us: one sentence, an exit code, and nothing lost that was complete."""

import os
import shlex
import signal
import subprocess
import sys
import time

import kill
import numpy as np
import processes_test
import pytest
import small_models
from small_jobs import ROOT, check_same, read, transferring

from ktjax import parallel
from ktjax.experiment import evaluation, inputs
from ktjax.jobs import transfer
from ktjax.targets import live

pytestmark = pytest.mark.usefixtures("compile_once")

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def arguments(images, zoo):
    return [
        f"--config=configs/transfer.py:student={zoo[0]},teachers={zoo[2]},data=folder:{images},"
        "objectives=xe,controls=",
        *("--config.image_size=12", "--config.batch_size=16", "--config.eval_batch_size=16"),
        *("--config.total_epochs=2.0", "--config.eval_every_epochs=0.25", "--config.log_every=2"),
        *("--config.objectives.xe.learning_rate=1e-4", "--config.augment=shift_colour"),
        "--config.export=last",
    ]


def mounted(script, environment):
    """Runs a shell script that may mount file systems, which nobody else sees."""
    return subprocess.run(
        [*NAMESPACE, "bash", "-c", script],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Where a script may mount a small file system; root is not stopped by permissions."""
    mount = ["mount", "-t", "tmpfs", "none", str(tmp_path_factory.mktemp("probe"))]
    probe = subprocess.run([*NAMESPACE, *mount], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.strip()}")
    return tmp_path_factory.mktemp("disk")


def command(arguments, workdir):
    """Of a start that would show where it hangs."""
    python = [sys.executable, "-X", "faulthandler", "-m", "ktjax.main"]
    return "timeout -s ABRT 100 " + shlex.join([*python, *arguments, f"--workdir={workdir}"])


def check_sentence(stderr):
    """The one line of ours, but for the small images; TensorStore prints what it likes."""
    ours = [line for line in stderr.splitlines() if line.startswith("ktjax: ")]
    (told,) = [line for line in ours if "expects images of" not in line]
    return told


@pytest.mark.full
def test_full_disk(arguments, small_disk, cached, tmp_path):
    """Of three checkpoints two fit; with more room the run goes on from the second."""
    run = command(arguments, small_disk / "run")
    script = f"""
        mount -t tmpfs -o size=1200k none {small_disk}
        {run}; echo "exit code $?"
        ls {small_disk}/run/checkpoints/*; ls {small_disk}/run
        mount -o remount,size=30m {small_disk}
        {run} >/dev/null; echo "exit code $?"
        cp -r {small_disk}/run {tmp_path}/run
    """
    done = mounted(script, cached)
    told = check_sentence(done.stderr)
    assert "No space left on device" in told and "to resume" in told
    assert "Traceback" not in done.stderr and "Event loop" not in done.stderr
    before, after = done.stdout.split("exit code")[1:]
    assert before.startswith(" 1") and after.startswith(" 0"), done.stdout + done.stderr
    complete = [int(line) for line in before.splitlines() if line.isdigit()]
    assert complete and "results.json" not in before
    assert kill.logged(tmp_path / "run", "from step ") == [0, max(complete)]
    kill.finish(kill.start(arguments, tmp_path / "roomy", **cached), 0)
    check_same(tmp_path / "run", tmp_path / "roomy")


def test_read_only_workdir(arguments, small_disk, cached):
    script = f"""
        mount -t tmpfs -o size=30m none {small_disk} && mount -o remount,ro {small_disk}
        {command(arguments, small_disk / "run")}; echo "exit code $?"; ls {small_disk}
    """
    done = mounted(script, cached)
    assert done.stdout == "exit code 1\n"
    told = check_sentence(done.stderr)
    assert f"'{small_disk}/run' cannot be used: no right to write." in told


def test_nan_in_the_data(images, zoo, tmp_path, monkeypatch):
    """In what a teacher said of a few images at their second view: images have no NaN."""
    store = live.store

    def planted(*arguments, **options):
        logits = np.array(store(*arguments, **options))
        logits[1, :4] = np.nan
        return parallel.replicate(logits)

    config = transferring(
        images,
        *(zoo[0], [zoo[2]]),
        arg="objectives=kl",
        targets="stored",
        total_steps=8,
        eval_every_steps=2,
    )
    with monkeypatch.context() as patch:
        patch.setattr(live, "store", planted)
        with pytest.raises(FloatingPointError, match=r"the loss .* not finite at step [5-8], and"):
            transfer.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    transfer.run(config, tmp_path / "run")  # the cause is gone
    first, again = kill.logged(tmp_path / "run", "from step ")
    assert first == 0 and again in (4, 6)
    transfer.run(config, tmp_path / "clean")
    check_same(tmp_path / "run", tmp_path / "clean")


@pytest.mark.parametrize("overflows", ["tune", "validation"])
def test_a_model_that_overflows_is_named(overflows):
    def predict(variables, split):
        del variables
        return np.full((3, 4), np.inf if split == overflows else 0)

    splits = inputs.Splits("train", "tune", "validation")
    with pytest.raises(
        ValueError, match=r"sour \(drawn by a test\) gives logits that are not fini"
    ):
        evaluation.evaluate(small_models.make("sour"), predict, splits, layout="pmap")


@pytest.mark.full  # processes_test.py has two that live
def test_dead_process(arguments, cached, tmp_path):
    """The other one ends within a minute, and says so."""
    endless = [*arguments, "--config.total_epochs=2000.0", f"--workdir={tmp_path}"]
    jobs = processes_test.start(endless, processes=2, devices=1, environment=cached)
    begin = time.monotonic()
    while kill.trained(tmp_path) < 8 and all(job.poll() is None for job in jobs):
        assert time.monotonic() - begin < processes_test.LIMIT
        time.sleep(0.05)
    jobs[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    codes, told = processes_test.finish(jobs)
    assert time.monotonic() - begin < 60
    assert codes[0] != 0 and codes[1] == -signal.SIGKILL
    ours = "one has died" in told[0][1]
    assert ours or "another task died" in told[0][1], told[0][1]


@pytest.mark.full
def test_asked_to_end_in_two_processes(arguments, cached, tmp_path):
    """One hears it, both save the same step; one process with four devices goes on there."""
    long = [*arguments, "--config.total_epochs=50.0", "--config.eval_every_epochs=1.75"]
    there = [*long, f"--workdir={tmp_path / 'run'}"]
    jobs = processes_test.start(there, processes=2, devices=2, environment=cached)
    begin = time.monotonic()
    while kill.trained(tmp_path / "run") < 8 and all(job.poll() is None for job in jobs):
        assert time.monotonic() - begin < processes_test.LIMIT
        time.sleep(0.02)
    jobs[1].send_signal(signal.SIGINT)  # which becomes a SIGTERM, of which JAX tells all
    codes, told = processes_test.finish(jobs)
    assert codes == [75, 75], told
    (saved,) = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*/*")} & {
        str(kill.logged(tmp_path / "run", "saved step ")[-1])
    }
    assert 8 <= int(saved) < 200
    jobs = processes_test.start(there, processes=1, devices=4, environment=cached)
    codes, told = processes_test.finish(jobs)
    assert codes == [0], told
    assert kill.logged(tmp_path / "run", "from step ")[-1] == int(saved)
    assert read(tmp_path / "run")["runs"][0]["history"][-1]["step"] == 200
