"""controls.py on two students and four images: choices, net and errors made on paper."""

import dataclasses
import types

import numpy as np
import pytest

from ktjax.analysis import controls, rows


def make_run(objective, delta, *, seed=1, tune=0.0, teachers=(), student="s", stages=(), **fields):
    history = (types.SimpleNamespace(tune={"delta": tune}),)
    required = {
        field.name: None
        for field in dataclasses.fields(rows.Run)
        if field.default is dataclasses.MISSING
    }
    given = dict(
        run=f"{objective}-{student}-{'+'.join(teachers)}-{seed}",
        student=student,
        teachers=teachers,
        objective=objective,
        seed=seed,
        delta=delta,
        delta_se=0.5,
        history=history,
        stages=stages,
    )
    return rows.Run(**(required | given | fields))


def test_the_control_is_the_best_on_tune_in_the_mean_over_seeds():
    found = [
        make_run("xe-0.1", -9.0, seed=1, tune=1.0),
        make_run("xe-0.1", -9.0, seed=2, tune=0.5),
        make_run("xe-0.3", 9.0, seed=1, tune=2.0),  # the best of all runs, and on validation
        make_run("xe-0.3", 9.0, seed=2, tune=-1.0),
        make_run("xe-0.1", 9.0, student="u", tune=-0.1),
        make_run("xe_self-0.1", 9.0, student="u", tune=0.0),
    ]
    assert controls.choose(found) == {"s": "xe-0.1", "u": controls.NONE}
    for delta in (-50.0, 50.0):  # validation has no say
        moved = [dataclasses.replace(run, delta=delta * i) for i, run in enumerate(found)]
        assert controls.choose(moved) == controls.choose(found)
    assert controls.choose([]) == {}


def test_a_control_that_diverged_with_a_seed_is_not_chosen():
    found = [make_run("xe-0.1", 0.0, seed=1, tune=0.4), make_run("xe-0.1", 0.0, seed=2, tune=0.4)]
    found.append(make_run("xe-0.3", 0.0, seed=1, tune=9.0))  # all that is left of two
    assert controls.choose(found) == {"s": "xe-0.1"}
    assert controls.choose(found[1:]) == {"s": controls.NONE}  # each lacks the other's seed


def test_equal_changes_are_equal():
    """In floats 0.1 + 0.2 is more than 0.3, and nothing has gained 1e-17."""
    tune = {"xe-0.1": (0.3, 0.3), "xe-0.3": (0.1 + 0.2, 0.3), "xe-1": (0.1, 0.2 - 0.3)}
    found = [
        make_run(name, 0.0, seed=seed, tune=deltas[seed])
        for name, deltas in tune.items()
        for seed in range(2)
    ]
    assert controls.choose(found) == {"s": "xe-0.1"}
    assert controls.choose(found[4:]) == {"s": controls.NONE}


def test_the_change_on_tune_of_stages_is_their_sum():
    stages = [make_run("xe", 0.0, tune=tune) for tune in (1.0, -0.25)]
    run = make_run("xe", 0.0, tune=-0.25, stages=stages)  # its history ends with the last stage's
    assert controls.tune_delta(run) == 0.75


def test_seeds_are_averaged_in_whatever_order_teachers_come():
    found = [
        make_run("kl", 1.0, seed=1, teachers=("a", "b")),
        make_run("kl", -0.5, seed=2, teachers=("b", "a")),
    ]
    (outcome,) = controls.outcomes(found)
    assert controls.by_what(found) == {("s", frozenset("ab"), "kl"): outcome}
    assert (outcome.runs, outcome.delta, outcome.teachers) == (2, 0.25, ("a", "b"))
    # The images' error is 0.5, that of the two seeds their deviation by the root of two.
    assert outcome.delta_se == pytest.approx((0.5**2 + (1.5 / 2**0.5) ** 2 / 2) ** 0.5)


# Of four images the student had two right.
CORRECT = {
    "xe-0.1-s--1": [1, 1, 1, 0],
    "xe-0.1-s--2": [1, 1, 1, 1],
    "kl-s-t-1": [1, 1, 0, 1],
    "kl-s-t-2": [1, 1, 1, 1],
    "kl-s-t-3": [1, 1, 1, 1],
}
CORRECT = {name: np.asarray(answers, bool) for name, answers in CORRECT.items()}


def net_of(run, tune=(0.25, 0.25)):
    alone = [
        make_run("xe-0.1", 25.0, seed=1, tune=tune[0]),
        make_run("xe-0.1", 50.0, seed=2, tune=tune[1]),
        make_run("xe-0.3", 75.0, seed=1, tune=tune[0] - 0.1),
        make_run("xe-0.3", 75.0, seed=2, tune=tune[1] - 0.1),
    ]
    (found,) = controls.with_net([run], alone, controls.choose(alone), CORRECT)
    return found.control, found.net, found.net_se


def test_net_is_delta_minus_that_of_the_control_with_the_same_seed():
    # Beside it image 2 is lost and image 3 gained: 100 sqrt((1/4 + 1/4 - 0) / 4).
    run = make_run("kl", 25.0, teachers=("t",))
    assert net_of(run) == ("xe-0.1", 0.0, pytest.approx(100 * (1 / 8) ** 0.5))
    run = make_run("kl", 50.0, teachers=("t",), seed=2)
    assert net_of(run) == ("xe-0.1", 0.0, 0.0)  # the same images


def test_net_of_a_seed_that_has_no_control_is_that_of_their_mean():
    # The differences of the images are 0, 0, 0 and 1 - 1/2: variance 1/16 - 1/64, over 4 images.
    run = make_run("kl", 50.0, teachers=("t",), seed=3)
    assert net_of(run) == ("xe-0.1", 12.5, pytest.approx(100 * (3 / 64 / 4) ** 0.5))


def test_net_is_delta_where_no_control_gains_on_tune():
    run = make_run("kl", 25.0, teachers=("t",))
    assert net_of(run, tune=(-1.0, 0.5)) == (controls.NONE, 25.0, 0.5)


def test_without_a_finished_control_nothing_is_known_of_net():
    """A control of another student tells nothing of this one."""
    run = make_run("kl", 25.0, teachers=("t",))
    for alone in ([], [make_run("xe-0.1", 1.0, student="u", tune=1.0)]):
        assert controls.with_net([run], alone, controls.choose(alone), CORRECT) == [run]
    assert run.control is run.net is run.net_se is None


def test_what_nobody_taught_and_what_was_not_trained_has_no_net():
    for run in (make_run("xe", 25.0), make_run("kl soup", 25.0, teachers=("t",), history=())):
        assert net_of(run) == (None, None, None)


def taught(objective, delta, seed, net, teacher="t", **fields):
    net = dict(control="xe-0.1", net=net, net_se=0.75)
    return make_run(objective, delta, seed=seed, teachers=(teacher,), **net | fields)


def test_outcomes_are_means_over_seeds_with_the_spread_of_an_objective_s_seeds():
    runs = [
        taught("kl", 1.0, 1, 0.5),
        taught("kl", 3.0, 2, 1.5),
        taught("kl", 1.0, 1, 0.5, teacher="u"),
        taught("kl", 2.0, 2, 1.0, teacher="u"),
        taught("kl_dp", 4.0, 1, 2.0),
        taught("kl_dp", 10.0, 2, 4.0),
        make_run("xe", 7.0),
    ]
    kl, kl_u, kl_dp, xe = controls.outcomes(runs)
    assert (kl.student, kl.teachers, kl.objective, kl.runs) == ("s", ("t",), "kl", 2)
    assert (kl.delta, kl.net, kl.control) == (2.0, 1.0, "xe-0.1")
    assert (kl_dp.delta, kl_dp.net) == (7.0, 3.0)
    # Squares of deltas 2 and 1/2 with two degrees, 1.25; of nets a quarter of that.
    assert kl.delta_se == kl_u.delta_se == pytest.approx((0.5**2 + 1.25 / 2) ** 0.5)
    assert kl.net_se == kl_u.net_se == pytest.approx((0.75**2 + 1.25 / 4 / 2) ** 0.5)
    assert kl_dp.delta_se == pytest.approx((0.5**2 + 18 / 2) ** 0.5)
    assert kl_dp.net_se == pytest.approx((0.75**2 + 2 / 2) ** 0.5)
    # One run, whose seeds spread as those of the others, for all that is known: 20.5 / 3.
    assert (xe.runs, xe.delta, xe.net, xe.net_se, xe.control) == (1, 7.0, None, None, None)
    assert xe.delta_se == pytest.approx((0.5**2 + 20.5 / 3) ** 0.5)
    (alone,) = controls.outcomes(runs[:1])  # no seeds to compare: over images only
    assert (alone.delta_se, alone.net_se) == (0.5, 0.75)


def test_who_abstains_with_every_seed_says_nothing_of_their_spread():
    still = dict(abstained=True, delta_se=0.0)
    runs = [
        taught("kl", 1.0, 1, 1.0),
        taught("kl", 0.0, 2, 0.0, **still),  # it does with one: that is spread, too
        *(taught("kl", 0.0, seed, 0.0, teacher="u", **still) for seed in (1, 2)),
    ]
    first, _ = controls.outcomes(runs)
    # Squares of 1/2 and 1/2 with one degree, over two seeds; half of the images' error is 0.
    assert first.delta_se == pytest.approx((0.25**2 + 0.5 / 2) ** 0.5)
    assert first.net_se == pytest.approx((0.75**2 + 0.5 / 2) ** 0.5)
    (only,) = controls.outcomes(runs[2:])
    assert only.delta == only.delta_se == 0
