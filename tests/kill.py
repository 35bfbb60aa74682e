"""Kills a transfer at random moments and starts it again each time: nothing may be lost.

  python tests/kill.py --kills=5 --signal=SIGKILL --workdir=/tmp/kill

The same bits are to come out as of an undisturbed run, in students, metrics.jsonl and results.json
(but for seconds); and what ends by SIGTERM or SIGINT is to go on with the step after its last.
tests/kill_test.py asks for a few kills.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import small_jobs  # noqa: E402
import xla  # noqa: E402

from ktjax import interruption  # noqa: E402
from ktjax.jobs import pretrain  # noqa: E402

EPOCHS, STEPS_PER_EPOCH = 60, 4
LIMIT = 300  # seconds for one start


def start(arguments, workdir, *, devices=1, **environment):
    environment["XLA_FLAGS"] = xla.flags(devices)
    return subprocess.Popen(
        [sys.executable, "-m", "ktjax.main", *arguments, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(job, code):
    stdout, stderr = job.communicate(timeout=LIMIT)
    if job.returncode != code:
        raise AssertionError(f"exit code {job.returncode}, not {code}:\n{stdout}{stderr}")


def transfer(images, student, teacher):
    """Of a student with BatchNorm; ends of epochs, logs and checkpoints fall on different steps."""
    return [
        f"--config=configs/transfer.py:student={student},teachers={teacher},data=folder:{images},"
        "objectives=kl_dp,controls=",
        *("--config.image_size=12", "--config.batch_size=16", "--config.eval_batch_size=16"),
        *(f"--config.total_epochs={EPOCHS}.0", "--config.eval_every_epochs=1.75"),
        *("--config.log_every=3", "--config.batch_norm=train"),
        *("--config.objectives.kl_dp.learning_rate=0.01", "--config.augment=shift_colour"),
    ]


def trained(workdir):
    """The last step that metrics.jsonl tells of; 0 before there is any."""
    try:
        return small_jobs.lines(workdir)[-1]["step"]
    except (OSError, IndexError, ValueError):
        return 0


def logged(workdir, text):
    """The numbers that follow some words in the log."""
    log = (workdir / "logs" / "process-0.log").read_text()
    told = [line.split(text)[1] for line in log.splitlines() if text in line]
    return [int(words.split()[0].rstrip(".")) for words in told]


def run_and_kill(arguments, workdir, *, kills, number, seed, devices=(1,), **environment):
    """Runs a job to its end through so many deaths; the last step that each told of.

    Each start has the next number of `devices`.
    """
    rng, died, devices = random.Random(seed), [], itertools.cycle(devices)
    for left in range(kills, 0, -1):
        job = start(arguments, workdir, devices=next(devices), **environment)
        begin, first = time.monotonic(), trained(workdir)
        # Anywhere in its share of what is left.
        goal = first + rng.uniform(0, 0.9) * (EPOCHS * STEPS_PER_EPOCH - first) / left
        while job.poll() is None and trained(workdir) <= goal:
            time.sleep(0.005)
            if time.monotonic() - begin > LIMIT:
                job.kill()
                raise AssertionError("no progress")
        time.sleep(rng.uniform(0, 0.05))
        job.send_signal(number)
        finish(job, -number if number == signal.SIGKILL else interruption.EXIT_CODE)
        died.append(trained(workdir))
    finish(start(arguments, workdir, devices=next(devices), **environment), 0)
    return died


def check(arguments, workdir, undisturbed, *, kills, number, seed, **environment):
    """Raises AssertionError unless a job that is killed ends as one that is not."""
    died = run_and_kill(arguments, workdir, kills=kills, number=number, seed=seed, **environment)
    begun = logged(workdir, "from step ")
    print(f"{number.name}: began at steps {begun}, was killed after steps {died}.", flush=True)
    assert len(begun) == kills + 1 and begun[0] == 0 < max(died)
    if number != signal.SIGKILL:
        # Where each ended: the next went on there, and had not heard of a later step.
        assert all(on >= step for on, step in zip(begun[1:], died, strict=True))
        assert set(begun[1:]) <= set(logged(workdir, "saved step "))
    small_jobs.check_same(workdir, undisturbed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM", "SIGINT"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, required=True)
    given = parser.parse_args()
    images = small_jobs.make_images(given.workdir / "images")
    names = ("tiny_resnet_narrow", "tiny_mlp")
    pretrain.run(small_jobs.pretraining(images, names=names), given.workdir / "zoo")
    models = [given.workdir / "zoo" / "models" / name for name in names]
    arguments = transfer(images, *models)
    finish(start(arguments, given.workdir / "undisturbed"), 0)
    check(
        arguments,
        given.workdir / "killed",
        given.workdir / "undisturbed",
        kills=given.kills,
        number=signal.Signals[given.signal],
        seed=given.seed,
    )
    print("The same bits.")


if __name__ == "__main__":
    main()
