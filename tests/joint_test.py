"""Several students that train at once: what they say, and what a step does to each of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models

from ktjax import evaluate, loop, objectives, optim, parallel, train
from ktjax.data import pipeline
from ktjax.joint import Joint

BATCH = 16
RATE = 0.05
DECAY = 0.01
CLIP = 1.25
KL = dict(temperature=2.0, top_k=3, standardized=False)


@functools.cache
def joint():
    return Joint((small_models.make("student"), small_models.make("partner", width=5)))


@functools.cache
def three():
    return Joint((*joint().members, small_models.make("third", batch_norm=False)))


def batch(*, only=None):
    rng = np.random.default_rng(0)
    return {
        "image": small_models.images(BATCH),
        "label": rng.integers(0, len(small_models.CLASSES), BATCH).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32),
        "mask": np.arange(BATCH) == only if only is not None else np.arange(BATCH) < 13,
    }


def assert_close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b)


@pytest.mark.parametrize(
    "options",
    [{}, dict(train=True), dict(train=True, freeze_stats=True)],
    ids=["eval", "train", "frozen"],
)
def test_each_member_says_and_remembers_what_it_would_alone(options):
    image = small_models.images(6)[None]

    def run(model):
        apply = functools.partial(model.apply, **options)
        apply = jax.jit(jax.vmap(apply, (None, 0), axis_name=parallel.AXIS))
        return jax.device_get(apply(model.variables, image))

    output, stats = run(three())
    assert output.logits.shape == (1, 6, 3, len(small_models.CLASSES))
    assert output.features is None
    assert set(stats) == {"0", "1"}  # the third has no BatchNorm
    for i, member in enumerate(three().members):
        own_output, own_stats = run(member)
        np.testing.assert_allclose(output.logits[:, :, i], own_output.logits, atol=1e-6)
        assert_close(stats.get(str(i), {}), own_stats)


@pytest.mark.smoke
def test_with_variables_gives_each_its_part_back():
    changed = jax.tree.map(lambda x: x + 1, three().variables)
    assert set(changed["batch_stats"]) == {"0", "1"}
    for before, after in zip(three().members, three().with_variables(changed), strict=True):
        assert (after.name, after.input) == (before.name, before.input)
        assert set(after.variables) == set(before.variables)
        for kind, tree in before.variables.items():
            jax.tree.map(
                np.testing.assert_array_equal,
                after.variables[kind],
                jax.tree.map(lambda x: x + 1, tree),
            )


def test_without_batch_norm_there_are_no_statistics():
    plain = small_models.make("plain", batch_norm=False)
    assert set(Joint((plain, plain)).variables) == {"params"}


def test_members_draw_dropout_from_keys_of_their_own():
    twin = small_models.make("twin", batch_norm=False, dropout=0.5)
    image, rngs = small_models.images(3), {"dropout": jax.random.key(0)}
    twins = Joint((twin, twin))
    apply = jax.jit(functools.partial(twins.apply, train=True))
    logits = apply(twins.variables, image, rngs=rngs)[0].logits
    assert np.abs(logits[:, 0] - logits[:, 1]).max() > 0.1
    np.testing.assert_array_equal(apply(twins.variables, image, rngs=rngs)[0].logits, logits)
    logits = twins.apply(twins.variables, image, rngs=rngs)[0].logits
    np.testing.assert_array_equal(logits[:, 0], logits[:, 1])


# In a step.


def sgd():
    schedule = optax.constant_schedule
    return optim.make_optimizer(
        "sgd", schedule=schedule, peak=RATE, weight_decay=DECAY, clip_norm=CLIP
    )


def build(student, objective, optimizer):
    """The compiled step, and what makes its first State."""
    step = train.make_train_step(
        student=student,
        teach=train.teach_nothing,
        objective=objective,
        optimizer=optimizer,
        slow=None,
        augment=lambda image, index, view, key: image,
        steps_per_epoch=2,
        dtype=jnp.dtype("float32"),
        freeze_stats=True,
    )

    def begin():
        state = train.init_state(
            student.variables,
            objective=objective,
            optimizer=optimizer,
            outputs=train.output_shapes(student, (), size=6),
            label_N=np.zeros(BATCH, np.int32),
            slow=False,
            key=jax.random.key(0),
        )
        return parallel.replicate(state)

    return parallel.data_parallel(step), begin


@functools.cache
def mutual():
    objective = objectives.make("mutual", KL | dict(detach_teacher=True, label_smoothing=0.1))
    return build(joint(), objective, optim.per_member(sgd(), joint().keys))


def once(step, begin, arrays):
    devices = jax.local_device_count()
    arrays = {k: v.reshape(devices, len(v) // devices, *v.shape[1:]) for k, v in arrays.items()}
    return jax.device_get(step(begin(), (), arrays, jax.random.key(0)))


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def gradient(member, other, arrays):
    """Of what `mutual` asks of a member, with the other's answers as they are."""
    label = arrays["label"]
    theirs = np.asarray(jax.jit(other.apply)(other.variables, arrays["image"])[0].logits)
    weight = arrays["mask"] / arrays["mask"].sum()

    def loss(params):
        own = member.apply(dict(member.variables) | {"params": params}, arrays["image"])[0].logits
        log_own, log_theirs = jax.nn.log_softmax(own), jax.nn.log_softmax(theirs)
        wanted = 0.9 * np.eye(4)[label] + 0.1 / 4
        losses = -jnp.sum(wanted * log_own, axis=-1)
        top = np.argsort(-theirs, axis=-1)[:, :3]
        target = jax.nn.softmax(np.take_along_axis(theirs, top, axis=-1) / 2)
        said = jax.nn.log_softmax(jnp.take_along_axis(own, top, axis=-1) / 2)
        kl = 4 * jnp.sum(target * (jnp.log(target) - said), axis=-1)
        samples = np.arange(BATCH)
        taught = log_theirs[samples, label] > log_own[samples, label]
        return jnp.sum(weight * (losses + jnp.where(taught, kl, 0)))

    return jax.device_get(jax.jit(jax.grad(loss))(member.variables["params"]))


def test_each_is_trained_and_clipped_for_itself():
    first, second = joint().members
    gradients = gradient(first, second, batch()), gradient(second, first, batch())
    norms = [norm(g) for g in gradients]
    assert min(norms) < CLIP < max(norms)  # one is clipped, and the other left as it is
    state, metrics = once(*mutual(), batch())
    assert metrics["grad_norm"] == pytest.approx(np.hypot(*norms), rel=1e-5)
    traces = state.opt_state.inner_states
    for i, (member, its_gradient) in enumerate(zip(joint().members, gradients, strict=True)):
        before = member.variables["params"]
        scale = min(1, CLIP / norms[i])
        update = jax.tree.map(lambda g, p, s=scale: s * g + DECAY * p, its_gradient, before)
        expected = jax.tree.map(lambda p, u: p - RATE * u, before, update)
        assert_close(state.params[str(i)], expected)
        # Its momentum is its own, and there is no other's beside it.
        held = [leaf for leaf in jax.tree.leaves(traces[str(i)]) if leaf.ndim]
        for a, b in zip(held, jax.tree.leaves(update), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_the_less_sure_are_taught():
    # One sample at a time has one teacher, who learns from the labels alone.
    objective = objectives.make_xe(label_smoothing=0.1)
    alone = [build(member, objective, sgd()) for member in joint().members]
    taught = set()
    for i in range(4):
        state, metrics = once(*mutual(), batch(only=i))
        shares = [float(metrics[f"taught_model_{m}"]) for m in (0, 1)]
        assert sorted(shares) == [0, 100]
        taught.add(shares.index(100))
        for m, its_own in enumerate(alone):
            own, _ = once(*its_own, batch(only=i))
            distance = norm(jax.tree.map(np.subtract, own.params, state.params[str(m)]))
            assert distance > 1e-3 if shares[m] else distance < 1e-6
    assert taught == {0, 1}


def test_the_loop_and_the_predictions_are_those_of_one_student():
    images = pipeline.Images(small_models.images(10, seed=3), np.zeros(10, np.int32))
    predict = evaluate.make_predict(joint(), batch_size=4)
    step, begin = mutual()
    seen = []

    events = loop.run(
        step,
        begin(),
        parallel.to_devices(iter([batch()] * 20)),
        frozen=lambda step: (),
        key=jax.random.key(0),
        pace=loop.Pace(total=20, log_every=5, eval_every=10),
        name="together",
    )
    for event in events:
        if isinstance(event, loop.Log):
            continue
        variables = train.student_variables(event.state)
        logits_NxMxC = predict(variables, images)
        assert logits_NxMxC.shape == (10, 2, len(small_models.CLASSES))
        for i, member in enumerate(joint().with_variables(variables)):
            own_NxC = jax.jit(member.apply)(member.variables, images.image_NxHxWx3)[0].logits
            np.testing.assert_allclose(logits_NxMxC[:, i], own_NxC, atol=1e-5)
        seen.append((event.step, event.means["loss"]))

    (first, before), (last, after) = seen
    assert (first, last) == (10, 20)
    assert after < before
