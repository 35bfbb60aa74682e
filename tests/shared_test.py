"""shared.py: what jobs of one process make once, and what is dropped when room runs out."""

import dataclasses

import numpy as np
import pytest
from small_jobs import load_config

from ktjax.experiment.shared import Shared
from ktjax.settings.transfer import Transfer

MIB = 2**20
SETTINGS = Transfer.read(load_config("transfer", "objectives=kl_dp"))


@dataclasses.dataclass
class Model:
    variables: dict
    name: str = "a name has no size"


def memo(mebibytes):
    """A memo with so much room, and the names of what was made, in order."""
    once, made = Shared(mebibytes / 1024).of(SETTINGS, but=()), []

    def ask(key, value, of=None):
        def make():
            made.append(key)
            return value

        return once(key, make, of=of)

    return ask, made


def array():
    return np.zeros(MIB, np.uint8)


def test_everything_is_made_once_if_there_is_room():
    ask, made = memo(3)
    for _ in range(2):
        for name in "abc":
            ask(name, array(), of=name)
    assert made == ["a", "b", "c"]


def test_the_models_that_were_used_last_stay():
    ask, made = memo(2.5)
    for name in "abaca":
        ask(name, array(), of=name)
    assert made == ["a", "b", "c"]
    ask("b", array(), of="b")  # takes the room of c
    assert made == ["a", "b", "c", "b"]
    ask("a", array(), of="a")
    assert made[-1] == "b"


def test_a_model_is_dropped_whole_and_nothing_else_is():
    ask, made = memo(1)
    first = array()
    ask("data", array())
    ask("model", Model({"params": {"kernel": first}}), of="a")
    ask("compiled step", len, of="a")
    ask("logits", [(array(), None)], of="b")
    for key, of in (("data", None), ("compiled step", "a"), ("model", "a"), ("logits", "b")):
        ask(key, array(), of=of)
    assert made == ["data", "model", "compiled step", "logits", "compiled step", "model", "logits"]


def test_an_array_that_entries_share_counts_once():
    ask, made = memo(2)
    weights = array()
    ask("loaded", Model({"kernel": weights}), of="a")
    ask("mapped to the classes", Model({"kernel": weights}), of="a")
    ask("other", array(), of="b")
    ask("loaded", None, of="a")
    assert made == ["loaded", "mapped to the classes", "other"]


@pytest.mark.parametrize("room", [0, 0.5])
def test_the_model_in_use_stays_however_large(room):
    ask, made = memo(room)
    for _ in range(2):
        assert ask("weights", array(), of="a").nbytes == MIB
        assert ask("logits", array(), of="a").nbytes == MIB
    assert made == ["weights", "logits"]


def test_models_in_use_stay_whichever_was_used_last():
    memory = Shared(1.5 / 1024)
    once, made = memory.of(SETTINGS, but=()), []

    def ask(name):
        once(name, lambda: (made.append(name), array()), of=name)

    for pair in (("student", "a"), ("student", "b"), ("student", "c")):
        memory.use(pair)
        for _ in range(2):
            for name in pair:
                ask(name)
    assert made == ["student", "a", "b", "c"]
