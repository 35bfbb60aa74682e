"""Leases: one holder at a time, who may die, and who may only have been asleep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures

import pytest
from small_jobs import ROOT

from ktjax.experiment import lease

HOLD = (
    "import sys, time, pathlib\n"
    "from ktjax.experiment import lease\n"
    "with lease.take(pathlib.Path(sys.argv[1]), expiry=60) as held:\n"
    "    (lease.enter(held) / 'work').write_text('half')\n"
    "    print(held.number, flush=True)\n"
    "    time.sleep(60)\n"
)


def is_taken(path, *, expiry=60):
    """Whether a live process has it; unlike taking it, looking changes nothing."""
    numbers = lease._numbers(path)
    return bool(numbers) and not lease._is_dead(lease._file(path, numbers[-1]), expiry)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kl_dp-1"


@pytest.fixture
def holder(path):
    """Another process that has the lease."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "0\n"
    yield started
    started.kill()
    started.communicate()


def test_one_holder(path):
    with lease.take(path, expiry=60) as held:
        assert held.held() and is_taken(path)
        with lease.take(path, expiry=60) as second:
            assert second is None
        file = path.with_name("kl_dp-1@7.lease")  # of one who is just taking over
        file.touch()
        assert not held.held()
        file.unlink()
        other = path.with_name("kl_dp-11")
        with lease.take(other, expiry=60) as of_another:
            assert of_another.held()
    assert not held.held() and not is_taken(path)
    assert not list(path.parent.glob("*.lease"))


def test_of_many_one_has_it(path, monkeypatch):
    """All of them have seen that nobody has it."""
    together, places = threading.Barrier(8), lease._places

    def seen_by_all(of):
        together.wait()
        return places(of)

    monkeypatch.setattr(lease, "_places", seen_by_all)
    ended = threading.Barrier(8)

    def attempt(_):
        with lease.take(path, expiry=60) as held:
            ended.wait()
            return held is not None

    with futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_what_was_left_is_gone_on_with(path):
    with lease.take(path, expiry=60) as first:
        (lease.enter(first) / "work").write_text("half")
    with lease.take(path, expiry=60) as second:
        assert (second.number, second.place == first.place) == (1, False)
        assert (lease.enter(second) / "work").read_text() == "half" and not first.place.exists()
        os.rename(second.place, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["kl_dp-1"]


def test_death_is_seen_at_once(path, holder):
    with lease.take(path, expiry=60) as held:
        assert held is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_taken(path)
    with lease.take(path, expiry=60) as held:
        assert held.number == 1 and (lease.enter(held) / "work").read_text() == "half"


def test_on_another_machine_a_lease_expires(path, holder, monkeypatch):
    """There nobody sees locks: only the signs of life tell."""
    monkeypatch.setattr(lease, "_boot", lambda: "another")
    holder.send_signal(signal.SIGSTOP)
    (file,) = path.parent.glob("*.lease")
    assert is_taken(path)
    os.utime(file, (0, os.stat(file).st_mtime - 61))
    assert not is_taken(path)


def test_a_sleeper_has_lost(path):
    with lease.take(path, expiry=60) as sleeper:
        lease.enter(sleeper)
        os.utime(sleeper.file, (0, 0))
        with lease.take(path, expiry=60) as living:
            lease.enter(living)
            assert living.held() and not sleeper.held()
            with pytest.raises(FileNotFoundError):
                os.rename(sleeper.place, path)
            lease.enter(sleeper)  # whoever writes makes its folder again
            assert living.place.is_dir()
            (sleeper.place / "results.json").write_text("of a sleeper")
    with lease.take(path, expiry=60) as third:
        assert not list(lease.enter(third).iterdir()) and not sleeper.place.exists()


def test_a_number_that_comes_again_is_not_its_own(path, monkeypatch):
    """In a container the first process has it each time; a bucket has no locks."""
    monkeypatch.setattr(lease, "_lock", lambda file, kind: False)
    said = {"boot": lease._boot(), "processes": lease._processes(), "process": os.getpid()}
    path.with_name("kl_dp-1@0.lease").write_text(json.dumps(said | {"nonce": "of a dead one"}))
    assert not is_taken(path)
    with lease.take(path, expiry=60):
        assert is_taken(path)


def test_who_has_lost_hears_of_it(path):
    heard = threading.Event()
    with lease.take(path, expiry=0.3, lost=heard.set) as held:
        held.file.unlink()  # a workdir that is deleted is nobody's
        assert not heard.wait(0.2)
        path.with_name("kl_dp-1@1.lease").touch()
        assert heard.wait(10)


def test_the_heart_beats(path):
    with lease.take(path, expiry=0.3) as held:
        before = held.file.stat().st_mtime_ns
        os.utime(held.file, (0, 0))
        for _ in range(100):
            if held.file.stat().st_mtime_ns >= before:
                break
            time.sleep(0.02)
        else:
            pytest.fail("no sign of life")


def test_who_is_alive_on_another_machine_shows_it_in_time(path, holder, monkeypatch):
    """There it takes a while to see; here a living one is refused at once."""
    message = f"Process {holder.pid} on .* is working in '{path.parent}'"
    with pytest.raises(ValueError, match=message), lease.alone(path, expiry=60):
        pytest.fail("two of them")
    monkeypatch.setattr(lease, "_boot", lambda: "another")
    holder.send_signal(signal.SIGKILL)
    with lease.alone(path, expiry=0.5) as held:
        assert held.number == 1


def test_the_dead_are_known_where_there_are_no_locks(path, holder, monkeypatch):
    """As on some disks, and in buckets."""
    monkeypatch.setattr(lease, "_lock", lambda file, kind: False)
    assert is_taken(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_taken(path)
    monkeypatch.setattr(lease, "_processes", lambda: "of another container")
    assert is_taken(path)
