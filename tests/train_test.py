"""The train step on any number of devices, what it leaves alone, and the loop around it.

One small student with BatchNorm, one teacher, 16 images; processes_test.py trains one that
convolves. Run as a script, this file saves what the step computes on the devices that there are.
"""

import dataclasses
import functools
import io
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
import tqdm
import xla

from ktjax import loop as loop_lib
from ktjax import objectives, optim, parallel, train
from ktjax.data import pipeline
from ktjax.losses import Softening
from ktjax.objective import Objective
from ktjax.targets import live

BATCH = 16
SLICES = 8
RATE = 0.05
SGD = optax.sgd(RATE)
OBJECTIVE = objectives.make_kl_dp(
    softening=Softening(2.0, top_k=None, standardized=False), top_k_of="target"
)


def augment(image_BxHxWx3, index_B, view, key=None):
    """In whole numbers: the same bits however it is compiled."""
    shift_B = (31 * view + 7 * index_B).astype(jnp.uint8)
    return image_BxHxWx3 + shift_B[:, None, None, None]


@functools.cache
def student():
    return small_models.make("student")


@functools.cache
def teacher():
    return small_models.make("teacher", width=12, batch_norm=False)


@functools.cache
def batch(*, size=BATCH, masked=0, seed=0):
    """`masked` samples at the end are padding."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 6, 6, 3), dtype=np.uint8),
        "label": rng.integers(0, len(small_models.CLASSES), size).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "mask": np.arange(size) < size - masked,
    }


def make_step(
    *,
    teach=None,
    freeze_stats,
    objective=OBJECTIVE,
    optimizer=SGD,
    slow=None,
    steps_per_epoch=2,
    views=None,
):
    return train.make_train_step(
        student=student(),
        teach=teach or live.make_ask(student(), (teacher(),)),
        objective=objective,
        optimizer=optimizer,
        slow=slow,
        augment=augment,
        steps_per_epoch=steps_per_epoch,
        dtype=jnp.dtype("float32"),
        freeze_stats=freeze_stats,
        views=views,
    )


def start(objective=OBJECTIVE, optimizer=SGD, *, slow=False):
    return train.init_state(
        student().variables,
        objective=objective,
        optimizer=optimizer,
        outputs=train.output_shapes(student(), (teacher(),), size=6),
        label_N=np.zeros(BATCH, np.int32),
        slow=slow,
        key=jax.random.key(0),
    )


@functools.cache
def frozen():
    asked, *others = (live.frozen_variables(m, dtype=jnp.float32) for m in (student(), teacher()))
    return live.Frozen(asked, tuple(others))


@functools.cache
def pmapped(*, freeze_stats):
    return parallel.data_parallel(make_step(freeze_stats=freeze_stats))


@functools.cache
def vmapped(*, freeze_stats):
    """The step on slices of the batch, without devices."""
    step = make_step(freeze_stats=freeze_stats)
    return jax.jit(jax.vmap(step, (None, None, 0, None), (None, None), axis_name=parallel.AXIS))


def sliced(arrays, slices):
    return {k: v.reshape(slices, len(v) // slices, *v.shape[1:]) for k, v in arrays.items()}


def train_for(step, arrays, *, slices, steps=3, state=None, frozen_=None):
    """The State after some steps on one batch, and the metrics of each step."""
    state, seen = state or start(), []
    if slices == jax.local_device_count():  # as it comes back: else a second step is compiled anew
        state = parallel.replicate(state)
    for _ in range(steps):
        state, metrics = step(state, frozen_ or frozen(), sliced(arrays, slices), jax.random.key(0))
        seen.append(metrics)
    return jax.device_get((state, seen))


def flat(state, metrics):
    """Everything that a step gives, by name."""
    tree = {"params": state.params, "batch_stats": state.batch_stats, "metrics": metrics}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def on_the_devices(freeze_stats):
    step = pmapped(freeze_stats=freeze_stats)
    return flat(*train_for(step, batch(masked=3), slices=jax.local_device_count()))


def save_all(path):
    assert jax.local_device_count() == SLICES
    both = {f"{fs:d}{k}": v for fs in (False, True) for k, v in on_the_devices(fs).items()}
    np.savez(path, **both)


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    path = tmp_path_factory.mktemp("eight") / "steps.npz"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(SLICES),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": root,
    }
    subprocess.run([sys.executable, __file__, path], env=environment, check=True, timeout=120)
    return np.load(path)


@pytest.mark.parametrize("freeze_stats", [False, True], ids=["train", "frozen"])
def test_same_step_on_any_number_of_devices(freeze_stats, on_eight_devices):
    # Padding leaves the last device one sample and the one before it fewer than the others.
    expected = flat(*train_for(vmapped(freeze_stats=freeze_stats), batch(masked=3), slices=SLICES))
    stats = [k for k in expected if "batch_stats" in k]
    assert stats
    here = on_the_devices(freeze_stats)
    for name, value in expected.items():
        scale = 100 if "metrics" in name else 1  # these are in percent
        np.testing.assert_allclose(here[name], value, atol=1e-6 * scale, err_msg=name)
        there = on_eight_devices[f"{freeze_stats:d}{name}"]
        np.testing.assert_allclose(there, value, atol=1e-6 * scale, err_msg=name)
    before = flat(start(), [])
    for name in (k for k in before if "params" in k):
        assert not np.array_equal(expected[name], before[name]), f"{name} was not trained"
    assert freeze_stats == all(np.array_equal(expected[k], before[k]) for k in stats)


@pytest.mark.smoke
def test_frozen_models_stay_as_they_are_and_outside_of_the_state():
    before = jax.device_get(frozen())
    own = jax.device_get(dict(student().variables))
    state, _ = train_for(pmapped(freeze_stats=True), batch(), slices=1)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(frozen()), before)
    # The student that the state was made of is the initial one still.
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(dict(student().variables)), own)
    held = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert {leaf.shape for leaf in jax.tree.leaves(teacher().variables)} - held
    assert jax.tree.structure(state.params) == jax.tree.structure(student().variables["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1 + sum(
        leaf.size for leaf in jax.tree.leaves(dict(student().variables))
    )  # plain SGD has no state, this objective neither


@pytest.mark.parametrize("slow", [None, optim.SlowWeights(0.9, 2)])
@pytest.mark.parametrize("freeze_stats", [True, False])
def test_the_compiled_step_writes_over_the_state(freeze_stats, slow):
    """Over all of it, or a step would need room for more than one; see parallel_test.py."""
    optimizer = optax.sgd(RATE, momentum=0.9)
    step = make_step(freeze_stats=freeze_stats, optimizer=optimizer, slow=slow)
    state = parallel.replicate(start(optimizer=optimizer, slow=slow is not None))
    arrays = sliced(batch(), jax.local_device_count())
    lowered = parallel.data_parallel(step).lower(state, frozen(), arrays, jax.random.key(0))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size >= 4 * student().num_parameters() * (2 + (slow is not None))
    assert lowered.compile().memory_analysis().alias_size_in_bytes >= size


def test_padding_changes_nothing():
    step = pmapped(freeze_stats=True)
    padded = batch(masked=4)
    expected = flat(*train_for(step, {k: v[:12] for k, v in padded.items()}, slices=1))
    rubbish = {k: np.concatenate([v[:12], batch(seed=1)[k][12:]]) for k, v in padded.items()}
    rubbish["mask"] = padded["mask"]
    rubbish["label"][12:] = -1
    for arrays in (padded, rubbish):
        found = flat(*train_for(step, arrays, slices=1))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-5, err_msg=name)


def test_live_and_stored_targets_are_the_same():
    images = pipeline.Images(batch()["image"], batch()["label"])
    stored = tuple(
        live.store(m, images, augment=augment, seed=0, views=2, batch_size=6, dtype=jnp.float32)
        for m in (student(), teacher())
    )
    assert [s.shape for s in stored] == 2 * [(2, BATCH, len(small_models.CLASSES))]
    assert not np.array_equal(stored[1][0], stored[1][1])
    step = parallel.data_parallel(make_step(teach=live.replay, freeze_stats=True))
    permuted = {k: v[::-1] for k, v in batch().items()}  # `index` is not the place in the batch
    found = flat(
        *train_for(step, permuted, slices=1, steps=4, frozen_=live.Frozen(stored[0], stored[1:]))
    )
    expected = flat(*train_for(pmapped(freeze_stats=True), permuted, slices=1, steps=4))
    for name, value in expected.items():
        scale = 100 if "metrics" in name else 1
        np.testing.assert_allclose(found[name], value, atol=1e-6 * scale, err_msg=name)


def test_metrics_are_means_over_the_whole_batch():
    arrays = batch(masked=3)
    before = start()
    state, (metrics,) = train_for(vmapped(freeze_stats=True), arrays, slices=SLICES, steps=1)
    view = augment(jnp.asarray(arrays["image"]), jnp.asarray(arrays["index"]), 0)
    logits = {
        m.name: np.asarray(jax.jit(m.apply)(m.variables, view)[0].logits, np.float64)[:13]
        for m in (student(), teacher())
    }
    label = arrays["label"][:13]

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))

    initial, other = (log_softmax(z)[np.arange(13), label] for z in logits.values())
    taught = other > initial
    assert 0 < taught.sum() < 13
    z_s, z_t = logits.values()
    target, said = log_softmax(np.where(taught[:, None], z_t, z_s) / 2), log_softmax(z_s / 2)
    loss = 4 * (np.exp(target) * (target - said)).sum(axis=-1)
    assert metrics["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    assert metrics["taught"] == pytest.approx(100 * taught.mean())
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(z_s.argmax(axis=-1) == label))
    moved = jax.tree.map(lambda a, b: np.sum((a - b) ** 2), state.params, before.params)
    norm = np.sqrt(sum(jax.tree.leaves(moved))) / RATE
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_views_change_with_the_epochs():
    # On one batch, with nothing learned between, the losses of an epoch's steps are the same.
    step, arrays = vmapped(freeze_stats=True), sliced(batch(masked=3), SLICES)
    losses = []
    for i in range(4):
        _, metrics = step(start().replace(step=jnp.asarray(i)), frozen(), arrays, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[1] != losses[2] == losses[3]


# The loop, around steps that only count.


def count(state, frozen, batch, key):
    """The loss of step i is i."""
    now = state.step + 1
    loss = np.float32(batch.get(now, now))
    return types.SimpleNamespace(step=now), {"loss": loss, "grad_norm": np.float32(0)}


def loop(*, first, total, log_every, eval_every, losses=None, step=count):
    """The logs and the evaluations that come: (step, mean loss)."""
    logs, evals = [], []
    events = loop_lib.run(
        step,
        types.SimpleNamespace(step=first),
        iter([losses or {}] * 100),
        frozen=lambda step: (),
        key=None,
        pace=loop_lib.Pace(total, log_every, eval_every),
        name="some run",
    )
    try:
        for event in events:
            if isinstance(event, loop_lib.Evaluation):
                assert event.state.step == event.step
            of_kind = evals if isinstance(event, loop_lib.Evaluation) else logs
            of_kind.append((event.step, event.means["loss"]))
    except FloatingPointError as error:
        return logs, evals, str(error)
    return logs, evals


def test_events_where_everything_divides():
    logs, evals = loop(first=0, total=12, log_every=3, eval_every=6)
    assert logs == [(3, 2.0), (6, 5.0), (9, 8.0), (12, 11.0)]
    assert evals == [(6, 3.5), (12, 9.5)]


def test_a_bar_says_that_the_first_step_is_compiled(monkeypatch):
    bars, said = [], []
    monkeypatch.setattr(
        loop_lib.progress,
        "bar",
        lambda **options: bars.append(tqdm.tqdm(file=io.StringIO(), **options)) or bars[-1],
    )

    def step(*arguments):
        said.append(bars[0].postfix)
        return count(*arguments)

    loop(first=0, total=3, log_every=1, eval_every=3, step=step)
    assert said == ["compiling the first step", "", ""]


def test_events_where_nothing_divides():
    logs, evals = loop(first=0, total=10, log_every=3, eval_every=4)
    assert logs == [(3, 2.0), (4, 4.0), (6, 5.5), (8, 7.5), (9, 9.0), (10, 10.0)]
    assert evals == [(4, 2.5), (8, 6.5), (10, 9.5)]


def test_the_third_epoch_sees_the_first_of_two_views():
    def losses(step):
        states = (start().replace(step=jnp.asarray(2 * epoch)) for epoch in range(3))
        arrays, key = sliced(batch(), SLICES), jax.random.key(0)
        return [float(step(state, frozen(), arrays, key)[1]["loss"]) for state in states]

    of_two = make_step(freeze_stats=True, views=2)
    of_two = jax.jit(jax.vmap(of_two, (None, None, 0, None), (None, None), parallel.AXIS))
    found, expected = losses(of_two), losses(vmapped(freeze_stats=True))
    assert len(set(expected)) == 3
    assert found == pytest.approx([*expected[:2], expected[0]])


def test_what_is_frozen_changes_with_the_view():
    """Between dispatches, also where a run is resumed; where all views are there it never does."""
    asked = []

    def of_view(view):
        asked.append(view)
        return view

    for first in (0, 5):
        sizes = loop_lib.dispatches(first, 12, eval_every=6, size=3, frozen_every=5)
        frozen = loop_lib.of_steps(of_view, every=5, views=2)
        seen, now = [], first
        for size in sizes:
            seen += size * [frozen(now)]
            now += size
        assert seen == [step // 5 % 2 for step in range(first, 12)]
    assert asked == [0, 1, 0, 1, 0]
    assert list(loop_lib.dispatches(0, 12, eval_every=6, size=4)) == [4, 2, 2, 4]
    frozen = loop_lib.of_steps(of_view, every=None, views=2)
    assert [frozen(step) for step in range(12)] == 12 * [0] and len(asked) == 6


def test_events_after_resuming_are_those_of_an_undisturbed_run():
    logs, evals = loop(first=0, total=10, log_every=3, eval_every=4)
    assert loop(first=4, total=10, log_every=3, eval_every=4) == (logs[2:], evals[1:])
    assert loop(first=10, total=10, log_every=3, eval_every=4) == ([], [])


@pytest.mark.parametrize("first", [0, 3])
def test_asked_to_stop_between_two_evaluations_and_at_one(first):
    def until(last):
        asked = iter(range(first + 1, 100))
        events = loop_lib.run(
            count,
            types.SimpleNamespace(step=first),
            iter([{}] * 100),
            frozen=lambda step: (),
            key=None,
            pace=loop_lib.Pace(total=12, log_every=100, eval_every=4),
            name="some run",
            recent=[{"loss": float(i + 1), "grad_norm": 0.0} for i in range(first)],
            stop=lambda: next(asked) == last,
        )
        return [event for event in events if not isinstance(event, loop_lib.Log)]

    evaluation, end = until(6)
    assert (evaluation.step, evaluation.means["loss"]) == (4, 2.5)
    assert isinstance(end, loop_lib.Stop) and end.step == end.state.step == 6
    assert [metrics["loss"] for metrics in end.recent] == [5, 6]  # where a resumed run goes on
    last = until(8)[-1]
    assert isinstance(last, loop_lib.Evaluation) and (last.step, last.means["loss"]) == (8, 6.5)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_not_finite_stops_with_the_steps_named(bad):
    logs, evals, message = loop(
        first=0, total=12, log_every=100, eval_every=4, losses={6: bad, 8: bad}
    )
    assert "some run" in message and "step 6, and in 2 of the steps 5 to 8" in message
    assert evals == [(4, 2.5)]  # the last good state
    logs, evals, message = loop(first=0, total=12, log_every=2, eval_every=4, losses={6: bad})
    assert "step 6, and in 1 of the steps 5 to 6" in message
    assert (logs, evals) == ([(2, 1.5), (4, 3.5)], [(4, 2.5)])


def test_no_step_waits_for_the_host():
    events = []

    class OnDevice:
        """A number that says when the host looks at it."""

        def __init__(self, value):
            self.value = value

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.value:.0f}")
            return np.asarray(self.value, dtype)

    def step(state, *arguments):
        state, metrics = count(state, *arguments)
        events.append(f"step {state.step}")
        return state, metrics | {"loss": OnDevice(metrics["loss"])}

    loop(first=0, total=5, log_every=2, eval_every=100, step=step)
    # What is fetched lies one step behind what the device has to do, but for the last evaluation.
    expected = "step 1, step 2, step 3, fetch 1, fetch 2, step 4, step 5, fetch 3, fetch 4, fetch 5"
    assert ", ".join(events) == expected


def test_planted_infinity_in_a_compiled_step():
    plain = objectives.make_xe(label_smoothing=0.0)

    def apply(params, steps, outputs, batch, key):
        loss_B, (_, aux) = plain.apply(params, (), outputs, batch, key)
        return jnp.where(steps == 4, jnp.inf, loss_B), (steps + 1, aux)

    planted = Objective(lambda *_: ((), jnp.zeros((), jnp.int32)), apply)
    step = make_step(teach=train.teach_nothing, freeze_stats=True, objective=planted)
    evals = []
    events = loop_lib.run(
        parallel.data_parallel(step),
        start(planted),
        parallel.to_devices(iter([batch()] * 12)),
        frozen=lambda step: (),
        key=jax.random.key(0),
        pace=loop_lib.Pace(total=12, log_every=100, eval_every=2),
        name="planted",
    )
    with pytest.raises(FloatingPointError, match=r"step 5, and in .* 5 to 6"):
        evals.extend(event.step for event in events if isinstance(event, loop_lib.Evaluation))
    assert evals == [2, 4]


def test_initial_student_is_the_student_in_bfloat16_too():
    # What is frozen is cast once, the student in every step: they have to agree to the bit.
    variables = student().variables
    stats = jax.tree.map(lambda a: a + 0.1234567, variables["batch_stats"])
    model = dataclasses.replace(student(), variables=dict(variables) | {"batch_stats": stats})
    objective = objectives.make_self(softening=Softening(1.0, top_k=None, standardized=False))
    optimizer = optax.sgd(RATE)
    step = train.make_train_step(
        student=model,
        teach=live.make_ask(model, ()),
        objective=objective,
        optimizer=optimizer,
        slow=None,
        augment=augment,
        steps_per_epoch=2,
        dtype=jnp.bfloat16,
        freeze_stats=True,
    )
    state = train.init_state(
        model.variables,
        objective=objective,
        optimizer=optimizer,
        outputs=train.output_shapes(model, (), size=6),
        label_N=np.zeros(BATCH, np.int32),
        slow=False,
        key=jax.random.key(0),
    )
    initial = live.frozen_variables(model, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial["params"])} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(initial["batch_stats"])} == {
        jnp.dtype("float32")
    }
    _, (metrics,) = train_for(
        parallel.data_parallel(step),
        batch(),
        slices=1,
        steps=1,
        state=state,
        frozen_=live.Frozen(initial, ()),
    )
    assert metrics["loss"] == pytest.approx(0, abs=1e-6)


if __name__ == "__main__":
    save_all(sys.argv[1])
