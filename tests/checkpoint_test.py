"""What is kept, and that it comes back bit for bit, on any number of devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, __file__, folder]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "restored on 4 devices", found.stderr


def test_empty_folder_has_no_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.latest() is None
    checkpoints.close()


if __name__ == "__main__":
    check_restored(Path(sys.argv[1]))
    print(f"restored on {jax.local_device_count()} devices")
