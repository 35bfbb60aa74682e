"""Every objective on 4 samples of 3 classes, worked by hand, and what holds for all of them.

The logits are z = 2 log w with small whole w, so that softmax(z / 2) = w / sum(w) and
softmax(z) = w^2 / sum(w^2) are simple fractions.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ktjax import losses, objectives
from ktjax.classifier import Output
from ktjax.configs import transfer as transfer_config
from ktjax.objective import Outputs
from ktjax.parallel import AXIS
from ktjax.settings.transfer import Transfer

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

# The cross-entropy with the teacher's softened answer is larger than the KL by its entropy.
ENTROPY = [
    -2 / 3 * log(2 / 3) - 1 / 3 * log(1 / 6),
    -1 / 2 * log(1 / 2) - 1 / 2 * log(1 / 4),
    -2 / 3 * log(2 / 3) - 1 / 3 * log(1 / 6),
    -1 / 2 * log(1 / 2) - 1 / 2 * log(1 / 4),
]
# The student answers 0 1 2 0 (a tie is the first class), always right; the teacher 0 0 1 0. So
# samples 1 and 2 are negative flips, the others neutral.
# The mean of the logits has the weights sqrt(initial * teacher): sample 0: 2, sqrt 2, 1; sample 3:
# sqrt 2, 1, 2. The student has 1/2 1/4 1/4 and 1/3 1/3 1/3.
MEAN = 3 + math.sqrt(2)
KL_MEAN = {
    0: 2 / MEAN * log(4 / MEAN)
    + math.sqrt(2) / MEAN * log(4 * math.sqrt(2) / MEAN)
    + 1 / MEAN * log(4 / MEAN),
    3: 2 / MEAN * log(6 / MEAN)
    + math.sqrt(2) / MEAN * log(3 * math.sqrt(2) / MEAN)
    + 1 / MEAN * log(3 / MEAN),
}
# The same of student and teacher: sample 0: sqrt 8, 1, 1; sample 3: sqrt 2, 1, 1.
EIGHT, TWO = math.sqrt(8) + 2, math.sqrt(2) + 2
KL_MEAN_OF_STUDENT = {
    0: math.sqrt(8) / EIGHT * log(2 * math.sqrt(8) / EIGHT) + 2 / EIGHT * log(4 / EIGHT),
    3: math.sqrt(2) / TWO * log(3 * math.sqrt(2) / TWO) + 2 / TWO * log(3 / TWO),
}
RETAIN = KL_INITIAL
TEACH = [KL_TEACHER[0], KL_INITIAL[1], KL_INITIAL[2], KL_TEACHER[3]]
AVERAGE = [KL_MEAN[0], KL_INITIAL[1], KL_INITIAL[2], KL_MEAN[3]]
AVERAGE_STUDENT = [KL_MEAN_OF_STUDENT[0], *KL_INITIAL[1:3], KL_MEAN_OF_STUDENT[3]]
# adaptconf: the student's cross-entropies with its own answer are XE, as that is right; with the
# teacher's answer: samples 0 and 3 the same, so b = 1/2; samples 1 and 2 log 6, so that at
# sharpness 1/2 the ratio of the weights is exp(2 (log 6 - log 3/2)) = 16 and b = 1/17.
OWN = [1 / 2, 1 / 17, 1 / 17, 1 / 2]

SOFT = dict(temperature=2.0, top_k=None, standardized=False)
ALL = ("positive", "negative", "neutral")
EVERY = dict(flips=ALL, mean_over="all")
DP = SOFT | dict(top_k_of="target")

# name -> options, loss of each sample (T^2 = 4), who is taught by the teacher
BY_HAND = {
    "xe": ("xe", dict(label_smoothing=0.3), SMOOTHED, None),
    "self": ("self", SOFT, [4 * x for x in KL_INITIAL], [0, 0, 0, 0]),
    "xe_self": (
        "xe_self",
        SOFT | dict(alpha=0.25, label_smoothing=0.3),
        [0.25 * 4 * kl + 0.75 * xe for kl, xe in zip(KL_INITIAL, SMOOTHED, strict=True)],
        [0, 0, 0, 0],
    ),
    "kl": ("kl", SOFT | EVERY, [4 * x for x in KL_TEACHER], [1, 1, 1, 1]),
    "kl negative": (
        "kl",
        SOFT | EVERY | dict(flips=("negative",)),
        [0, 4 * KL_TEACHER[1], 4 * KL_TEACHER[2], 0],
        [0, 1, 1, 0],
    ),
    "hinton": (
        "hinton",
        SOFT | EVERY,
        [4 * (kl + h) for kl, h in zip(KL_TEACHER, ENTROPY, strict=True)],
        [1, 1, 1, 1],
    ),
    "hinton neutral": (
        "hinton",
        SOFT | EVERY | dict(flips=("positive", "neutral")),
        [4 * (KL_TEACHER[0] + ENTROPY[0]), 0, 0, 4 * (KL_TEACHER[3] + ENTROPY[3])],
        [1, 0, 0, 1],
    ),
    "xe_kl": (
        "xe_kl",
        SOFT | EVERY | dict(alpha=0.25, label_smoothing=0.0),
        [0.25 * 4 * kl + 0.75 * xe for kl, xe in zip(KL_TEACHER, XE, strict=True)],
        [1, 1, 1, 1],
    ),
    "adaptconf": (
        "adaptconf",
        SOFT | dict(sharpness=0.5),
        [(1 - b) * 4 * kl + b * xe for b, kl, xe in zip(OWN, KL_TEACHER, XE, strict=True)],
        [1 - b for b in OWN],
    ),
    "kl_dp": ("kl_dp", DP, [4 * x for x in KL_DP], [1, 0, 0, 1]),
    "kl_dp_unsupervised": (
        "kl_dp_unsupervised",
        DP,
        [4 * x for x in KL_DP_UNSUPERVISED],
        [1, 0, 1, 0],
    ),
    "kl_dp_flip retain": (
        "kl_dp_flip",
        DP | dict(neutral="retain"),
        [4 * x for x in RETAIN],
        [0, 0, 0, 0],
    ),
    "kl_dp_flip teach": (
        "kl_dp_flip",
        DP | dict(neutral="teach"),
        [4 * x for x in TEACH],
        [1, 0, 0, 1],
    ),
    "kl_dp_flip average": (
        "kl_dp_flip",
        DP | dict(neutral="average"),
        [4 * x for x in AVERAGE],
        [0.5, 0, 0, 0.5],
    ),
    "kl_dp_flip average_student": (
        "kl_dp_flip",
        DP | dict(neutral="average_student"),
        [4 * x for x in AVERAGE_STUDENT],
        [0.5, 0, 0, 0.5],
    ),
}
# In contrastive_test.py, below, and in pools_test.py.
ELSEWHERE = {"cd", "crd", "mutual", "kl_dp_corrected"}
ELSEWHERE |= {"kl_pool", "kl_pool_corrected", "self_pool", "self_corrected"}
OF_TARGETS = ["self", "kl", "kl_dp", "kl_dp_unsupervised", "kl_dp_flip average"]


def logits(weights_BxC):
    return 2 * jnp.log(jnp.asarray(weights_BxC, jnp.float32))


def apply(name, options, *, student, initial, teachers, temperatures=None, label=LABEL):
    """(loss_B, aux) of an objective on logits."""
    objective = objectives.make(name, options)
    outputs = Outputs(
        Output(student, None),
        Output(initial, None),
        tuple(Output(t, None) for t in teachers),
        temperatures,
    )
    params, state = objective.init(jax.random.key(0), outputs, np.asarray(label))
    batch = {"label": jnp.asarray(label)}
    loss_B, (_, aux) = objective.apply(params, state, outputs, batch, jax.random.key(0))
    return loss_B, aux


def on_paper(case, **options):
    name, own_options, *_ = BY_HAND[case]
    models = dict(student=logits(STUDENT), initial=logits(INITIAL), teachers=[logits(TEACHER)])
    return apply(name, own_options | options, **models)


def test_every_objective_is_worked_by_hand():
    assert {name for name, *_ in BY_HAND.values()} | ELSEWHERE == set(objectives.OBJECTIVES)


@pytest.mark.smoke
@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    _, _, expected_B, taught_B = BY_HAND[case]
    loss_B, aux = on_paper(case)
    assert loss_B.dtype == jnp.float32
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)
    assert ("taught" in aux) == (taught_B is not None)
    if taught_B is not None:
        np.testing.assert_allclose(aux["taught"], taught_B, rtol=1e-6)


def test_a_positive_flip_is_taught_by_the_teacher():
    # The student says 2, the initial student 1, the teacher 0, which is right.
    models = dict(
        student=logits([[1, 1, 2]]), initial=logits([[1, 2, 1]]), teachers=[logits([[4, 1, 1]])]
    )
    for neutral in objectives.NEUTRAL:
        loss_B, aux = apply("kl_dp_flip", DP | dict(neutral=neutral), **models, label=[0])
        expected = 2 / 3 * log(8 / 3) + 1 / 6 * log(2 / 3) + 1 / 6 * log(1 / 3)
        assert float(loss_B[0]) == pytest.approx(4 * expected, rel=1e-5)
        assert aux["taught"].tolist() == [1]


def test_cross_entropy_without_smoothing():
    np.testing.assert_allclose(on_paper("xe", label_smoothing=0.0)[0], XE, rtol=1e-5)


def test_temperature_one():
    # Sample 1: p = 2/3 1/6 1/6 and q = 1/6 2/3 1/6;  sample 3: p = 2/3 1/6 1/6 and q = 1/3.
    loss_B, _ = on_paper("kl", temperature=1.0)
    assert float(loss_B[1]) == pytest.approx(2 / 3 * log(4) + 1 / 6 * log(1 / 4), rel=1e-5)
    assert float(loss_B[3]) == pytest.approx(2 / 3 * log(2) + 1 / 3 * log(1 / 2), rel=1e-5)


def test_top_k_is_over_the_classes_of_the_target():
    # The two largest of the teacher are classes 0 and 1. At temperature 2 sample 0: p = 4/5 1/5,
    # q = 2/3 1/3;  sample 1: p = 2/3 1/3, q = 1/3 2/3;  2: p = 1/5 4/5, q = 1/2;  3: 2/3 1/3, 1/2.
    expected_B = [
        4 / 5 * log(6 / 5) + 1 / 5 * log(3 / 5),
        2 / 3 * log(2) + 1 / 3 * log(1 / 2),
        1 / 5 * log(2 / 5) + 4 / 5 * log(8 / 5),
        2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3),
    ]
    np.testing.assert_allclose(on_paper("kl", top_k=2)[0], [4 * x for x in expected_B], rtol=1e-5)


@pytest.mark.parametrize("name", ["kl_dp", "kl_dp_unsupervised", "kl_dp_flip"])
def test_top_k_of_the_target_or_of_the_teacher(name):
    # The initial student is right and surer, and the target; its two largest are 1 and 2. Over
    # these p = 2/3 1/3 and q = 1/2; over the teacher's, 0 and 2, p = 1/3 2/3 and q = 2/3 1/3.
    models = dict(student=logits([[2, 3, 3]]), initial=logits([[1, 6, 3]]))
    own = 2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)
    over_0_and_2 = 1 / 4 * log(5 / 8) + 3 / 4 * log(5 / 4)
    options = dict(top_k=2) | (dict(neutral="teach") if name == "kl_dp_flip" else {})

    def loss(top_k_of, *teachers):
        given = DP | options | dict(top_k_of=top_k_of)
        teachers = [logits([teacher]) for teacher in teachers]
        return float(apply(name, given, **models, teachers=teachers, label=[1])[0][0])

    first = (4, 1, 3)
    assert loss("target", first) == pytest.approx(4 * own, rel=1e-5)
    assert loss("teacher", first) == pytest.approx(4 * over_0_and_2, rel=1e-5)
    # A second teacher is surer of the label and of its answer: its two largest are 2 and 1.
    assert loss("teacher", first, (1, 4, 6)) == pytest.approx(4 * own, rel=1e-5)


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("top_k", [3, 100])
def test_top_k_of_no_fewer_classes_than_there_are_is_all(top_k, standardized):
    # Over all three classes, and in their own order: the same bits.
    options = dict(standardized=standardized)
    found_B, _ = on_paper("kl", top_k=top_k, **options)
    np.testing.assert_array_equal(found_B, on_paper("kl", top_k=None, **options)[0])
    if not standardized:
        np.testing.assert_allclose(found_B, [4 * x for x in KL_TEACHER], rtol=1e-5)


def test_standardized_logits_have_no_scale():
    # One class above two equal ones, or below: always sqrt 2 and twice -1 / sqrt 2.
    z = np.asarray([math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)]) / 2
    p = np.exp(z) / np.exp(z).sum()
    loss_B, _ = on_paper("kl", standardized=True)
    assert float(loss_B[0]) == pytest.approx(0, abs=1e-6)  # both are sure of class 0
    for sample in (1, 2):  # each of another class
        expected = 4 * (p[0] - p[1]) * log(p[0] / p[1])
        assert float(loss_B[sample]) == pytest.approx(expected, rel=1e-5)
    uniform = float(np.sum(p * np.log(3 * p)))
    assert float(loss_B[3]) == pytest.approx(4 * uniform, rel=1e-5)  # equal logits stay zeros


@pytest.mark.parametrize("name", ["kl", "hinton"])
def test_standardized_gradient_is_bounded_at_equal_logits(name):
    # A new head that is zero. The teacher's logits become sqrt 2 and twice -1 / sqrt 2; at
    # temperature 2 the gradient by standardized logits is 2 (q - p), and these are logits / 0.01.
    given = BY_HAND[name][1] | dict(standardized=True)
    targets = dict(initial=logits(INITIAL), teachers=[logits(TEACHER)])
    gradient = jax.grad(lambda z: apply(name, given, student=z, **targets)[0].sum())(
        jnp.zeros((4, 3))
    )
    rise = math.exp((math.sqrt(2) + math.sqrt(0.5)) / 2)  # of one class over the others
    p = np.asarray([rise, 1, 1]) / (rise + 2)
    np.testing.assert_allclose(gradient[0], 100 * 2 * (1 / 3 - p), rtol=1e-5)
    assert np.linalg.norm(gradient, axis=1).max() < 100 * 2 * math.sqrt(2)


def test_small_differences_are_standardized_too():
    # A standard deviation of 0.02 is above the floor, 0.001 below it: a tenth of that is left.
    above, below = losses.standardize(jnp.asarray([[0.02, -0.02], [0.001, -0.001]]))
    np.testing.assert_allclose(above, [1, -1], rtol=1e-5)
    np.testing.assert_allclose(below, [0.1, -0.1], rtol=1e-5)


def test_mean_over_those_that_are_distilled():
    # Samples 1 and 2 are negative flips: 2 of 4, on two devices one on each, or both on one.
    expected_B = [0, 2 * 4 * KL_TEACHER[1], 2 * 4 * KL_TEACHER[2], 0]
    for order in ([0, 1, 2, 3], [1, 2, 0, 3]):
        for devices in (1, 2, 4):
            found_B = over_devices(devices, order, flips=("negative",))
            np.testing.assert_allclose(found_B, np.asarray(expected_B)[order], rtol=1e-5)
    # Nobody is a positive flip: nothing to take a mean of.
    assert not over_devices(2, [0, 1, 2, 3], flips=("positive",)).any()
    every_B = over_devices(2, [0, 1, 2, 3], flips=ALL)
    np.testing.assert_allclose(every_B, [4 * x for x in KL_TEACHER], rtol=1e-5)


def over_devices(devices, order, *, flips):
    """The loss [B] of `kl` with the mean over distilled samples, the batch in so many parts."""
    objective = objectives.make("kl", SOFT | dict(flips=flips, mean_over="distilled"))

    def loss(student, teacher, label):
        outputs = Outputs(Output(student, None), None, (Output(teacher, None),))
        return objective.apply((), (), outputs, {"label": label}, None)[0]

    arrays = (logits(STUDENT), logits(TEACHER), jnp.asarray(LABEL))
    parts = [x[jnp.asarray(order)].reshape(devices, -1, *x.shape[1:]) for x in arrays]
    return np.asarray(jax.vmap(loss, axis_name=AXIS)(*parts)).reshape(-1)


def test_xe_self_is_xe_kl_with_the_initial_student_for_a_teacher():
    options = SOFT | dict(alpha=0.25, label_smoothing=0.3)
    models = dict(student=logits(STUDENT), initial=logits(INITIAL))
    alone_B, _ = apply("xe_self", options, **models, teachers=[])
    taught_B, _ = apply("xe_kl", options | EVERY, **models, teachers=[logits(INITIAL)])
    np.testing.assert_array_equal(alone_B, taught_B)


def test_several_teachers_of_kl_are_averaged():
    models = dict(student=logits(STUDENT), initial=logits(TEACHER))
    options = BY_HAND["kl"][1]
    loss_B, _ = apply("kl", options, **models, teachers=[logits(TEACHER), logits(INITIAL)])
    expected_B = [4 * (a + b) / 2 for a, b in zip(KL_TEACHER, KL_INITIAL, strict=True)]
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)


def test_shares_of_several_teachers():
    models = dict(student=logits(STUDENT), initial=logits(INITIAL))
    _, aux = apply("kl_dp", DP, **models, teachers=[logits(TEACHER), logits(4 * [[2, 2, 2]])])
    # Of the label the second gives 1/3: more than the others only in sample 2 (1/18 and 1/6).
    assert aux["taught_1"].tolist() == [1, 0, 0, 1]
    assert aux["taught_2"].tolist() == [0, 0, 1, 0]
    assert aux["taught"].tolist() == [1, 0, 1, 1]


def test_temperatures_change_who_teaches_and_not_what():
    # Divided by 4, the teacher's logits of sample 0 have the weights sqrt 2, 1, 1: below 2, 1, 1
    # of the initial student's at 1, but it is not of the label; at 100 nobody is sure of anything.
    models = dict(student=logits(STUDENT), initial=logits(INITIAL), teachers=[logits(TEACHER)])
    unsure = apply("kl_dp_unsupervised", DP, **models, temperatures=jnp.asarray([1.0, 100.0]))
    np.testing.assert_allclose(unsure[0], [4 * x for x in KL_INITIAL], rtol=1e-5)
    assert not unsure[1]["taught"].any()
    boastful = apply("kl_dp_unsupervised", DP, **models, temperatures=jnp.asarray([100.0, 1.0]))
    np.testing.assert_allclose(boastful[0], [4 * x for x in KL_TEACHER], rtol=1e-5)


def test_gradient_is_the_temperature_times_the_difference():
    models = dict(initial=logits(INITIAL), teachers=[logits(TEACHER)])
    for name in ("kl", "hinton"):
        gradient = jax.grad(
            lambda z, name=name: apply(name, BY_HAND[name][1], student=z, **models)[0].sum()
        )(logits(STUDENT))
        # T (q - p): sample 0: q = 1/2 1/4 1/4, p = 2/3 1/6 1/6;  3: q = 1/3, p = 1/2 1/4 1/4
        np.testing.assert_allclose(gradient[0], [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)
        np.testing.assert_allclose(gradient[3], [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)


def test_gradient_to_the_average_with_the_student():
    models = dict(initial=logits(INITIAL), teachers=[logits(TEACHER)])

    def gradient(neutral):
        options = DP | dict(neutral=neutral)
        return jax.grad(lambda z: apply("kl_dp_flip", options, student=z, **models)[0].sum())(
            logits(STUDENT)
        )

    # Sample 3: T (q - p), and through the target T / 2 p (log(p / q) - KL), for it moves half.
    q, p = np.full(3, 1 / 3), np.asarray([math.sqrt(2), 1, 1]) / TWO
    through = p * (np.log(p / q) - KL_MEAN_OF_STUDENT[3])
    np.testing.assert_allclose(gradient("average_student")[3], 2 * (q - p) + through, atol=1e-6)
    kept = np.asarray([math.sqrt(2), 1, 2]) / MEAN  # of the initial student and the teacher
    np.testing.assert_allclose(gradient("average")[3], 2 * (q - kept), atol=1e-6)


def test_gradient_of_adaptconf_leaves_its_weights_alone():
    models = dict(initial=logits(INITIAL), teachers=[logits(TEACHER)])
    gradient = jax.grad(
        lambda z: apply("adaptconf", BY_HAND["adaptconf"][1], student=z, **models)[0].sum()
    )(logits(STUDENT))
    # Sample 1: b = 1/17; T (q - p) = 2 (1/4 - 1/2, 1/2 - 1/4, 0); of its own answer softmax - 1.
    taught, own = np.asarray([-1 / 2, 1 / 2, 0]), np.asarray([1 / 6, 2 / 3 - 1, 1 / 6])
    np.testing.assert_allclose(gradient[1], 16 / 17 * taught + 1 / 17 * own, atol=1e-5)


@pytest.mark.parametrize("case", BY_HAND)
def test_no_gradient_to_targets(case):
    name, options, *_ = BY_HAND[case]

    def loss(initial, teacher):
        models = dict(student=logits(STUDENT), initial=initial, teachers=[teacher])
        return apply(name, options, **models)[0].sum()

    for gradient in jax.grad(loss, argnums=(0, 1))(logits(INITIAL), logits(TEACHER)):
        assert not gradient.any()


@pytest.mark.parametrize("case", OF_TARGETS)
def test_nothing_to_learn_from_oneself(case):
    name, options, *_ = BY_HAND[case]
    same = logits(STUDENT)
    loss, gradient = jax.value_and_grad(
        lambda z: apply(name, options, student=z, initial=same, teachers=[same])[0].sum()
    )(same)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("case", [case for case in OF_TARGETS if case.startswith("kl_dp")])
def test_partition_between_equals_is_self(case):
    name, options, *_ = BY_HAND[case]
    models = dict(student=logits(STUDENT), initial=logits(INITIAL), teachers=[logits(INITIAL)])
    loss_B, aux = apply(name, options, **models)
    np.testing.assert_allclose(loss_B, apply("self", SOFT, **models)[0], rtol=1e-6)
    if "flip" not in name:  # a tie goes to the initial student
        assert not aux["taught"].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_extreme_logits_stay_finite(case, standardized, dtype):
    name, options, *_ = BY_HAND[case]
    if "standardized" in options:
        options = options | dict(standardized=standardized)
    extreme = jnp.asarray(
        [[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, 1e4, -1e4], [1e4, 1e4, -1e4]], dtype
    )
    others = dict(initial=extreme[:, ::-1], teachers=[jnp.roll(extreme, 1, axis=1)])
    loss, gradient = jax.value_and_grad(
        lambda z: apply(name, options, student=z, **others)[0].sum()
    )(extreme)
    assert loss.dtype == jnp.float32
    assert jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()


def settings_of(name, options):
    """The settings of a transfer with one objective."""
    config = transfer_config.get_config().to_dict()
    entry = dict(objective=name, learning_rate=0.1) | options
    return Transfer.read(config | {"objectives": {"mine": entry}})


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("kl", dict(temperature=0.0)),
        ("kl", dict(temperature=None)),
        ("kl", dict(temperature=float("inf"))),
        ("kl", dict(top_k=1)),
        ("kl", dict(top_k=2.5)),
        ("kl", dict(standardized=1)),
        ("kl", dict(flips=())),
        ("kl", dict(flips="positive")),
        ("kl", dict(flips=("positiv",))),
        ("kl", dict(mean_over="positive")),
        ("kl_dp", dict(top_k_of="student")),
        ("xe_kl", dict(alpha=1.5)),
        ("xe_self", dict(alpha=-0.5)),
        ("xe", dict(label_smoothing=1.0)),
        ("adaptconf", dict(sharpness=0)),
        ("kl_dp_flip teach", dict(neutral="mean")),
    ],
)
def test_settings_say_what_an_option_may_be(case, wrong):
    name, options, *_ = BY_HAND[case]
    (option,) = wrong
    with pytest.raises(ValueError, match=rf"^config.objectives.mine.{option}(\.0)?(=| )"):
        settings_of(name, options | wrong)
    settings_of(name, options)


def test_corrected_targets_keep_their_own_classes():
    """Among a teacher's largest logits the label, which leads the target, may be missing."""
    wrong = DP | dict(lead=0.2, top_k_of="teacher")
    with pytest.raises(
        ValueError, match=r"^config.objectives.mine.top_k_of='teacher' is not known"
    ):
        settings_of("kl_dp_corrected", wrong)
    settings_of("kl_dp_corrected", wrong | dict(top_k_of="target"))


def test_who_needs_labels():
    needs = {case for case, (name, o, *_) in BY_HAND.items() if objectives.needs_labels(name, o)}
    assert needs == set(BY_HAND) - {"self", "kl", "hinton", "adaptconf", "kl_dp_unsupervised"}
    for name, entry in objectives.OBJECTIVES.items():
        assert not objectives.OBJECTIVES[entry.without_labels].labels, name


# Three models at once: of each sample the one with the largest probability of the label teaches.


def mutual(detach_teacher):
    objective = objectives.make(
        "mutual", SOFT | dict(detach_teacher=detach_teacher, label_smoothing=0.0)
    )

    def apply(models_MxBxC):
        outputs = Outputs(Output(jnp.moveaxis(models_MxBxC, 0, 1), None), None, ())
        batch = {"label": jnp.asarray(LABEL)}
        loss_B, (_, aux) = objective.apply((), (), outputs, batch, None)
        return loss_B, aux

    return apply, jnp.stack([logits(STUDENT), logits(INITIAL), logits(TEACHER)])


def test_mutual_by_hand():
    # Probabilities of the label at temperature 1, of student, initial and teacher:
    # sample 0: 2/3, 1/6, 8/9;  1: 2/3, 8/9, 1/6;  2: 2/3, 1/6, 1/18;  3: 1/3, 1/18, 2/3.
    # So it is taught by the teacher, the initial, the student, and the teacher again.
    sure = [
        [2 / 3, 1 / 6, 8 / 9],
        [2 / 3, 8 / 9, 1 / 6],
        [2 / 3, 1 / 6, 1 / 18],
        [1 / 3, 1 / 18, 2 / 3],
    ]
    weights = [np.asarray(w, float) for w in (STUDENT, INITIAL, TEACHER)]
    teaches = [2, 1, 0, 2]
    expected_B = []
    for i in range(4):
        p = [w[i] / w[i].sum() for w in weights]
        kls = [float(np.sum(p[teaches[i]] * np.log(p[teaches[i]] / q))) for q in p]
        expected_B.append(sum(-log(x) for x in sure[i]) + 4 * sum(kls))
    apply, models = mutual(detach_teacher=True)
    loss_B, aux = apply(models)
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)
    for model in range(3):
        expected = [teacher != model for teacher in teaches]
        assert aux[f"taught_model_{model}"].tolist() == expected


def test_equally_sure_models_do_not_teach_each_other():
    # Model 2 says in sample 0 what model 0 says with the wrong classes swapped: as sure as it.
    apply, models = mutual(detach_teacher=True)
    models = models.at[2].set(logits([[4, 1, 2], *TEACHER[1:]]))
    models = models.at[0].set(logits([[4, 2, 1], *STUDENT[1:]]))
    _, aux = apply(models)
    assert [bool(aux[f"taught_model_{m}"][0]) for m in range(3)] == [False, True, False]


@pytest.mark.parametrize("detached", [True, False])
def test_gradient_to_who_teaches(detached):
    apply, models = mutual(detach_teacher=detached)
    gradient = jax.grad(lambda z: apply(z)[0][0])(models)  # sample 0, taught by model 2
    # Of its own cross-entropy model 2 has softmax - label at temperature 1: 8/9 1/18 1/18.
    own = np.asarray([8 / 9 - 1, 1 / 18, 1 / 18])
    assert np.allclose(gradient[2, 0], own, atol=1e-5) == detached
    assert not np.asarray(gradient[:, 1:]).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("detached", [True, False])
def test_extreme_logits_of_several_models_stay_finite(detached, dtype):
    apply, _ = mutual(detach_teacher=detached)
    one = jnp.asarray([[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, 1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    models = jnp.stack([one, one[::-1], jnp.roll(one, 1, axis=1)])
    loss, gradient = jax.value_and_grad(lambda z: apply(z)[0].sum())(models)
    assert loss.dtype == jnp.float32 and jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()
