"""What holds for the objectives whatever the logits, against NumPy written from method.md."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ktjax import objectives
from ktjax.classifier import Output
from ktjax.objective import Outputs

B, C = 6, 5
SOFT = dict(temperature=2.0, top_k=None, standardized=False)
USUAL = dict(mean_over="all", top_k_of="target")
ALL = ("positive", "negative", "neutral")

labels = hnp.arrays(np.int32, B, elements=st.integers(0, C - 1))


def models(count):
    """Logits [count, B, C] in halves: ties do happen."""

    def draw(seed):
        z = np.random.default_rng(seed).normal(0, 2, (count, B, C))
        return (np.round(2 * z) / 2).astype(np.float32)

    return st.integers(0, 2**32 - 1).map(draw)


@functools.cache
def compiled(name, options, calibrated=False):
    """loss_B, aux and gradient of an objective: (student, initial, teachers, label) -> ..."""
    objective = objectives.make(name, dict(options))

    @jax.jit
    def run(student, initial, teachers, label, temperatures):
        def loss(z):
            outputs = Outputs(
                Output(z, None),
                Output(initial, None),
                tuple(Output(t, None) for t in teachers),
                temperatures if calibrated else None,
            )
            loss_B, (_, aux) = objective.apply((), (), outputs, {"label": label}, None)
            return loss_B.sum(), (loss_B, aux)

        gradient, (loss_B, aux) = jax.grad(loss, has_aux=True)(student)
        return loss_B, aux, gradient

    return run


def run(name, student, initial, teachers, label, *, temperatures=None, **options):
    known = objectives.options_of(name)
    usual = SOFT | {k: v for k, v in USUAL.items() if k in known}
    options = tuple(sorted((usual | options).items()))
    ones = np.ones(len(teachers) + 1, np.float32)
    step = compiled(name, options, temperatures is not None)
    return step(
        student, initial, tuple(teachers), label, ones if temperatures is None else temperatures
    )


def settings(examples):
    return hypothesis.settings(deadline=None, max_examples=examples, derandomize=True)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def by_loop(student, initial, teachers, label, *, supervised, temperatures=None):
    """kl_dp sample by sample as method.md says it, temperature 2: losses, who teaches, and whether
    nobody else is as sure but for rounding.
    """
    losses, sources, clear = [], [], []
    for i in range(B):
        candidates = [np.float64(m[i]) for m in (initial, *teachers)]
        scales = [1.0] * len(candidates) if temperatures is None else temperatures
        best, source, sures = -1.0, 0, []
        for k, z in enumerate(candidates):
            p = softmax(z / np.float64(scales[k]))
            sures.append(p[label[i]] if supervised else p.max())
            if sures[-1] > best:
                best, source = sures[-1], k
        clear.append(sum(sure > best * (1 - 1e-5) for sure in sures) == 1)
        p, q = softmax(candidates[source] / 2), softmax(np.float64(student[i]) / 2)
        losses.append(4 * sum(p * np.log(p / q)))
        sources.append(source)
    return np.asarray(losses), np.asarray(sources), np.asarray(clear)


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("teachers", [1, 2, 5])
@pytest.mark.parametrize("calibrated", [False, True])
def test_kl_dp_is_a_loop_over_samples(supervised, teachers, calibrated):
    name = "kl_dp" if supervised else "kl_dp_unsupervised"
    temperatures, clear = None, []
    if calibrated:
        temperatures = np.asarray([1.3, 0.7, 2.9, 1.1, 0.45, 3.7], np.float32)[: teachers + 1]

    @settings(25)
    @hypothesis.given(models(2 + teachers), labels)
    def check(logits, label):
        student, initial, *others = logits
        loss_B, aux, _ = run(name, student, initial, others, label, temperatures=temperatures)
        expected_B, source_B, clear_B = by_loop(
            student, initial, others, label, supervised=supervised, temperatures=temperatures
        )
        np.testing.assert_allclose(loss_B[clear_B], expected_B[clear_B], atol=2e-5)
        for k in range(1, teachers + 1):
            np.testing.assert_array_equal(aux[f"taught_{k}"][clear_B], (source_B == k)[clear_B])
        clear.append(clear_B.mean())

    check()
    assert np.mean(clear) > 0.5


@pytest.mark.parametrize("name", ["kl_dp", "kl_dp_unsupervised"])
def test_order_of_teachers_matters_to_ties_only(name):
    @settings(25)
    @hypothesis.given(models(5), labels, st.permutations(range(3)))
    def check(logits, label, order):
        student, initial, *others = logits
        loss_B, aux, _ = run(name, student, initial, others, label)
        other_B, other_aux, _ = run(name, student, initial, [others[k] for k in order], label)
        np.testing.assert_array_equal(aux["taught"], other_aux["taught"])
        # Among teachers that tie, supervised ones may say different things.
        sure = np.asarray([[softmax(np.float64(z)) for z in m] for m in (initial, *others)])
        sure = sure[:, np.arange(B), label] if name == "kl_dp" else sure.max(axis=-1)
        alone_B = (sure > sure.max(axis=0) * (1 - 1e-6)).sum(axis=0) == 1
        np.testing.assert_allclose(loss_B[alone_B], other_B[alone_B], atol=1e-6)

    check()


@settings(25)
@hypothesis.given(models(3), labels)
def test_teachers_that_agree_are_one(logits, label):
    student, initial, teacher = logits
    for name, options in (
        ("kl", dict(flips=ALL)),
        ("kl_dp", {}),
        ("kl_dp_unsupervised", {}),
        ("kl_dp_flip", dict(neutral="average")),
    ):
        one, _, gradient = run(name, student, initial, [teacher], label, **options)
        two, _, other = run(name, student, initial, [teacher, teacher], label, **options)
        np.testing.assert_allclose(one, two, atol=1e-6)
        np.testing.assert_allclose(gradient, other, atol=1e-6)


@settings(25)
@hypothesis.given(models(3), labels)
def test_top_k_of_all_classes_is_none(logits, label):
    student, initial, teacher = logits
    for name, options in (("kl", dict(flips=ALL)), ("hinton", dict(flips=ALL)), ("kl_dp", {})):
        plain = run(name, student, initial, [teacher], label, **options)
        chosen = run(name, student, initial, [teacher], label, **options, top_k=C)
        np.testing.assert_allclose(plain[0], chosen[0], atol=1e-5)
        np.testing.assert_allclose(plain[2], chosen[2], atol=1e-5)


@settings(25)
@hypothesis.given(models(2), labels)
def test_an_initial_teacher_changes_nothing(logits, label):
    student, initial = logits
    alone, _, gradient = run("self", student, initial, [], label)
    for name, options in (
        ("kl", dict(flips=ALL)),
        ("kl_dp", {}),
        ("kl_dp_unsupervised", {}),
        *(("kl_dp_flip", dict(neutral=neutral)) for neutral in ("retain", "teach", "average")),
    ):
        loss_B, _, other = run(name, student, initial, [initial], label, **options)
        np.testing.assert_allclose(loss_B, alone, atol=1e-6)
        np.testing.assert_allclose(other, gradient, atol=1e-6)


@settings(25)
@hypothesis.given(models(1), labels)
def test_nothing_is_learned_from_the_target_itself(logits, label):
    (same,) = logits
    for name, options in (
        ("self", {}),
        ("kl", dict(flips=ALL)),
        ("hinton", dict(flips=ALL)),
        ("kl_dp", {}),
        ("kl_dp_unsupervised", {}),
        ("kl_dp_flip", dict(neutral="average")),
    ):
        for standardized in (False, True):
            _, _, gradient = run(
                name, same, same, [same], label, **options, standardized=standardized
            )
            np.testing.assert_allclose(gradient, 0, atol=1e-5)


@settings(25)
@hypothesis.given(models(2), labels, st.sampled_from([0.1, 3.0, 40.0]))
def test_standardized_logits_have_neither_scale_nor_shift(logits, label, scale):
    student, teacher = logits
    options = dict(flips=ALL, standardized=True)
    loss_B, *_ = run("kl", student, student, [teacher], label, **options)
    scaled_B, *_ = run("kl", scale * student + 2, student, [scale * teacher - 1], label, **options)
    np.testing.assert_allclose(loss_B, scaled_B, atol=1e-3)


def test_gradients_do_not_vanish_with_the_temperature():
    # T^2 keeps them: at a high temperature they are those of matching centerd logits, (z - v) / C.
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, B, C)).astype(np.float32)
    label = np.zeros(B, np.int32)
    _, _, gradient = run("kl", student, student, [teacher], label, flips=ALL, temperature=1000.0)
    difference = student - teacher
    expected = (difference - difference.mean(axis=1, keepdims=True)) / C
    np.testing.assert_allclose(gradient, expected, atol=5e-3)
