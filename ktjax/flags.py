"""The flags of a job, and the error messages for wrong flags and config fields.

`--config` takes a file, or the name of a config that comes with the package (`quickstart`), and its
arguments after a colon. `--config.<field>=<value>` sets one field.
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

from ktjax import spelling, trackers

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file or name; its arguments follow a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run, and where it resumes.")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Delete what another experiment left in the workdir."
)
TRACKER = flags.DEFINE_enum(
    "tracker",
    None,
    list(trackers.TRACKERS),
    "Service that tracks runs, in addition to TensorBoard.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes; detects TPU pods, SLURM and Open MPI."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, if not detected."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes on all hosts, if not detected."
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, starting at 0, if not detected."
)
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 30, "Seconds without a heartbeat after which a process counts as dead."
)
COMPILED = flags.DEFINE_string(
    "compiled",
    None,
    "Cache folder for compiled programs, for faster restarts; by default, except with "
    "--distributed, ktjax/compiled in the user's cache; empty: none. JAX_COMPILATION_CACHE_DIR "
    "takes precedence.",
)

_PACKAGED = Path(__file__).parent / "configs"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
_READABLE = 300  # characters of a library's message
_UNSET = re.compile(r"--config\.[\w.]+=None")
_HELP = ("-h", "-help", "--help", "--helpshort")


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help, or is empty."""
    return not argv[1:] or any(word in _HELP for word in argv[1:])


_DESCRIPTION = """\
ktjax --config=NAME[:ARGUMENT=VALUE,...] --workdir=FOLDER [--config.FIELD=VALUE ...]
  runs a job, or resumes it
ktjax configs [NAME]
  lists the configs that come with the package, and their arguments; or explains one
ktjax predict MODEL IMAGE... [--top N] [--json]
  classifies images with a model
ktjax --version

NAME is a Python file with a get_config, or one of: {configs}.

  ktjax --config=quickstart --workdir=/tmp/ktjax
  ktjax --config=transfer:student=A,teachers=B+C,data=folder:IMAGES --workdir=/tmp/transfer
  ktjax predict /tmp/transfer/students/kl_dp-B-1 photo.jpg

{flags}

--helpfull also lists the flags of libraries; --verbosity=1 shows where an error comes from."""


def describe() -> str:
    """The text that --help prints."""
    return _DESCRIPTION.format(
        configs=", ".join(packaged()), flags=flags.FLAGS.module_help(__name__)
    )


def describe_configs() -> str:
    """The packaged configs, each with its summary line and arguments; none is executed."""
    lines = []
    for name in packaged():
        told, arguments = _docstrings(name)
        said = (told.partition("\n")[0], arguments)
        lines += [name, *(f"  {line}" for line in said if line)]
    return "\n".join(lines)


def describe_config(name: str) -> str:
    """A packaged config: its docstring, its arguments, and the file that explains every field.

    ValueError: there is none of this name.
    """
    if name not in packaged():
        near = spelling.nearest(name, packaged())
        raise ValueError(f"No config is called '{name}'. Nearest: {near}.")
    told, arguments = _docstrings(name)
    return f"{told}\n\n{arguments}\n\nAll fields: {_PACKAGED / f'{name}.py'}"


def _docstrings(name: str) -> tuple[str, str]:
    """Those of a packaged config and of its get_config, which lists the arguments."""
    module = ast.parse((_PACKAGED / f"{name}.py").read_text(encoding="utf-8"))
    (get_config,) = (
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name == "get_config"
    )
    told, arguments = (ast.get_docstring(node) or "" for node in (module, get_config))
    return told, " ".join(arguments.split())


def packaged() -> list[str]:
    """The names of the configs that come with the package."""
    files = (path.relative_to(_PACKAGED) for path in _PACKAGED.rglob("*.py"))
    return sorted(path.with_suffix("").as_posix() for path in files if path.stem != "__init__")


def verbosity_is_given() -> bool:
    """Whether the user set --verbosity."""
    return flags.FLAGS["verbosity"].present


def parse(argv: list[str]) -> list[str]:
    """Parses flags; exits with a message if a flag or a config field is wrong.

    ml_collections rejects a None for a number, and takes one for a string to be "None".
    """
    try:
        argv = _with_files(flags.FLAGS.read_flags_from_files(argv))
    except flags.Error as error:
        sys.exit(f"ktjax: {error}")
    path, arg = _config_of(argv)
    config = _read(path, arg) if path else ml_collections.ConfigDict()
    if path:
        _check_fields(argv, config)
    unset = [a[len("--config.") : -len("=None")] for a in argv if _UNSET.fullmatch(a)]
    try:
        rest = flags.FLAGS([a for a in argv if not _UNSET.fullmatch(a)])
        for field in unset:
            config_path.set_value(field, CONFIG.value, None)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        if name.partition(".")[0] in config:
            sys.exit(f"ktjax: no flag --{name}: fields are set by --config.{name}=VALUE.")
        sys.exit(f"ktjax: {error}")
    except flags.Error as error:
        line = next(line.strip() for line in str(error).splitlines() if line.strip())
        sys.exit(f"ktjax: {line if len(line) <= _READABLE else f'{line[:_READABLE]}...'}")
    _check_required()
    if rest[1:]:
        sys.exit(f"ktjax: unexpected arguments: {' '.join(rest[1:])}.")
    return rest


def _check_required() -> None:
    """Exits with what to type if --config or --workdir is missing."""
    if CONFIG.value is None:
        sys.exit(
            "ktjax: --config is required, for example --config=quickstart; `ktjax configs` lists "
            "the choices."
        )
    if not WORKDIR.value:
        sys.exit(
            "ktjax: --workdir is required, for example --workdir=/tmp/ktjax: results go there, and "
            "the same command resumes from there."
        )


def _with_files(argv: list[str]) -> list[str]:
    """The same command line, with --config naming a file that exists."""
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
    """The config of a file; exits with a message, with file and line, if there is none."""
    try:
        get_config = runpy.run_path(path).get("get_config")
    except (Exception, SystemExit) as error:  # user code may raise anything
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
        sys.exit(f"ktjax: get_config of '{path}' returns a {kind}, but must return a ConfigDict.")
    if "job" not in config:
        sys.exit(f"ktjax: the config of '{path}' has no field 'job', the name of the job to run.")
    return config


def _raised(path: str, error: BaseException) -> str:
    """What a config file raised, and on which line."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"config file '{path}', line {error.lineno}: {error.msg}."
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    where = f", line {lines[-1]}" if lines else ""
    said = str(error).strip().partition("\n")[0]
    said = said.partition(" Other fields present:")[0].rstrip(".")  # ml_collections lists them all
    return f"config file '{path}'{where}: {type(error).__name__}{f': {said}' if said else ''}."


def _file_of(name: str) -> str:
    """The file of a config: the one at this path, or the packaged one of this name."""
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
    """The config file and its arguments, from `--config=FILE:ARG` or `--config FILE:ARG`."""
    found = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    path, _, arg = found[1].partition(":") if found else ("", "", "")
    return path, arg or None


def _check_fields(argv: list[str], config: ml_collections.ConfigDict) -> None:
    """Exits with a message if a `--config.<field>` is not a field of the config."""
    for name in filter(None, map(_OVERRIDE.match, argv)):
        *above, last = name[1].split(".")
        fields, owner = config, "config"
        for part in [*above, last]:
            if not isinstance(fields, ml_collections.ConfigDict):
                sys.exit(f"ktjax: {owner} is a single value and has no field '{part}'.")
            if part not in fields:
                who = "the config" if owner == "config" else owner
                near = spelling.nearest(part, _dotted(fields, owner.removeprefix("config")))
                sys.exit(f"ktjax: {who} has no field '{part}'. Nearest: {near}.")
            fields, owner = fields[part], f"{owner}.{part}"


def _dotted(fields: ml_collections.ConfigDict, above: str) -> Iterator[str]:
    """The names of fields as written after `--config.`, including nested ones."""
    for name, value in fields.items():
        dotted = f"{above}.{name}".removeprefix(".")
        yield dotted
        if isinstance(value, ml_collections.ConfigDict):
            yield from _dotted(value, dotted)
