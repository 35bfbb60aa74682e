import io
import itertools
import logging
import sys
import types

import jax
import pytest
import tqdm

from ktjax import progress
from ktjax.experiment import logs
from ktjax.jobs.transfer import setup


@pytest.mark.parametrize(
    ("joined", "process", "silent"), [(False, 0, False), (True, 0, False), (True, 1, True)]
)
def test_one_process_shows_bars(joined, process, silent, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: joined)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    with progress.bar(range(3), desc="work", leave=False) as bar:
        assert bar.disable == silent
        assert list(bar) == [0, 1, 2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream):
    """What three steps of twenty seconds each leave in a stream, with something said between."""
    clock = itertools.count(step=20)
    now = [next(clock)]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar(total=3, desc="work", unit="step", mininterval=0) as bar:
        for _ in range(3):
            now[0] = next(clock)
            bar.update()
            bar.write("said")
    return stream.getvalue()


def test_without_a_terminal_there_are_lines(monkeypatch, capsys):
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 1  # at 40 s, the next would be due at 70
    assert lines[0].startswith("work: 2 of 3 steps, ") and lines[0].endswith(" left")
    assert capsys.readouterr().out == "said\n" * 3


def test_a_terminal_has_a_bar(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert "\r" in text and "| 2/3 [" in text


def test_a_closed_one_is_forgotten():
    with progress.bar(total=1):
        pass
    assert not any(isinstance(one, progress._Lines) for one in tqdm.tqdm._instances)


def test_a_sentence_stands_on_a_line_of_its_own(monkeypatch):
    """Where a bar is open, and where what failed below one has left it open."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    ours = logging.getLogger("ktjax")
    handler = logs._Terminal()
    ours.addHandler(handler)
    try:
        bar = progress.bar(total=3, desc="work", unit="step", leave=False)
        ours.warning("something")
        progress.close_all()
        ours.warning("the end")
    finally:
        ours.removeHandler(handler)
        bar.close()
    rows = [line.rsplit("\r")[-1] for line in terminal.getvalue().split("\n")]
    assert rows[0] == "ktjax: something"
    assert rows[1:] == ["ktjax: the end", ""]


@pytest.mark.parametrize(
    ("before", "total", "elapsed", "told"),
    [
        (0, 12, 70.0, "; 0:12:50 left"),
        (1, 4, 130.0, "; 0:02:10 left"),
        (1, 4, 20.0, ""),
        (3, 4, 999.0, ""),
    ],
)
def test_each_run_says_how_long_the_others_take(before, total, elapsed, told):
    bar = types.SimpleNamespace(
        disable=False, n=before, total=total, format_dict={"elapsed": elapsed}
    )
    assert setup._left(bar) == told
