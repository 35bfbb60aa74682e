"""transfers.py on a handful of transfers: rates, means and correlations made on paper."""

import pytest
from controls_test import make_run

from ktjax.analysis import transfers

MODELS = {
    "s": {"accuracy": 60.0, "parameters": 10, "family": "mlp"},
    "u": {"accuracy": 70.0, "parameters": 30, "family": "vit", "protocol": "a1_in1k"},
    "t1": {"accuracy": 50.0, "parameters": 10, "family": "mlp"},
    "t2": {"accuracy": 65.0, "parameters": 20, "family": "vit"},
    "t3": {"accuracy": 80.0, "parameters": 90, "family": "vit"},
}
MODELS = {k: {"inductive_bias": None, "protocol": None} | facts for k, facts in MODELS.items()}
PAIRS = [
    {"student": student, "teacher": teacher, "rho_pos": rho, "partition_gain": gain}
    | {"accuracy_difference": MODELS[teacher]["accuracy"] - MODELS[student]["accuracy"]}
    | {"partition_gain_unsupervised": 1.0}
    for student, teacher, rho, gain in (
        ("s", "t1", 5.0, 3.0),
        ("s", "t2", 9.0, 2.0),
        ("s", "t3", 7.0, 1.0),
        ("u", "t1", 4.0, 2.5),
        ("u", "t3", 8.0, 6.0),
    )
]


def run(student, teachers, delta, *, objective="kl", gain=2.0, **net):
    known = dict(student=student, teachers=teachers, gain=gain, loss=gain - delta)
    return make_run(objective, delta, **known, **net)


RUNS = [
    run("s", ["t1"], -3.0),
    run("s", ["t1"], 1.0, gain=4.0),  # another seed: -1 in the mean
    run("s", ["t2"], 3.0),
    run("s", ["t3"], 2.0),
    run("u", ["t1"], 0.0),
    run("u", ["t3"], 1.0),
    run("u", ["t3"], 0.5, objective="kl_dp", net=-0.25),
    run("s", ["t1", "t2"], 9.0),
    run("s", [], 9.0, objective="xe"),
]


@pytest.fixture
def rows():
    return transfers.rows(RUNS, PAIRS)


def test_a_row_is_the_mean_of_its_seeds_and_has_what_was_foreseen(rows):
    keys = [(row["objective"], row["student"], row["teacher"], row["runs"]) for row in rows]
    assert keys == [
        ("kl", "s", "t1", 2),
        ("kl", "s", "t2", 1),
        ("kl", "s", "t3", 1),
        ("kl", "u", "t1", 1),
        ("kl", "u", "t3", 1),
        ("kl_dp", "u", "t3", 1),
    ]
    assert rows[0] == {
        **{"objective": "kl", "student": "s", "teacher": "t1", "runs": 2},
        **{"delta": -1.0, "gain": 3.0, "loss": 4.0, "net": None, "last_delta": -1.0},
        **{"rho_pos": 5.0, "partition_gain": 3.0, "partition_gain_unsupervised": 1.0},
        "accuracy_difference": -10.0,
    }


def test_a_pair_that_is_not_known_is_an_error():
    with pytest.raises(KeyError):
        transfers.rows([run("t3", ["s"], 1.0)], PAIRS)


def test_nothing_comes_of_nothing():
    assert transfers.rows([], PAIRS) == []
    assert transfers.success([]) == {}
    for summary in (transfers.properties, transfers.groups):
        assert summary([], MODELS) == []
    assert transfers.foresight([]) == []


def test_success_is_an_improvement(rows):
    found = transfers.success(rows)
    assert list(found) == ["kl", "kl_dp"]
    assert found["kl"]["per_student"] == pytest.approx({"s": 200 / 3, "u": 50})  # 0 is none
    assert found["kl"]["median"] == found["kl"]["mean"] == pytest.approx(350 / 6)
    assert found["kl"]["mean_delta"] == pytest.approx((-1 + 3 + 2 + 0 + 1) / 5)
    assert found["kl"]["net"] is None
    assert found["kl_dp"] == {
        **{"per_student": {"u": 100.0}, "median": 100.0, "mean": 100.0, "mean_delta": 0.5},
        "interval": None,  # one pair
        "net": {
            **{"per_student": {"u": 0.0}, "median": 0.0, "mean": 0.0, "mean_net": -0.25},
            "interval": None,
        },
    }


def test_the_interval_of_a_mean_is_clustered():
    found = transfers.success(transfers.rows(RUNS, PAIRS))["kl"]
    # About 1: student s -2 + 2 + 1, u -1 + 0; teachers t1 -2 - 1, t2 2, t3 1 + 0.
    by_student, by_teacher = 2 * (1 + 1) / 25, 3 / 2 * (9 + 4 + 1) / 25
    by_pair = 5 / 4 * (4 + 4 + 1 + 1) / 25
    half = 12.7062047 * max(by_student, by_teacher, by_student + by_teacher - by_pair) ** 0.5
    assert found["interval"] == pytest.approx((1 - half, 1 + half))


def test_net_of_seeds_is_their_mean_and_of_some_is_none():
    seeds = [run("s", ["t1"], 1.0, net=0.5), run("s", ["t1"], 2.0, net=1.0)]
    (row,) = transfers.rows(seeds, PAIRS)
    assert row["net"] == 0.75
    (row,) = transfers.rows([*seeds, run("s", ["t1"], 2.0)], PAIRS)  # of before there was one
    assert row["net"] is None


def test_foresight_is_the_rank_correlation_with_delta(rows):
    found = {(row["objective"], row["student"]): row for row in transfers.foresight(rows)}
    assert list(found) == [("kl", None), ("kl", "s"), ("kl", "u"), ("kl_dp", None), ("kl_dp", "u")]
    of_s = found["kl", "s"]  # deltas -1, 3, 2
    assert of_s["pairs"] == 3
    assert of_s["rho_pos"] == pytest.approx(1)  # 5, 9, 7
    assert of_s["partition_gain"] == pytest.approx(-0.5)  # 3, 2, 1
    assert of_s["accuracy_difference"] == pytest.approx(0.5)  # -10, 5, 20
    assert of_s["partition_gain_unsupervised"] is None  # all alike
    # Deltas -1, 3, 2, 0, 1 rank 1 5 4 2 3, rho_pos 5, 9, 7, 4, 8 ranks 2 5 3 1 4.
    assert found["kl", None]["rho_pos"] == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert found["kl", "u"]["rho_pos"] is None  # two pairs
    assert found["kl_dp", None]["pairs"] == 1


def test_foresight_sees_what_runs_that_abstain_would_have_changed():
    changes = {"t1": -2.0, "t2": 3.0, "t3": 1.0}
    runs = [run("s", [name], 0.0, last_delta=change) for name, change in changes.items()]
    found = transfers.foresight(transfers.rows(runs, PAIRS))
    assert [row["rho_pos"] for row in found] == [pytest.approx(1)] * 2


def test_properties_of_either_side(rows):
    found = {
        (row["objective"], row["side"], row["property"], row["outcome"]): row
        for row in transfers.properties(rows, MODELS)
    }
    assert len(found) == 2 * 2 * 2 * 4
    # Of the students, deltas -1, 3, 2 at accuracy 60, and 0, 1 at 70: means 1 and 64.
    of_student = found["kl", "student", "accuracy", "delta"]
    assert of_student["pairs"] == 5
    assert of_student["pearson"] == pytest.approx(-10 / (120 * 10) ** 0.5)
    # Of the teachers, at 10 parameters -1, 0; at 20, 3; at 90, 2, 1: ranks 1.5 1.5 3 4.5 4.5.
    of_teacher = found["kl", "teacher", "parameters", "delta"]
    assert of_teacher["spearman"] == pytest.approx(6 / 90**0.5)
    # From their means: -34, -24, 46, -34, 46 and -2, 2, 1, -1, 0.
    assert of_teacher["pearson"] == pytest.approx(100 / (7120 * 10) ** 0.5)
    # The gain was 3 once, with a teacher of 10 parameters, and else 2.
    assert found["kl", "teacher", "parameters", "gain"]["spearman"] < 0
    assert found["kl_dp", "teacher", "parameters", "delta"]["pearson"] is None


def test_kinds_of_either_side(rows):
    found = {
        (row["objective"], row["side"], row["kind"]): row for row in transfers.groups(rows, MODELS)
    }
    families = ("mlp", "vit")
    assert [key for key in found if key[2] in families] == [
        *[("kl", side, family) for side in ("student", "teacher") for family in families],
        *[("kl_dp", side, "vit") for side in ("student", "teacher")],
    ]
    assert found["kl", "student", "mlp"]["delta"] == pytest.approx((-1 + 3 + 2) / 3)
    of_teacher = found["kl", "teacher", "mlp"]
    assert (of_teacher["pairs"], of_teacher["delta"]) == (2, pytest.approx(-0.5))
    assert (of_teacher["gain"], of_teacher["loss"]) == pytest.approx((2.5, 3))
    of_protocol = found["kl", "student", "a1_in1k"]
    assert (of_protocol["by"], of_protocol["delta"]) == ("protocol", pytest.approx(0.5))
    assert not [row for row in found.values() if row["by"] == "inductive_bias"]  # none is known
