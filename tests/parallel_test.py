"""One step in every layout, in parts, rematerialised, several at a time: the same numbers.

Run as a script, this file saves what eight devices compute.
"""

import functools
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
import xla

from ktjax import loop, models, objectives, optim, parallel, train
from ktjax.data import pipeline
from ktjax.targets import live

BATCH = 32
STEPS = 5
DEVICES = 8
KL_DP = dict(temperature=2.0, top_k=None, standardized=False, top_k_of="target")
# What a config says of a step, by name; each is run in both layouts.
VARIANTS = {
    "plain": {},
    "in parts": dict(microbatches=2),
    "all": dict(microbatches=4, remat=True, size=3),
}
# (variant, whether BatchNorm's statistics are frozen); .ci/full runs the others.
CASES = [("plain", True), ("in parts", False), ("all", True)]
OTHERS = [(name, not frozen) for name, frozen in CASES]


class Device(types.SimpleNamespace):
    """As much of a device as a mesh asks for."""

    __hash__ = object.__hash__


def test_devices_come_in_the_order_of_pmap(monkeypatch):
    """GPUs of two hosts are two slices, and chips of a TPU host lie in a ring: 0, 1, 3, 2."""
    for platform, kind in (("gpu", "NVIDIA H100"), ("tpu", "TPU v5 lite")):
        devices = [
            Device(
                id=i,
                platform=platform,
                device_kind=kind,
                process_index=i // 2,
                slice_index=i // 2 if platform == "gpu" else 0,
                coords=(i % 2, i // 2, 0),
                core_on_chip=0,
            )
            for i in range(4)
        ]
        monkeypatch.setattr(jax, "devices", lambda found=devices: found)
        assert parallel._mesh().devices.tolist() == devices


def test_what_process_0_finds_is_waited_for(monkeypatch):
    """A client of NFS sees it late."""
    monkeypatch.setattr(parallel.time, "sleep", lambda seconds: None)
    seen = iter([None, None, "file"])
    monkeypatch.setattr(parallel, "as_first_sees", lambda mine: True)
    assert parallel.as_first_finds(lambda: next(seen), "a folder") == "file"
    monkeypatch.setattr(parallel, "_LATE", 0.0)
    with pytest.raises(ValueError, match="does not see what process 0 has in a folder, which all"):
        parallel.as_first_finds(lambda: None, "a folder")
    monkeypatch.setattr(parallel, "as_first_sees", lambda mine: False)
    assert parallel.as_first_finds(lambda: "mine alone", "a folder") is None


@pytest.mark.parametrize("layout", [parallel.data_parallel, parallel.fully_sharded])
def test_the_compiled_step_writes_over_the_state(layout):
    """Else a step needs room for two states."""

    def step(state, frozen, batch, key):
        del frozen, key
        mean = jax.lax.pmean(batch.mean(), parallel.AXIS)
        return jax.tree.map(lambda x: x - mean, state), mean

    state = {"params": jnp.ones((256, 256)), "momentum": jnp.ones((256, 256))}
    batch = jnp.ones((jax.device_count(), 4))
    compiled = layout(step).lower(state, {}, batch, jax.random.key(0)).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == 2 * 256 * 256 * 4


@functools.cache
def student():
    return small_models.make("student", width=16)


@functools.cache
def teacher():
    return small_models.make("teacher", width=24, batch_norm=False)


def batches():
    """A few batches, of other samples each."""
    rng = np.random.default_rng(1)
    for i in range(STEPS):
        yield {
            "image": small_models.images(BATCH, seed=i),
            "label": rng.integers(0, len(small_models.CLASSES), BATCH).astype(np.int32),
            "index": rng.permutation(2 * BATCH)[:BATCH].astype(np.int32),
            "mask": np.arange(BATCH) < BATCH - 3,
        }


def make_step(*, freeze_stats, microbatches=1, remat=False):
    return train.make_train_step(
        student=student(),
        teach=live.make_ask(student(), (teacher(),)),
        objective=objectives.make("kl_dp", KL_DP),
        optimizer=optax.sgd(0.05, momentum=0.9),
        slow=optim.SlowWeights(0.9, 2),
        augment=lambda image, index, view, key: image,
        steps_per_epoch=2,
        dtype=jnp.dtype("float32"),
        freeze_stats=freeze_stats,
        microbatches=microbatches,
        remat=remat,
    )


def start(layout):
    state = train.init_state(
        student().variables,
        objective=objectives.make("kl_dp", KL_DP),
        optimizer=optax.sgd(0.05, momentum=0.9),
        outputs=train.output_shapes(student(), (teacher(),), size=6),
        label_N=np.zeros(2 * BATCH, np.int32),
        slow=True,
        key=jax.random.key(0),
    )
    return parallel.place(state, layout)


def frozen(layout):
    initial, other = (
        live.frozen_variables(m, dtype=jnp.float32, layout=layout) for m in (student(), teacher())
    )
    return live.Frozen(initial, (other,))


def run(layout, *, freeze_stats, size=1, **options):
    """The state after all steps, and the metrics of each."""
    several = size > 1
    step = parallel.LAYOUTS[layout].compile(
        make_step(freeze_stats=freeze_stats, **options), several=several
    )
    groups = batches()
    if several:
        sizes = loop.dispatches(0, STEPS, eval_every=STEPS, size=size)
        groups = pipeline.grouped(groups, sizes)
    state, asked, seen = start(layout), frozen(layout), []
    key = parallel.random_key(7)
    for batch in parallel.to_devices(groups, several=several):
        state, metrics = step(state, asked, batch, key)
        seen += loop.per_step(jax.device_get(metrics))
    return state, seen


def flat(state, seen):
    leaves = jax.tree_util.tree_leaves_with_path(parallel.fetch(state))
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return arrays | {f"metric {k}": np.asarray([m[k] for m in seen]) / 100 for k in seen[0]}


def bytes_of(tree, device):
    """What a device holds of a tree."""
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


def save_all(path, cases):
    assert jax.device_count() == DEVICES
    arrays, held = {}, {}
    for layout in parallel.LAYOUTS:
        for name, freeze_stats in cases:
            state, seen = run(layout, freeze_stats=freeze_stats, **VARIANTS[name])
            found = flat(state, seen)
            arrays |= {f"{layout} {name} {freeze_stats} {k}": v for k, v in found.items()}
            held[f"{layout} {name}"] = {
                "state": [bytes_of(state, device) for device in jax.devices()],
                "frozen": [bytes_of(frozen(layout), device) for device in jax.devices()],
            }
    np.savez(path, held=json.dumps(held), **arrays)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """there("CASES") or there("OTHERS"): what eight devices compute."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(DEVICES),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": root,
    }

    @functools.cache
    def computed(which):
        path = tmp_path_factory.mktemp("eight") / "steps.npz"
        command = [sys.executable, __file__, path, which]
        subprocess.run(command, env=environment, check=True, timeout=300)
        return dict(np.load(path))

    return computed


@functools.cache
def here(freeze_stats, microbatches=1):
    return flat(*run("pmap", freeze_stats=freeze_stats, microbatches=microbatches))


@pytest.mark.parametrize(
    ("variant", "freeze_stats"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.full) for case in OTHERS)],
    ids=lambda value: {False: "train", True: "frozen"}.get(value, value),
)
@pytest.mark.parametrize("layout", parallel.LAYOUTS)
def test_same_numbers_as_on_one_device(layout, variant, freeze_stats, there):
    # Only BatchNorm sees of which samples the parts of a batch are.
    parts = VARIANTS[variant].get("microbatches", 1)
    expected = here(freeze_stats, 1 if freeze_stats else parts)
    before = flat(start("pmap"), [{}])
    eight = there("CASES" if (variant, freeze_stats) in CASES else "OTHERS")
    for key, value in expected.items():
        found = eight[f"{layout} {variant} {freeze_stats} {key}"]
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-5, err_msg=key)
        if ".params" in key and "bn" not in key:
            assert not np.allclose(value, before[key], atol=1e-3), f"{key} was not trained"


def test_microbatches_have_statistics_of_their_own():
    one, two = here(False), here(False, 2)
    stats = [key for key in one if ".batch_stats" in key]
    assert stats and all(not np.allclose(one[k], two[k], atol=1e-3) for k in stats)


def test_fsdp_shards_student_and_teachers(there):
    held = json.loads(str(there("CASES")["held"]))
    for name in VARIANTS:
        whole, parts = held[f"pmap {name}"], held[f"fsdp {name}"]
        for what in ("state", "frozen"):
            assert len(set(parts[what])) == 1 == len(set(whole[what]))
            # Of each model one kernel is large enough; the rest, some hundred numbers, is whole.
            kernels = {"state": [16] * 3, "frozen": [16, 24]}[what]  # params, momentum, slow
            large = sum(4 * 108 * width for width in kernels)
            assert whole[what][0] > large
            assert parts[what][0] == whole[what][0] - large + large // DEVICES


def test_frozen_models_are_held_once(there):
    held = json.loads(str(there("CASES")["held"]))
    variables = jax.tree.leaves([dict(student().variables), dict(teacher().variables)])
    assert set(held["pmap plain"]["frozen"]) == {sum(leaf.nbytes for leaf in variables)}


def test_small_or_indivisible_arrays_are_whole(monkeypatch):
    monkeypatch.setattr(parallel.jax, "device_count", lambda: DEVICES)
    spec = parallel.LAYOUTS["fsdp"].spec
    assert spec((64, 128)) == jax.sharding.PartitionSpec(None, "batch")
    assert spec((3, 3, 128, 64)) == jax.sharding.PartitionSpec(None, None, "batch")
    assert spec((999, 64)) == jax.sharding.PartitionSpec(None, "batch")
    assert spec((999, 63)) == spec((512,)) == spec(()) == jax.sharding.PartitionSpec()


@pytest.mark.parametrize("name", ["tiny_resnet_narrow", "tiny_vit"])
def test_remat_keeps_less(name):
    """Of convolutions, norms, attention and GELU; nothing is computed here."""
    model = models.create(name, classes=small_models.CLASSES, seed=0)

    def logits(variables, image):
        return model.apply(variables, image)[0].logits

    def kept(forward):
        def residuals(variables):
            return jax.vjp(lambda v: forward(v, small_models.images(8)), variables)[1]

        leaves = jax.tree.leaves(jax.eval_shape(residuals, dict(model.variables)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    assert kept(jax.checkpoint(logits, policy=train.KEPT)) < 0.6 * kept(logits)


@pytest.mark.parametrize("remat", [False, True])
def test_remat_is_asked_for(remat):
    member = jax.vmap(
        make_step(freeze_stats=True, remat=remat),
        (None, None, 0, None),
        (None, None),
        axis_name=parallel.AXIS,
    )
    batch = {k: v[None] for k, v in next(batches()).items()}
    program = jax.make_jaxpr(member)(start("pmap"), frozen("pmap"), batch, jax.random.key(0))
    assert ("remat" in str(program)) == remat


if __name__ == "__main__":
    save_all(sys.argv[1], {"CASES": CASES, "OTHERS": OTHERS}[sys.argv[2]])
