"""What is kept, and that it comes back bit for bit, on any number of devices."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import buckets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla

from ktjax import checkpoint, parallel, paths
from ktjax.checkpoint import Checkpoints, Unwritten

OF = {"config": "a1", "images": "b2", "run": "kl-1"}
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
    checkpoints = Checkpoints(folder, of=OF)
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
    checkpoints = Checkpoints(folder, of=OF)
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
        checkpoints = Checkpoints(folder, of=OF)
        state, record = checkpoints.restore(parallel.replicate(make_state(6)))
    assert (int(state["step"]), record) == (4, [*RECORD, 4])
    assert "of step 5 cannot be used" in caplog.text
    assert checkpoints.latest() == 4
    # The run goes on, and makes the lost one again.
    checkpoints.save(5, state, record=[], score=0.0)
    checkpoints.close()
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"2", "4", "5", "unreadable-5"}
    checkpoints = Checkpoints(folder, of=OF)
    assert checkpoints.restore(state)[1] == []
    checkpoints.close()


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_what_cannot_be_read_is_replaced_in_a_bucket(how, tmp_path, monkeypatch, caplog):
    """Otherwise every later start would find the damaged one again, and lose the same steps."""
    folder = buckets.in_memory(monkeypatch) / "run"
    checkpoints = Checkpoints(folder, of=OF)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), record=step, score=None)
    checkpoints.close()
    path = folder / "2.tar"
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 3])
    else:  # a tar file as good as any, of a checkpoint that is not
        before, after = b'"record"', b'"RECORD"'
        assert before in content
        path.write_bytes(content.replace(before, after))
    for found in (1, 2):
        checkpoints = Checkpoints(folder, of=OF)
        assert checkpoints.restore(make_state(0))[1] == found
        if found == 1:
            assert "of step 2 cannot be used" in caplog.text
            checkpoints.save(2, make_state(2), record=2, score=None)
        checkpoints.close()
    assert sorted(paths.names(folder)) == ["1.tar", "2.tar"]


def flips(folder):
    """(file, byte) at every tenth of all that a checkpoint consists of, and in the middle of each
    of its files.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    sizes = [path.stat().st_size for path in paths]
    ends = np.cumsum(sizes)
    for place in np.linspace(0, ends[-1] - 1, 11).astype(int):
        i = int(np.searchsorted(ends, place, side="right"))
        yield paths[i], int(place - (ends[i] - sizes[i]))
    for path, size in zip(paths, sizes, strict=True):
        yield path, size // 2


def test_a_flipped_byte_is_told_or_harmless(folder, tmp_path, caplog):
    """Whatever is wrong with the latest checkpoint: it is as it was saved, or the one before is."""
    told = 0
    for path, at in flips(folder / "5"):
        run = tmp_path / "run"
        shutil.copytree(folder, run)
        damaged = run / path.relative_to(folder)
        content = bytearray(damaged.read_bytes())
        content[at] ^= 0x10
        damaged.write_bytes(content)
        caplog.clear()
        checkpoints = Checkpoints(run, of=OF)
        state, record = checkpoints.restore(parallel.replicate(make_state(6)))
        checkpoints.close()
        step = record[-1]
        assert step == 5 or "of step 5 cannot be used" in caplog.text
        assert record == [*RECORD, step] and step in (4, 5)
        jax.tree.map(np.testing.assert_array_equal, state, make_state(step))
        told += step == 4
        shutil.rmtree(run)
    assert told > 5


def test_a_flipped_bit_of_any_array_is_seen():
    state = make_state(5)
    names = checkpoint.checksums(state)
    assert names.keys() == checkpoint.checksums(make_state(4)).keys()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        bits = np.atleast_1d(np.array(leaf))  # a copy
        bits.view(np.uint8).reshape(-1)[-1] ^= 1
        name = jax.tree_util.keystr(path)
        assert checkpoint.checksums({"x": bits}) != checkpoint.checksums({"x": leaf}), name
    swapped = np.array(state["params"]["kernel"])
    swapped[[0, 1]] = swapped[[1, 0]]
    kernel = state["params"]["kernel"]
    assert checkpoint.checksums([swapped]) != checkpoint.checksums([kernel])
    zeros = [np.zeros(n, np.float32) for n in (3, 4)]
    assert checkpoint.checksums([zeros[0]]) != checkpoint.checksums([zeros[1]])
    assert checkpoint.checksums([-zeros[0]]) != checkpoint.checksums([zeros[0]])


def test_a_checksum_does_not_depend_on_where_the_parts_lie(monkeypatch):
    tree = {"kernel": jax.random.normal(jax.random.key(0), (64, 3 * jax.device_count()))}
    tree |= make_state(5) | {"mask": jnp.arange(5) % 2 == 0, "byte": jnp.arange(7, dtype=jnp.uint8)}
    tree |= {"none": jnp.zeros((0, 3))}
    on_host = checkpoint.checksums(jax.device_get(tree))
    assert len(set(on_host.values())) == len(on_host)
    for layout in parallel.LAYOUTS:
        placed = parallel.place(tree, layout)
        assert checkpoint.checksums(placed) == on_host
        with monkeypatch.context() as patch:  # as on an accelerator, and over several processes
            patch.setattr(checkpoint, "_is_on_host", lambda x: False)
            assert checkpoint.checksums(placed) == on_host


@pytest.mark.parametrize("what", OF)
def test_a_checkpoint_of_another_is_not_used(what, folder, tmp_path, caplog):
    """One of another run, put in the place of the latest: it is complete, and not this run's."""
    other = Checkpoints(tmp_path / "other", of=OF | {what: "another"})
    other.save(5, make_state(5), record=[*RECORD, 5], score=1.0)
    other.close()
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "5")
    shutil.copytree(tmp_path / "other" / "5", tmp_path / "run" / "5")
    checkpoints = Checkpoints(tmp_path / "run", of=OF)
    assert checkpoints.restore(parallel.replicate(make_state(6)))[1] == [*RECORD, 4]
    checkpoints.close()
    assert f"of step 5 cannot be used (it differs in {what})" in caplog.text
    checkpoints = Checkpoints(folder, of=OF | {what: "another"})
    with pytest.raises(OSError, match=f"the latest: it differs in {what}"):
        checkpoints.restore(parallel.replicate(make_state(6)))
    checkpoints.close()


def test_none_can_be_read(folder, tmp_path):
    damaged = tmp_path / "run"
    shutil.copytree(folder, damaged)
    for path in damaged.rglob("*"):
        if path.is_file() and "state" in path.parts:
            damage(path, "cut")
    checkpoints = Checkpoints(damaged, of=OF)
    with pytest.raises(OSError, match=r"None of the checkpoints in .* can be used; ") as error:
        checkpoints.restore(parallel.replicate(make_state(6)))
    assert not isinstance(error.value, Unwritten)  # another run may have better ones
    checkpoints.close()
    assert {path.name for path in damaged.iterdir() if path.is_dir()} == {"2", "4", "5"}


def test_what_was_not_evaluated_is_not_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", of=OF)
    for step, score in enumerate([10.0, None, None, 5.0, None], start=1):
        checkpoints.save(step, make_state(step), record=step, score=score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "run", of=OF)  # as a later process finds them
    checkpoints.save(6, make_state(6), record=6, score=7.0)
    assert checkpoints.restore(parallel.replicate(make_state(0)))[1] == 6
    checkpoints.close()
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert names == ["1", "5", "6"]


def test_a_run_goes_on_while_its_state_is_saved(tmp_path, monkeypatch):
    work, goes_on = checkpoint.checksums, threading.Event()

    def late(state):
        assert goes_on.wait(60)
        return work(state)

    monkeypatch.setattr(checkpoint, "checksums", late)
    checkpoints = Checkpoints(tmp_path / "run", of=OF)
    state = parallel.replicate(make_state(1))
    checkpoints.save(1, state, record=1, score=None)
    jax.tree.map(lambda x: x.delete(), state)
    goes_on.set()
    assert checkpoints.latest() == 1 and checkpoints.digest
    restored, record = checkpoints.restore(parallel.replicate(make_state(6)))
    checkpoints.close()
    assert record == 1
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1))


@pytest.mark.parametrize(
    "tell",
    [
        lambda checkpoints: checkpoints.save(2, make_state(2), record=2, score=None),
        lambda checkpoints: checkpoints.digest,
        lambda checkpoints: checkpoints.restore(make_state(1)),
        Checkpoints.close,
    ],
    ids=["save", "digest", "restore", "close"],
)
def test_what_could_not_be_saved_is_told(tell, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "run", of=OF)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints._manager, "save", full)
    checkpoints.save(1, make_state(1), record=1, score=None)
    with pytest.raises(Unwritten, match="could not be written: No space left on device") as error:
        tell(checkpoints)
    assert str(error.value).count("could not be written") == 1
    checkpoints.close()  # it was told


def test_what_orbax_learns_late_is_told_when_restoring(tmp_path, monkeypatch):
    """It writes in the background: the last one is known to be written only at the end."""
    checkpoints = Checkpoints(tmp_path / "run", of=OF)
    checkpoints.save(1, make_state(1), record=1, score=None)
    assert checkpoints.latest() == 1

    def full():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing 'a/0': No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", full)
        with pytest.raises(Unwritten, match="could not be written: No space left on device"):
            checkpoints.restore(make_state(1))
    checkpoints.close()


def test_processes_resume_from_what_process_0_lists(folder, monkeypatch):
    """A client of NFS lists the latest checkpoint late."""
    find, late = checkpoint._Manager._load_checkpoint_infos, iter([True, True])

    def load(manager, **options):
        infos = find(manager, **options)
        return infos[:-1] if next(late, False) else infos

    monkeypatch.setattr(checkpoint._Manager, "_load_checkpoint_infos", load)
    monkeypatch.setattr(parallel, "told_by_all", lambda mine: ["[2, 4, 5]"])
    monkeypatch.setattr(parallel, "as_first_sees", lambda mine: True)
    check_restored(folder)
    assert next(late, None) is None


def test_processes_that_read_different_checkpoints_are_told(folder, monkeypatch):
    checkpoints = Checkpoints(folder, of=OF)
    monkeypatch.setattr(parallel, "told_by_all", lambda mine: [mine, "another"])
    with pytest.raises(ValueError, match="different checkpoints of step 5 in '.*', which all"):
        checkpoints.restore(parallel.replicate(make_state(6)))
    checkpoints.close()


def test_empty_folder_has_no_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", of=OF)
    assert checkpoints.latest() is None
    checkpoints.close()


if __name__ == "__main__":
    check_restored(Path(sys.argv[1]))
    print(f"restored on {jax.local_device_count()} devices")
