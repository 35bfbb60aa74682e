"""metrics.jsonl and TensorBoard events, also of runs that died and went on."""

import json
import struct
import sys

import pytest
from tensorboardX.proto import event_pb2

from ktjax.writer import Writer


def write(workdir, run, steps, *, first_step=0):
    writer = Writer(workdir, run=run, first_step=first_step)
    for step in steps:
        writer.write(step, {"train/loss": step / 4, "tune/accuracy": 50.0 + step})
    writer.close()


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_of(workdir, run):
    return [line["step"] for line in lines(workdir) if line["run"] == run]


def events(folder):
    """TensorBoard's records: length, its checksum, an Event, its checksum."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


@pytest.mark.smoke
def test_lines(tmp_path):
    write(tmp_path, "one", [2, 4])
    assert lines(tmp_path) == [
        {"run": "one", "step": 2, "train/loss": 0.5, "tune/accuracy": 52.0},
        {"run": "one", "step": 4, "train/loss": 1.0, "tune/accuracy": 54.0},
    ]


def test_lines_are_there_at_once(tmp_path):
    writer = Writer(tmp_path, run="one", first_step=0)
    writer.write(2, {"train/loss": 0.5})
    assert steps_of(tmp_path, "one") == [2]  # a run that is killed loses none
    writer.close()


def test_resuming_takes_back_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, "done", [2, 4, 6])
    write(tmp_path, "one", [2, 4, 5])
    write(tmp_path, "one", [6], first_step=4)
    assert steps_of(tmp_path, "one") == [2, 4, 6]
    assert steps_of(tmp_path, "done") == [2, 4, 6]
    write(tmp_path, "one", [2], first_step=0)  # died before its first checkpoint
    assert steps_of(tmp_path, "one") == [2]
    assert steps_of(tmp_path, "done") == [2, 4, 6]


def test_half_written_line_is_dropped(tmp_path):
    write(tmp_path, "one", [2, 4])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_text(whole[:-cut])
        write(tmp_path, "one", [6], first_step=4)
        # Only the line end is missing in the first cut.
        assert steps_of(tmp_path, "one") == ([2, 4, 6] if cut == 1 else [2, 6])


def test_damaged_lines_are_dropped(tmp_path):
    write(tmp_path, "one", [2, 4])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"5\nnull\n[]\n{}\n" + b"\xff\xfe\n" + b"[" * 100_000 + b"\n")
    write(tmp_path, "one", [6], first_step=4)
    assert steps_of(tmp_path, "one") == [2, 4, 6]


def test_tensorboard(tmp_path):
    write(tmp_path, "one", [2, 4])
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path / "tensorboard" / "one")
        for value in event.summary.value
    ]
    assert scalars == [
        (2, "train/loss", 0.5),
        (2, "tune/accuracy", 52.0),
        (4, "train/loss", 1.0),
        (4, "tune/accuracy", 54.0),
    ]
    assert "tensorflow" not in sys.modules


def test_tensorboard_hides_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, "one", [2, 4, 5])
    write(tmp_path, "one", [6], first_step=4)
    restarts = [
        event.step
        for event in events(tmp_path / "tensorboard" / "one")
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    assert restarts == [5]  # readers drop this step and later ones of before
