"""The runs that a config asks for: who teaches when."""

import types

import pytest

from ktjax.jobs.transfer import plan as plan_lib

ACCURACY = {"zoo/a": 50.0, "zoo/b": 80.0, "zoo/c": 50.0}


def entries(**objectives):
    return {label: types.SimpleNamespace(objective=name) for label, name in objectives.items()}


def make_config(strategy, *, order="given", teachers=tuple(ACCURACY), seeds=(1,)):
    return types.SimpleNamespace(
        strategy=strategy,
        order=order,
        teachers=teachers,
        seeds=seeds,
        objectives=entries(mine="kl_dp", xe="xe"),
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


def test_short_names_are_different():
    assert plan_lib.short_names(["x/a", "y/b"]) == {"x/a": "a", "y/b": "b"}
    same = plan_lib.short_names(["/x/a", "/y/a"])
    assert len(set(same.values())) == 2 and not any("/" in name for name in same.values())
    above = plan_lib.short_names(["models/a", "../models/a"])
    assert len(set(above.values())) == 2


def test_runs_that_would_be_called_the_same_are_refused():
    config = make_config("single", teachers=("zoo/b-c", "zoo/c"))
    config.objectives = entries(**{"kl": "kl", "kl-b": "kl"})
    with pytest.raises(ValueError, match="called 'kl-b-c-1': rename"):
        plan_lib.plan(config, {})
    config = make_config("soup", teachers=("zoo/soup", "zoo/c"))
    with pytest.raises(ValueError, match="called 'mine-soup-1'"):
        plan_lib.plan(config, {})
