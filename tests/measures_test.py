import types

import numpy as np
import pytest
from controls_test import make_run

from ktjax.analysis import measures

# Six samples of classes 0 0 1 1 2 2; the numbers are the answers, made into confident logits.
LABEL = np.array([0, 0, 1, 1, 2, 2])
BEFORE = [0, 1, 1, 0, 2, 0]  # right: 0, 2, 4
TEACHER = [0, 0, 2, 1, 0, 0]  # right: 0, 1, 3; positive flips 1, 3; negative flips 2, 4
AFTER = [0, 0, 1, 0, 0, 0]  # right: 0, 1, 2; gained 1, lost 4


def logits(answers, sure=4.0):
    return sure * np.eye(3, dtype=np.float32)[np.asarray(answers)]


def transfer(teachers):
    return measures.of_transfer(
        before_NxC=logits(BEFORE),
        after_NxC=logits(AFTER),
        teachers_KxNxC=np.asarray([logits(t) for t in teachers]),
        label_N=LABEL,
    )


@pytest.mark.smoke
def test_a_transfer_counted_on_paper():
    row = transfer([TEACHER])
    percent = {k: pytest.approx(100 * v / 6) for k, v in dict(one=1, two=2, three=3).items()}
    assert row["accuracy_before"] == row["accuracy_after"] == percent["three"]
    assert (row["gain"], row["loss"]) == (percent["one"], percent["one"])
    assert row["delta"] == pytest.approx(0)
    assert row["delta_se"] == pytest.approx(100 * (2 / 6 / 6) ** 0.5)
    assert (row["rho_pos"], row["rho_neg"]) == (percent["two"], percent["two"])
    # After it the teacher has 3 that the student lacks, and lacks 2 that the student has.
    assert (row["rho_pos_after"], row["rho_neg_after"]) == (percent["one"], percent["one"])
    assert row["ensemble_accuracy"] == percent["three"]  # equally sure: the student's answers
    assert (row["class_gain"], row["class_loss"]) == ([1, 0, 0], [0, 0, 1])
    assert row["transfer_rate"] == pytest.approx(50)  # of flips 1 and 3 it learned 1
    # One flip in each of classes 0 and 1: class 0 alone holds 2 to 50 % of them, and is learned.
    assert row["transfer_rate_top"] == {p: pytest.approx(100) for p in ("2", "5", "20", "50")}


def test_without_a_teacher_nothing_is_said_of_one():
    row = transfer([])
    for name in measures.OF_TEACHERS:
        assert row[name] is None
    assert row["gain"] > 0


def test_several_teachers_answer_as_the_surest_of_them():
    unsure = logits([2, 2, 2, 2, 2, 2], sure=1.0)
    both = measures.of_transfer(
        before_NxC=logits(BEFORE),
        after_NxC=logits(AFTER),
        teachers_KxNxC=np.stack([unsure, logits(TEACHER)]),
        label_N=LABEL,
    )
    assert both == transfer([TEACHER])


def test_temperatures_move_the_ensemble_and_who_speaks_for_the_teachers():
    unsure, teacher = logits([2] * 6, sure=1.0), logits(TEACHER, sure=2.0)
    given = dict(before_NxC=logits(BEFORE), after_NxC=logits(AFTER), label_N=LABEL)
    given["teachers_KxNxC"] = np.stack([unsure, teacher])
    # At 1 the student is the surest, right on 0, 2, 4; of the teachers it is TEACHER.
    row = measures.of_transfer(**given)
    assert row["ensemble_accuracy"] == pytest.approx(100 * 3 / 6)
    assert row["rho_pos"] == pytest.approx(100 * 2 / 6)
    # At 2, 1/4 and 4 the largest logits are 2, 4 and 1/2: everywhere class 2, right on 4 and 5.
    row = measures.of_transfer(**given, temperatures_S=[2.0, 0.25, 4.0])
    assert row["ensemble_accuracy"] == pytest.approx(100 * 2 / 6)
    assert row["rho_pos"] == pytest.approx(100 * 1 / 6)  # 5
    # At 8, 4 and 1/2 they are 1/2, 1/4 and 4: TEACHER, right on 0, 1, 3.
    row = measures.of_transfer(**given, temperatures_S=[8.0, 4.0, 0.5])
    assert row["ensemble_accuracy"] == pytest.approx(100 * 3 / 6)
    assert row["rho_pos"] == pytest.approx(100 * 2 / 6)
    # And of the flips: the teachers are taken as the one that is the surest there.
    found = measures.of_partition(
        before_NxC=logits(BEFORE),
        teachers_KxNxC=given["teachers_KxNxC"],
        label_N=LABEL,
        supervised=False,
        temperatures_S=[3.0, 0.25, 4.0],
    )
    assert found == {
        "taught_by": [100.0, 0.0],
        "taught_positive_flips": 100.0,  # 5
        "taught_negative_flips": 100.0,  # 0 and 2
    }


def test_temperatures_move_the_ensemble_of_a_pair():
    given = dict(
        student_NxC=logits(BEFORE, sure=3.0),
        teacher_NxC=logits([2] * 6, sure=5.0),
        label_N=LABEL,
        classes=("a", "b", "c"),
        groups=("x", "x", "y"),
    )
    assert measures.of_pair(**given)["ensemble_accuracy"] == pytest.approx(100 * 2 / 6)
    moved = measures.of_pair(**given, temperatures_S=[1.0, 2.0])  # 3 against 2.5
    assert moved["ensemble_accuracy"] == pytest.approx(100 * 3 / 6)


def partition(supervised, teachers=(TEACHER,), temperatures=None):
    return measures.of_partition(
        before_NxC=logits(BEFORE),
        teachers_KxNxC=np.asarray([logits(t, sure=5.0) for t in teachers]),
        label_N=LABEL,
        supervised=supervised,
        temperatures_S=temperatures,
    )


def test_who_is_given_the_flips():
    # With labels the one who is right has the larger probability; without, the surer one.
    right = {"taught_by": [50.0], "taught_positive_flips": 100.0, "taught_negative_flips": 0.0}
    sure = {"taught_by": [100.0], "taught_positive_flips": 100.0, "taught_negative_flips": 100.0}
    assert partition(True) == right
    assert partition(False) == sure
    nobody = dict.fromkeys(right)
    assert partition(None) == partition(True, teachers=()) == nobody


def test_a_pair_counted_on_paper():
    pair = measures.of_pair(
        student_NxC=logits(BEFORE),
        teacher_NxC=logits(TEACHER, sure=5.0),
        label_N=LABEL,
        classes=("a", "b", "c"),
        groups=("x", "x", "y"),
    )
    assert pair["rho_pos"] == pair["rho_neg"] == pytest.approx(100 / 3)
    assert pair["ensemble_accuracy"] == pytest.approx(50)  # the teacher is always the surer one
    assert pair["class_flips"] == [1, 1, 0]
    assert pair["flip_entropy"] == pytest.approx(np.log(2) / np.log(3))
    assert pair["top_classes"] == {"2": ["a"], "5": ["a"], "20": ["a"], "50": ["a"]}
    alone, among_all = pair["top_classes_alike"]["50"]
    assert alone is None and among_all == pytest.approx(1 / 3)


def test_as_many_gained_as_lost_is_no_change():
    """Of 1,000 images 5 gained and 3 lost, and 7 and 9: in floats the mean is 4e-17."""

    def delta(gained, lost):
        before, after = np.zeros((2, 1000), int)
        before[:gained], after[gained : gained + lost] = 1, 1
        label_N, none = np.zeros(1000, int), np.zeros((0, 1000, 3))
        of = {"before_NxC": logits(before), "after_NxC": logits(after)}
        return measures.of_transfer(**of, teachers_KxNxC=none, label_N=label_N)["delta"]

    runs = [
        make_run("kl", delta(*changed), seed=seed, teachers=("t",))
        for seed, changed in enumerate(((5, 3), (7, 9)))
    ]
    assert [run.delta for run in runs] == [0.2, -0.2]
    assert measures.of_objectives(runs)["kl"]["success_rate"] == 0
    assert len({delta(gained, gained - 1) for gained in range(1, 200)}) == 1


def test_success_and_mean_per_objective():
    def run(objective, delta, net=None, teacher="t"):
        fields = dict(student="s", delta_se=1.0, control=None, net_se=1.0, abstained=False)
        return types.SimpleNamespace(
            objective=objective, teachers=(teacher,), delta=delta, net=net, **fields
        )

    runs = [
        run("kl", -1.0),
        run("kl", 0.5, teacher="u"),
        run("kl_dp", 0.25, -0.5),
        run("kl_dp", 0.75, -0.25),  # another seed: the mean of both counts
        run("kl_dp", 0.25, 0.25, teacher="u"),
    ]
    assert measures.of_objectives(runs) == {
        "kl": {
            **{"success_rate": 50.0, "mean_delta": -0.25},
            **{"net_success_rate": None, "mean_net": None},
        },
        "kl_dp": {
            **{"success_rate": 100.0, "mean_delta": 0.375},
            **{"net_success_rate": 50.0, "mean_net": -0.0625},
        },
    }


def test_who_is_given_what_with_temperatures():
    unsure, sure = logits(TEACHER, sure=2.0), logits(AFTER, sure=6.0)
    given = dict(
        before_NxC=logits(BEFORE),
        teachers_KxNxC=np.stack([unsure, sure]),
        label_N=LABEL,
        supervised=False,
    )
    plain = measures.of_partition(**given, temperatures_S=None)
    assert plain["taught_by"] == [0, 100]
    # At 0.4, 1/4 and 6 their largest logits are 10, 8 and 1.
    assert measures.of_partition(**given, temperatures_S=[0.4, 0.25, 6.0])["taught_by"] == [0, 0]
    assert measures.of_partition(**given, temperatures_S=[1.0, 0.25, 6.0])["taught_by"] == [100, 0]
