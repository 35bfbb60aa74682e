"""`python -m ktjax.data convert FOLDER OUT`: images as ArrayRecord."""

import argparse
import sys
from collections.abc import Sequence

from ktjax.data import convert


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the arguments say, and prints how to use the result."""
    parser = argparse.ArgumentParser(prog="python -m ktjax.data")
    commands = parser.add_subparsers(dest="command", required=True)
    of_convert = commands.add_parser("convert", help=convert.__doc__.partition(".")[0])
    of_convert.add_argument("folder", help="folder of images, as for data=folder:PATH")
    of_convert.add_argument("out", help="DATA_DIR/NAME")
    options = parser.parse_args(argv)
    try:
        path = convert.convert(options.folder, options.out)
    except (ValueError, OSError) as error:
        sys.exit(f"ktjax: {error}")
    name, data_dir = path.parent.name, path.parent.parent
    print(f"Written: {path}\nTo use it: data=tfds:{name} and --config.data_dir={data_dir}")


if __name__ == "__main__":
    main()
