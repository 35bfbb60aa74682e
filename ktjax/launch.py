"""Launches the job that the flags name, and handles logs, processes, signals and exit codes.

Kept short on purpose: the work is in ktjax/jobs, which Colab and tests call as well.
"""

import importlib
import logging as python_logging
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

import jax
from absl import logging

from ktjax import compiled, flags, interruption, peers, progress, trackers
from ktjax.experiment import logs
from ktjax.jobs import JOBS

_LOG = python_logging.getLogger("ktjax")


def run() -> None:
    """Runs the job that the flags name."""
    if not flags.verbosity_is_given():
        # Orbax reports every file it writes, and an error five times; the log file has all of it.
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setLevel(python_logging.CRITICAL)
        _log_threads()
    try:
        _start_processes()
        logs.expect()
        peers.listen(logs.flush)
        _keep_compiled()
        interruption.listen()
        config = flags.CONFIG.value
        trackers.follow(flags.TRACKER.value)
        logs.STARTED_BY.set(sys.argv[1:])
        job = importlib.import_module(JOBS[config.job])
        job.run(config, flags.WORKDIR.value, overwrite=flags.OVERWRITE.value)
    except interruption.Interrupted:
        progress.close_all()
        _LOG.warning("Stopped as requested. Run the same command to resume.")
        logs.stop()
        sys.exit(interruption.EXIT_CODE)
    except (ValueError, FloatingPointError, OSError) as error:
        _fail(error)
    except jax.errors.JaxRuntimeError as error:
        if not flags.DISTRIBUTED.value and not _lacks_memory(error):
            raise
        _fail(error)
    except Exception as error:
        if not flags.DISTRIBUTED.value:
            raise
        traceback.print_exc()
        peers.leave(f"{type(error).__name__}: {error}", logs.flush)
    finally:
        peers.stop()


def _keep_compiled() -> None:
    """Keeps compiled programs, unless the user does not want that.

    With --distributed, only if the user names a folder: see `compiled.keep`.
    """
    given = flags.COMPILED.value
    if given != "":
        compiled.keep(given)


def _log_threads() -> None:
    """Sends what library threads raise to the log: the main thread gets and reports the error.

    The same for what threads print that Python did not start: when a disk is full, TensorStore's
    threads report further failed writes to an event loop that Orbax closed after the first one.
    """

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        _LOG.info("A thread ended with %s: %s", arguments.exc_type.__name__, arguments.exc_value)

    def ignored(unraisable: Any) -> None:
        kind, value = unraisable.exc_type.__name__, unraisable.exc_value
        _LOG.info("Python ignored %s: %s", kind, value or unraisable.err_msg)

    def printed(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if threading.get_ident() == threading.main_thread().ident:
            sys.__excepthook__(kind, error, where)
        else:
            _LOG.info("A thread of a library printed %s: %s", kind.__name__, error)

    threading.excepthook = in_thread
    sys.excepthook = printed
    sys.unraisablehook = ignored


def _start_processes() -> None:
    """Joins the other processes, if this is one of several."""
    explicit = {
        "coordinator_address": flags.COORDINATOR.value,
        "num_processes": flags.NUM_PROCESSES.value,
        "process_id": flags.PROCESS_ID.value,
    }
    if not flags.DISTRIBUTED.value:
        given = [f"--{name}" for name, value in explicit.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: only with --distributed.")
        return
    if flags.HEARTBEAT.value < 1:
        raise ValueError(f"--heartbeat_timeout={flags.HEARTBEAT.value} must be 1 or more.")
    _check_numbers(flags.NUM_PROCESSES.value, flags.PROCESS_ID.value)
    if flags.COORDINATOR.value is not None:
        _check_address(flags.COORDINATOR.value, is_first=flags.PROCESS_ID.value == 0)
    try:
        jax.distributed.initialize(
            **explicit,
            heartbeat_timeout_seconds=flags.HEARTBEAT.value,
            shutdown_timeout_seconds=flags.HEARTBEAT.value,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: the processes do not find each other: {str(error).rstrip('.')}. "
            "Outside a TPU pod, SLURM or Open MPI job, give --coordinator_address, "
            "--num_processes and --process_id."
        ) from error


def _check_numbers(processes: int | None, process: int | None) -> None:
    if processes is not None and processes < 1:
        raise ValueError(f"--num_processes={processes} must be 1 or more.")
    if process is not None and not 0 <= process < (processes or process + 1):
        raise ValueError(
            f"--process_id={process} must be from 0 to --num_processes - 1, "
            f"{'any' if processes is None else processes - 1}."
        )


def _check_address(address: str, *, is_first: bool) -> None:
    """Raises ValueError unless the address resolves, and process 0 can listen on the port.

    JAX itself crashes if the port is in use, and waits for minutes if the host does not exist.
    """
    host, _, port = address.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator_address='{address}' must be host:port.")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--coordinator_address='{address}': no such host ({reason}).") from error
    if not is_first:
        return
    family, kind, protocol, _, _ = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))  # it will listen on all of this machine's addresses
        except OSError as error:
            raise ValueError(
                f"--coordinator_address='{address}': process 0 cannot listen there "
                f"({error.strerror}). Use another port, for all processes."
            ) from error


def _fail(error: Exception) -> NoReturn:
    """Logs what went wrong, and exits."""
    if logging.level_debug():
        traceback.print_exc()
    logs.to_terminal()
    progress.close_all()
    _LOG.error("%s\n(--verbosity=1 shows where.)", _sentence(error))
    peers.leave(_sentence(error), logs.flush)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or flags.WORKDIR.value
        return f"'{where}': {error.strerror}. Run the same command to resume from what is saved."
    if _lacks_memory(error):
        said, *_ = str(error).splitlines()
        lower = "Lower config.eval_batch_size"
        if "batch_size" in flags.CONFIG.value:
            lower = (
                "Lower config.batch_size or config.eval_batch_size, or set config.microbatches, "
                "config.remat or config.parallel=fsdp"
            )
        return (
            f"A device has too little memory ({said.rstrip('.')}). {lower} (.github/CLUSTERS.md)."
        )
    if isinstance(error, jax.errors.JaxRuntimeError):
        said = str(error).rstrip(".")
        return (
            f"The processes cannot continue, as one has died or failed: {said}. Start all of them "
            "again to resume from the latest checkpoint."
        )
    return str(error)


def _lacks_memory(error: Exception) -> bool:
    """Whether a device has too little; the coordination service's messages have limits, too."""
    said = str(error)
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and said.startswith("RESOURCE_EXHAUSTED")
        and ("memory" in said or "allocat" in said)
    )
