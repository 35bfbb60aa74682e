"""What is kept, and that it comes back bit for bit, on any number of devices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla

from ktjax import parallel
from ktjax.checkpoint import Checkpoints

RECORD = [{"step": 2, "accuracy": 1 / 3, "taught": None, "names": ["ä", "b"]}, {"step": 4}]


def make_state(step):
    """The dtypes and structures of a State: dicts, tuples, empty ones, a scalar."""
    key = jax.random.key(step)
    return {
        "step": jnp.asarray(step, jnp.int32),
        "params": {"kernel": jax.random.normal(key, (8, 3)), "bias": jnp.full(3, 0.1)},
        "batch_stats": {},
        "opt_state": ((), {"trace": jax.random.normal(key, (8, 3)).astype(jnp.bfloat16)}),
    }


def save_five(folder):
    checkpoints = Checkpoints(folder)
    for step, score in enumerate([10.0, 50.0, 20.0, 30.0, 40.0], start=1):
        state = parallel.replicate(make_state(step))
        checkpoints.save(step, state, record=[*RECORD, step], score=score)
        jax.tree.map(lambda x: x.delete(), state)  # as the next step does, which donates it
    checkpoints.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    save_five(folder)
    return folder


def check_restored(folder):
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == 5
    like = parallel.replicate(make_state(6))  # of other numbers
    state, record = checkpoints.restore(like)
    checkpoints.close()
    assert record == [*RECORD, 5]
    expected = make_state(5)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
        assert found.sharding.device_set == set(jax.local_devices())
    return state


@pytest.mark.smoke
def test_latest_two_and_the_best_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["2", "4", "5"]


def test_restored_is_what_was_saved(folder):
    state = check_restored(folder)
    # It goes straight into a step that donates it.
    step = parallel.data_parallel(
        lambda state, frozen, batch, key: (
            state | {"step": state["step"] + jax.lax.psum(1, parallel.AXIS)},
            {},
        )
    )
    devices = jax.local_device_count()
    state, _ = step(state, (), {"image": np.zeros((devices, 1))}, jax.random.key(0))
    assert int(state["step"]) == 5 + devices


def test_restored_on_more_devices(folder):
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(4),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, __file__, folder]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "restored on 4 devices", found.stderr


def damage(path, how):
    """Cuts a file in half, or fills it with other bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "cut" else b"\xa5" * len(content))


DAMAGE = {
    "arrays cut": ("state", "cut"),
    "arrays overwritten": ("state", "fill"),
    "record cut": ("record", "cut"),
    "all cut": (".", "cut"),
    "all overwritten": (".", "fill"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_cannot_be_read_is_put_aside(case, tmp_path, caplog):
    folder = tmp_path / "run"
    save_five(folder)
    part, how = DAMAGE[case]
    for path in (folder / "5" / part).rglob("*"):
        if path.is_file() and path.stat().st_size:
            damage(path, how)
    with caplog.at_level("WARNING", logger="ktjax"):
        checkpoints = Checkpoints(folder)
        state, record = checkpoints.restore(parallel.replicate(make_state(6)))
    assert (int(state["step"]), record) == (4, [*RECORD, 4])
    assert "of step 5 cannot be read" in caplog.text
    assert checkpoints.latest() == 4
    # The run goes on, and makes the lost one again.
    checkpoints.save(5, state, record=[], score=0.0)
    checkpoints.close()
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"2", "4", "5", "unreadable-5"}
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(state)[1] == []
    checkpoints.close()


def test_none_can_be_read(folder, tmp_path):
    damaged = tmp_path / "run"
    shutil.copytree(folder, damaged)
    for path in damaged.rglob("*"):
        if path.is_file() and "state" in path.parts:
            damage(path, "cut")
    checkpoints = Checkpoints(damaged)
    with pytest.raises(
        OSError, match=r"None of the checkpoints in .* can be read, the latest because"
    ):
        checkpoints.restore(parallel.replicate(make_state(6)))
    checkpoints.close()
    assert {path.name for path in damaged.iterdir() if path.is_dir()} == {"2", "4", "5"}


def test_what_was_not_evaluated_is_not_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    for step, score in enumerate([10.0, None, None, 5.0, None], start=1):
        checkpoints.save(step, make_state(step), record=step, score=score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "run")  # as a later process finds them
    checkpoints.save(6, make_state(6), record=6, score=7.0)
    assert checkpoints.restore(parallel.replicate(make_state(0)))[1] == 6
    checkpoints.close()
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert names == ["1", "5", "6"]


def test_empty_folder_has_no_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.latest() is None
    checkpoints.close()


if __name__ == "__main__":
    check_restored(Path(sys.argv[1]))
    print(f"restored on {jax.local_device_count()} devices")
