"""Of several processes one fails: the others hear why and end."""

import os
import sys
import threading
import time
import types

import processes_test
import pytest

from ktjax import peers


class Service:
    """JAX's, as far as it matters: keys are set once. It does not answer at first."""

    def __init__(self):
        self.kept, self.away = {}, 2

    def key_value_set(self, key, value):
        if key in self.kept:
            raise RuntimeError("ALREADY_EXISTS")
        self.kept[key] = value

    def key_value_try_get(self, key):
        self.away -= 1
        if self.away >= 0:
            raise RuntimeError("UNAVAILABLE: the network")
        if key not in self.kept:
            raise RuntimeError("NOT_FOUND: no such key")
        return self.kept[key]

    def key_value_dir_get(self, folder):
        return [pair for pair in self.kept.items() if pair[0].startswith(folder)]


@pytest.fixture
def become(monkeypatch):
    """become(process): this is that one of two, which share a service."""
    made = Service()
    monkeypatch.setattr(peers, "_EVERY", 0.01)
    monkeypatch.setattr(peers, "_OWN", 0.2)

    def process(number):
        state = types.SimpleNamespace(client=made, process_id=number, num_processes=2)
        monkeypatch.setattr(peers, "_state", lambda: state)
        return made

    yield process
    peers.stop()


def test_who_hears_of_a_failure_ends(become, monkeypatch, caplog):
    service, ended, flushed = become(1), threading.Event(), []
    monkeypatch.setattr(peers.os, "_exit", lambda code: ended.set())
    peers.listen(lambda: flushed.append(True))
    time.sleep(0.05)
    assert not ended.is_set()
    service.key_value_set(peers._FAILED, "Process 0 has failed: no such data.")
    assert ended.wait(5) and flushed
    assert caplog.messages[0].startswith("Process 0 has failed: no such data.\n")
    assert peers._HEARD + "/1" in service.kept


def test_who_fails_as_well_says_its_own(become, monkeypatch, caplog):
    service = become(1)
    monkeypatch.setattr(peers.os, "_exit", lambda code: pytest.fail("it is ended by another"))
    peers.listen(lambda: None)
    service.key_value_set(peers._FAILED, "Process 0 has failed: first.")
    time.sleep(0.05)
    peers.tell("second")
    time.sleep(0.3)
    assert not caplog.messages
    assert service.kept[peers._FAILED] == "Process 0 has failed: first."


@pytest.mark.parametrize("failed", [0, 1])
def test_process_0_ends_after_the_others_have_heard(failed, become, monkeypatch):
    """Its service would be gone; whether it has failed itself, or hears of it first."""
    service, ended = become(0), threading.Event()
    monkeypatch.setattr(peers.os, "_exit", lambda code: ended.set() or peers.stop())
    begin = time.monotonic()
    threading.Timer(0.5, service.key_value_set, (f"{peers._HEARD}/1", "")).start()
    if failed == 0:
        peers.tell("no such data")
    else:
        peers.listen(lambda: None)
        service.key_value_set(peers._FAILED, "Process 1 has failed: no such data.")
        assert ended.wait(5)
    assert 0.45 < time.monotonic() - begin < 5
    monkeypatch.setattr(peers, "_WAIT", 0.1)
    service.kept.clear()
    peers.tell("nobody hears it")  # and does not wait for ever


def test_alone_there_is_nobody_to_tell(monkeypatch):
    monkeypatch.setattr(peers.threading, "Thread", lambda **_: pytest.fail("it looks"))
    peers.listen(lambda: None)
    peers.tell("no such data")
    assert peers.number() is None


PROGRAM = """
import sys, pathlib, jax
from ktjax import compiled
address, process, *processors = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
for of_all in processors:
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.CPU_INFO = pathlib.Path(of_all.split("+")[int(process)])
    compiled.keep("programs")
    print(jax.config.jax_compilation_cache_dir)
"""


def test_processes_with_other_processors_keep_no_programs(tmp_path):
    """Each would look in a folder of its own, and who finds a program does not compile."""
    for name, features in (("one", "avx"), ("same", "avx"), ("other", "avx512f")):
        (tmp_path / name).write_text(f"flags : {features}")
    address = f"127.0.0.1:{processes_test.free_port()}"
    jobs = [
        processes_test.subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(i), "one+same", "one+other"],
            cwd=tmp_path,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=processes_test.subprocess.PIPE,
            stderr=processes_test.subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    codes, told = processes_test.finish(jobs)
    assert codes == [0, 0], told
    first, second = (stdout.split() for stdout, _ in told)
    assert first == second
    assert first[0].startswith(f"{tmp_path}/programs/") and first[1] == "None"


@pytest.fixture
def two(cached, tmp_path, monkeypatch):
    """two(rank, word): the processes of a job, of which one gets a word more."""

    def start(rank, word):
        real = processes_test.subprocess.Popen

        def popen(words, **options):
            more = [word] if f"--process_id={rank}" in words else []
            return real([*words, *more], **options)

        arguments = [
            "--config=configs/transfer.py:student=glyphs/tiny_mlp_narrow,teachers=glyphs/tiny_mlp,"
            "objectives=xe,controls=",
            *("--config.max_examples=64", "--config.total_epochs=1.0"),
            f"--workdir={tmp_path / 'new'}",
        ]
        with monkeypatch.context() as patch:
            patch.setattr(processes_test.subprocess, "Popen", popen)
            return processes_test.start(arguments, processes=2, devices=1, environment=cached)

    return start


@pytest.mark.full
@pytest.mark.parametrize("failing", [0, 1])
def test_one_of_two_processes_refuses(failing, two):
    """The other one waits in its first collective operation."""
    jobs = two(failing, "--config.batch_size=17")
    jobs[failing].wait(timeout=processes_test.LIMIT)
    failed = time.monotonic()
    jobs[1 - failing].wait(timeout=processes_test.LIMIT)
    assert time.monotonic() - failed < 15
    codes, told = processes_test.finish(jobs)
    assert codes == [1, 1]
    assert "batch_size=17 is not divisible" in told[failing][1]
    assert f"Process {failing} has failed: config.batch_size=17 is not" in told[1 - failing][1]
    assert "Traceback" not in told[0][1] + told[1][1]


@pytest.mark.full
@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("--config.objectives.xe.learning_rate=0.5", "objectives.xe.learning_rate (None here"),
        ("--config.seeds=(2,)", "seeds ([1] here, [2] there)"),
    ],
)
def test_processes_that_were_started_otherwise(word, field, two, tmp_path):
    codes, told = processes_test.finish(two(1, word))
    assert codes == [1, 1]
    for _, stderr in told:
        assert f"Process 1 was started differently from process 0: config.{field}" in stderr
    assert not (tmp_path / "new" / "results.json").exists()


@pytest.mark.full
def test_a_process_that_finds_no_device_is_heard(cached, tmp_path, monkeypatch):
    """The others are looking for theirs, for which all wait; nor is process 0 gone too early."""
    real = processes_test.subprocess.Popen

    def popen(words, env, **options):
        lost = {"JAX_PLATFORMS": "nowhere"} if "--process_id=2" in words else {}
        return real(words, env=env | lost, **options)

    monkeypatch.setattr(processes_test.subprocess, "Popen", popen)
    arguments = ["--config=quickstart:runlocal", f"--workdir={tmp_path / 'new'}"]
    jobs = processes_test.start(arguments, processes=3, devices=1, environment=cached)
    jobs[2].wait(timeout=processes_test.LIMIT)
    failed = time.monotonic()
    codes, told = processes_test.finish(jobs)
    assert codes == [1, 1, 1] and time.monotonic() - failed < 15
    for _, stderr in told[:2]:
        assert "Process 2 has failed: RuntimeError: Unable to initialize backend" in stderr
