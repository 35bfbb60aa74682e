"""What every State is: the same on all devices, and the same again after a checkpoint.

And that the temperatures beside it reach the partition, asked or stored.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models

from ktjax import objectives, optim, parallel, train
from ktjax.checkpoint import Checkpoints
from ktjax.data import pipeline
from ktjax.joint import Joint
from ktjax.targets import live

BATCH = 16
EXAMPLES = 20  # the split is larger than the batch
KL = dict(temperature=2.0, top_k=3, standardized=False)
DP = KL | dict(top_k_of="target")
XE = dict(label_smoothing=0.1)
CRD = dict(
    projection=4, negatives=5, same_class_negatives=False, contrast_temperature=0.2, momentum=0.5
)
OPTIONS = {
    "xe": XE,
    "self": KL,
    "xe_self": KL | XE | dict(alpha=0.7),
    "kl": KL | dict(flips=("positive", "neutral"), mean_over="all"),
    "xe_kl": KL | XE | dict(alpha=0.7, flips=objectives.FLIPS, mean_over="all"),
    "hinton": KL | dict(flips=("negative", "neutral"), mean_over="all"),
    "adaptconf": KL | dict(sharpness=0.5),
    "kl_dp": DP,
    "kl_dp_unsupervised": DP,
    "kl_dp_flip": DP | dict(neutral="average"),
    "kl_dp_corrected": DP | dict(lead=0.2),
    "kl_pool": KL | dict(hold=0.5),
    "kl_pool_corrected": KL | dict(lead=0.2),
    "self_pool": KL,
    "self_corrected": KL | dict(lead=0.2),
    "cd": XE | dict(weight=0.8, gamma=0.5),
    "crd": XE | CRD | dict(weight=0.8, gamma=0.5),
    "mutual": KL | XE | dict(detach_teacher=False),
}
TEMPERATURES = [[1.5, 0.5, 2.0], [4.0, 1.0, 1.0], [0.3, 1.0, 1.0]]


@functools.cache
def models():
    """The initial student, which is not the one that trains, and two teachers."""
    return (
        small_models.make("earlier student"),
        small_models.make("first", width=5),
        small_models.make("second", batch_norm=False),
    )


def student(name):
    alone = small_models.make("student")
    partner = small_models.make("partner", width=5)
    return Joint((alone, partner)) if objectives.OBJECTIVES[name].joint else alone


def augment(image_BxHxWx3, index_B, view, key=None):
    """In whole numbers: the same bits however it is compiled."""
    shift_B = (31 * view + 7 * index_B).astype(jnp.uint8)
    return image_BxHxWx3 + shift_B[:, None, None, None]


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": small_models.images(BATCH, seed=seed),
        "label": rng.integers(0, len(small_models.CLASSES), BATCH).astype(np.int32),
        "index": rng.permutation(EXAMPLES)[:BATCH].astype(np.int32),
        "mask": np.ones(BATCH, bool),
    }


def make_step(name, *, teach=None, freeze_stats=True):
    return train.make_train_step(
        student=student(name),
        teach=teach or live.make_ask(models()[0], models()[1:]),
        objective=objectives.make(name, OPTIONS[name]),
        optimizer=optimizer(name),
        slow=optim.SlowWeights(0.75, 2),
        augment=augment,
        steps_per_epoch=2,
        dtype=jnp.dtype("float32"),
        freeze_stats=freeze_stats,
    )


def optimizer(name):
    sgd = optax.sgd(0.05, momentum=0.9)
    return optim.per_member(sgd, ("0", "1")) if objectives.OBJECTIVES[name].joint else sgd


def start(name, *, seed=0):
    state = train.init_state(
        student(name).variables,
        objective=objectives.make(name, OPTIONS[name]),
        optimizer=optimizer(name),
        outputs=train.output_shapes(student(name), models()[1:], size=6),
        label_N=np.arange(EXAMPLES, dtype=np.int32) % len(small_models.CLASSES),
        slow=True,
        key=jax.random.key(seed),
    )
    return parallel.replicate(state)


@functools.cache
def asked(name="kl"):
    initial, *teachers = (live.frozen_variables(m, dtype=jnp.float32) for m in models())
    frozen = live.Frozen(initial, tuple(teachers), parallel.replicate(jnp.ones(3)))
    return small_models.weighted(name, frozen)


@functools.cache
def stored():
    images = pipeline.Images(small_models.images(EXAMPLES), np.zeros(EXAMPLES, np.int32))
    initial, *teachers = (
        live.store(m, images, augment=augment, seed=0, views=1, batch_size=8, dtype=jnp.float32)
        for m in models()
    )
    return live.Frozen(initial, tuple(teachers), parallel.replicate(jnp.ones(3)))


def sliced(arrays, devices):
    return {k: v.reshape(devices, len(v) // devices, *v.shape[1:]) for k, v in arrays.items()}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_no_objective_is_missing():
    assert list(OPTIONS) == list(objectives.OBJECTIVES)


@pytest.mark.parametrize("freeze_stats", [False, True], ids=["train", "frozen"])
@pytest.mark.parametrize("name", OPTIONS)
def test_state_and_metrics_are_the_same_on_all_devices(name, freeze_stats):
    # vmap refuses to give back once what differs between slices; tracing is enough to know.
    step = make_step(name, freeze_stats=freeze_stats)
    step = jax.vmap(step, (None, None, 0, None), (None, None), parallel.AXIS)
    before = start(name)
    after, metrics = jax.eval_shape(
        step, before, asked(name), sliced(batch(), 8), jax.random.key(0)
    )
    assert jax.tree.structure(after) == jax.tree.structure(before)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after)]
    assert shapes[0] == shapes[1]  # nothing is compiled again for the second step
    assert {(x.shape, x.dtype) for x in metrics.values()} == {((), jnp.dtype("float32"))}


def test_the_memory_of_crd_survives_a_checkpoint(tmp_path):
    step = parallel.data_parallel(make_step("crd", freeze_stats=False))
    devices = jax.local_device_count()

    def advance(state, i):
        return step(state, asked(), sliced(batch(i), devices), jax.random.key(0))[0]

    undisturbed = [start("crd")]
    for i in range(4):
        undisturbed.append(advance(jax.tree.map(jnp.copy, undisturbed[-1]), i))
    memory = undisturbed[2].objective_state[0][1]
    assert not np.array_equal(memory.student_NxP, undisturbed[0].objective_state[0][1].student_NxP)
    assert memory.student_z > 0 and memory.teacher_z > 0
    checkpoints = Checkpoints(tmp_path / "run", of={"run": "crd"})
    checkpoints.save(2, undisturbed[2], record=[], score=0.0)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "run", of={"run": "crd"})
    state, _ = checkpoints.restore(start("crd", seed=1))  # into other numbers
    checkpoints.close()
    assert_same(state, undisturbed[2])
    for i in (2, 3):
        state = advance(state, i)
        assert_same(state, undisturbed[i + 1])


def taught_by_loop(temperatures):
    """How many samples of the batch each model teaches, at view 0."""
    logits = [np.asarray(x[0], np.float64) for x in (stored().initial, *stored().teachers)]
    counts = [0, 0, 0]
    for index, label in zip(batch()["index"], batch()["label"], strict=True):
        sure = []
        for z, temperature in zip(logits, temperatures, strict=True):
            odds = np.exp(z[index] / temperature)
            sure.append(odds[label] / odds.sum())
        counts[int(np.argmax(sure))] += 1
    return counts


@functools.cache
def compiled(asks):
    return parallel.data_parallel(make_step("kl_dp", teach=None if asks else live.replay))


@pytest.mark.parametrize("temperatures", TEMPERATURES)
@pytest.mark.parametrize("asks", [True, False], ids=["live", "stored"])
def test_temperatures_reach_the_partition(asks, temperatures):
    expected = taught_by_loop(temperatures)
    assert expected != taught_by_loop([1, 1, 1])
    frozen = asked() if asks else stored()
    frozen = frozen._replace(temperatures_S=parallel.replicate(jnp.asarray(temperatures)))
    images = small_models.images(EXAMPLES)
    arrays = batch() | {"image": images[batch()["index"]]}
    devices = jax.local_device_count()
    _, metrics = compiled(asks)(start("kl_dp"), frozen, sliced(arrays, devices), jax.random.key(0))
    found = [float(metrics[name]) for name in ("taught", "taught_1", "taught_2")]
    shares = [expected[1] + expected[2], expected[1], expected[2]]
    assert found == pytest.approx([100 * n / BATCH for n in shares])
