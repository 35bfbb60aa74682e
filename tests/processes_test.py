"""Several devices and several processes find what one device finds, through the front door."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import xla
from safetensors import numpy as safetensors_numpy
from small_jobs import ROOT, lines, read

LIMIT = 240  # seconds for all processes of a job


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(arguments, *, processes, devices, environment):
    """The processes of a job, on this machine."""
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla.flags(devices),
    }
    joined = []
    if processes > 1:
        joined = ["--distributed", f"--coordinator_address=127.0.0.1:{free_port()}"]
        joined += [f"--num_processes={processes}", "--heartbeat_timeout=10"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "ktjax.main", *arguments, *joined]
            + ([f"--process_id={i}"] if processes > 1 else []),
            cwd=ROOT,
            env=common | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(jobs):
    """Exit codes and what they printed; nobody outlives the limit."""
    try:
        told = [job.communicate(timeout=LIMIT) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return [job.returncode for job in jobs], told


@pytest.fixture(scope="module")
def run(cached):
    """run(arguments, workdir, processes, devices): a job to its end, which has to be a good one."""

    def job(arguments, workdir, *, processes=1, devices=1):
        jobs = start(
            [*arguments, f"--workdir={workdir}"],
            processes=processes,
            devices=devices,
            environment=cached,
        )
        codes, told = finish(jobs)
        assert codes == [0] * processes, told
        return told

    return job


@pytest.fixture(scope="module")
def transfer(images, zoo):
    """Of a student with BatchNorm; neither 68 nor 8 nor 20 images fill batches of 16."""
    return [
        f"--config=configs/transfer.py:student={zoo[1]},teachers={zoo[2]},data=folder:{images},"
        "objectives=kl_dp,controls=",
        *("--config.image_size=12", "--config.batch_size=16", "--config.eval_batch_size=16"),
        *("--config.total_epochs=1.5", "--config.eval_every_epochs=0.75", "--config.log_every=2"),
        *("--config.objectives.kl_dp.learning_rate=0.1", "--config.batch_norm=train"),
        "--config.augment=shift_colour",
    ]


@pytest.fixture(scope="module")
def on_one_device(run, transfer, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    run(transfer, workdir)
    return workdir


def counted(results):
    """All that was counted in evaluations, over the whole job.

    Not its cost: answers that are stored take fewer passes than live ones.
    """
    other = ("seconds", "passes", "history", "taught", "checkpoint")
    rows = [{k: v for k, v in row.items() if k not in other} for row in results["runs"]]
    tune = [entry["tune"] for row in results["runs"] for entry in row["history"]]
    return json.dumps([rows, tune, results["models"], results["pairs"]])


ON_DISK = ("--config.targets=stored", "--config.store=STORES", "--config.steps_per_dispatch=2")


def weights_of(workdir):
    (path,) = (workdir / "students").rglob("model.safetensors")
    return safetensors_numpy.load_file(path)


@pytest.mark.parametrize(
    ("processes", "devices", "others"),
    [
        pytest.param(1, 4, [], marks=pytest.mark.full),
        pytest.param(2, 2, ["--config.targets=stored"], marks=pytest.mark.full),
        pytest.param(
            *(2, 2, [*ON_DISK, "--config.cache_gb=0.0", "--config.parallel=fsdp"]),
            marks=pytest.mark.full,
        ),
        (2, 2, ["--config.parallel=fsdp", "--config.remat", "--config.steps_per_dispatch=2"]),
    ],
    ids=[
        *("four devices", "two processes with stored targets"),
        "two processes with a view at a time of a store on disk",
        "two processes with fsdp",
    ],
)
def test_as_on_one_device(processes, devices, others, run, transfer, on_one_device, tmp_path):
    others = [word.replace("STORES", str(tmp_path / "stores")) for word in others]
    told = run([*transfer, *others], tmp_path, processes=processes, devices=devices)
    expected, found = weights_of(on_one_device), weights_of(tmp_path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)
    assert counted(read(tmp_path)) == counted(read(on_one_device))
    ours, theirs = lines(tmp_path), lines(on_one_device)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert read(tmp_path)["environment"]["devices"] == ["cpu"] * processes * devices
    # Only the first process speaks; each has a log.
    assert "Report:" in told[0][0]
    for stdout, _ in told[1:]:
        # Gloo's, whose threads write into one another's lines.
        words = r"\[Gloo\] Rank|is connected to|peer ranks\. |Expected number of connected |[\d\s:]"
        assert not re.sub(words + "|peer ranks is", "", stdout), stdout
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == [f"process-{i}.log" for i in range(processes)]
    for i, log in enumerate(logs):
        text = log.read_text()
        assert f"process {i} of {processes}, {devices} of {processes * devices} devices" in text
        assert "kl_dp-tiny_mlp-1: step 6: " in text


@pytest.mark.full
def test_complementarity_in_two_processes(run, images, zoo, tmp_path):
    arguments = [
        f"--config=configs/complementarity.py:models={'+'.join(zoo)},data=folder:{images}",
        *("--config.image_size=12", "--config.eval_batch_size=8"),
        "--config.random_students=('tiny_mlp_narrow',)",
    ]
    run(arguments, tmp_path / "one")
    run(arguments, tmp_path / "two", processes=2, devices=2)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert two.pop("environment") != one.pop("environment")
    assert two == one


def test_process_flags_need_distributed(transfer, tmp_path):
    arguments = [*transfer, f"--workdir={tmp_path / 'new'}", "--num_processes=2"]
    codes, told = finish(start(arguments, processes=1, devices=1, environment={}))
    assert codes == [1]
    assert told[0][1].startswith("ktjax: --num_processes: only with --distributed.")
    assert not (tmp_path / "new").exists()
