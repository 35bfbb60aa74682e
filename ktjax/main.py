"""The command line: `ktjax --config=quickstart --workdir=...`, or `python -m ktjax.main`.

`--config.<field>=<value>` sets a field of the config. The same command resumes a run.
Help, lists, and errors in flags and fields are printed before anything heavy is imported.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import app

import ktjax
from ktjax import flags


def cli() -> None:
    """The console script `ktjax`."""
    word = sys.argv[1] if len(sys.argv) > 1 else None
    if word in _COMMANDS:
        try:
            _COMMANDS[word](sys.argv[2:])
        except (ValueError, OSError) as error:
            sys.exit(f"ktjax: {error}")
    elif flags.wants_help(sys.argv):
        _print(flags.describe())
    elif word == "--version":
        _print(f"ktjax {ktjax.__version__}")
    elif word is not None and not word.startswith("-"):
        sys.exit(
            f"ktjax: unknown command '{word}'. Commands: {', '.join(_COMMANDS)}. To run a job: "
            "ktjax --config=NAME --workdir=FOLDER."
        )
    else:
        app.run(_launch, flags_parser=flags.parse)


def _print(text: str) -> None:
    """Prints to a reader that may stop before the end: `ktjax --help | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Otherwise Python would try to write the rest once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _launch(argv: list[str]) -> None:
    del argv  # there are only flags
    _check()
    importlib.import_module("ktjax.launch").run()


def _check() -> None:
    """Exits with a message if fields or data set names are wrong: jobs would import JAX first."""
    settings, data = map(importlib.import_module, ("ktjax.settings", "ktjax.data"))
    try:
        read = settings.read(flags.CONFIG.value)
        for field, name in read.datasets().items():
            data.check(name, field)
    except ValueError as error:
        sys.exit(f"ktjax: {error}")


def _predict(words: Sequence[str]) -> None:
    importlib.import_module("ktjax.inference").main(words)


def _configs(words: Sequence[str]) -> None:
    if len(words) > 1:
        raise ValueError(f"configs takes one name at most, not {' '.join(words)}.")
    _print(flags.describe_config(words[0]) if words else flags.describe_configs())


_COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "configs": _configs,  # lists the packaged configs
    "predict": _predict,  # classifies images with a model
}


if __name__ == "__main__":
    cli()
