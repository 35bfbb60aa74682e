"""`python -m ktjax.main --config=configs/quickstart.py --workdir=...`: launches a job.

This file is kept short on purpose: what there is to do lies in ktjax/jobs, which Colab and tests
call as well.
"""

import runpy
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from ktjax.jobs import complementarity, pretrain, transfer

JOBS = {
    "complementarity": complementarity.run,
    "pretrain": pretrain.run,
    "transfer": transfer.run,
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, and after a colon its arguments.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; where it resumes, too.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the job that the config names."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every file that it writes
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        job = _CONFIG.value.job
        if job not in JOBS:
            raise ValueError(f"config.job='{job}' is not known. Known: {', '.join(sorted(JOBS))}.")
        JOBS[job](_CONFIG.value, _WORKDIR.value)
    except (ValueError, FloatingPointError, OSError) as error:
        if logging.level_debug():
            traceback.print_exc()
        sys.exit(f"ktjax: {error}\n(--verbosity=1 shows where.)")


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong in the config's is told in a sentence."""
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # of --config.<field>
        path, _, arg = next(a for a in argv if a.startswith("--config="))[9:].partition(":")
        fields = sorted(runpy.run_path(path)["get_config"](arg or None))
        name = str(error).strip("\"'")
        sys.exit(f"ktjax: the config has no field '{name}'. It has: {', '.join(fields)}.")
    except flags.Error as error:
        # ml_collections puts the traceback of a config file into the message.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if line.startswith("ValueError: ")]
        sys.exit(f"ktjax: {raised[-1].removeprefix('ValueError: ') if raised else lines[0]}")


def cli() -> None:
    """The console script `ktjax`."""
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    cli()
