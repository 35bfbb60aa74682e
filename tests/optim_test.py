"""Schedules by hand, SGD against torch's rule in NumPy, whose weights decay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ktjax import optim


def at(schedule, *steps):
    return [float(schedule(jnp.asarray(step))) for step in steps]


@pytest.mark.smoke
def test_constant():
    schedule = optim.make_schedule("constant", 0.3, warmup_steps=0, total_steps=10)
    assert at(schedule, 0, 5, 9) == pytest.approx([0.3, 0.3, 0.3])


def test_cosine():
    schedule = optim.make_schedule("cosine", 0.3, warmup_steps=0, total_steps=8)
    # peak (1 + cos(pi step / total)) / 2
    assert at(schedule, 0, 4, 8) == pytest.approx([0.3, 0.15, 0.0], abs=1e-7)
    assert at(schedule, 2) == pytest.approx([0.15 * (1 + 2**-0.5)])


@pytest.mark.parametrize(("kind", "middle", "end"), [("constant", 0.3, 0.3), ("cosine", 0.15, 0.0)])
def test_warmup_goes_before(kind, middle, end):
    schedule = optim.make_schedule(kind, 0.3, warmup_steps=4, total_steps=12)
    assert at(schedule, 0, 1, 3, 4, 8, 12) == pytest.approx(
        [0.0, 0.075, 0.225, 0.3, middle, end], abs=1e-7
    )


@pytest.mark.parametrize("kind", optim.SCHEDULES)
def test_warmup_all_the_way(kind):
    schedule = optim.make_schedule(kind, 0.3, warmup_steps=4, total_steps=4)
    assert at(schedule, 2, 3) == pytest.approx([0.15, 0.225])


def test_rates_are_per_256_samples():
    assert optim.scaled(1e-4, batch_size=256) == pytest.approx(1e-4)
    assert optim.scaled(1e-4, batch_size=64) == pytest.approx(2.5e-5)


RATES = jnp.asarray([0.1, 0.2, 0.05])


def run(name, gradients, params, *, weight_decay, clip_norm=None):
    """The parameters after each update, with the learning rates RATES."""
    optimizer = optim.make_optimizer(
        name,
        schedule=lambda peak: lambda step: peak * RATES[step],
        peak=1.0,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    state, seen = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_sgd_is_that_of_torch():
    rng = np.random.default_rng(0)
    draw = lambda: {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}  # noqa: E731
    shapes = {"kernel": (3, 2), "bias": (2,)}
    start, gradients = draw(), [draw() for _ in RATES]
    seen = run("sgd", gradients, start, weight_decay=0.3)
    for name, p in start.items():
        buffer = np.zeros_like(p)
        for rate, gradient, after in zip(RATES.tolist(), gradients, seen, strict=True):
            d_p = gradient[name] + 0.3 * p  # weight_decay of torch.optim.SGD: of biases too
            buffer = 0.9 * buffer + d_p
            p = p - rate * buffer
            np.testing.assert_allclose(after[name], p, rtol=1e-5)


def test_adamw_decays_kernels_only():
    start = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0), "scale": jnp.full(2, 2.0)}
    nothing = {name: jnp.zeros_like(p) for name, p in start.items()}
    after = run("adamw", [nothing], start, weight_decay=0.5)[0]
    np.testing.assert_allclose(after["kernel"], 2.0 - 0.1 * 0.5 * 2.0)
    np.testing.assert_array_equal(after["bias"], start["bias"])
    np.testing.assert_array_equal(after["scale"], start["scale"])


def test_adamw_decays_no_biases_or_gains_of_more_axes():
    """Those of an attention's heads, of a graph from torch, and of ResMLP's Affine."""
    shapes = {"bias": (2, 4), "blocks.0.bias": (2, 2), "alpha": (1, 1, 4), "kernel": (3, 2, 4)}
    start = {"query": {name: jnp.full(shape, 2.0) for name, shape in shapes.items()}}
    nothing = jax.tree.map(jnp.zeros_like, start)
    after = run("adamw", [nothing], start, weight_decay=0.5)[0]["query"]
    assert [name for name in shapes if np.any(after[name] != 2.0)] == ["kernel"]


def test_gradients_are_clipped_to_their_global_norm():
    start, gradient = (
        {"a": jnp.zeros(1), "b": jnp.zeros(1)},
        {"a": jnp.full(1, 3.0), "b": -jnp.full(1, 4.0)},
    )
    for clip_norm, expected in (
        (1.0, (-0.06, 0.08)),
        (10.0, (-0.3, 0.4)),
        (None, (-0.3, 0.4)),
    ):
        after = run("sgd", [gradient], start, weight_decay=0.0, clip_norm=clip_norm)[0]
        np.testing.assert_allclose([after["a"][0], after["b"][0]], expected, rtol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_slow_weights_are_a_recurrence(every):
    rng = np.random.default_rng(0)
    settings = optim.SlowWeights(tau=0.9, every=every)
    slow = expected = rng.normal(size=4).astype(np.float32)
    for step in range(1, 8):
        fast = rng.normal(size=4).astype(np.float32)
        slow = optim.interpolate(slow, fast, step=jnp.asarray(step), settings=settings)
        if step % every == 0:
            expected = 0.9 * expected + 0.1 * fast
        np.testing.assert_allclose(slow, expected, rtol=1e-6)


def test_the_mean_so_far_is_the_mean_of_what_counts():
    values = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    mean = np.zeros(4, np.float32)
    for step, value in enumerate(values, 1):
        mean = optim.mean_so_far(mean, value, count=jnp.asarray(step - 3))
        expected = value if step <= 3 else values[3:step].mean(axis=0)
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_members_have_optimisers_of_their_own():
    make = functools.partial(optim.make_optimizer, "sgd", weight_decay=0.0, clip_norm=1.0)
    optimizer = make(schedule=optax.constant_schedule, peak=1.0)
    joint = optim.per_member(optimizer, ("0", "1"))
    params = {"0": {"w": jnp.zeros(2)}, "1": {"w": jnp.zeros(2)}}
    grads = {"0": {"w": jnp.asarray([3.0, 4.0])}, "1": {"w": jnp.asarray([0.3, 0.4])}}
    updates, state = joint.update((grads, ()), joint.init((params, ())), (params, ()))
    # Each is clipped by its own norm: 5 to 1, and 0.5 not at all.
    np.testing.assert_allclose(updates[0]["0"]["w"], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(updates[0]["1"]["w"], [-0.3, -0.4], rtol=1e-6)
    alone, _ = optimizer.update(grads["1"], optimizer.init(params["1"]), params["1"])
    np.testing.assert_array_equal(alone["w"], updates[0]["1"]["w"])
    traces = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
    assert len(traces) == 2
