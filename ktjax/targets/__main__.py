"""`python -m ktjax.targets views` and `pack`: teachers that ktjax cannot run.

  python -m ktjax.targets views --config=NAME[:ARGUMENTS] --workdir=POOL

writes the images that a run of this config sees to the folder POOL: see targets/pack.py. The
teacher answers them with logits, in a folder ANSWERS of arrays named like those of the images, and
classes.txt with the name of each column, one per line. Then

  python -m ktjax.targets pack POOL ANSWERS STORE --name=MODEL [--k=16 [--temperatures 2 4]]

makes a store of them, which teaches as teachers=store:STORE.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ktjax.targets import pack
from ktjax.targets.store import MEASURED

if TYPE_CHECKING:
    from ktjax.settings.data import Data
    from ktjax.settings.transfer import Transfer


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command in the arguments, and prints the next step."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] == ["views"]:
            _views(argv)
        else:
            _pack(argv)
    except (ValueError, OSError) as error:
        sys.exit(f"ktjax: {error}")


def _views(argv: list[str]) -> None:
    # These import data and models, which packing does not need.
    from ktjax import flags, settings
    from ktjax.experiment import views

    flags.parse(argv)
    folder = views.write(_of_runs(settings.read(flags.CONFIG.value)), flags.WORKDIR.value)
    files = [f"{split}.npy" for split in MEASURED if (folder / f"{split}.npy").exists()]
    measured = f", {' and '.join(files)}" if files else ""
    print(
        f"Written: {folder}\nAnswer the images of view-*.npy (or, for a teacher without views, "
        f"those of plain.npy instead){measured} with [images, classes] logits in "
        "files of the same names in a folder ANSWERS, and list the class of each column in "
        f"{pack.CLASSES}, one per line. Then they become a teacher: python -m ktjax.targets pack "
        f"{folder} ANSWERS STORE --name=MODEL"
    )


def _of_runs(asked: "Data") -> "Transfer":
    """The settings of a transfer, or what all runs of a study see."""
    from ktjax.jobs.study import plan
    from ktjax.settings.study import Study
    from ktjax.settings.transfer import Transfer

    if isinstance(asked, Transfer):
        return asked
    if not isinstance(asked, Study):
        raise ValueError(f"config.job={asked.job}: views are those of a transfer or a study.")
    study = plan.named(asked)
    if not study.students:
        raise ValueError(f"config.students: name the models of '{study.data}'.")
    return study.transfer(study.students[0], (), study.objectives, seeds=study.seeds, mcl=study.mcl)


def _pack(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ktjax.targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("views", help="writes the images of a config; flags as ktjax.main")
    of_pack = commands.add_parser("pack", help="makes a store of the answers to them")
    of_pack.add_argument("pool", help="the folder that `views` wrote")
    of_pack.add_argument("answers", help="a folder of .npy files and classes.txt")
    of_pack.add_argument("store", help="the folder to create")
    of_pack.add_argument("--name", required=True, help="the model's name")
    of_pack.add_argument("--origin", default="packed", help="where it comes from, in words")
    of_pack.add_argument("--k", type=int, help="how many of the largest logits to keep (all)")
    of_pack.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[],
        help="with --k: at which objectives may compare all classes, besides 1",
    )
    options = parser.parse_args(argv)
    temperatures = sorted({1.0, *options.temperatures})
    if not 0 < temperatures[0] <= temperatures[-1] < math.inf:
        raise ValueError(f"--temperatures={temperatures}: all must be positive and finite.")
    answers, classes = pack.read_answers(options.answers)
    store = pack.pack(
        options.pool,
        answers,
        options.store,
        name=options.name,
        classes=classes,
        origin=options.origin,
        k=options.k,
        ways=[(temperature, False) for temperature in temperatures],
    )
    more = sum(store.description[split]["examples"] for split in MEASURED if store.has(split))
    size = store.form.told(store.examples, len(store.complete()), more)
    print(f"Written: {store.folder}: {size}\nTo use it: teachers={store.name}")


if __name__ == "__main__":
    main()
