"""`python -m ktjax.bench pairs|data`: measures, and prints a line for each number."""

import argparse
import sys
from collections.abc import Sequence

from ktjax.bench import data, pairs

_RUN = {"pairs": pairs.run, "data": data.run}


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Runs the benchmark that the arguments name, prints what it found, and returns it."""
    parser = argparse.ArgumentParser(prog="python -m ktjax.bench")
    benchmarks = parser.add_subparsers(dest="name", required=True)
    of_pairs = benchmarks.add_parser("pairs", help="all pairs of a zoo (ktjax/analysis/pairs.py)")
    of_pairs.add_argument("--models", type=int, default=466, help="models (%(default)s)")
    of_pairs.add_argument("--samples", type=int, default=50_000, help="samples (%(default)s)")
    of_pairs.add_argument("--classes", type=int, default=1000, help="classes (%(default)s)")
    of_pairs.add_argument(
        "--naive_pairs", type=int, default=200, help="of which a loop is timed (%(default)s)"
    )
    of_data = benchmarks.add_parser("data", help="the input pipeline (ktjax/data/pipeline.py)")
    of_data.add_argument("--images", type=int, default=512, help="files (%(default)s)")
    of_data.add_argument(
        "--photos", type=int, default=64, help="that many of them differ (%(default)s)"
    )
    of_data.add_argument("--batch_size", type=int, default=64, help="images (%(default)s)")
    of_data.add_argument("--rounds", type=int, default=5, help="that count (%(default)s)")
    options = vars(parser.parse_args(argv))
    run = _RUN[options.pop("name")]
    for name, value in options.items():
        if value < (least := 2 if name == "models" else 1):
            parser.error(f"--{name}={value} must be {least} or more")
    found = run(**options)
    for name, value in found.items():
        print(f"{name:32} {value:,.6g}" if isinstance(value, float) else f"{name:32} {value}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
