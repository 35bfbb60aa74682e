"""Studies in several processes on one machine, each with its share of the cores.

A small network uses one core better than several: on two cores, nine of them trained 1.4 to 2.0
times as many steps in two processes as in one (configs/study.py). Leases keep two processes from
doing the same run, and release the runs of a process that dies.
"""

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

from ktjax import compiled, interruption, paths, trackers
from ktjax.experiment import logs
from ktjax.experiment.shared import Shared
from ktjax.jobs.study import plan, work
from ktjax.jobs.study.folders import Runs
from ktjax.jobs.study.plan import Run
from ktjax.settings.study import Study

_LOG = logging.getLogger(__name__)
_POLL = 2.0  # seconds between two checks of the processes


def run(
    settings: Study,
    workdir: Path,
    runs: Runs,
    asked: Sequence[Run],
    shared: Shared,
    *,
    labeled: bool,
) -> None:
    """Executes the runs in config.processes processes, and returns when all of them have ended.

    Raises:
      Exception: raised by one of them. The others are stopped as by an interruption.
      ChildProcessError: all of them were killed.
    """
    del shared  # of this process; each process makes its own
    progress = work.Progress(runs, asked)
    # All share the compilation cache of this process.
    cache = {name: getattr(jax.config, name) for name in compiled.SETTINGS}
    told = (logs.STARTED_BY.get(), trackers.followed())
    same = (settings.to_json(), str(workdir), labeled, work.failures(runs, asked), cache, *told)
    context = multiprocessing.get_context("spawn")  # a fork would share JAX's threads
    children, receivers, killed = [], [], 0
    try:
        for cores in shares(settings.processes):
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_work, args=(*same, cores, sender))
            child.start()
            sender.close()
            children.append(child)
            receivers.append(receiver)
        while children:
            interruption.stop_if_asked()
            connection.wait([one.sentinel for one in children], timeout=_POLL)
            ended = [child for child in children if _has_ended(child)]
            children = [child for child in children if child not in ended]
            killed += sum(bool(child.exitcode) for child in ended)
            for receiver in receivers:
                _raise_what_it_said(receiver)
            progress.update()
        interruption.stop_if_asked()  # the signal may have reached all processes at once
        if killed == settings.processes:
            raise ChildProcessError(
                "All processes of the study were killed, possibly for lack of memory: lower "
                "config.processes to need less. Started again, the study resumes."
            )
    finally:
        for child in children:
            child.terminate()  # it saves a checkpoint first
        for child in children:
            child.join()
        progress.close()


def shares(processes: int) -> list[tuple[int, ...]]:
    """The cores of each process; empty if the system does not list them.

    Their numbers differ by one at most. If there are more processes than cores, they share cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * processes
    cores = sorted(os.sched_getaffinity(0))
    if processes >= len(cores):
        return [(cores[i % len(cores)],) for i in range(processes)]
    at = [i * len(cores) // processes for i in range(processes + 1)]
    return [tuple(cores[a:b]) for a, b in itertools.pairwise(at)]


def _raise_what_it_said(receiver: Connection) -> None:
    with contextlib.suppress(EOFError):  # it ended without an exception
        if receiver.poll():
            raise receiver.recv()


def _has_ended(child: Any) -> bool:
    """Whether it has ended; warns if it was killed."""
    if child.is_alive():
        return False
    if child.exitcode:
        _LOG.warning(
            "A process of the study ended early (%d); others take over its runs.", child.exitcode
        )
    return True


def _work(
    fields: Mapping[str, Any],
    workdir: str,
    labeled: bool,
    failed: Mapping[Path, float],
    cache: Mapping[str, Any],
    started_by: Sequence[str] | None,
    tracker: str | None,
    cores: Sequence[int],
    sender: Connection,
) -> None:
    """Executes the remaining runs in a process, until none is left."""
    if cores:
        os.sched_setaffinity(0, cores)  # before JAX starts as many threads as there are cores
    for name, value in cache.items():
        jax.config.update(name, value)
    # Bars of several processes would overwrite each other: the parent shows one for all. Runs have
    # their own logs.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for shown in (1, 2):  # stdout and stderr, whoever writes there
            os.dup2(nowhere.fileno(), shown)
    interruption.listen()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent stops us
    threading.Thread(target=_follow_parent, daemon=True).start()
    logs.STARTED_BY.set(started_by)
    trackers.follow(tracker)
    settings = Study.read(fields)
    runs = Runs(paths.of(workdir), settings)
    planned = plan.plan(settings, labeled=labeled, workdir=runs.workdir)
    asked = plan.share(planned, settings.shard)
    try:
        wait = settings.shard is None
        work.work(settings, runs, asked, failed=failed, wait=wait)
    except interruption.Interrupted:
        sys.exit(interruption.EXIT_CODE)
    except Exception as error:
        error.add_note(traceback.format_exc())  # which is not pickled with the error
        sender.send(error)


def _follow_parent() -> None:
    """Ends this process, as by an interruption, when the parent has ended for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
