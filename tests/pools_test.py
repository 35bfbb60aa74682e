"""Pools and corrected targets: by hand, and in a job."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives_test import INITIAL, KL_INITIAL, KL_MEAN, KL_TEACHER, LABEL, SOFT, STUDENT, TEACHER
from objectives_test import logits as logits_of
from small_jobs import transferring

from ktjax import losses, objectives
from ktjax.classifier import Output
from ktjax.jobs import transfer
from ktjax.objective import Outputs

ONE = dict(temperature=1.0, top_k=None, standardized=False)
FREE = dict(hold=0.0)


def apply(name, options, *, weights=None, teachers=(TEACHER,), student=None):
    objective = objectives.make(name, options)
    outputs = Outputs(
        Output(logits_of(STUDENT) if student is None else student, None),
        Output(logits_of(INITIAL), None),
        tuple(Output(logits_of(teacher), None) for teacher in teachers),
        weights_S=None if weights is None else jnp.asarray(weights, jnp.float32),
    )
    loss_B, (_, aux) = objective.apply((), (), outputs, {"label": jnp.asarray(LABEL)}, None)
    return np.asarray(loss_B), np.asarray(aux["taught"])


@pytest.mark.parametrize(
    ("weights", "expected", "taught"),
    [
        ((1, 0), dict(enumerate(KL_INITIAL)), 0),
        ((0, 1), dict(enumerate(KL_TEACHER)), 1),
        ((0.5, 0.5), KL_MEAN, 0.5),  # the mean of the logits
    ],
)
def test_a_pool_by_hand(weights, expected, taught):
    loss_B, taught_B = apply("kl_pool", SOFT | FREE, weights=weights)
    for sample, loss in expected.items():
        assert loss_B[sample] == pytest.approx(4 * loss, rel=1e-5)
    np.testing.assert_allclose(taught_B, taught)


def test_who_speaks_against_a_model_teaches_too():
    _, taught_B = apply("kl_pool", SOFT | FREE, weights=(0.6, -0.2))
    np.testing.assert_allclose(taught_B, 0.25, rtol=1e-6)


def test_a_hold_by_hand():
    """Of the logits 2 log(w), sample 0 changes by 2 log(2) times 1, -1, 0: mean 0, variance 8/3
    log(2)^2. Samples 1 and 3 change one logit by d: variance 2/9 d^2."""
    moved = np.log(2) ** 2 * np.asarray([8 / 3, 8 / 9, 8 / 3, 32 / 9])
    found = losses.drift(logits_of(STUDENT), logits_of(INITIAL))
    np.testing.assert_allclose(found, moved, rtol=1e-5)
    free_B, taught_B = apply("kl_pool", SOFT | FREE, weights=(0.5, 0.5))
    held_B, still_B = apply("kl_pool", SOFT | dict(hold=0.5), weights=(0.5, 0.5))
    np.testing.assert_allclose(held_B, free_B + 0.5 * moved, rtol=1e-5)
    np.testing.assert_array_equal(taught_B, still_B)


def test_only_the_largest_logits_are_held():
    initial = jnp.arange(2.0 * losses.HELD)[None]  # the first half is not held
    for logits in (initial + 5.0, initial.at[:, : losses.HELD].add(jnp.arange(10.0))):
        np.testing.assert_array_equal(losses.drift(logits, initial), [0.0])
    assert losses.drift(initial.at[:, -1].add(1.0), initial) == pytest.approx([0.09])


def test_alone_it_is_the_own_answer_at_a_temperature():
    """Weight 1/2 at temperature 1 is temperature 2: softmax(z / 2) is what KL_INITIAL is made of,
    but for the student, which is asked at temperature 1 here and at 2 there."""
    student = logits_of(STUDENT) / 2
    loss_B, taught_B = apply("self_pool", ONE, weights=(0.5,), teachers=(), student=student)
    np.testing.assert_allclose(loss_B, KL_INITIAL, rtol=1e-5)
    assert not taught_B.any()


def test_the_label_takes_the_lead():
    """p = 1/6 2/3 1/6 of label 0 is 1/2 behind: 7/15 of the way to the label it leads by 0.2."""
    target = jnp.log(jnp.asarray([[1 / 6, 2 / 3, 1 / 6], [3 / 5, 1 / 5, 1 / 5]]))
    found = np.exp(losses.corrected(target, label_B=jnp.asarray([0, 0]), lead=0.2))
    np.testing.assert_allclose(found[0], [50 / 90, 32 / 90, 8 / 90], rtol=1e-5)
    np.testing.assert_allclose(found[1], [3 / 5, 1 / 5, 1 / 5], rtol=1e-6)  # leads by 0.4


@pytest.mark.parametrize("lead", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_every_target_is_right_and_a_distribution(lead, scale):
    z = scale * np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    label_B = np.arange(64) % 5
    p = np.exp(losses.corrected(jnp.asarray(z), label_B=jnp.asarray(label_B), lead=lead))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-4)
    own_B = p[np.arange(64), label_B]
    others = p.copy()
    others[np.arange(64), label_B] = 0
    assert np.all(own_B - others.max(axis=1) >= lead - 1e-4)
    # What was ahead already is as it was.
    before = np.asarray(jax.nn.softmax(z))
    ahead = before[np.arange(64), label_B] - np.sort(before, axis=1)[:, -2] > lead
    np.testing.assert_allclose(p[ahead], before[ahead], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("plain", "corrected", "weights", "teachers"),
    [
        ("kl_dp", "kl_dp_corrected", None, (TEACHER,)),
        ("kl_pool", "kl_pool_corrected", (0.5, 0.5), (TEACHER,)),
        ("self_pool", "self_corrected", (1.0,), ()),
    ],
)
def test_corrected_objectives_mend_what_is_wrong_alone(plain, corrected, weights, teachers):
    """Sample 1: the initial student is right and far ahead. Sample 2: both are wrong."""
    options = ONE | (dict(top_k_of="target") if plain == "kl_dp" else {})
    own = FREE if plain == "kl_pool" else {}
    before_B, taught_B = apply(plain, options | own, weights=weights, teachers=teachers)
    after_B, still_B = apply(
        corrected, options | dict(lead=0.2), weights=weights, teachers=teachers
    )
    np.testing.assert_array_equal(taught_B, still_B)
    assert after_B[1] == pytest.approx(before_B[1], rel=1e-5)
    assert after_B[2] < before_B[2]  # the student is right there


def test_a_job_fits_the_weights_on_tune(noisy, quartet, compile_once, tmp_path):
    config = transferring(
        noisy,
        *(quartet[0], quartet[1:2]),
        arg="objectives=kl_pool+kl_pool_corrected,controls=self_pool+self_corrected",
    )
    results = transfer.run(config, tmp_path)
    assert [len(run["weights"]) for run in results["runs"]] == [2, 2]
    assert results["runs"][0]["weights"] == results["runs"][1]["weights"]
    assert {len(run["weights"]) for run in results["controls"]} == {1}
    names = {run["objective"].rsplit("-", 1)[0] for run in results["controls"]}
    assert names == {"self_pool", "self_corrected"}
    shares = [abs(w) for w in results["runs"][0]["weights"]]
    assert results["runs"][0]["taught"] == pytest.approx(100 * shares[1] / sum(shares), rel=1e-4)
