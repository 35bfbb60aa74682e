"""The runs that a config asks for: who teaches when."""

import types

import pytest

from ktjax.jobs.transfer import plan as plan_lib
from ktjax.settings.objective import SelfControl, SlowWeights, XeControl, XeSelfControl

SOFT = dict(temperature=1.0, top_k=None, standardized=False)
CONTROLS = {
    "xe": XeControl(objective="xe", label_smoothing=0.0),
    "xe_self": XeSelfControl(objective="xe_self", alpha=0.5, label_smoothing=0.0, **SOFT),
    "self": SelfControl(objective="self", **SOFT),
}
ACCURACY = {"zoo/a": 50.0, "zoo/b": 80.0, "zoo/c": 50.0}


def entries(**objectives):
    return {
        label: types.SimpleNamespace(objective=name, learning_rate=0.1)
        for label, name in objectives.items()
    }


def make_config(
    strategy,
    *,
    order="given",
    teachers=tuple(ACCURACY),
    seeds=(1,),
    controls=(),
    learning_rates=(),
):
    return types.SimpleNamespace(
        strategy=strategy,
        order=order,
        teachers=teachers,
        seeds=seeds,
        objectives=entries(mine="kl_dp", xe="xe"),
        controls={name: CONTROLS[name] for name in controls},
        mcl={},
        learning_rates=learning_rates,
    )


def plan(*arguments, **fields):
    return plan_lib.plan(make_config(*arguments, **fields), ACCURACY)


def stages(strategy, **fields):
    return [run.stages for run in plan(strategy, **fields) if run.objective == "mine"]


@pytest.mark.smoke
def test_stages_of_each_strategy():
    a, b, c = ACCURACY
    assert stages("single") == stages("soup") == [((a,),), ((b,),), ((c,),)]
    assert stages("parallel") == [((a, b, c),)]
    assert stages("sequential") == [((a,), (b,), (c,))]


def test_nobody_is_asked_twice_to_teach_nothing():
    for strategy in ("single", "parallel", "sequential", "soup"):
        (run,) = [run for run in plan(strategy) if run.objective == "xe"]
        assert (run.stages, run.teachers, run.name) == (((),), (), "xe-1")


def test_orders():
    a, b, c = ACCURACY

    def order(name, seed=1):
        (run,) = stages("sequential", order=name, seeds=(seed,))
        return [teacher for (teacher,) in run]

    assert order("given") == [a, b, c]
    assert order("ascending") == [a, c, b]  # equals stay as given
    assert order("descending") == [b, a, c]
    random = [tuple(order("random", seed)) for seed in range(30)]
    assert random == [tuple(order("random", seed)) for seed in range(30)]
    assert len(set(random)) == 6 and all(sorted(r) == [a, b, c] for r in random)


def test_names_tell_runs_and_stages_apart():
    (run,) = [run for run in plan("sequential", order="descending") if run.objective == "mine"]
    assert run.name == "mine-b+a+c-1"
    assert run.stage_names == tuple(f"{run.name}/{name}" for name in ("1-b", "2-a", "3-c"))
    assert run.teachers == ("zoo/b", "zoo/a", "zoo/c")
    for strategy in plan_lib.STRATEGIES:
        names = [n for run in plan(strategy, seeds=(1, 2)) for n in (run.name, *run.stage_names)]
        runs = {run.name for run in plan(strategy, seeds=(1, 2))}
        assert len(runs) == len(plan(strategy, seeds=(1, 2))) and runs <= set(names)


def test_runs_that_would_be_called_the_same_are_refused():
    config = make_config("single", teachers=("zoo/b-c", "zoo/c"))
    config.objectives = entries(**{"kl": "kl", "kl-b": "kl"})
    with pytest.raises(ValueError, match="called 'kl-b-c-1': rename"):
        plan_lib.plan(config, {})
    config = make_config("soup", teachers=("zoo/soup", "zoo/c"))
    with pytest.raises(ValueError, match="called 'mine-soup-1'"):
        plan_lib.plan(config, {})
    config = make_config("single", controls=["xe"])
    config.objectives = entries(**{"kl": "kl", "xe-0.1": "xe"})
    with pytest.raises(ValueError, match="called 'xe-0.1-1': rename"):
        plan_lib.plan(config, {})


def test_controls_are_at_the_rates_of_the_methods():
    config = make_config("single", controls=CONTROLS)
    config.objectives |= entries(kl="kl", again="kl", slow="kl")
    config.objectives["xe"].learning_rate = 7.0  # asks no teacher: no method
    config.objectives["kl"].learning_rate = 0.01
    config.mcl = {"slow": SlowWeights(tau=0.5, every=2)}
    found = plan_lib.controls(config)
    rates = ("0.1", "0.01", "0.1-mcl-0.5-2")
    assert list(found) == [f"{name}-{rate}" for name in CONTROLS for rate in rates]
    assert [control.entry.learning_rate for control in found.values()] == [0.1, 0.01, 0.1] * 3
    assert [control.slow for control in found.values()] == [None, None, config.mcl["slow"]] * 3
    for name, control in found.items():
        entry, options = control.entry.model_dump(), CONTROLS[name.split("-")[0]].model_dump()
        assert entry == options | {"learning_rate": entry["learning_rate"]}
    config.objectives = entries(xe="xe")  # nobody teaches: nothing to compare
    assert plan_lib.controls(config) == {}


def test_controls_that_say_nothing_are_left_out():
    config = make_config("single", controls=CONTROLS)
    assert list(plan_lib.controls(config, moves=False)) == ["xe-0.1", "xe_self-0.1"]
    assert list(plan_lib.controls(config, labeled=False)) == ["self-0.1"]
    assert plan_lib.controls(config, labeled=False, moves=False) == {}


@pytest.mark.parametrize(
    ("fields", "variables", "options", "moves"),
    [
        ({}, {"batch_stats": 1}, {}, False),  # its statistics are frozen
        (dict(batch_norm="train"), {"batch_stats": 1}, {}, True),
        (dict(batch_norm="train"), {}, {}, False),
        ({}, {}, {"drop_path_rate": 0.1}, True),
        ({}, {}, {"drop_rate": 0.1}, True),
        (dict(drop_path_rate=0.0), {}, {"drop_path_rate": 0.1}, False),
        (dict(drop_path_rate=0.1), {}, {}, True),
    ],
)
def test_a_student_moves_alone_if_training_changes_its_answers(fields, variables, options, moves):
    settings = types.SimpleNamespace(**dict(batch_norm="frozen", drop_path_rate=None) | fields)
    student = types.SimpleNamespace(variables=variables, options=options, definition=None)
    assert plan_lib.moves_alone(settings, student) is moves
    student.definition = types.SimpleNamespace(drops=True)  # by its own definition
    assert plan_lib.moves_alone(settings, student)


def test_controls_decide_at_the_level_of_the_methods():
    """A sequence makes a decision for each stage and learning rate of which the best counts."""
    config = make_config("sequential", controls=["xe"], learning_rates=(0.1, 0.2, 0.3))
    config.objectives = entries(kl="kl", mine="kl", xe="xe")
    config.objectives["mine"].learning_rate = None
    tried = {run.objective: run.tried for run in plan_lib.plan(config, ACCURACY)}
    assert tried == {"kl": 1, "mine": 3, "xe": 1} and plan_lib.most_tried(config) == 3
    (control,) = plan_lib.plan_controls(config, ["xe-0.1"], tried=3)
    assert control.tried == 3
    config.objectives = entries(xe="xe")
    assert plan_lib.most_tried(config) == 1


@pytest.mark.parametrize(
    ("strategy", "decisions"),
    [("single", {1}), ("parallel", {1}), ("soup", {1, 4}), ("sequential", {1, 3, 6})],
)
def test_what_runs_decide_is_known_before(strategy, decisions):
    """By the runs themselves: three stages, one of the methods at two learning rates."""
    config = make_config(strategy, learning_rates=(0.1, 0.2))
    config.objectives |= entries(kl="kl")
    config.objectives["kl"].learning_rate = None
    found = {run.decisions for run in plan_lib.plan(config, ACCURACY)}
    assert plan_lib.decisions(config) == decisions
    assert found == (decisions if strategy != "soup" else {1})
    config.teachers = ()  # as a study asks
    assert plan_lib.decisions(config) == {1}


def test_long_names_are_cut():
    teachers = tuple(f"zoo/{letter * 254}" for letter in "abc")
    config = make_config("sequential", teachers=teachers)
    (run, *_) = plan_lib.plan(config, dict.fromkeys(teachers, 0.0))
    (control,) = plan_lib.plan_controls(config, ["xe-0.1"], "a" * 254)
    for name in (*run.stage_names, *control.stage_names):
        assert max(map(len, name.split("/"))) < 200


def test_a_control_is_run_once_a_seed_and_as_long_as_the_methods():
    for strategy in ("single", "parallel", "soup", "mutual"):
        runs = plan_lib.plan_controls(make_config(strategy, seeds=(1, 2)), ["xe-0.1"])
        assert [run.name for run in runs] == ["xe-0.1-1", "xe-0.1-2"]
        assert all((run.stages, run.stage_names) == (((),), (run.name,)) for run in runs)
    (run,) = plan_lib.plan_controls(make_config("sequential"), ["xe-0.1"], "a")
    assert run.name == "xe-0.1-a-1" and run.teachers == ()
    assert run.stages == ((), (), ())
    assert run.stage_names == ("xe-0.1-a-1/1", "xe-0.1-a-1/2", "xe-0.1-a-1/3")
