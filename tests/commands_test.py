"""Commands that documents print are such that they start: flags, fields and arguments exist."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags
from hostile_test import parse

from ktjax import flags, main, settings

ROOT = Path(__file__).parents[1]
TRANSFER = "configs/transfer.py:student=A,teachers=B,data=folder:PATH"
VARIABLES = {"CONFIG": TRANSFER, "SLURM_ARRAY_TASK_ID": "3"}
# What stands between `python -m ktjax.main` and the next command, or the end of the line.
COMMAND = re.compile(r"(?:python -m ktjax(?:\.main)?|^\s*ktjax) (--[^\n;&|]*)", re.MULTILINE)
FILES = (
    *sorted((ROOT / ".github").glob("*.md")),
    ROOT / "README.md",
    *sorted((ROOT / "configs").rglob("*.py")),
)


def commands(text):
    """The words of each command, with variables and what is left out in their place."""
    text = text.replace("\\\n", "\n")
    joined = re.sub(r",\n(?=\w+=)", ",", re.sub(r"\n\s+--", " --", text))
    for found in COMMAND.findall(joined):
        line = re.sub(r"\$\{?(\w+)\}?", lambda name: VARIABLES[name[1]], found)
        line = line.replace("=...", "=x").split("` ")[0].rstrip("`")
        if line.count("'") % 2 or line.count('"') % 2:  # the end of what a shell is given
            line = line.rstrip("'\"")
        yield [word for word in shlex.split(line, comments=True) if word.startswith("--")]


@pytest.fixture(autouse=True)
def _flags():
    yield
    absl_flags.FLAGS.unparse_flags()
    absl_flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_printed_commands_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(path.read_text(encoding="utf-8")):
        if flags.wants_help(["ktjax", *words]):
            continue
        given = [word.partition("=")[0] for word in words]
        assert "--config" in given, words
        workdir = [] if "--workdir" in given else ["--workdir=W"]
        assert settings.read(parse(*words, *workdir)) is not None


def test_commands_are_found():
    found = [list(commands(path.read_text(encoding="utf-8"))) for path in FILES]
    counts = dict(zip((path.name for path in FILES), map(len, found), strict=True))
    assert counts["CLUSTERS.md"] >= 12 and counts["README.md"] >= 4 and sum(counts.values()) >= 40


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["configs"]])
def test_a_reader_may_stop_reading(words):
    """`ktjax configs | head -1`."""
    command = [sys.executable, "-m", "ktjax.main", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["configs"]])
def test_whoever_calls_it_keeps_its_signals(words, monkeypatch, capsys):
    """A process that dies of a pipe which somebody closed says nothing of it."""
    before = signal.getsignal(signal.SIGPIPE)
    monkeypatch.setattr(sys, "argv", ["ktjax", *words])
    main.cli()
    assert capsys.readouterr().out
    assert signal.getsignal(signal.SIGPIPE) == before
