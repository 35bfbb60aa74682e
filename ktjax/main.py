"""Launches a job: `python -m ktjax.main --config=configs/quickstart.py --workdir=...`.

`--config.<field>=<value>` sets a field of the config. The same command goes on where a run was.
"""

# Kept short on purpose: what there is to do lies in ktjax/jobs, which Colab and tests call as well.

import difflib
import functools
import logging as python_logging
import os
import pathlib
import re
import runpy
import sys
import threading
import traceback
from typing import NoReturn

import jax
import ml_collections
import tqdm
from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from ktjax import config as config_lib
from ktjax import interruption
from ktjax.experiment import logs
from ktjax.jobs import complementarity, pretrain, transfer

JOBS = {
    "complementarity": complementarity.run,
    "pretrain": pretrain.run,
    "transfer": transfer.run,
}

_UNSET = re.compile(r"--config\.[\w.]+=None")
_LOG = python_logging.getLogger("ktjax")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, and after a colon its arguments.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; where it resumes, too.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Delete what another experiment has left in the workdir."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes; TPU pods, SLURM and Open MPI are detected."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where nothing is detected."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of all hosts together; likewise.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "From 0 on; likewise.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 30, "Seconds without a sign after which a process is taken for dead."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the job that the config names."""
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells of every file that it writes, and of an error five times; the log has it.
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setLevel(python_logging.CRITICAL)
        _log_threads()
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        _start_processes()
        logs.to_terminal()
        interruption.listen()
        job = _CONFIG.value.job
        if job not in JOBS:
            raise ValueError(f"config.job='{job}' is not known. Known: {', '.join(sorted(JOBS))}.")
        JOBS[job](_CONFIG.value, _WORKDIR.value, overwrite=_OVERWRITE.value)
    except interruption.Interrupted:
        _LOG.warning("Ended as asked. Started again, the job goes on where it was.")
        sys.exit(interruption.EXIT_CODE)
    except (ValueError, FloatingPointError, OSError) as error:
        _fail(error)
    except jax.errors.JaxRuntimeError as error:
        if not _DISTRIBUTED.value:
            raise
        _fail(error)


def _log_threads() -> None:
    """What threads of libraries raise goes to the log: the main thread hears of it, and says it."""

    def hook(arguments: threading.ExceptHookArgs) -> None:
        _LOG.info("A thread ended with %s: %s", arguments.exc_type.__name__, arguments.exc_value)

    threading.excepthook = hook


def _start_processes() -> None:
    """Joins the other processes, if this is to be one of several."""
    explicit = {
        "coordinator_address": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    if not _DISTRIBUTED.value:
        given = [f"--{name}" for name, value in explicit.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: only with --distributed.")
        return
    try:
        jax.distributed.initialize(
            **explicit,
            heartbeat_timeout_seconds=_HEARTBEAT.value,
            shutdown_timeout_seconds=_HEARTBEAT.value,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: the processes do not find each other: {str(error).rstrip('.')}. Where "
            "it is no TPU pod, SLURM or Open MPI job, give --coordinator_address, --num_processes "
            "and --process_id."
        ) from error
    if jax.process_index():  # one set of progress bars is enough
        silent = functools.partialmethod(tqdm.tqdm.__init__, disable=True)
        tqdm.tqdm.__init__ = silent


def _fail(error: Exception) -> NoReturn:
    """Says what went wrong and ends, without waiting for other processes that wait for this one."""
    if logging.level_debug():
        traceback.print_exc()
    logs.to_terminal()
    _LOG.error("%s\n(--verbosity=1 shows where.)", _sentence(error))
    sys.stdout.flush()
    os._exit(1)  # libraries would try again to write what cannot be written


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or _WORKDIR.value
        return f"'{where}': {error.strerror}. What was complete is kept: started again, it goes on."
    if isinstance(error, jax.errors.JaxRuntimeError):
        return (
            f"The processes cannot go on together, as one has died or failed: {error}. Started "
            "again, all of them go on from the latest checkpoint."
        )
    return str(error)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong in the config's is told in a sentence.

    ml_collections takes a None for a number to be written wrong, and for a string to be "None".
    """
    path, arg = _config_of(argv)
    if path and not os.path.exists(path):
        there = [str(file) for file in pathlib.Path(path).parent.glob("*.py")]
        nearest = difflib.get_close_matches(path, there, n=1)
        hint = f" Nearest: {nearest[0]}." if nearest else ""
        sys.exit(f"ktjax: no config file '{path}' in {os.getcwd()}.{hint}")
    unset = [a[len("--config.") : -len("=None")] for a in argv if _UNSET.fullmatch(a)]
    try:
        rest = flags.FLAGS([a for a in argv if not _UNSET.fullmatch(a)])
        for field in unset:
            config_path.get_value(field, _CONFIG.value)  # is there such a field?
            if field.rpartition(".")[2] not in config_lib.OPTIONAL:
                sys.exit(f"ktjax: config.{field} has to have a value: it cannot be None.")
            config_path.set_value(field, _CONFIG.value, None)
        return rest
    except (AttributeError, KeyError) as error:  # of --config.<field>
        name = re.search(r"\w+", str(error))[0]
        fields = runpy.run_path(path)["get_config"](arg)
        sys.exit(f"ktjax: {_unknown_field(argv, name, fields)}")
    except flags.Error as error:
        # ml_collections puts the traceback of a config file into the message.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if line.startswith("ValueError: ")]
        sys.exit(f"ktjax: {raised[-1].removeprefix('ValueError: ') if raised else lines[0]}")


def _config_of(argv: list[str]) -> tuple[str, str | None]:
    """The config file and its arguments, as `--config=FILE:ARG` or `--config FILE:ARG` says."""
    found = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    path, _, arg = found[1].partition(":") if found else ("", "", "")
    return path, arg or None


def _unknown_field(argv: list[str], name: str, fields: ml_collections.ConfigDict) -> str:
    override = rf"^--?(?:no)?config\.((?:\w+\.)*){name}\b"
    above = re.search(override, "\n".join(argv), re.MULTILINE)[1]
    for key in above.split(".")[:-1]:
        fields = fields[key]
    nearest = difflib.get_close_matches(name, fields, n=1)
    hint = f" Did you mean '{above}{nearest[0]}'?" if nearest else ""
    owner = f"config.{above}".rstrip(".") if above else "the config"
    return f"{owner} has no field '{name}'.{hint} It has: {', '.join(sorted(fields))}."


def cli() -> None:
    """The console script `ktjax`."""
    for flag in flags.FLAGS.get_flags_for_module("ktjax.main"):  # --help shows the script's
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    cli()
