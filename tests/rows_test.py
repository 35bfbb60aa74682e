"""What results.json holds, as records: what is read and written again is the same JSON."""

import copy
import dataclasses
import json

import pytest

from ktjax.analysis import records, rows

ENTRY = {"step": 8, "epoch": 1.0, "accuracy": 60.0, "loss": 1.5, "taught": 40.0, "seconds": 2.0}
ENTRY |= {"tune": {"accuracy": 60.0, "transfer_rate_top": {"2": None}}}
FLOATS = ("accuracy_before", "accuracy_after", "delta", "delta_se", "gain", "loss", "rho_pos")
FLOATS += ("rho_neg", "rho_pos_after", "rho_neg_after", "transfer_rate", "ensemble_accuracy")


def make_run(**fields):
    return {
        **{"run": "kl-a-1", "student": "s", "teachers": ["a"], "objective": "kl", "seed": 1},
        **{name: float(i) for i, name in enumerate(FLOATS)},
        **{"class_gain": [1, 0], "class_loss": [0, 2], "transfer_rate_top": {"2": 1.0, "5": None}},
        **{"taught_by": [40.0], "taught_positive_flips": None, "taught_negative_flips": 1.0},
        **{"temperatures": [1.0, 2.0], "taught": 40.0, "seconds": 3.0, "weights": [0.5, 0.25]},
        **{
            "tune_delta": 1.0,
            "abstained": False,
            "exported": "the last",
            "least_gain": None,
            "last_delta": None,
            "rates": None,
            "steps": 8,
            "passes": 16,
        },
        "robustness": {"imagenet_a": {"before": 1.0, "after": 2.0, "delta": 1.0}},
        "history": [ENTRY | {"taught_1": 40.0}, ENTRY | {"stage": 2}],
        "stages": [],
        "checkpoint": {"path": "checkpoints/kl-a-1/8", "digest": "ab12"},
        **{"learning_rate": 0.1, "control": "xe-0.1", "net": 0.25, "net_se": 0.5},
    } | fields


@pytest.fixture
def results():
    model = {"accuracy": 50.0, "parameters": 7, "origin": "here"}
    pair = {"teacher": "a", "student": "s", "rho_pos": 1.0, "rho_neg": 2.0}
    pair |= {"ensemble_accuracy": 3.0, "class_flips": [1, 2], "flip_entropy": 0.5}
    outcome = {"student": "s", "teachers": ["a"], "objective": "kl", "runs": 2, "control": None}
    outcome |= {"delta": 1.0, "delta_se": 0.5, "net": None, "net_se": None}
    pair |= {"top_classes": {"2": ["x"]}, "top_classes_alike": {"2": [None, 0.5]}}
    return {
        "job": "transfer",
        "runs": [make_run(), make_run(stages=[make_run(run="1"), make_run(run="2")])],
        "objectives": {"kl": {"success_rate": 50.0, "mean_delta": 0.5}},
        "models": {
            "s": model
            | {"own_accuracy": None, "temperature": None, "robustness": {"imagenet_a": 1.0}}
        },
        "pairs": [pair],
        "controls": [make_run(teachers=[], control=None, net=None, net_se=None)],
        "outcomes": [outcome],
        "served": {"kl": "approximate"},
        "classes": ["x", "y"],
        "class_counts": [3, 4],
        "data": {"name": "d", "measured": "d", "train": 5, "validation": 7, "skipped": {}},
        "environment": {"jax": "0.10.2", "devices": ["cpu"]},
        "config": {"seeds": [1], "mcl": {}},
        "tracked": {"kl-a-1": "https://here"},
    }


def test_records_are_the_same_json(results):
    found = rows.read(results)
    assert json.loads(json.dumps(records.to_json(found))) == results
    assert found.runs[1].stages[1].history[1].rest == {"stage": 2}
    assert found.controls[0].teachers == () and found.outcomes[0].teachers == ("a",)
    assert found.runs[0].teachers == ("a",) and found.pairs[0].top_classes == {"2": ("x",)}
    assert rows.read(found) is found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.runs[0].delta = 0.0


def test_what_a_pretrain_row_lacks_is_none(results):
    lacking = ("taught_by", "taught_positive_flips", "taught_negative_flips", "temperatures")
    lacking += ("learning_rate", "control", "net", "net_se")
    lacking += ("weights", "tune_delta", "exported", "least_gain", "last_delta", "checkpoint")
    runs = [{k: v for k, v in make_run().items() if k not in (*lacking, "stages")}]
    model = {"accuracy": 50.0, "parameters": 7, "origin": "here"}
    others = {"job": "pretrain", "runs": runs, "models": {"a": model}}
    for name in ("controls", "outcomes", "served"):
        del results[name]
    found = rows.read(results | others)
    assert [getattr(found.runs[0], name) for name in lacking] == [None] * 14
    assert found.runs[0].stages == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(job="dance"), "of the job 'dance'"),
        (lambda r: r.pop("job"), "of the job 'None'"),
        (lambda r: r.pop("classes"), "TransferResults in results.json is missing classes"),
        (lambda r: r.update(extra=1), "TransferResults in results.json has unknown extra"),
        (lambda r: r["runs"][0].pop("delta"), "Run in results.json is missing delta"),
        (lambda r: r["runs"][1]["stages"][0].update(x=1, a=2), "Run .* has unknown a, x"),
        (lambda r: r["runs"][0]["history"][0].update(x=1), "Entry .* has unknown x"),
        (lambda r: r["models"]["s"].update(family="f"), "TransferModel .* has unknown family"),
        (lambda r: r["pairs"][0].pop("rho_pos"), "Pair in results.json is missing rho_pos"),
        (lambda r: r["outcomes"][0].pop("net"), "Outcome in results.json is missing net"),
        (lambda r: r["data"].pop("train"), "Data in results.json is missing train"),
    ],
)
def test_other_fields_are_refused_in_one_sentence(results, change, message):
    changed = copy.deepcopy(results)
    change(changed)
    with pytest.raises(ValueError, match=message) as error:
        rows.read(changed)
    assert "\n" not in str(error.value)
