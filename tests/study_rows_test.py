"""What a study says of its runs, by hand."""

import dataclasses
import itertools
import types

import browser
import drawn
import numpy as np
import pytest
from controls_test import make_run

from ktjax.analysis import chance, controls, rows, study
from ktjax.analysis.rows import TransferModel
from ktjax.jobs.study import plan, table, work
from ktjax.report import figures_study, tables
from ktjax.report import page as page_lib
from ktjax.report import study as report

ACCURACY = {"s": 60.0, "u": 70.0, "w": 50.0, "t1": 50.0, "t2": 80.0}
MODELS = {
    name: TransferModel(accuracy=a, parameters=1, origin="", temperature=None, robustness={})
    for name, a in ACCURACY.items()
}


def run_of(student, teacher, delta, *, objective="kl", ensemble=None, on_tune=None, **fields):
    before = ACCURACY[student]
    known = dict(gain=3.0 + delta, loss=3.0, accuracy_before=before, ensemble_accuracy=ensemble)
    known |= dict(accuracy_after=before + delta, seconds=2.0)
    tune = {"delta": delta, "ensemble_accuracy": on_tune}
    known |= dict(history=(types.SimpleNamespace(tune=tune),))
    return make_run(objective, delta, student=student, teachers=(teacher,), **known | fields)


# Success of kl: s 1 of 2 (by the mean over seeds), u 2 of 2, w 0 of 1.
RUNS = [
    run_of("s", "t1", -2.0, seed=1, ensemble=62.0),
    run_of("s", "t1", 1.0, seed=2, ensemble=62.0),
    run_of("s", "t2", 2.0, ensemble=64.0),
    run_of("u", "t1", 1.0, ensemble=70.0),
    run_of("u", "t2", 4.0, ensemble=80.0),
    run_of("w", "t1", 0.0, ensemble=52.0),
    run_of("s", "t2", 3.0, objective="kl_dp", ensemble=64.0),
    run_of("u", "t2", 4.5, objective="kl_dp", ensemble=80.0),
]


@pytest.fixture(scope="module")
def pairs():
    return study.pairs(RUNS, MODELS)


def test_a_pair_is_the_mean_of_its_seeds(pairs):
    first, second, _, last, *_ = pairs
    assert (first.student, first.teacher, first.runs, first.delta) == ("s", "t1", 2, -0.5)
    assert (first.gain, first.loss, first.accuracy_difference) == (2.5, 3.0, -10.0)
    assert first.headroom_share == pytest.approx(100 * -0.5 / 2)
    assert second.headroom_share == pytest.approx(50) and last.headroom_share == 40
    assert pairs[2].headroom_share is None  # the ensemble is no better than u


def test_success_is_the_median_over_students(pairs):
    kl, kl_dp = study.success(pairs).values()
    assert kl["per_student"] == {"s": 50.0, "u": 100.0, "w": 0.0}
    assert (kl["median"], kl["mean"], kl["improved"], kl["pairs"]) == (50.0, 50.0, 3, 5)
    assert kl["mean_delta"] == pytest.approx((-0.5 + 2 + 1 + 4 + 0) / 5)
    assert kl["best"] == {"student": "u", "teacher": "t2", "delta": 4.0}
    assert kl["worst"] == {"student": "s", "teacher": "t1", "delta": -0.5}
    assert (kl["gain"], kl["loss"]) == (pytest.approx(4.3), 3.0)
    # Of sums, as a pair with little headroom would rule a mean of shares.
    assert kl["headroom_share"] == pytest.approx(100 * 6.5 / (2 + 4 + 0 + 10 + 2))
    assert kl["net"] is None
    assert kl_dp["per_student"] == {"s": 100.0, "u": 100.0}


def test_surely_is_of_all_pairs_together(pairs):
    """p of kl is 1, 3e-5, 0.023, 6e-16 and 1: the third, alone small enough, is not among five."""
    pairs = [dataclasses.replace(pair, delta_se=0.5) for pair in pairs]
    kl, kl_dp = study.success(pairs).values()
    assert (kl["surely_better"], kl["surely_worse"]) == (2, 0)
    assert (kl_dp["surely_better"], kl_dp["surely_worse"]) == (2, 0)
    worse = [dataclasses.replace(pair, delta=-pair.delta) for pair in pairs]
    kl, _ = study.success(worse).values()
    assert (kl["surely_better"], kl["surely_worse"]) == (0, 2)
    still = [dataclasses.replace(pair, delta=0.0, delta_se=0.0) for pair in pairs]  # abstained
    kl, _ = study.success(still).values()
    assert (kl["surely_better"], kl["surely_worse"]) == (0, 0)


def test_weaker_and_stronger_teachers_are_told_apart():
    """t1 (50) and t2 (80) teach s (60), u (70) and w (50), as accurate as t1."""
    runs = [
        run_of("s", "t1", 1.0, ensemble=62.0, net=0.5, net_se=0.1),  # half of the headroom
        run_of("u", "t1", -1.0, ensemble=70.0, net=-1.5, net_se=0.1),  # there is none
        run_of("s", "t2", 2.0, ensemble=80.0, net=1.0, net_se=0.1),  # a tenth
        run_of("u", "t2", 4.0, ensemble=80.0, net=3.0, net_se=0.1),  # two fifths
        run_of("w", "t1", 9.0, ensemble=52.0, net=9.0, net_se=0.1),  # neither
        run_of("s", "t2", 3.0, objective="kl_dp"),
    ]
    found = study.pairs(runs, MODELS)
    kl, kl_dp = (of["by_teacher"] for of in study.success(found).values())
    weaker = dict(pairs=2, improved=1, mean_delta=0.0, headroom_share=50.0)
    assert kl["weaker"] == weaker | dict(mean_net=-0.5, net_improved=1)
    stronger = dict(pairs=2, improved=2, mean_delta=3.0, headroom_share=25.0)
    assert kl["stronger"] == stronger | dict(mean_net=2.0, net_improved=2)
    assert list(kl_dp) == ["stronger"] and kl_dp["stronger"]["mean_net"] is None
    table = report.tables(results_of(found))[1]
    assert table.groups == [
        [
            ["kl", "weaker", "1 of 2", "+0.00", "-0.50", "1 of 2", "50"],
            ["kl", "stronger", "2 of 2", "+3.00", "+2.00", "2 of 2", "25"],
        ],
        [["kl_dp", "stronger", "1 of 1", "+3.00", "-", "-", "-"]],
    ]


def test_what_an_export_was_worth():
    same = dict(gain=0.0, loss=0.0, abstained=True, least_gain=0.3)
    runs = [
        run_of("s", "t1", 0.0, seed=1, last_delta=-2.0, **same),
        run_of("s", "t1", 1.0, seed=2, least_gain=0.7),  # its last weights are what is exported
        run_of("s", "t2", 0.0, last_delta=0.5, **same),
        run_of("u", "t2", 3.0, last_delta=1.5, least_gain=0.5),
    ]
    assert study.row(runs[0]).last_delta == -2.0 and study.row(runs[1]).last_delta == 1.0
    found = study.pairs(runs, MODELS)
    assert [(pair.abstained, pair.runs, pair.last_delta) for pair in found] == [
        *((1, 2, -0.5), (1, 1, 0.5), (0, 1, 1.5))
    ]
    (kl,) = study.success(found).values()
    assert kl["abstained"] == 1 and kl["improved"] == 2
    assert kl["last"] == {"improved": 2, "mean_delta": pytest.approx(0.5), "worst": -0.5}
    table = report.tables(results_of(found, export="no_regret"))[1]
    assert table.groups == [[["kl", "1", "2 of 2", "+0.00", "2 of 3", "+0.50", "-0.50", "0.50"]]]


def test_a_decision_that_can_see_nothing_sees_no_gain_however_large():
    """It is not left out: the median of 0.3, 0.5 and nothing is 0.5."""

    def seen(*least_gains, seeds=()):
        runs = [
            run_of("s", f"t{i}", 0.0, abstained=True, least_gain=gain, gain=0.0, loss=0.0)
            for i, gain in enumerate(least_gains, 1)
        ]
        runs += [dataclasses.replace(runs[0], seed=s, least_gain=gain) for s, gain in seeds]
        models = MODELS | {f"t{i}": MODELS["t1"] for i in range(1, 4)}
        found = study.pairs(runs, models)
        (kl,) = study.success(found).values()
        table = report.tables(results_of(found, export="no_regret"))[1]
        return kl["least_gain"], table.groups[0][0][-1]

    assert seen(0.3, None, 0.5) == (0.5, "0.50")
    assert seen(None, None, 0.5) == (None, "-")
    assert seen(0.3, None) == (None, "-")
    # Nor where another seed of a pair would have seen one.
    assert seen(0.3, 0.4, 0.5, seeds=[(2, 0.5), (3, 0.7)]) == (0.5, "0.50")
    assert seen(0.3, 0.4, 0.5, seeds=[(2, None)]) == (0.5, "0.50")
    assert seen(0.3, None, 0.5, seeds=[(2, None)]) == (None, "-")


def test_whether_the_ensemble_ranks_teachers():
    """Ranks 2, 3, 4, 1 of the ensembles and 3, 4, 2, 1 of the changes: 1 - 6 * 6 / (4 * 15)."""
    changes = {"t1": (62.0, 1.0), "t2": (64.0, 2.0), "u": (70.0, 0.5), "w": (61.0, 0.1)}
    same = dict(gain=0.0, loss=0.0, abstained=True)
    runs = [
        run_of("s", teacher, 0.0, on_tune=ensemble, last_delta=change, **same)
        for teacher, (ensemble, change) in changes.items()
    ]
    runs += [run_of("u", "t1", 1.0, on_tune=70.0), run_of("w", "t1", 1.0)]  # too few to rank
    found = study.pairs(runs, MODELS)
    (kl,) = study.success(found).values()
    assert kl["ranking"] == {"s": pytest.approx(0.4), "u": None, "w": None}
    table = report.sections(results_of(found))[1]
    assert table.header == ["student", "kl"]
    assert table.groups == [[["s", "+0.40"], ["u", "-"], ["w", "-"], ["median", "+0.40"]]]
    without = report.sections(results_of(found[-1:]))
    assert all("known before" not in table.heading for table in without)


def test_a_pair_that_diverged_is_no_success():
    found = study.pairs([run_of("s", "t1", 2.0)], MODELS)
    # Three pairs, among them all of a student without any other.
    lost = {("s", "u", "kl"), ("s", "t2", "kl"), ("w", "t1", "kl"), ("s", "t1", "kl_dp")}
    kl, kl_dp = study.success(found, lost).values()
    assert kl["per_student"] == {"s": pytest.approx(100 / 3), "w": 0.0}
    assert [kl[name] for name in ("pairs", "done", "improved", "diverged")] == [4, 1, 1, 3]
    assert kl["mean_delta"] == kl["best"]["delta"] == 2.0 and kl["mean"] == pytest.approx(50 / 3)
    low, high = kl["bootstrap"]["mean"]
    assert low <= kl["mean"] + 1e-9 and kl["mean"] <= high
    assert kl["bootstrap"]["mean_delta"] == (2.0, 2.0)
    # Draws of w alone have a success rate, 0, but no delta.
    of_two = study.success(found, {("w", "t1", "kl")})["kl"]["bootstrap"]
    assert of_two["mean"] == of_two["median"] == (0.0, 100.0)
    assert (kl_dp["pairs"], kl_dp["mean"], kl_dp["mean_delta"]) == (1, 0.0, None)
    assert study.success(found)["kl"]["mean"] == 100
    results = dataclasses.replace(results_of(found), success=study.success(found, lost))
    text = report.conclusion(results)
    assert "(median over 2 students): kl 16.7 %, kl_dp 0.0 %. kl did best: +2.00 points" in text
    assert "over 1 pair [" in text or "over 1 pair." in text
    first, second = report.tables(results)[0].groups[0]
    assert first[:2] == ["kl", "1 of 4, 3 diverged"]
    assert second[:6] == ["kl_dp", "0 of 1, 1 diverged", "-", "0.0", "0.0", "-"]
    assert [row[0] for row in report.tables(results)[-1].groups[0]] == ["w", "s"]
    every = dataclasses.replace(results, success=study.success([], lost))
    assert "All trainings diverged." in report.conclusion(every) and report.tables(every)


def test_headroom_is_of_the_pairs_whose_ensemble_is_known():
    runs = [run_of("w", "t1", 1.0, ensemble=52.0), run_of("w", "t2", 1.0, ensemble=None)]
    (kl,) = study.success(study.pairs(runs, MODELS)).values()
    assert kl["headroom_share"] == pytest.approx(50)
    (kl,) = study.success(study.pairs(runs[1:], MODELS)).values()
    assert kl["headroom_share"] is None


def test_bootstrap_intervals(pairs):
    kl, kl_dp = (of["bootstrap"] for of in study.success(pairs).values())
    for name in ("median", "mean"):
        low, high = kl[name]
        assert 0 <= low <= 50 <= high <= 100
    assert kl["mean_delta"][0] < 1.3 < kl["mean_delta"][1]
    # Of two students and one teacher: all of the one, half each, or all of the other.
    assert kl_dp == {
        "median": (100.0, 100.0),
        "mean": (100.0, 100.0),
        "mean_delta": (pytest.approx(3.0), pytest.approx(4.5)),
    }
    assert study.success(pairs[:1])["kl"]["bootstrap"] is None  # one student, one teacher


def test_a_student_counts_as_often_as_it_is_drawn():
    """One of four improved: three times of four or more with probability 0.051, always 0.004."""
    runs = [run_of("s", "t1", 1.0)] + [
        dataclasses.replace(run_of("s", "t1", -1.0), student=f"s{i}") for i in range(3)
    ]
    models = MODELS | {f"s{i}": MODELS["s"] for i in range(3)}
    (found,) = study.success(study.pairs(runs, models)).values()
    assert found["bootstrap"]["mean"] == (0.0, 75.0)


def test_models_are_drawn_and_not_pairs():
    students, teachers = zip(*itertools.product("ab", "xyz"), strict=True)
    seen = set()
    for of_student_P, of_teacher_P in chance.resampled(students, teachers, draws=300):
        a, b = of_student_P[0], of_student_P[3]
        assert of_student_P.tolist() == [a] * 3 + [b] * 3 and a + b == 2
        assert of_teacher_P[:3].tolist() == of_teacher_P[3:].tolist() and sum(of_teacher_P) == 6
        seen.add((a, *of_teacher_P[:3].tolist()))
    assert len(seen) == 3 * 10
    twice = [list(chance.resampled("ab", "xy", draws=5)) for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_objectives_are_compared_over_common_pairs(pairs):
    (row,) = study.compared(pairs)
    assert (row["one"], row["other"], row["pairs"]) == ("kl", "kl_dp", 2)
    assert row["difference"] == pytest.approx((2 - 3 + 4 - 4.5) / 2)
    low, high = row["interval"]
    assert low < -0.75 < high


def test_net_refers_to_a_control_that_ran_once():
    correct = {"kl-s-t1-1": [1, 1, 0, 1], "kl_dp-s-t2-1": [1, 1, 1, 1], "xe-0.1-s--1": [1, 0, 1, 1]}
    correct = {name: np.asarray(answers, bool) for name, answers in correct.items()}
    alone = make_run("xe-0.1", 1.5, tune=0.5)
    taught = [run_of("s", "t1", 2.0), run_of("s", "t2", 3.0, objective="kl_dp")]
    found = controls.with_net(taught, [alone], controls.choose([alone]), correct)
    assert [(run.control, run.net) for run in found] == [("xe-0.1", 0.5), ("xe-0.1", 1.5)]
    assert found[0].net_se == pytest.approx(100 * np.std([0, 1, -1, 0]) / 2)
    nets = study.pairs(found, MODELS)
    assert [pair.net for pair in nets] == [0.5, 1.5]
    of_kl = study.success(nets)["kl"]
    assert of_kl["net"]["mean_net"] == 0.5
    line = study.row(found[0])
    assert (line.teacher, line.net, line.control, line.status) == ("t1", 0.5, "xe-0.1", "done")
    line = study.row(alone)
    assert (line.teacher, line.net, line.headroom_share) == (None, None, None)


class Runs:
    """Of a study, in memory: the change on tune by each finished run, and those that diverged."""

    def __init__(self, tune, diverged=()):
        self._tune, self._diverged = tune, diverged

    def has_found(self, run):
        return (run.objective, run.seed) in self._tune

    def diverged(self, run):
        return (run.objective, run.seed) in self._diverged

    def is_done(self, run):
        return self.has_found(run) or self.diverged(run)

    def error(self, run):
        return "FloatingPointError: nan" if self.diverged(run) else None

    def found(self, run):
        tune = {"delta": self._tune[run.objective, run.seed], "ensemble_accuracy": None}
        known = dict(history=(types.SimpleNamespace(tune=tune),), gain=0.0, loss=0.0, seed=run.seed)
        row = make_run(
            *(run.objective, 0.0),
            **dict(run=str(run.folder), teachers=(run.teacher,) if run.teacher else ()),
            **known | dict(accuracy_before=60.0),
        )
        results = types.SimpleNamespace(models=MODELS, served={})
        return types.SimpleNamespace(row=row, results=results, right_N=np.ones(4, bool))


def test_a_control_that_came_later_is_compared_over_the_seeds_that_all_have():
    """xe has seeds 1 and 2, and xe_self, which a later start asked for, only 1."""
    planned = [
        plan.Run("s", teacher, name, seed, None, teacher is None)
        for seed in (1, 2)
        for name, teacher in (("xe", None), ("xe_self", None), ("kl", "t1"))
    ]
    later = [run for run in planned if run.seed == 1]
    tune = {("xe", 1): 0.1, ("xe", 2): 0.9, ("xe_self", 1): 0.2, ("kl", 1): 0.0, ("kl", 2): 0.0}

    def chosen(tune, asked=later, diverged=()):
        found = table.found(Runs(tune, diverged), planned, asked)
        (pair,) = found["pairs"]
        assert pair.control == found["chosen"].get("s")
        return pair.control

    assert chosen(tune) == "xe_self"  # 0.2 with seed 1, where xe has 0.1, though 0.5 with both
    assert chosen(tune | {("xe_self", 2): 0.0}) == "xe"
    assert chosen(tune, diverged=[("xe_self", 2)]) == "xe"
    assert chosen(tune | {("xe_self", 1): -1.0, ("xe", 1): -1.0}) == controls.NONE
    # No seed in common: they cannot be compared.
    apart = {key: value for key, value in tune.items() if key != ("xe", 1)}
    assert chosen(apart, asked=[run for run in later if run.objective != "xe"]) is None


def test_time_that_is_left():
    done = [("s", 2.0), ("s", 4.0), ("u", 9.0)]
    assert study.seconds_left(done, ["s", "u", "w"]) == 3 + 9 + 5
    assert study.seconds_left([], ["s"]) == 0


CONTROLS = {"self_pool": {"objective": "self_pool"}, "xe": {"objective": "xe"}}


def results_of(pairs, failed=(), export="last"):
    """As much of the results as sentences are made of."""
    given = dict(pairs=tuple(pairs), rows=tuple(failed), success=study.success(pairs))
    given |= dict(compared=tuple(study.compared(pairs)), models=MODELS, chosen={})
    data = rows.Data(name="d", measured="d", train=9, validation=300, skipped={})
    config = dict(export=export, objectives={"kl": {"objective": "kl"}}, controls=CONTROLS)
    given |= dict(job="study", runs=(), objectives={}, classes=("a", "b"), class_counts=(200, 100))
    return rows.StudyResults(**given, data=data, environment={}, config=config)


def test_what_cannot_be_told_apart_is_said(pairs):
    text = report.conclusion(results_of(pairs))
    assert text.startswith("Success rate (median over 3 students): kl 50.0 %, kl_dp 100.0 %. ")
    assert "kl_dp did best: +3.75 points on average over 2 pairs" in text
    assert "it is not distinguishable from kl." in text
    # The same twenty times over, with all but the same differences.
    many = [
        dataclasses.replace(
            pairs[0], student=f"s{i}", objective=objective, delta=base + 0.01 * (i % 3)
        )
        for objective, base in (("kl", 0.01), ("kl_dp", 1.0))
        for i in range(20)
    ]
    text = report.conclusion(results_of(many))
    assert "distinguishable" not in text and "kl_dp did best: +1.01" in text
    centered = [dataclasses.replace(p, delta=p.delta - 1.01) for p in many if p.delta > 0.5]
    assert "not distinguishable from zero" in report.conclusion(results_of(centered))


def test_what_loses_on_common_pairs_does_not_do_best():
    """Its mean may be larger, over the pairs where it did not diverge."""

    def pair(student, teacher, objective, delta):
        return dataclasses.replace(
            study.pairs([run_of("s", "t1", delta, objective=objective)], MODELS)[0],
            student=student,
            teacher=teacher,
        )

    every = list(itertools.product(("s", "u", "w"), ("t1", "t2")))
    found = [pair(*one, "kl_dp", 3.0 if one[0] != "w" else 0.5) for one in every]
    found += [pair(*one, "cd", 2.5) for one in every if one[0] != "w"]
    results = results_of(found)
    assert results.success["cd"]["mean_delta"] == 2.5 > results.success["kl_dp"]["mean_delta"]
    assert "kl_dp did best: +2.17 points on average over 6 pairs" in report.conclusion(results)


def test_who_abstains_is_told():
    same = dict(accuracy_before=60.0, accuracy_after=60.0, gain=0.0, loss=0.0)
    row = study.row(make_run("xe", 0.0, abstained=True, last_delta=-0.75, **same))
    assert row.status == "abstained"
    results = results_of([], [row], export="no_regret")
    text = "1 of 1 runs abstained and left their student unchanged."
    assert report.conclusion(results).endswith(text)
    (table,) = report.tables(results)
    assert table.groups[0][0][:4] == ["s", "xe", "1", "60.00 -> 60.00"]
    assert table.header[5:7] == ["status", "at the end"]
    assert table.groups[0][0][5:7] == ["abstained", "-0.75"]
    (table,) = report.tables(results_of([], [row]))
    assert "status" not in table.header
    assert " xe: labels only. self_pool: the calibrated initial student only. A " in table.note
    # Of two objectives that both left the student alone, none did best.
    found = study.pairs(
        [run_of("s", "t1", 0.0, objective=name, abstained=True) for name in ("kl", "kl_dp")], MODELS
    )
    told = "Success rate (of one student): kl 0.0 %, kl_dp 0.0 %. No student got better."
    assert report.conclusion(results_of(found)) == told


def test_the_end_of_a_run_that_abstained_is_told(capsys):
    known = dict(accuracy_before=61.53, accuracy_after=61.53, seconds=2.0)
    row = make_run("kl", 0.0, teachers=("t1",), abstained=True, **known)
    runs = types.SimpleNamespace(
        done=lambda runs: [run for run in runs if run.seed in ended],
        has_found=lambda run: True,
        error=lambda run: None,
        found=lambda run: types.SimpleNamespace(row=row),
    )
    asked, ended = [plan.Run("s", "t1", "kl", seed, None, False) for seed in (1, 2)], []
    bar = work.Progress(runs, asked)
    ended.append(2)
    bar.update()
    bar.close()
    told = "".join(capsys.readouterr())
    assert "s from t1, kl, seed 2: abstains, stays at 61.53 %, 2 s" in told


def test_nothing_but_failures():
    failed = study.failed(student="s", teacher="t1", objective="kl", seed=1, error="no memory")
    results = results_of([], [failed])
    assert report.conclusion(results).endswith("is done. 1 of 1 runs failed.")
    (table,) = report.tables(results)
    assert table.groups[0] == [["s", "t1", "kl", "1", "no memory"]]
    assert failed.delta is None


def everything(pairs):
    """Results that every table and figure of the page is made of."""
    failed = study.failed(student="s", teacher="t1", objective="kl", seed=1, error="no memory")
    known = dict(accuracy_before=60.0, accuracy_after=60.5, gain=2.0, loss=1.5)
    alone = study.row(make_run("xe-0.1", 0.5, **known))
    return results_of(pairs, [failed, alone])


def test_page_is_explained(pairs):
    results = everything(pairs)
    assert drawn.check(results) == ["headroom", "success", "pairs", "delta"]
    found = [*report.tables(results), *report.sections(results)]
    assert len(found) == 8 and all(table.note.endswith(".") for table in found)
    assert "naming the most frequent class always: 66.7 %" in tables.as_text(results)


def test_headroom_is_what_the_ensemble_gains(pairs):
    row = figures_study.headroom_rows(results_of(pairs))[0]
    assert (row["gain"], row["loss"], row["delta"], row["headroom"]) == (2.5, 3.0, -0.5, 2.0)


@pytest.mark.parametrize(("loss", "darkness"), [(-0.06, 0.03), (-1.0, 0.5), (-25.0, 0.5)])
def test_a_small_loss_looks_small(loss, darkness, pairs):
    """It was as dark as the largest gain; only losses larger than that have their own scale."""
    some = [dataclasses.replace(pairs[0], delta=delta) for delta in (1.0, loss)]
    norm = figures_study.heat(results_of(some), 8.0).axes[0].images[0].norm
    assert 0.5 - norm(loss) == pytest.approx(darkness) and norm(1.0) == 1.0 and norm(0.0) == 0.5


@pytest.mark.full
def test_page_fits_screens_and_phones(pairs, tmp_path):
    browser.check(page_lib.write(tmp_path, everything(pairs), []))
