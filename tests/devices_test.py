"""Every objective's step gives the same State on 1 and on 8 devices; slow weights; mutual students.

Run as a script, this file saves what the steps compute on the devices that there are.
"""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
import xla

from ktjax import evaluate, objectives, optim, parallel, train
from ktjax.data import pipeline
from ktjax.joint import Joint
from ktjax.targets import live

BATCH = 16
STEPS = 3
SOFT = dict(temperature=2.0, top_k=None, standardized=False)
FLIPS = dict(flips=("positive", "negative", "neutral"), mean_over="all")
DP = SOFT | dict(top_k_of="target")
XE = dict(label_smoothing=0.1)
OPTIONS = {
    "xe": XE,
    "self": SOFT,
    "xe_self": SOFT | XE | dict(alpha=0.5),
    "kl": SOFT | dict(flips=("negative", "neutral"), mean_over="distilled"),
    "xe_kl": SOFT | FLIPS | XE | dict(alpha=0.5),
    "hinton": SOFT | FLIPS | dict(top_k=2),
    "adaptconf": SOFT | dict(sharpness=0.5),
    "kl_dp": DP | dict(standardized=True),
    "kl_dp_unsupervised": DP,
    "kl_dp_flip": DP | dict(neutral="average"),
    "kl_dp_corrected": DP | dict(lead=0.2),
    "kl_pool": SOFT | dict(hold=0.5),
    "kl_pool_corrected": SOFT | dict(lead=0.2),
    "self_pool": SOFT,
    "self_corrected": SOFT | dict(lead=0.2),
    "cd": XE | dict(weight=10.0, gamma=0.1),
    "crd": XE
    | dict(
        weight=0.8,
        gamma=1.0,
        projection=4,
        negatives=6,
        same_class_negatives=False,
        contrast_temperature=0.5,
        momentum=0.5,
    ),
    "mutual": SOFT | XE | dict(detach_teacher=False),
}
SLOW = optim.SlowWeights(tau=0.9, every=2)
# (objective, whether BatchNorm's statistics are frozen). A frozen one is a part of the same step:
# one objective with a memory and one without stand for the rest, which .ci/full runs.
# kl_pool_corrected computes what four others do.
LIKE = ("kl_dp_corrected", "kl_pool", "self_pool", "self_corrected")
CASES = [*((name, False) for name in OPTIONS if name not in LIKE), ("kl_dp", True), ("crd", True)]
OTHERS = [(name, frozen) for name in OPTIONS for frozen in (False, True)]
OTHERS = [case for case in OTHERS if case not in CASES]


@functools.cache
def models():
    return (
        small_models.make("student"),
        small_models.make("first", width=5),
        small_models.make("second", width=7, batch_norm=False),
    )


def batch():
    rng = np.random.default_rng(1)
    return {
        "image": small_models.images(BATCH),
        "label": rng.integers(0, len(small_models.CLASSES), BATCH).astype(np.int32),
        "index": rng.permutation(2 * BATCH)[:BATCH].astype(np.int32),
        "mask": np.ones(BATCH, bool),
    }


def run(name, *, freeze_stats, slow=SLOW, steps=STEPS):
    """The States after each of some steps on all devices, and the metrics of the last."""
    objective = objectives.make(name, OPTIONS[name])
    student, *teachers = models()
    optimizer, teach, frozen = optax.sgd(0.02, momentum=0.9), train.teach_nothing, ()
    if name == "mutual":
        student = Joint(models())
        optimizer = optim.per_member(optimizer, student.keys)
    else:
        teach = live.make_ask(student, teachers)
        asked = [live.frozen_variables(m, dtype=jnp.float32) for m in (student, *teachers)]
        frozen = live.Frozen(asked[0], tuple(asked[1:]), jnp.asarray([1.0, 0.7, 1.5]))
        frozen = small_models.weighted(name, frozen)
    state = train.init_state(
        student.variables,
        objective=objective,
        optimizer=optimizer,
        outputs=train.output_shapes(student, teachers, size=6),
        label_N=np.arange(2 * BATCH, dtype=np.int32) % len(small_models.CLASSES),
        slow=slow is not None,
        key=jax.random.key(0),
    )
    state = parallel.replicate(state)  # as it comes back: else the second step is compiled anew
    step = parallel.data_parallel(
        train.make_train_step(
            student=student,
            teach=teach,
            objective=objective,
            optimizer=optimizer,
            slow=slow,
            augment=lambda image, index, view, key: image,
            steps_per_epoch=2,
            dtype=jnp.dtype("float32"),
            freeze_stats=freeze_stats,
        )
    )
    devices = jax.local_device_count()
    arrays = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch().items()}
    states = [jax.device_get(state)]
    for _ in range(steps):
        state, metrics = step(state, frozen, arrays, jax.random.key(7))
        states.append(jax.device_get(state))
    return states, jax.device_get(metrics)


@functools.cache
def here(name, freeze_stats):
    return run(name, freeze_stats=freeze_stats)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def save_all(path, cases):
    assert jax.local_device_count() == 8
    arrays = {}
    for name, freeze_stats in cases:
        states, metrics = run(name, freeze_stats=freeze_stats)
        found = flat((states[-1], metrics))
        arrays |= {f"{name} {freeze_stats} {key}": value for key, value in found.items()}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    """on_eight_devices(name, freeze_stats): what eight devices compute, all CASES or all OTHERS."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": root,
    }

    @functools.cache
    def computed(which):
        path = tmp_path_factory.mktemp("eight") / "steps.npz"
        command = [sys.executable, __file__, path, which]
        subprocess.run(command, env=environment, check=True, timeout=300)
        return dict(np.load(path))

    return lambda *case: computed("CASES" if case in CASES else "OTHERS")


def test_no_objective_is_missing():
    assert set(OPTIONS) == set(objectives.OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "freeze_stats"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.full) for case in OTHERS)],
    ids=lambda value: {False: "train", True: "frozen"}.get(value, value),
)
def test_one_and_eight_devices_agree(name, freeze_stats, on_eight_devices):
    states, metrics = here(name, freeze_stats)
    before, after = flat((states[0], metrics)), flat((states[-1], metrics))
    eight = on_eight_devices(name, freeze_stats)
    for key, value in after.items():
        there = eight[f"{name} {freeze_stats} {key}"]
        # Metrics are in percent, statistics, momenta and crd's constants of any size.
        rtol = 0 if "params" in key else 1e-5
        np.testing.assert_allclose(there, value, rtol=rtol, atol=1e-6, err_msg=key)
        taught = name != "self" or not freeze_stats  # a student is its own initial one
        if taught and ".params" in key and "bn" not in key:
            assert not np.array_equal(value, before[key]), f"{key} was not trained"
    stats = [key for key in after if ".batch_stats" in key]
    assert stats and freeze_stats == all(np.array_equal(after[k], before[k]) for k in stats)
    if name == "crd":
        memories = [key for key in after if "NxP" in key]
        assert len(memories) == 4
        assert not any(np.array_equal(after[key], before[key]) for key in memories)


def test_slow_weights_follow_the_fast_ones():
    states, _ = here("xe", False)
    slow = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for number, state in enumerate(states):
        fast = {"params": state.params, "batch_stats": state.batch_stats}
        if number and number % SLOW.every == 0:
            slow = jax.tree.map(lambda s, f: 0.9 * s + 0.1 * f, slow, fast)
        for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(state.slow), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        # They are what is evaluated and exported.
        assert train.student_variables(state) is state.slow
    assert not np.array_equal(
        states[-1].slow["batch_stats"]["bn"]["mean"],
        states[-1].batch_stats["bn"]["mean"],
    )


def test_training_goes_on_from_the_fast_weights():
    states, _ = here("xe", False)
    plain, _ = run("xe", freeze_stats=False, slow=None)
    assert plain[-1].slow == ()
    jax.tree.map(np.testing.assert_array_equal, plain[-1].params, states[-1].params)
    jax.tree.map(np.testing.assert_array_equal, plain[-1].opt_state, states[-1].opt_state)


def test_accuracy_of_several_students_is_their_mean():
    _, metrics = run("mutual", freeze_stats=True, slow=None, steps=1)
    right = []
    for model in models():
        logits = jax.jit(model.apply)(model.variables, batch()["image"])[0].logits
        right.append(evaluate.accuracy(np.asarray(logits), batch()["label"]))
    assert len(set(right)) > 1
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


def test_a_joint_says_what_its_members_say():
    joint = Joint(models())
    image = small_models.images(5)
    assert set(joint.variables["params"]) == {"0", "1", "2"}
    assert set(joint.variables["batch_stats"]) == {"0", "1"}
    output, stats = jax.jit(joint.apply)(joint.variables, image)
    for i, model in enumerate(models()):
        own = jax.jit(model.apply)(model.variables, image)[0].logits
        np.testing.assert_allclose(output.logits[:, i], own, rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, stats, joint.variables["batch_stats"])
    changed = jax.tree.map(lambda x: x + 1, joint.variables)
    for before, after in zip(models(), joint.with_variables(changed), strict=True):
        assert after.name == before.name
        jax.tree.map(
            np.testing.assert_array_equal,
            dict(after.variables),
            jax.tree.map(lambda x: x + 1, dict(before.variables)),
        )
    images = pipeline.Images(small_models.images(5), np.zeros(5, np.int32))
    predicted = evaluate.make_predict(joint, batch_size=2)(joint.variables, images)
    assert predicted.shape == (5, 3, len(small_models.CLASSES))
    np.testing.assert_allclose(predicted, output.logits, rtol=1e-5, atol=1e-6)


def test_members_of_a_joint_drop_different_numbers():
    # Two members with the same weights differ in training by what dropout takes alone.
    twin = small_models.make("twin", batch_norm=False, dropout=0.5)
    joint = Joint((twin, twin))
    rngs = {"dropout": jax.random.key(0)}
    logits = joint.apply(joint.variables, small_models.images(3), train=True, rngs=rngs)[0].logits
    assert not np.allclose(logits[:, 0], logits[:, 1])


if __name__ == "__main__":
    save_all(sys.argv[1], {"CASES": CASES, "OTHERS": OTHERS}[sys.argv[2]])
