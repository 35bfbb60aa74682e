"""Every objective on 4 samples of 3 classes, worked by hand, and what holds for all of them.

The logits are z = 2 log w with small whole w, so that softmax(z / 2) = w / sum(w) and
softmax(z) = w^2 / sum(w^2) are simple fractions.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import objectives
from ktjax.models.classifier import Output

LABEL = [0, 1, 2, 0]
STUDENT = [[2, 1, 1], [1, 2, 1], [1, 1, 2], [1, 1, 1]]
INITIAL = [[1, 2, 1], [1, 4, 1], [2, 1, 1], [1, 1, 4]]
TEACHER = [[4, 1, 1], [2, 1, 1], [1, 4, 1], [2, 1, 1]]

log = math.log

# sum p log(p / q) at temperature 2, e.g. teacher of sample 0: p = 2/3 1/6 1/6, q = 1/2 1/4 1/4
KL_TEACHER = [
    2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3),
    1 / 2 * log(2) + 1 / 4 * log(1 / 2),  # p = 1/2 1/4 1/4, q = 1/4 1/2 1/4
    1 / 6 * log(2 / 3) + 2 / 3 * log(8 / 3) + 1 / 6 * log(1 / 3),  # 1/6 2/3 1/6, 1/4 1/4 1/2
    1 / 2 * log(3 / 2) + 1 / 2 * log(3 / 4),  # p = 1/2 1/4 1/4, q = 1/3
]
KL_INITIAL = [
    1 / 4 * log(1 / 2) + 1 / 2 * log(2),  # p = 1/4 1/2 1/4, q = 1/2 1/4 1/4
    2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3),  # p = 1/6 2/3 1/6, q = 1/4 1/2 1/4
    1 / 2 * log(2) + 1 / 4 * log(1 / 2),  # p = 1/2 1/4 1/4, q = 1/4 1/4 1/2
    1 / 3 * log(1 / 2) + 2 / 3 * log(2),  # p = 1/6 1/6 2/3, q = 1/3
]
# At temperature 1 the student gives its label 2/3 and each other class 1/6; sample 3: 1/3 all.
XE = [log(3 / 2), log(3 / 2), log(3 / 2), log(3)]
# Smoothing 0.3 leaves the label 0.8 and gives the other two 0.1 each.
SMOOTHED = 3 * [0.8 * log(3 / 2) + 0.2 * log(6)] + [log(3)]

# Probabilities at temperature 1 are 8/9, 1/18, 1/18 of a 4 and 2/3, 1/6, 1/6 of a 2.
# Of the label:  sample 0: teacher 8/9, initial 1/6;  1: 1/6, 8/9;  2: 1/18, 1/6;  3: 2/3, 1/18.
# The largest:   sample 0: teacher 8/9, initial 2/3;  1: 2/3, 8/9;  2: 8/9, 2/3;   3: 2/3, 8/9.
KL_DP = [KL_TEACHER[0], KL_INITIAL[1], KL_INITIAL[2], KL_TEACHER[3]]
KL_DP_UNSUPERVISED = [KL_TEACHER[0], KL_INITIAL[1], KL_TEACHER[2], KL_INITIAL[3]]

# name -> options, loss of each sample (T^2 = 4), who is taught by the teacher
BY_HAND = {
    "xe": (dict(label_smoothing=0.3), SMOOTHED, None),
    "self": (dict(temperature=2.0), [4 * x for x in KL_INITIAL], [0, 0, 0, 0]),
    "kl": (dict(temperature=2.0), [4 * x for x in KL_TEACHER], [1, 1, 1, 1]),
    "xe_kl": (
        dict(alpha=0.25, temperature=2.0, label_smoothing=0.0),
        [0.25 * 4 * kl + 0.75 * xe for kl, xe in zip(KL_TEACHER, XE, strict=True)],
        [1, 1, 1, 1],
    ),
    "kl_dp": (dict(temperature=2.0), [4 * x for x in KL_DP], [1, 0, 0, 1]),
    "kl_dp_unsupervised": (
        dict(temperature=2.0),
        [4 * x for x in KL_DP_UNSUPERVISED],
        [1, 0, 1, 0],
    ),
}
OF_TARGETS = sorted(set(BY_HAND) - {"xe", "xe_kl"})


def logits(weights_BxC):
    return 2 * jnp.log(jnp.asarray(weights_BxC, jnp.float32))


def apply(name, options, *, student, initial, teachers):
    """(loss_B, aux) of an objective on logits."""
    objective = objectives.OBJECTIVES[name].make(**options)
    params, state = objective.init(jax.random.key(0))
    outputs = objectives.Outputs(
        Output(student, None), Output(initial, None), tuple(Output(t, None) for t in teachers)
    )
    loss_B, (_, aux) = objective.apply(params, state, outputs, {"label": jnp.asarray(LABEL)})
    return loss_B, aux


def on_paper(name, **options):
    options = BY_HAND[name][0] | options
    models = dict(student=logits(STUDENT), initial=logits(INITIAL), teachers=[logits(TEACHER)])
    return apply(name, options, **models)


def test_every_objective_is_worked_by_hand():
    assert set(BY_HAND) == set(objectives.OBJECTIVES)


@pytest.mark.smoke
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_by_hand(name):
    _, expected_B, taught_B = BY_HAND[name]
    loss_B, aux = on_paper(name)
    assert loss_B.dtype == jnp.float32
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)
    assert set(aux) == (set() if taught_B is None else {"taught"})
    if taught_B is not None:
        assert aux["taught"].tolist() == taught_B


def test_cross_entropy_without_smoothing():
    np.testing.assert_allclose(on_paper("xe", label_smoothing=0.0)[0], XE, rtol=1e-5)


def test_temperature_one():
    # Sample 1: p = 2/3 1/6 1/6 and q = 1/6 2/3 1/6;  sample 3: p = 2/3 1/6 1/6 and q = 1/3.
    loss_B, _ = on_paper("kl", temperature=1.0)
    assert float(loss_B[1]) == pytest.approx(2 / 3 * log(4) + 1 / 6 * log(1 / 4), rel=1e-5)
    assert float(loss_B[3]) == pytest.approx(2 / 3 * log(2) + 1 / 3 * log(1 / 2), rel=1e-5)


def test_several_teachers_of_kl_are_averaged():
    models = dict(student=logits(STUDENT), initial=logits(TEACHER))
    loss_B, _ = apply("kl", BY_HAND["kl"][0], **models, teachers=[logits(TEACHER), logits(INITIAL)])
    expected_B = [4 * (a + b) / 2 for a, b in zip(KL_TEACHER, KL_INITIAL, strict=True)]
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)


def test_gradient_is_the_temperature_times_the_difference():
    gradient = jax.grad(
        lambda z: apply(
            "kl", BY_HAND["kl"][0], student=z, initial=logits(INITIAL), teachers=[logits(TEACHER)]
        )[0].sum()
    )(logits(STUDENT))
    # T (q - p): sample 0: q = 1/2 1/4 1/4, p = 2/3 1/6 1/6;  sample 3: q = 1/3, p = 1/2 1/4 1/4
    np.testing.assert_allclose(gradient[0], [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)
    np.testing.assert_allclose(gradient[3], [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_no_gradient_to_targets(name):
    def loss(initial, teacher):
        models = dict(student=logits(STUDENT), initial=initial, teachers=[teacher])
        return apply(name, BY_HAND[name][0], **models)[0].sum()

    for gradient in jax.grad(loss, argnums=(0, 1))(logits(INITIAL), logits(TEACHER)):
        assert not gradient.any()


@pytest.mark.parametrize("name", OF_TARGETS)
def test_nothing_to_learn_from_oneself(name):
    same = logits(STUDENT)
    loss, gradient = jax.value_and_grad(
        lambda z: apply(name, BY_HAND[name][0], student=z, initial=same, teachers=[same])[0].sum()
    )(same)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["kl_dp", "kl_dp_unsupervised"])
def test_partition_between_equals_is_self(name):
    models = dict(student=logits(STUDENT), initial=logits(INITIAL), teachers=[logits(INITIAL)])
    loss_B, aux = apply(name, dict(temperature=2.0), **models)
    np.testing.assert_array_equal(loss_B, apply("self", dict(temperature=2.0), **models)[0])
    assert not aux["taught"].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_extreme_logits_stay_finite(name, dtype):
    extreme = jnp.asarray(
        [[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, 1e4, -1e4], [1e4, 1e4, -1e4]], dtype
    )
    others = dict(initial=extreme[:, ::-1], teachers=[jnp.roll(extreme, 1, axis=1)])
    loss, gradient = jax.value_and_grad(
        lambda z: apply(name, BY_HAND[name][0], student=z, **others)[0].sum()
    )(extreme)
    assert loss.dtype == jnp.float32
    assert jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()


def test_check_lists_names_and_options():
    with pytest.raises(ValueError, match=r"kd.*kl, kl_dp, kl_dp_unsupervised, self, xe, xe_kl"):
        objectives.check("kd", {})
    with pytest.raises(ValueError, match=r"options alpha, label_smoothing, temperature; .* alpha"):
        objectives.check("xe_kl", dict(alpha=0.5))
    with pytest.raises(ValueError, match="gives none"):
        objectives.check("kl", {})
    with pytest.raises(ValueError, match="gives alpha, temperature"):
        objectives.check("kl", dict(alpha=0.5, temperature=1.0))
    for name, (options, _, _) in BY_HAND.items():
        objectives.check(name, options)
