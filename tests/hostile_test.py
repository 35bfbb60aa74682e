"""What nobody should say to it: each is refused in a sentence, at once, and nothing is written."""

import contextlib
import importlib
import io
import math
import re
import runpy
import socket
import sys
import time

import ml_collections
import numpy as np
import pytest
from absl import flags as absl_flags
from small_jobs import ROOT

from ktjax import data, flags, launch, models, objectives
from ktjax.experiment import inputs
from ktjax.jobs import JOBS, study

NAN = float("nan")
# What is right for no field at all.
VALUES = (
    *(object(), b"x", 1j, {1: 2}, {"a": NAN}, {"": {}}, (NAN,), ((),), ("\0",), ([],), len, ROOT),
    *(-(10**30), 10**400, NAN, math.inf, -math.inf, 1e300, -1e-300, "\0", "\ud800", "x" * 9999),
    *(np.array([1, 2]), {1}, range(3), (None,), ("",), [{}], {"a": object()}),
)
# What is right for no field on the command line; some would run if they were evaluated.
WORDS = ("(1,", "(" * 300, "{'a': nan}", "((1,),)", "(nan,)", "9" * 40, "1e400", "\0", "")
WORDS += ("__import__('os').abort()", "x" * 9999)
MANY = "+".join(name for name in objectives.OBJECTIVES if name not in ("mutual", "kl_dp_flip"))
STUDENT, TEACHER = "glyphs/tiny_mlp_narrow", "glyphs/tiny_mlp"
CONFIGS = {
    "transfer": f"student={STUDENT},teachers={TEACHER},objectives={MANY}+xe_kl_mcl+kl_dp_average",
    "pretrain": None,
    "convergence": f"models={STUDENT}",
    "complementarity": f"models={STUDENT}+{TEACHER}",
    "study": f"students={STUDENT},teachers={TEACHER}",
}


class WorksError(Exception):
    """A job got as far as to open images: it takes the config."""


def get_config(name):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](CONFIGS[name])


def fields(tree, above=()):
    """The place of every field, and of those below it."""
    for name, value in tree.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from fields(value, (*above, name))


def replaced(tree, place, value):
    name, *below = place
    return tree | {name: replaced(tree[name], below, value) if below else value}


@pytest.fixture
def stops(monkeypatch):
    """Jobs end where they would begin to work."""

    def work(*_, **__):
        raise WorksError

    for owner, name in ((data, "load"), (data, "load_validation"), (inputs, "load")):
        monkeypatch.setattr(owner, name, work)
    monkeypatch.setattr(models, "load", work)


def check_sentences(text):
    lines = text.splitlines()
    assert 0 < len(lines) <= 4 and all(0 < len(line) < 1500 for line in lines), text
    assert "Traceback" not in text and "pydantic" not in text


@pytest.mark.parametrize("name", CONFIGS)
def test_fields_take_what_they_should(name, stops, tmp_path):
    """Of every field of every config; from Python, which can give anything."""
    config = get_config(name).to_dict()
    job = importlib.import_module(JOBS[config["job"]])
    workdir, longest, cases = tmp_path / "workdir", 0.0, 0
    with pytest.raises(WorksError):  # as it is, it is taken
        job.run(ml_collections.ConfigDict(config), workdir)
    for place in fields(config):
        # One of the many values that is told at once suffices for options that objectives share.
        for value in VALUES if len(place) < 3 else VALUES[::4]:
            begin = time.process_time()
            with pytest.raises(ValueError) as refusal:
                job.run(replaced(config, place, value), workdir)
            longest = max(longest, time.process_time() - begin)
            assert type(refusal.value) is ValueError, (place, value)
            check_sentences(str(refusal.value))
            cases += 1
    assert cases > 300 and longest < 2 and not workdir.exists()


def test_no_run_of_a_study_begins_where_none_can_be_as_long(tmp_path):
    config = get_config("study")
    config.total_epochs = 1e25
    with pytest.raises(ValueError, match=r"comes to 1e\+28 steps, more than 2,147,483,647\."):
        study.run(config, tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def parse(*words):
    """What the command line makes of these words."""
    absl_flags.FLAGS.unparse_flags()
    for name in [name for name in absl_flags.FLAGS if name.startswith("config.")]:
        delattr(absl_flags.FLAGS, name)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr(sys, "argv", ["ktjax", *words])
        flags.parse(sys.argv)
    return flags.CONFIG.value


@pytest.fixture
def told():
    """told(words): the one sentence that a command line ends with."""

    def sentence(*words):
        with pytest.raises(SystemExit) as ended:
            parse(*words)
        text = ended.value.code
        assert isinstance(text, str) and text.startswith("ktjax: "), words  # exit code 1
        check_sentences(text)
        assert len(text.splitlines()) == 1
        return text

    yield sentence
    absl_flags.FLAGS.unparse_flags()
    absl_flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize("name", CONFIGS)
def test_words_of_the_command_line_are_what_fields_take(name, stops, told, tmp_path):
    config, cases = parse(f"--config={name}", "--workdir=x").to_dict(), 0
    job = importlib.import_module(JOBS[config["job"]])
    common = (f"--config={name}", f"--workdir={tmp_path / 'workdir'}")
    for place in fields(config):
        field = f"--config.{'.'.join(place)}"
        if len(place) != 2:
            told(*common, f"{field}x=1" if cases % 2 else f"{field}.deeper.still=1")
        for word in WORDS[cases % 3 :: 3]:  # all of them, in turn
            cases += 1
            try:
                taken = parse(*common, f"{field}={word}")
            except SystemExit as ended:
                check_sentences(ended.code)
                continue
            try:
                job.run(taken, tmp_path / "workdir")
            except ValueError as refusal:
                check_sentences(str(refusal))
            except WorksError:  # text that is fit for a name, such as that of a folder
                assert type(config[place[0]]) in (str, type(None)), (place, word)
    assert cases > 50 and not (tmp_path / "workdir").exists()


FILES = {
    "def get_config(:\n": r"config file '.*', line 1: ",
    "x = 1\n\0": r"config file '.*'.*: .*null bytes",
    "x = 1\n": r"config file '.*' has no function get_config\.",
    "get_config = 5\n": r"config file '.*' has no function get_config\.",
    "import nowhere\n": r"config file '.*', line 1: ModuleNotFoundError: No module named",
    "def get_config():\n  x = 1\n  raise KeyError('y')\n": r".*, line 3: KeyError: 'y'\.",
    (
        "from ktjax.configs import transfer\n"
        "def get_config():\n  config = transfer.get_config()\n  config.lr = 1\n"
    ): r".*, line 4: AttributeError: .*\"lr\" does not exist and cannot be added .* is locked\.$",
    "def get_config():\n  exit(3)\n": r".*, line 2: SystemExit: 3\.",
    "def get_config():\n  return get_config()\n": r".*, line 2: RecursionError: ",
    "def get_config(a, b):\n  return None\n": r"config file '.*': TypeError: get_config\(\) mis",
    "def get_config():\n  return {}\n": r".* returns a dict, but must return a ConfigDict\.",
    "def get_config():\n  return None\n": r".* returns a NoneType, but must return",
    "import ml_collections\ndef get_config():\n  return ml_collections.ConfigDict()\n": (
        r"the config of '.*' has no field 'job'"
    ),
    "def get_config():\n  raise ValueError('mine: x')\n": r"mine: x$",
}


@pytest.mark.parametrize("text", FILES)
def test_a_config_file_that_gives_no_config(text, told, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    sentence = told(f"--config={tmp_path / 'mine.py'}", "--workdir=/nowhere")
    assert re.match(f"ktjax: {FILES[text]}", sentence), sentence


def test_flags_that_nobody_can_use(told, tmp_path):
    assert "--config is required, for example --config=quickstart;" in told("--workdir=x")
    for words in ([], ["--workdir="]):
        assert "--workdir is required, for example" in told("--config=quickstart", *words)
    assert "unexpected arguments: quickstart." in told(
        "--config=quickstart", "--workdir=x", "quickstart"
    )
    assert "'quickstar'. Nearest: quickstart" in told("--config=quickstar", "--workdir=x")
    assert "Unknown command line flag 'wordir'" in told("--config=quickstart", "--wordir=x")
    for field in ("batch_size", "student", "objectives.kl.learning_rate"):
        said = told("--config=quickstart", "--workdir=x", f"--{field}=3")
        assert f"no flag --{field}: fields are set by --config.{field}=VALUE." in said
    assert "nowhere" in told(f"--flagfile={tmp_path / 'nowhere'}")
    assert "heartbeat_timeout" in told(
        "--config=quickstart", "--workdir=x", "--heartbeat_timeout=s"
    )
    (tmp_path / "flags").write_text("--config=pretrain\n--config.batch_size=x\n--workdir=x\n")
    assert "--config.batch_size=x" in told(f"--flagfile={tmp_path / 'flags'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heartbeat_timeout=0"], r"--heartbeat_timeout=0 must be 1 or more\."),
        (["--heartbeat_timeout=-3"], r"--heartbeat_timeout=-3 must be"),
        (["--num_processes=0"], r"--num_processes=0 must be 1 or more\."),
        (["--process_id=2", "--num_processes=2"], r"--process_id=2 must be from 0 to .* - 1, 1"),
        (["--process_id=-1"], r"--process_id=-1 must be"),
        (["--coordinator_address=here"], r"--coordinator_address='here' must be host:port\."),
        (["--coordinator_address=127.0.0.1:99999"], r"99999' must be host:port\."),
        (["--coordinator_address=:8000"], r"':8000' must be host:port\."),
        (["--coordinator_address=no.such.host.invalid:80", "--process_id=1"], "no such host"),
        (
            ["--coordinator_address=127.0.0.1:PORT", "--process_id=0"],
            "process 0 cannot listen there",
        ),
    ],
)
def test_processes_that_cannot_find_each_other(words, message):
    with socket.socket() as other:  # of another program
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = [word.replace("PORT", port) for word in words]
        parse("--config=quickstart", "--workdir=x", "--distributed", *words)
        begin = time.monotonic()
        with pytest.raises(ValueError, match=message):
            launch._start_processes()
    assert time.monotonic() - begin < 10
    absl_flags.FLAGS.unparse_flags()
    absl_flags.FLAGS.mark_as_parsed()
