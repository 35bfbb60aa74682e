"""analysis/complementarity.py on three models and six samples: counts made on paper."""

import numpy as np
import pytest

from ktjax.analysis import complementarity, flips, pairs
from ktjax.analysis.predictions import Predictions

LABEL = np.array([0, 0, 1, 1, 2, 2])
ANSWER = {"a": [0, 0, 1, 0, 0, 1], "b": [0, 1, 2, 1, 2, 0], "c": [1, 1, 2, 0, 0, 2]}
OF_LABEL = {"a": [2, 1, 1, -1, -2, -3], "b": [3, -1, -2, 2, 1, -1], "c": [-1] * 5 + [4]}
OF_ANSWER = {"a": [0] * 6, "b": [1] * 6, "c": [0] * 5 + [5]}
ANSWERS = {
    name: Predictions(
        top_NxK=np.array(answer, np.int16)[:, None],
        correct_N=np.array(answer) == LABEL,
        label_log_odds_N=np.array(OF_LABEL[name], np.float32),
        max_log_odds_N=np.array(OF_ANSWER[name], np.float32),
    )
    for name, answer in ANSWER.items()
}
CORRECT = np.stack([of.correct_N for of in ANSWERS.values()])
FLIPS = pairs.flips_per_class(CORRECT, LABEL, num_classes=3)
SIMILARITY = np.array([[1, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 1]])


@pytest.fixture(scope="module")
def rows():
    return complementarity.pair_rows(ANSWERS, FLIPS, similarity_CxC=SIMILARITY)


def row_of(rows, teacher, student):
    (row,) = (r for r in rows if (r["teacher"], r["student"]) == (teacher, student))
    return row


def test_every_ordered_pair_has_a_row_and_those_of_a_student_are_together(rows):
    found = [(row["student"], row["teacher"]) for row in rows]
    assert found == [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]


def test_teachers_of_a_student_are_ranked_on_paper(rows):
    of_a, of_c = row_of(rows, "a", "b"), row_of(rows, "c", "b")
    sixth = 100 / 6
    assert [of_a["rho_pos"], of_c["rho_pos"]] == pytest.approx([2 * sixth, sixth])
    # a is surer of the label at 1, 2: 5 of 6 right, where b has 3. c at 2, 5; tied at 1: 4 of 6.
    assert [of_a["partition_gain"], of_c["partition_gain"]] == pytest.approx([2 * sixth, sixth])
    # Without labels nobody asks a, and c at 5 alone, where it is right.
    found = [of["partition_gain_unsupervised"] for of in (of_a, of_c)]
    assert found == pytest.approx([0, sixth])
    for name, ranks in (("rho_pos", [1, 2]), ("partition_gain", [1, 2])):
        assert [of[f"rank_{name}"] for of in (of_a, of_c)] == ranks
    assert [of["rank_partition_gain_unsupervised"] for of in (of_a, of_c)] == [2, 1]


def test_teachers_that_tie_share_the_better_rank(rows):
    of_a, of_b = row_of(rows, "a", "c"), row_of(rows, "b", "c")
    assert of_a["rho_pos"] == of_b["rho_pos"] == 50
    assert of_a["rank_rho_pos"] == of_b["rank_rho_pos"] == 1


def test_what_a_row_adds_to_the_measures(rows):
    row = row_of(rows, "a", "c")
    assert row["accuracy_difference"] == pytest.approx(100 * 2 / 6)
    assert row["rho_pos_independent"] == pytest.approx(100 * 3 / 6 * 5 / 6)
    assert row["mcnemar_p"] == pytest.approx(2 * (1 + 4) / 16)  # 3 positive, 1 negative
    assert (row["rho_pos_low"], row["rho_pos_high"]) == pytest.approx((11.81, 88.19), abs=0.01)
    assert row["flip_entropy"] == pytest.approx(flips.flip_entropy(np.array([2, 1, 0]))[1])
    # Half of the flips, and more, are in class 0 alone.
    assert row["top_classes_similarity"] == {p: (None, None) for p in ("2", "5", "20", "50")}
    of_b = row_of(rows, "b", "c")["top_classes_similarity"]
    assert of_b["20"] == (None, None) and of_b["50"] == (0.5, 0.5)  # classes 0 and 1


def test_what_is_not_known_is_none():
    always = ANSWERS["a"]._replace(correct_N=np.ones(6, bool))
    of_two = {"a": always, "b": ANSWERS["b"]}
    correct = np.stack([of.correct_N for of in of_two.values()])
    flips_MxMxC = pairs.flips_per_class(correct, LABEL, num_classes=3)
    for row in complementarity.pair_rows(of_two, flips_MxMxC, similarity_CxC=None):
        assert row["error_correlation"] is None
        assert row["top_classes_similarity"] is None


def test_pictures_are_of_the_best_model_and_of_who_knows_most_besides(rows):
    models = {"a": {"accuracy": 50}, "b": {"accuracy": 51}, "c": {"accuracy": 10}}
    assert complementarity.showcase(rows, models) == ("a", "b")
    # c's teachers know as much: the first.
    assert complementarity.showcase(rows, models | {"c": {"accuracy": 99}}) == ("a", "c")


def test_areas_are_the_classes_of_half_the_flips():
    options = dict(classes="pqrst", groups=("g", "g", "", "h", "h"), images_C=np.arange(5, 10))
    found = complementarity.areas(np.array([1, 4, 0, 3, 2]), **options)
    # Of 10 flips 4 are in q, more than 20 %; 7 in q and s, more than 50 %.
    assert found == [
        {"class": "q", "group": "g", "flips": 4, "images": 6, "among_top": 2},
        {"class": "s", "group": "h", "flips": 3, "images": 8, "among_top": 50},
    ]
    assert complementarity.areas(np.array([1, 4, 0, 3, 2]), **options, most=1) == found[:1]
    assert complementarity.areas(np.zeros(5, int), **options) == []


def test_similarity_of_all():
    assert complementarity.similarity_of_all(SIMILARITY) == pytest.approx(0.3)
    assert complementarity.similarity_of_all(None) is None


def test_a_random_student_lacks_what_its_teacher_knows():
    random = {"tiny_mlp": np.array([True, False, False, False, False, True])}
    found = complementarity.random_students(CORRECT, random, teachers=tuple("abc"))
    assert [row["teacher"] for row in found] == ["a", "b", "c"]
    assert [6 * row["rho_pos"] / 100 for row in found] == pytest.approx([2, 2, 0])
    assert found[1] | {"rho_pos": 0} == {
        "student": "tiny_mlp",
        "student_accuracy": pytest.approx(100 / 3),
        "teacher": "b",
        "teacher_accuracy": 50,
        "rho_pos": 0,
    }


def test_shuffled_errors_are_independent():
    common = np.arange(20000) % 10 < 6
    correct = np.stack([common] * 3)  # no pair has a flip
    found = complementarity.shuffled(correct, seed=0)
    assert found["expected_mean"] == pytest.approx(100 * 0.6 * 0.4)
    assert found["rho_pos_mean"] == pytest.approx(24, abs=0.5)
    assert 0 < found["largest_difference"] < 1.5
    assert (
        complementarity.shuffled(correct, seed=0)
        == found
        != complementarity.shuffled(correct, seed=1)
    )
