"""cd and crd: worked by hand, against NumPy, and on any number of slices of the batch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import contrastive, objectives
from ktjax.classifier import Output
from ktjax.objective import Outputs
from ktjax.parallel import AXIS

CD = dict(weight=10.0, gamma=0.1, label_smoothing=0.0)
CRD = dict(
    weight=0.8,
    gamma=1.0,
    label_smoothing=0.0,
    projection=4,
    negatives=6,
    same_class_negatives=False,
    contrast_temperature=0.07,
    momentum=0.5,
)
EXAMPLES = 10
LABELS = np.asarray([1, 4, 3, 1, 2, 3, 0, 0, 3, 1], np.int32)  # of all
INDEX = np.asarray([7, 2, 9, 4], np.int32)


def sliced(tree, slices):
    return jax.tree.map(lambda x: x.reshape(slices, len(x) // slices, *x.shape[1:]), tree)


def over_the_axis(function, slices=1):
    """function(slice of the arrays) -> per-sample results, gathered again."""

    def run(*arrays):
        out = jax.vmap(function, axis_name=AXIS)(*sliced(arrays, slices))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

    return jax.jit(run)


def test_similarity_by_hand():
    # The student's features point the same way in pairs, the teacher's (wider) all apart.
    student = jnp.asarray([[1.0, 0], [3, 0], [0, 2], [0, 1]])
    teacher = jnp.eye(4, 6) * jnp.asarray([[1.0], [5], [2], [1]])
    loss_B = over_the_axis(contrastive.similarity_kl)(student, teacher)
    # A row of the student: 1 1 0 0, softmax e/(2e+2) twice and 1/(2e+2) twice. The teacher's:
    # 1 0 0 0, softmax e/(e+3) and 1/(e+3) three times.
    e = math.e
    p, q = [e / (e + 3)] + 3 * [1 / (e + 3)], 2 * [e / (2 * e + 2)] + 2 * [1 / (2 * e + 2)]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    np.testing.assert_allclose(loss_B, 4 * [expected], rtol=1e-5)


def outputs_of(student, teachers, logits):
    return Outputs(Output(logits, student), None, tuple(Output(logits, t) for t in teachers))


def features(seed=0, teachers=1):
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(4, 3)).astype(np.float32)
    logits = rng.normal(size=(4, 5)).astype(np.float32)
    others = tuple(rng.normal(size=(4, 2 + k)).astype(np.float32) for k in range(teachers))
    return student, others, logits, np.asarray([0, 3, 1, 2], np.int32)


@functools.cache
def stepper(name, slices, teachers=1, same_class=False):
    """(params, state, features...) -> loss_B, gradients and new state, over slices of the batch."""
    options = CD if name == "cd" else CRD | dict(same_class_negatives=same_class)
    objective = objectives.make(name, options)

    def one(params, state, student, others, logits, label, index, key):
        def loss(params, student, logits):
            outputs = outputs_of(student, others, logits)
            batch = {"label": label, "index": index}
            loss_B, (new, _) = objective.apply(params, state, outputs, batch, key)
            return loss_B.sum(), (loss_B, new)

        grads, (loss_B, new) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(
            params, student, logits
        )
        return loss_B, (jax.lax.psum(grads[0], AXIS), *grads[1:]), new

    @jax.jit
    def run(params, state, student, others, logits, label, index, key):
        arrays = sliced((student, others, logits, label, index), slices)
        loss, grads, new = jax.vmap(
            one,
            in_axes=(None, None, 0, 0, 0, 0, 0, None),
            out_axes=(0, (None, 0, 0), None),
            axis_name=AXIS,
        )(params, state, *arrays, key)
        return loss.reshape(-1), (grads[0], *(g.reshape(-1, g.shape[-1]) for g in grads[1:])), new

    return objective, run


def start(name, teachers=1, same_class=False):
    objective, _ = stepper(name, 1, teachers, same_class)
    student, others, logits, _ = features(teachers=teachers)
    return objective.init(jax.random.key(3), outputs_of(student, others, logits), LABELS)


@pytest.mark.parametrize("name", ["cd", "crd"])
@pytest.mark.parametrize("slices", [2, 4])
def test_slices_of_the_batch_change_nothing(name, slices):
    params, state = start(name)
    student, others, logits, label = features()
    arguments = (params, state, student, others, logits, label, INDEX, jax.random.key(0))
    whole, parts = stepper(name, 1)[1](*arguments), stepper(name, slices)[1](*arguments)
    assert max(np.abs(g).max() for g in jax.tree.leaves(whole[1])) > 1e-3
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


def test_cd_sums_over_the_batch_and_adds_the_labels():
    # The authors' loss of the batch is 10 times the sum of its KLs plus 0.1 times the mean of its
    # cross-entropies: in a mean over 4 samples, a sample's KL counts 40 times.
    params, state = start("cd")
    student, (teacher,), logits, label = features()
    loss_B, _, _ = stepper("cd", 1)[1](
        params, state, student, (teacher,), logits, label, INDEX, jax.random.key(0)
    )
    kl_B = over_the_axis(contrastive.similarity_kl)(student, teacher)
    z = np.float64(logits)
    xe_B = np.log(np.exp(z).sum(axis=1)) - z[np.arange(4), label]
    np.testing.assert_allclose(loss_B, 40 * kl_B + 0.1 * xe_B, rtol=1e-5)
    np.testing.assert_allclose(loss_B.mean(), 10 * kl_B.sum() + 0.1 * xe_B.mean(), rtol=1e-5)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def crd_by_numpy(params, memory, student, teacher, index, drawn):
    """The loss (Tian et al. 2020, eq. 17 to 19, both directions) and the memory after a batch."""
    memory = {k: np.float64(v) for k, v in memory._asdict().items()}
    seen = {}
    for who, x in (("student", student), ("teacher", teacher)):
        kernel, bias = (np.float64(params[who][part]) for part in ("kernel", "bias"))
        seen[who] = unit(np.float64(x) @ kernel + bias)
    m, n = drawn.shape[1] - 1, len(memory["student_NxP"])
    loss = np.zeros(len(index))
    after = dict(memory)
    for who, other in (("student", "teacher"), ("teacher", "student")):
        scores = np.empty(drawn.shape)
        for i in range(len(index)):
            for j, k in enumerate(drawn[i]):
                scores[i, j] = math.exp(memory[f"{other}_NxP"][k] @ seen[who][i] / 0.07)
        if memory[f"{who}_z"] < 0:
            after[f"{who}_z"] = scores.mean() * n
        scores /= after[f"{who}_z"]
        for i in range(len(index)):
            loss[i] -= math.log(scores[i, 0] / (scores[i, 0] + m / n + 1e-7))
            for j in range(1, m + 1):
                loss[i] -= math.log(m / n / (scores[i, j] + m / n + 1e-7))
        after[f"{who}_NxP"] = memory[f"{who}_NxP"].copy()
        for i, k in enumerate(index):
            after[f"{who}_NxP"][k] = unit(0.5 * memory[f"{who}_NxP"][k] + 0.5 * seen[who][i])
    return loss, contrastive.Memory(**after)


def drawn_by(key, index, same_class):
    """The positive first, then the negatives, by its own key: any sample but itself; or any of
    another class, these class after class.
    """
    rows = []
    for i in map(int, index):
        own, shape = jax.random.fold_in(key, i), (CRD["negatives"],)
        if same_class:
            drawn = (i + np.asarray(jax.random.randint(own, shape, 1, EXAMPLES))) % EXAMPLES
        else:
            others = sorted((label, k) for k, label in enumerate(LABELS) if label != LABELS[i])
            at = np.asarray(jax.random.randint(own, shape, 0, len(others)))
            drawn = [others[k][1] for k in at]
        rows.append([i, *drawn])
    return np.asarray(rows)


def test_samples_class_after_class():
    samples = contrastive.by_class(LABELS, 6)
    assert samples.index_N.tolist() == [6, 7, 0, 3, 9, 4, 2, 5, 8, 1]
    assert samples.begin_C.tolist() == [0, 2, 5, 6, 9, 10, 10]


def test_negatives_of_other_classes_are_all_as_likely():
    samples = contrastive.by_class(LABELS, 5)
    label = np.asarray([0, 3, 4, 1], np.int32)
    drawn = contrastive.draw_of_other_classes(
        jax.random.split(jax.random.key(0), 4), label, samples, count=20_000
    )
    for own, row in zip(label, np.asarray(drawn), strict=True):
        counts = np.bincount(row, minlength=EXAMPLES)
        assert (counts[own == LABELS] == 0).all()
        others = counts[own != LABELS]
        assert np.abs(others / 20_000 - 1 / len(others)).max() < 0.01  # 4 standard errors


def test_negatives_need_another_class():
    with pytest.raises(ValueError, match="the same class.*same_class_negatives=True"):
        contrastive.by_class(np.full(5, 2, np.int32), 4)


@pytest.mark.parametrize("same_class", [False, True])
def test_crd_is_numpys_for_three_steps(same_class):
    params, state = start("crd", same_class=same_class)
    (expected,), constants = state[0], []
    for step in range(3):
        student, (teacher,), logits, _ = features(seed=step)
        index = (INDEX + 3 * step) % EXAMPLES
        label = LABELS[index]
        key = jax.random.fold_in(jax.random.key(0), step)
        loss_B, _, state = stepper("crd", 1, same_class=same_class)[1](
            params, state, student, (teacher,), logits, label, index, key
        )
        drawn = drawn_by(jax.random.fold_in(key, 0), index, same_class)
        assert not (drawn[:, 1:] == drawn[:, :1]).any()
        assert (LABELS[drawn[:, 1:]] == LABELS[drawn[:, :1]]).any() == same_class
        crd_B, expected = crd_by_numpy(params[0], expected, student, teacher, index, drawn)
        z = np.float64(logits)
        xe_B = np.log(np.exp(z).sum(axis=1)) - z[np.arange(4), label]
        np.testing.assert_allclose(loss_B, 0.8 * crd_B + xe_B, rtol=2e-4)
        for name, value in expected._asdict().items():
            np.testing.assert_allclose(getattr(state[0][0], name), value, rtol=2e-4, atol=1e-6)
        constants.append((float(state[0][0].student_z), float(state[0][0].teacher_z)))
    assert constants[0] == constants[1] == constants[2]  # set once, on the first batch
    assert min(constants[0]) > 0


def test_every_teacher_has_a_memory():
    params, state = start("crd", teachers=2)
    assert [p["teacher"]["kernel"].shape for p in params] == [(2, 4), (3, 4)]
    student, others, logits, label = features(teachers=2)
    arguments = (student, others, logits, label, INDEX, jax.random.key(0))
    _, _, (after, samples) = stepper("crd", 1, 2)[1](params, state, *arguments)
    (state, before) = state
    jax.tree.map(np.testing.assert_array_equal, samples, before)
    assert len(after) == 2
    assert not np.array_equal(after[0].teacher_NxP, after[1].teacher_NxP)
    changed = (np.asarray(after[0].teacher_NxP) != np.asarray(state[0].teacher_NxP)).any(axis=1)
    assert sorted(np.flatnonzero(changed)) == sorted(INDEX)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["cd", "crd"])
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_extreme_features_stay_finite(name, size, dtype):
    params, state = start(name)
    student, others, logits, label = features()
    student, others = (
        jax.tree.map(lambda x: (size * x).astype(dtype), x) for x in (student, others)
    )
    loss_B, grads, after = stepper(name, 1)[1](
        params, state, student, others, 1e4 * logits, label, INDEX, jax.random.key(0)
    )
    assert loss_B.dtype == jnp.float32
    for leaf in jax.tree.leaves((loss_B, grads, after)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
