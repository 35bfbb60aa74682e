"""`python -m ktjax.bench NAME`: measures, and prints one line per number; see --help."""

import argparse
import sys
from collections.abc import Sequence

from ktjax.bench import checkpoints, data, guard, imported, pairs, quickstart, step

_RUN = {
    "pairs": pairs.run,
    "data": data.run,
    "step": step.run,
    "imported": imported.run,
    "checkpoint": checkpoints.run,
    "quickstart": quickstart.run,
    "guard": guard.run,
}


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Runs the benchmark that the arguments name, prints what it found, and returns it."""
    parser = argparse.ArgumentParser(prog="python -m ktjax.bench")
    benchmarks = parser.add_subparsers(dest="name", required=True)
    of_pairs = benchmarks.add_parser("pairs", help="all pairs of a zoo (ktjax/analysis/pairs.py)")
    of_pairs.add_argument("--models", type=int, default=466, help="models (%(default)s)")
    of_pairs.add_argument("--samples", type=int, default=50_000, help="samples (%(default)s)")
    of_pairs.add_argument("--classes", type=int, default=1000, help="classes (%(default)s)")
    of_pairs.add_argument(
        "--naive_pairs", type=int, default=200, help="pairs to time with a loop (%(default)s)"
    )
    of_data = benchmarks.add_parser("data", help="the input pipeline (ktjax/data/pipeline.py)")
    of_data.add_argument("--images", type=int, default=512, help="files (%(default)s)")
    of_data.add_argument(
        "--photos", type=int, default=64, help="how many of them differ (%(default)s)"
    )
    of_data.add_argument("--batch_size", type=int, default=64, help="images (%(default)s)")
    of_data.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    of_step = benchmarks.add_parser("step", help="a training step, compared to PyTorch's")
    of_step.add_argument("--student", required=True, help="an architecture or a model")
    of_step.add_argument("--teachers", required=True, help="one, or several joined by plus signs")
    of_step.add_argument("--batch_size", type=int, default=8, help="images (%(default)s)")
    of_step.add_argument("--rounds", type=int, default=7, help="timed rounds (%(default)s)")
    of_step.add_argument("--seconds", type=float, default=0.5, help="per turn (%(default)s)")
    of_step.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    of_step.add_argument(
        "--torch", default="eager+channels_last", help=f"{'+'.join(step.VARIANTS)} (%(default)s)"
    )
    of_step.add_argument(
        "--library", action="store_true", help="also with XLA's own convolutions only"
    )
    of_step.add_argument("--json", dest="json_file", help="a file for the numbers of many pairs")
    of_graphs = benchmarks.add_parser("imported", help="a step of an imported model")
    of_graphs.add_argument("--architecture", required=True, help="one that ktjax and timm have")
    of_graphs.add_argument("--batch_size", type=int, default=8, help="images (%(default)s)")
    of_graphs.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    of_graphs.add_argument("--seconds", type=float, default=0.5, help="per turn (%(default)s)")
    of_saving = benchmarks.add_parser("checkpoint", help="saving a student (ktjax/checkpoint.py)")
    of_saving.add_argument("--student", default="resnet50", help="an architecture (%(default)s)")
    of_saving.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    of_saving.add_argument("--folder", help="where to save")
    of_saving.add_argument("--json", dest="json_file", help="a file for the numbers of students")
    of_start = benchmarks.add_parser("quickstart", help="a user's waiting time, by phase")
    of_start.add_argument("--config", default="quickstart", help="of a transfer (%(default)s)")
    of_start.add_argument("--json", dest="json_file", help="a file for the numbers")
    of_start.add_argument("flags", nargs="*", help="more flags of the job, after --")
    of_ratios = benchmarks.add_parser("guard", help="fails if ratios have become worse")
    of_ratios.add_argument("measured", help="the file that `step --json` wrote")
    of_ratios.add_argument("--kept", default=str(guard.KEPT), help="the one to compare with")
    options = vars(parser.parse_args(argv))
    run = _RUN[options.pop("name")]
    for name, value in options.items():
        least = {"models": 2, "seconds": 0}.get(name, 1)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and value < least:
            parser.error(f"--{name}={value} must be {least} or more")
    try:
        found = run(**options)
    except ValueError as error:
        parser.error(str(error))
    for name, value in found.items():
        print(f"{name:32} {value:,.6g}" if isinstance(value, float) else f"{name:32} {value}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
