"""The flags of a job, and what is said when one of them, or a field of the config, is wrong.

`--config` takes a file, or the name of a config that comes with the package (`quickstart`), and
after a colon its arguments. `--config.<field>=<value>` sets one field.
"""

import ast
import difflib
import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from ktjax import config as config_lib
from ktjax import spelling, trackers

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file or name, and after a colon its arguments.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; where it resumes, too.")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Delete what another experiment has left in the workdir."
)
TRACKER = flags.DEFINE_enum(
    "tracker", None, list(trackers.TRACKERS), "Who tracks runs beside TensorBoard."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes; TPU pods, SLURM and Open MPI are detected."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where nothing is detected."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes on all hosts, where nothing is detected."
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0 on, where nothing is detected."
)
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 30, "Seconds without a sign after which a process is taken for dead."
)
COMPILED = flags.DEFINE_string(
    "compiled",
    None,
    "Folder for compiled programs, which later starts find there; by default ktjax/compiled in the "
    "user's cache; empty: none. JAX_COMPILATION_CACHE_DIR goes before.",
)

_PACKAGED = Path(__file__).parent / "configs"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
_READABLE = 300  # characters of what a library says
_UNSET = re.compile(r"--config\.[\w.]+=None")
_HELP = ("-h", "-help", "--help", "--helpshort")


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help, or says nothing at all."""
    return not argv[1:] or any(word in _HELP for word in argv[1:])


_DESCRIPTION = """\
ktjax --config=NAME[:ARGUMENT=VALUE,...] --workdir=FOLDER [--config.FIELD=VALUE ...]
  runs a job, or goes on where it was
ktjax configs
  lists the configs that come with the package, and their arguments
ktjax predict MODEL IMAGE... [--top N] [--json]
  says what a model sees in images

NAME is a Python file with a get_config, or one of: {configs}.

  ktjax --config=quickstart --workdir=/tmp/ktjax
  ktjax --config=transfer:student=A,teachers=B+C,data=folder:IMAGES --workdir=/tmp/transfer
  ktjax predict /tmp/transfer/students/kl_dp-B-1 photo.jpg

{flags}

--helpfull lists the flags of libraries, too; --verbosity=1 shows where an error is from."""


def describe() -> str:
    """What --help prints."""
    return _DESCRIPTION.format(
        configs=", ".join(packaged()), flags=flags.FLAGS.module_help(__name__)
    )


def describe_configs() -> str:
    """The configs of the package, each with its first sentence and its arguments; none is run."""
    lines = []
    for name in packaged():
        module = ast.parse((_PACKAGED / f"{name}.py").read_text(encoding="utf-8"))
        (get_config,) = (
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef) and node.name == "get_config"
        )
        told, arguments = (ast.get_docstring(node) or "" for node in (module, get_config))
        said = (told.partition("\n")[0], " ".join(arguments.split()))
        lines += [name, *(f"  {line}" for line in said if line)]
    return "\n".join(lines)


def packaged() -> list[str]:
    """The names of the configs that come with the package."""
    files = (path.relative_to(_PACKAGED) for path in _PACKAGED.rglob("*.py"))
    return sorted(path.with_suffix("").as_posix() for path in files if path.stem != "__init__")


def verbosity_is_given() -> bool:
    """Whether the user has said how much of what libraries say is to be shown."""
    return flags.FLAGS["verbosity"].present


def parse(argv: list[str]) -> list[str]:
    """Parses flags; ends with a sentence if one of them, or a field of the config, is wrong.

    ml_collections takes a None for a number to be written wrong, and for a string to be "None".
    """
    try:
        argv = _with_files(flags.FLAGS.read_flags_from_files(argv))
    except flags.Error as error:
        sys.exit(f"ktjax: {error}")
    path, arg = _config_of(argv)
    if path:
        _check_fields(argv, _read(path, arg))
    unset = [a[len("--config.") : -len("=None")] for a in argv if _UNSET.fullmatch(a)]
    try:
        rest = flags.FLAGS([a for a in argv if not _UNSET.fullmatch(a)])
        for field in unset:
            if field.rpartition(".")[2] not in config_lib.OPTIONAL:
                sys.exit(f"ktjax: config.{field} has to have a value: it cannot be None.")
            config_path.set_value(field, CONFIG.value, None)
    except flags.Error as error:
        line = next(line.strip() for line in str(error).splitlines() if line.strip())
        sys.exit(f"ktjax: {line if len(line) <= _READABLE else f'{line[:_READABLE]}...'}")
    _check_required()
    if rest[1:]:
        sys.exit(f"ktjax: arguments that nobody asks for: {' '.join(rest[1:])}.")
    return rest


def _check_required() -> None:
    """Ends with what to type if it is not said what to run, or where to."""
    if CONFIG.value is None:
        sys.exit(
            "ktjax: what is to be run? Type --config=NAME:ARGUMENTS, such as --config=quickstart; "
            "`ktjax configs` lists what there is."
        )
    if not WORKDIR.value:
        sys.exit(
            "ktjax: where to? Type --workdir=FOLDER, such as --workdir=/tmp/ktjax: results go "
            "there, and the same command goes on from there."
        )


def _with_files(argv: list[str]) -> list[str]:
    """The same command line, in which --config names a file that exists."""
    words = list(argv)
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag not in ("-config", "--config"):
            continue
        if not equals:  # the value is the next word
            value = argv[i + 1] if i + 1 < len(argv) else ""
        name, colon, arg = value.partition(":")
        if name:
            at, head = (i, f"{flag}=") if equals else (i + 1, "")
            words[at] = f"{head}{_file_of(name)}{colon}{arg}"
    return words


def _read(path: str, arg: str | None) -> ml_collections.ConfigDict:
    """The config of a file; ends with a sentence, which names file and line, if it gives none."""
    try:
        get_config = runpy.run_path(path).get("get_config")
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        sys.exit(f"ktjax: {_raised(path, error)}")
    if not callable(get_config):
        sys.exit(f"ktjax: config file '{path}' has no function get_config.")
    try:
        config = get_config() if arg is None else get_config(arg)
    except ValueError as error:  # about the arguments after the colon
        sys.exit(f"ktjax: {error}")
    except (Exception, SystemExit) as error:
        sys.exit(f"ktjax: {_raised(path, error)}")
    if not isinstance(config, ml_collections.ConfigDict):
        kind = type(config).__name__
        sys.exit(f"ktjax: get_config of '{path}' returns a {kind}, and has to return a ConfigDict.")
    if "job" not in config:
        sys.exit(f"ktjax: the config of '{path}' has no field 'job', which names what it is for.")
    return config


def _raised(path: str, error: BaseException) -> str:
    """What a config file raised, and in which of its lines."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"config file '{path}', line {error.lineno}: {error.msg}."
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    where = f", line {lines[-1]}" if lines else ""
    said = str(error).strip().partition("\n")[0].rstrip(".")
    return f"config file '{path}'{where}: {type(error).__name__}{f': {said}' if said else ''}."


def _file_of(name: str) -> str:
    """The file of a config: the one of this path, or the packaged one of this name."""
    if os.path.isfile(name):
        return name
    if not name.endswith(".py"):
        path = _PACKAGED / f"{name}.py"
        if path.is_file() and path.stem != "__init__":
            return str(path)
        near = difflib.get_close_matches(name, packaged(), n=1)
        hint = f"Nearest: {near[0]}" if near else f"Known: {', '.join(packaged())}"
        sys.exit(f"ktjax: no config '{name}'. {hint}; or a Python file.")
    there = [str(file) for file in Path(name).parent.glob("*.py")]
    near = difflib.get_close_matches(name, there, n=1)
    hint = f" Nearest: {near[0]}." if near else ""
    if not near and Path(name).stem in packaged():
        hint = f" The one that comes with the package: --config={Path(name).stem}."
    sys.exit(f"ktjax: no config file '{name}' in {os.getcwd()}.{hint}")


def _config_of(argv: list[str]) -> tuple[str, str | None]:
    """The config file and its arguments, as `--config=FILE:ARG` or `--config FILE:ARG` says."""
    found = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    path, _, arg = found[1].partition(":") if found else ("", "", "")
    return path, arg or None


def _check_fields(argv: list[str], config: ml_collections.ConfigDict) -> None:
    """Ends with a sentence if a `--config.<field>` is no field of the config."""
    for name in filter(None, map(_OVERRIDE.match, argv)):
        *above, last = name[1].split(".")
        fields, owner = config, "config"
        for part in [*above, last]:
            if not isinstance(fields, ml_collections.ConfigDict):
                sys.exit(f"ktjax: {owner} is a single value, and has no field '{part}'.")
            if part not in fields:
                who = "the config" if owner == "config" else owner
                near = spelling.nearest(part, _dotted(fields, owner.removeprefix("config")))
                sys.exit(f"ktjax: {who} has no field '{part}'. Nearest: {near}.")
            fields, owner = fields[part], f"{owner}.{part}"


def _dotted(fields: ml_collections.ConfigDict, above: str) -> Iterator[str]:
    """The names of fields as they stand after `--config.`, those of entries among them."""
    for name, value in fields.items():
        dotted = f"{above}.{name}".removeprefix(".")
        yield dotted
        if isinstance(value, ml_collections.ConfigDict):
            yield from _dotted(value, dotted)
