"""The tables and the page that tables.py and page.py make of small, made-up results."""

import base64
import copy
import csv
import html.parser
import itertools
import json
import re
import textwrap
import warnings

import browser
import drawn
import numpy as np
import pytest

from ktjax import imagenet
from ktjax.analysis import measures, rows
from ktjax.report import figures, figures_change, names, parts, tables, transfer, verdicts
from ktjax.report import page as page_lib
from ktjax.report.pages import PAGES
from ktjax.settings import objective

NASTY = '<b>&"$x^$ \\frac{ 鶴'


def make_run(teachers, objective, delta, *, seed=0, taught=None, student="mlp", tune=0.0, **net):
    point = {"accuracy": 61.0, "taught": taught, "loss": 1.0, "seconds": 1.0}
    point |= {"tune": {"delta": tune}}
    return net | {
        "run": f"{objective}-{'+'.join(teachers)}-{seed}",
        "student": student,
        "teachers": teachers,
        "objective": objective,
        "seed": seed,
        "accuracy_before": 62.0,
        "accuracy_after": 62.0 + delta,
        "delta": delta,
        "delta_se": 0.25,
        "gain": 3.0 + delta,
        "loss": 3.0,
        "taught": taught,
        "seconds": 3.0,
        **dict.fromkeys(measures.OF_TEACHERS),
        "ensemble_accuracy": 70.0 if teachers else None,
        "stages": [],
        "robustness": {},
        "class_gain": [4, 0, 1],
        "class_loss": [1, 2, 1],
        "history": [point | {"step": 10 * epoch, "epoch": epoch} for epoch in range(3)],
    }


def make_model(accuracy, **fields):
    model = {"accuracy": accuracy, "parameters": 501000, "origin": "here"} | fields
    return model | {"temperature": None, "robustness": {}}


def of_pretrain(results):
    """The same as results of a job that has trained these models."""
    models = {
        name: {key: model[key] for key in ("accuracy", "parameters", "origin")}
        for name, model in results["models"].items()
    }
    return results | {"job": "pretrain", "models": models, "pairs": []}


@pytest.fixture
def results():
    names = {"mlp": 62.0, "weak": 50.0, "strong": 90.125}
    return {
        "job": "transfer",
        "runs": [
            make_run(["strong"], "kl", 0.5, taught=100.0),
            make_run(["strong"], "kl_dp", 1.5, taught=61.25),
            make_run(["weak"], "kl", -2.0, taught=100.0),
            make_run(["weak"], "kl_dp", -0.125, taught=33.3),
            make_run(["weak", "strong"], "kl_dp", 2.0, taught=70.0),
            make_run([], "xe", -0.25),
        ],
        "objectives": {},
        "models": {name: make_model(accuracy) for name, accuracy in names.items()},
        "pairs": [
            {
                "teacher": "weak",
                "student": "mlp",
                "rho_pos": 6.0,
                "rho_neg": 18.0,
                "ensemble_accuracy": 70.0,
                "class_flips": [6, 3, 0],
                "flip_entropy": 1.01,
                "top_classes": {"2": [NASTY], "5": [NASTY, "b"], "20": [], "50": []},
                "top_classes_alike": {"2": [None, 0.1]},
            }
        ],
        "classes": [NASTY, "b", "c"],
        "class_counts": [50, 50, 50],
        "data": {
            **{"name": "glyphs", "measured": "glyphs", "train": 16000, "validation": 15000},
            "skipped": {},
        },
        "environment": {"jax": "0.10.2"},
        "config": {"note": "</pre><script>alert(1)</script>"},
    }


@pytest.fixture
def examples():
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    says = {"label": NASTY, "teacher_says": NASTY, "student_says": "b", "after_says": NASTY}
    return [{"image": image, "teacher": "strong", **says}] * 5


CHANCE = "naming the most frequent class always: 33.3 %"


def legend(note):
    """How a terminal shows it, below a table."""
    return f"{textwrap.fill(note, 100)}\n\n"


TABLE = """\
Student mlp: 62.00 ± 0.40 % of 15,000 validation images of glyphs right.

objective  teachers          before -> after %  delta ± se points  gain %  loss %  taught %  ensemble %
---------  ----------------  -----------------  -----------------  ------  ------  --------  ----------
xe         -                    62.00 -> 61.75       -0.25 ± 0.25    2.75    3.00         -           -

kl         weak (50.00 %)       62.00 -> 60.00       -2.00 ± 0.25    1.00    3.00     100.0       70.00
kl_dp      weak (50.00 %)       62.00 -> 61.88       -0.12 ± 0.25    2.88    3.00      33.3       70.00

kl         strong (90.12 %)     62.00 -> 62.50       +0.50 ± 0.25    3.50    3.00     100.0       70.00
kl_dp      strong (90.12 %)     62.00 -> 63.50       +1.50 ± 0.25    4.50    3.00      61.2       70.00

"""  # noqa: E501


def test_table_is_what_a_person_reads(results):
    row = "\nkl_dp      weak (50.00 %) + strong (90.12 %)     62.00 -> 64.00 "
    assert row in tables.as_text(results)
    del results["runs"][4]
    note = transfer.NOTE.replace(transfer.NET_NOTE, "").replace(transfer.POOL_NOTE, "")
    note = f"{note} For comparison, {CHANCE}."
    conclusion = verdicts.conclusion(rows.read(results))
    assert tables.as_text(results) == f"{TABLE}{legend(note)}{conclusion}\n"


def test_a_legend_says_what_taught_is_of_a_pool_if_there_is_one(results):
    """A control of pools has a weight, too, but no teacher."""
    said = "target came from a teacher; of a pool, the teachers' share of the weights. ensemble"
    alone, run = results["runs"][-1], results["runs"][1]
    alone["weights"] = [1.0]
    (table,) = transfer.tables(rows.read(results))
    assert "came from a teacher. ensemble" in table.note
    run["weights"] = [0.5, 0.25]
    (table,) = transfer.tables(rows.read(results))
    assert said in table.note
    run["stages"] = [dict(run)]
    run["weights"] = None
    assert said in transfer.tables(rows.read(results))[0].note


def test_table_says_what_was_exported(results):
    results["runs"] = [
        make_run(["weak"], "kl", 0.0) | {"abstained": True, "last_delta": -0.5},
        make_run(["weak"], "kl_dp", 1.5) | {"exported": "the last"},
    ]
    results["config"]["export"] = "no_regret"
    found = transfer.tables(rows.read(results))[0]
    assert found.header[4:6] == ["exported", "at the end"]
    cells = [row[4:6] for group in found.groups for row in group]
    assert cells == [["abstained", "-0.50"], ["the last", "+1.50"]]
    assert "1 of 2 transfers abstained" in tables.as_text(results)


def test_conclusion_names_the_best_objective_per_kind_of_teacher(results):
    assert verdicts.conclusion(rows.read(results)) == (
        "From a weaker teacher nothing improved the student: the best was kl_dp (-0.12 points, 1 "
        "seed), and kl made it worse by 2.00 ± 0.25; "
        "from a stronger teacher kl_dp improved the student most, by 1.50 ± 0.25 points (1 seed); "
        "from several teachers kl_dp improved the student by 2.00 ± 0.25 points (1 seed); "
        "without a teacher xe did not improve the student (-0.25 points, 1 seed)."
    )


def test_conclusion_fits_what_it_shows(results):
    """An image of 50,000 is 0.002 points."""
    results["runs"] = [make_run(["strong"], "kl", -0.002)]
    text = "From a stronger teacher nothing improved the student (1 seed)."
    assert verdicts.conclusion(rows.read(results)).startswith(text)
    for alone, said in ((-0.002, "of which 0.00"), (1.5004, "of which 1.50"), (1.51, "less than")):
        effect = verdicts.Effect(1.5, 0.25, alone, trained=True, runs=1, seeds=1, abstained=False)
        assert f", {said}" in verdicts._of_the_control(effect)


def test_models_of_the_same_last_name_are_told_apart():
    named = names.shortest(["kl_dp/students/tiny", "kl/students/tiny", "glyphs/tiny_vit", "x"])
    assert list(named.values()) == ["kl_dp/students/tiny", "kl/students/tiny", "tiny_vit", "x"]


def test_classes_of_imagenet_of_the_same_first_name_are_told_apart():
    """Students confuse them: a figure said that maillot was right and maillot wrong."""
    named = names.in_words([*imagenet.synsets(), "dog"])
    assert len(set(named)) == 1001 and named[0] == "tench" and named[-1] == "dog"
    assert [named[i] for i in (134, 517)] == ["crane (n02012849)", "crane (n03126707)"]
    assert {"maillot", "maillot, tank suit"} < set(named)


def test_conclusion_takes_the_mean_over_runs(results):
    results["runs"] = [
        make_run(["strong"], "kl", 3.0, seed=0),
        make_run(["strong"], "kl", -2.0, seed=1),
        make_run(["strong"], "kl_dp", 1.0, seed=0),
        make_run(["strong"], "kl_dp", 2.0, seed=1),
    ]
    # Seeds of kl_dp spread by sqrt(0.5): the error of a mean of two is sqrt(1/16 + 1/4).
    expected = (
        "From a stronger teacher kl_dp improved the student by 1.50 ± 0.56 points, not "
        "distinguishable from kl (2 seeds)."
    )
    assert verdicts.conclusion(rows.read(results)) == expected


# Two seeds from one teacher and two controls, of which xe-0.1 was chosen by tune.


def with_net(delta, net, **fields):
    return dict(delta=delta, control="xe-0.1", net=net, net_se=0.125, **fields)


@pytest.fixture
def controlled(results):
    taught = ["strong"]
    results["runs"] = [
        make_run(taught, "kl", seed=1, **with_net(0.5, 0.25)),
        make_run(taught, "kl", seed=2, **with_net(0.5, -0.25)),
        make_run(taught, "kl_dp", seed=1, **with_net(1.75, 1.5)),
        make_run(taught, "kl_dp", seed=2, **with_net(1.75, 1.0)),
    ]
    results["controls"] = [
        make_run([], "xe-0.1", 0.25, seed=1, tune=1.0),
        make_run([], "xe_self-0.1", 2.0, seed=1, tune=-1.0),
        make_run([], "xe-0.1", 0.75, seed=2, tune=-0.25),
        make_run([], "xe_self-0.1", 2.0, seed=2, tune=1.25),
    ]
    asked = {"xe": {"objective": "xe"}, "xe_self": {"objective": "xe_self", "alpha": 0.5}}
    results["config"]["controls"] = asked
    return results


NET_MEANS = """\
Means over seeds, of mlp.

objective  teachers          seeds  delta ± se points  net ± se points
---------  ----------------  -----  -----------------  ---------------
kl         strong (90.12 %)      2       +0.50 ± 0.25     +0.00 ± 0.28
kl_dp      strong (90.12 %)      2       +1.75 ± 0.25     +1.25 ± 0.28

"""
NET_RUNS = """\
Student mlp: 62.00 ± 0.40 % of 15,000 validation images of glyphs right.

objective  teachers          seed  before -> after %  delta ± se points  net ± se points  gain %  loss %  taught %  ensemble %
---------  ----------------  ----  -----------------  -----------------  ---------------  ------  ------  --------  ----------
kl         strong (90.12 %)     1     62.00 -> 62.50       +0.50 ± 0.25     +0.25 ± 0.12    3.50    3.00         -       70.00
kl         strong (90.12 %)     2     62.00 -> 62.50       +0.50 ± 0.25     -0.25 ± 0.12    3.50    3.00         -       70.00
kl_dp      strong (90.12 %)     1     62.00 -> 63.75       +1.75 ± 0.25     +1.50 ± 0.12    4.75    3.00         -       70.00
kl_dp      strong (90.12 %)     2     62.00 -> 63.75       +1.75 ± 0.25     +1.00 ± 0.12    4.75    3.00         -       70.00

"""  # noqa: E501
NET_CONTROLS = """\
Controls of mlp, trained without a teacher.

control      seed  before -> after %  delta ± se points  gain %  loss %  on tune points  chosen
-----------  ----  -----------------  -----------------  ------  ------  --------------  -------
none            -     62.00 -> 62.00       +0.00 ± 0.00    0.00    0.00           +0.00
xe-0.1          1     62.00 -> 62.25       +0.25 ± 0.25    3.25    3.00           +1.00  by tune
xe-0.1          2     62.00 -> 62.75       +0.75 ± 0.25    3.75    3.00           -0.25  by tune
xe_self-0.1     1     62.00 -> 64.00       +2.00 ± 0.25    5.00    3.00           -1.00
xe_self-0.1     2     62.00 -> 64.00       +2.00 ± 0.25    5.00    3.00           +1.25

"""


ALONE = "xe: labels only. xe_self: half label, half initial student."


def test_a_legend_explains_the_controls_that_were_asked_for():
    """In the order of what they learn from, whatever their names."""
    asked = {
        "self": {"objective": "self"},
        "a": {"objective": "self_corrected"},
        "xe": {"objective": "xe"},
        "xe_self": {"objective": "xe_self", "alpha": 0.5},
    }
    told = parts.trained_alone(asked | {"kl": {"objective": "kl"}})
    assert told == (
        f"{ALONE} self: the initial student only. a: the calibrated initial student, corrected so "
        "that the label leads."
    )
    told = parts.trained_alone({"x": {"objective": "xe_self", "alpha": 0.25}})
    assert told == "x: labels, and the initial student with weight 0.25."
    assert set(parts._ALONE) == set(objective._ENTRIES)


def test_tables_with_net(controlled, tmp_path):
    conclusion = verdicts.conclusion(rows.read(controlled))
    note = transfer.NOTE.replace(transfer.POOL_NOTE, "")
    assert tables.as_text(controlled) == "".join(
        [
            *(NET_MEANS, legend(transfer.MEANS_NOTE)),
            *(NET_RUNS, legend(f"{note} For comparison, {CHANCE}.")),
            *(NET_CONTROLS, legend(f"{ALONE} {transfer.CONTROLS_NOTE}"), conclusion, "\n"),
        ]
    )
    page = page_lib.write(tmp_path, controlled, []).read_text("utf-8")
    for cell in ("net ± se points", "+1.50 ± 0.12", "xe_self-0.1", "by tune", "none"):
        assert f">{cell}</t" in page
    assert "net: delta minus that of the control" in page
    change = read_csv(tmp_path / "figures" / "change.csv")
    assert [(row["control"], row["net"]) for row in change] == [
        ("xe-0.1", "0.0"),
        ("xe-0.1", "1.25"),
    ]


def test_verdicts_speak_of_net(controlled):
    assert verdicts.conclusion(rows.read(controlled)) == (
        "From a stronger teacher kl_dp improved the student most, by 1.75 ± 0.25 points, of which "
        "0.50 without a teacher (2 seeds)."
    )
    assert (
        "Net of the control without a teacher 1 of 2 gained and 0 lost by more than two standard "
        "errors."
    ) in verdicts.summary(rows.read(controlled))


@pytest.mark.parametrize(
    ("net", "control", "expected"),
    [
        (1.25, "xe-0.1", ", of which 0.50 without a teacher"),
        (2.0, "xe-0.1", ", against -0.25 without a teacher"),
        (-0.5, "xe-0.1", ", less than the 2.25 without a teacher"),
        (1.75, "none", ", none of it without a teacher"),
        (None, None, ""),
    ],
)
def test_what_of_an_improvement_is_the_teachers(results, net, control, expected):
    fields = dict(net=net, net_se=net and 0.25, control=control)
    results["runs"] = [make_run(["weak"], "kl_dp", 1.75, **fields)]
    assert verdicts.conclusion(rows.read(results)) == (
        "From a weaker teacher kl_dp improved the student by "
        f"1.75 ± 0.25 points{expected} (1 seed)."
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        # Two standard errors of a difference: 2 sqrt(2 / 16) = 0.71.
        (0.75, "kl_dp improved the student most, by 1.50 ± 0.25 points (1 seed)."),
        (
            0.80,
            "kl_dp improved the student by 1.50 ± 0.25 points, not distinguishable from kl (1 "
            "seed).",
        ),
    ],
)
def test_most_is_more_than_the_error_of_the_difference(results, other, expected):
    results["runs"] = [make_run(["weak"], "kl", other), make_run(["weak"], "kl_dp", 1.5)]
    assert verdicts.conclusion(rows.read(results)) == f"From a weaker teacher {expected}"


def test_more_than_two_are_a_list(results):
    results["runs"] = [make_run(["weak"], name, 1.5 - i / 10) for i, name in enumerate("abc")]
    told = verdicts.conclusion(rows.read(results))
    assert told.endswith(
        "a improved the student by 1.50 ± 0.25 points, not distinguishable from b and c (1 seed)."
    )
    results["runs"].append(make_run(["weak"], "d", 1.1))
    assert "not distinguishable from b, c and d (1" in verdicts.conclusion(rows.read(results))


def test_seed_is_a_column_only_if_there_are_several(results):
    assert not re.search(r"^objective +teachers +seed", tables.as_text(results), re.MULTILINE)
    results["runs"].append(make_run([], "xe", 0.0, seed=17))
    assert re.search(r"^xe +- +17 +62.00 -> 62.00", tables.as_text(results), re.MULTILINE)


def test_summary_counts_changes_beyond_two_standard_errors(results):
    conclusion = verdicts.conclusion(rows.read(results))
    # 0.5 is two standard errors of its own: not more.
    assert verdicts.summary(rows.read(results)) == (
        f"{conclusion} Of 5 transfers 2 improved the student and 1 made it worse, by more than two "
        "standard errors; 2 cannot be told from no change."
    )


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (0.50, "nothing is a clear improvement: the best was kl, by 0.50 ± 0.25 points"),
        (0.51, "kl improved the student by 0.51 ± 0.25 points"),
    ],
)
def test_an_improvement_is_more_than_its_error(results, delta, expected):
    results["runs"] = [make_run(["weak"], "kl", delta)]
    expected = f"From a weaker teacher {expected} (1 seed)."
    assert verdicts.conclusion(rows.read(results)) == expected


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (-0.50, ""),
        (-0.51, ", and kl made it worse by 0.51 ± 0.25"),
    ],
)
def test_what_does_harm_is_told_beside_the_best(results, delta, expected):
    results["runs"] = [make_run(["weak"], "kl", delta), make_run(["weak"], "kl_dp", 1.5)]
    best = "From a weaker teacher kl_dp improved the student most, by 1.50 ± 0.25 points (1 seed)"
    assert verdicts.conclusion(rows.read(results)) == f"{best}{expected}."


def test_teachers_in_another_order_with_each_seed_are_the_same(results, tmp_path):
    results["runs"] = [
        make_run(["weak", "strong"], "kl", 0.5, seed=1),
        make_run(["strong", "weak"], "kl", 1.0, seed=2),
    ]
    assert " 2       +0.75 ± " in tables.as_text(results)
    page_lib.write(tmp_path, results, [])
    assert [row["runs"] for row in read_csv(tmp_path / "figures" / "change.csv")] == ["2"]


def test_each_student_has_its_table(results):
    results["runs"].append(make_run([NASTY], "kl", 0.0, student="other"))
    text = tables.as_text(results)
    assert text.index("Student mlp: ") < text.index("Student other: ")
    assert "from a teacher of unknown accuracy nothing improved the student (1 seed)" in text


def test_columns_line_up_under_wide_characters():
    assert tables._width("鶴a") == 3
    assert tables._width("e\u0301") == 1


def test_robustness_has_a_table_if_there_is_any(results, tmp_path):
    assert "other test sets" not in tables.as_text(results)
    for number, run in enumerate(results["runs"]):
        found = {"before": 10.0, "after": 10.0 + number, "delta": float(number)}
        run |= {"run": f"run-{number}", "robustness": {"imagenet_a": found, "imagenet_r": found}}
    lines = tables.as_text(results).splitlines()
    start = lines.index("Accuracy on other test sets, before -> after %.")
    assert lines[start + 2].split() == ["run", "imagenet_a", "imagenet_r"]
    assert lines[start + 5].split() == ["run-1", *["10.00", "->", "11.00"] * 2]
    assert ">10.00 -&gt; 15.00</td>" in page_lib.write(tmp_path, results, []).read_text("utf-8")
    assert "run-5" in tables.as_text(of_pretrain(results))


def test_pretrain(results, tmp_path):
    pretrain = of_pretrain(results) | {"runs": []}
    assert tables.as_text(pretrain).splitlines() == [
        "Accuracy on 15,000 validation images of glyphs.",
        "",
        "model   accuracy %  parameters  origin",
        "------  ----------  ----------  ------",
        "strong       90.12     501,000  here",
        "mlp          62.00     501,000  here",
        "weak         50.00     501,000  here",
        "",
        *textwrap.wrap(
            "accuracy: share of the 15,000 validation images of glyphs that a model gets "
            f"right; {CHANCE}. origin: where its weights come from.",
            100,
        ),
        "",
        "3 models, 50.00 to 90.12 % right.",
    ]
    assert '<td class="word">strong</td>' in page_lib.write(tmp_path, pretrain, []).read_text(
        "utf-8"
    )
    assert list((tmp_path / "figures").iterdir()) == []


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_comes_with_its_data(results, examples, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a figure that does not fit, or a glyph it lacks
        path = page_lib.write(str(tmp_path / "new" / "run"), results, examples)
    assert path == tmp_path / "new" / "run" / "report.html"
    figures = path.parent / "figures"
    names = ["change", "classes", "examples", "gain_loss", "progress", "taught"]
    assert sorted(p.stem for p in figures.glob("*.png")) == names
    assert sorted(p.stem for p in figures.glob("*.csv")) == names
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    change = read_csv(figures / "change.csv")
    assert len(change) == len(results["runs"])
    last = change[-1]
    assert (last["teachers"], last["delta"], last["headroom"]) == ("weak + strong", "2.0", "8.0")
    assert len(read_csv(figures / "progress.csv")) == 6 * 3
    assert len(read_csv(figures / "taught.csv")) == 5 * 3  # xe has no teacher
    net = {row["class"]: row["net"] for row in read_csv(figures / "classes.csv")}
    assert net == {NASTY: "3", "b": "-2"}
    assert read_csv(figures / "examples.csv")[4]["after_says"] == NASTY


class Page(html.parser.HTMLParser):
    """Collects tags, sources and text, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_stands_alone_and_escapes_names(results, examples, tmp_path):
    results["models"][NASTY] = make_model(40.0, parameters=1, origin=NASTY)
    results["runs"].append(make_run([NASTY], NASTY, 0.0))
    results["data"]["measured"] = NASTY
    text = page_lib.write(tmp_path, results, examples).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert {"script", "b", "link"}.isdisjoint(page.tags)
    assert "alert(1)" in page.text
    assert page.text.count(NASTY) >= 5
    assert 'name="viewport"' in text
    assert page.tags.count("img") == page.tags.count("source") == page.tags.count("figcaption") == 6
    for source in page.sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "http" not in text


def test_figures_without_examples_or_history(results, tmp_path):
    for run in results["runs"]:
        run["history"], run["class_gain"], run["class_loss"] = [], [0, 0, 0], [0, 0, 0]
    page_lib.write(tmp_path, results, [])
    stems = sorted(path.stem for path in (tmp_path / "figures").glob("*.png"))
    assert stems == ["change", "gain_loss"]


def test_a_single_run_that_changed_nothing(results, tmp_path):
    run = make_run([], "self", 0.0)
    results["runs"] = [run | {"gain": 0.0, "loss": 0.0, "delta_se": 0.0}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page_lib.write(tmp_path, results, [])


def test_abstentions_are_counted_over_all_runs(results):
    """Of teachers one after another each stage decides; a soup is decided about as a whole."""
    runs = [make_run(["weak"], "kl", 1.0) | {"least_gain": 0.5} for _ in range(2)]
    stages = [make_run([name], "kl", 0.5) | {"least_gain": 0.25} for name in ("weak", "strong")]
    runs.append(make_run(["weak", "strong"], "kl", 1.0) | {"stages": stages})
    runs.append(make_run(["strong"], "kl", 0.0) | {"abstained": True})  # no gain could be seen
    soup = {"history": [], "abstained": True, "least_gain": 0.3, "last_delta": -0.4}
    runs.append(make_run(["weak", "strong"], "kl soup", 0.0) | soup)
    assert verdicts.abstentions(rows.read(results | {"runs": runs})) == ""
    found = rows.read(results | {"runs": runs, "config": {"export": "no_regret"}})
    text = verdicts.abstentions(found)
    assert text.startswith("2 of 5 transfers abstained: ") and "A gain of 0.40 points" in text
    assert text.endswith("would have changed it by -0.40 points.")
    runs[3]["last_delta"] = 0.6
    alone = make_run([], "xe", 0.0) | {"abstained": True, "last_delta": 0.7}
    told = results | {"runs": runs, "config": {"export": "no_regret"}, "controls": [alone]}
    assert verdicts.abstentions(rows.read(told)).endswith(
        "by -0.40 to +0.60 points, +0.10 in the mean, and those without a teacher by up to +0.70."
    )
    told["runs"] = runs[3:]
    few = (
        "So few answers changed, on the images that decide, that {}no gain could have been detected"
    )
    assert few.format("in 1 of 2 decisions ") in verdicts.abstentions(rows.read(told))
    told["runs"] = [run | {"delta": 0.0} for run in runs[3:4]]
    assert few.format("") in verdicts.abstentions(rows.read(told))
    assert verdicts.conclusion(rows.read(told)) == (
        "From a stronger teacher no run showed that it improved the student, which stays as it was."
    )


def test_where_no_answer_changed_it_is_said_what_to_do(results):
    results = copy.deepcopy(results)
    said = "No run has changed a single answer: train longer"
    assert said not in verdicts.conclusion(rows.read(results))
    for run in results["runs"]:
        run.update(gain=0.0, loss=0.0, delta=0.0, accuracy_after=run["accuracy_before"])
    assert said in verdicts.conclusion(rows.read(results))
    for run in results["runs"]:
        run["taught"] = 0.0
    text = verdicts.conclusion(rows.read(results))
    assert said not in text and "the objective gave no training image a teacher's target" in text


def test_results_are_left_as_they_are(results, examples, tmp_path):
    before = copy.deepcopy(results)
    page_lib.write(tmp_path, json.loads(json.dumps(results)), examples)
    page_lib.write(tmp_path, results, examples)
    assert results == before


def test_best_run_has_a_teacher_if_any_has(results):
    results["runs"].append(make_run([], "xe", 9.0))
    assert figures.best_run(rows.read(results)).delta == 2.0
    results["runs"] = [make_run([], "xe", 9.0)]
    assert figures.best_run(rows.read(results)).delta == 9.0
    assert figures.best_run(rows.read(results | {"runs": []})) is None


def test_class_rows_are_the_ends_of_the_ranking(results):
    results["classes"] = [f"class {i}" for i in range(30)]
    results["class_counts"] = [50] * 30
    for run in results["runs"]:
        run["class_gain"], run["class_loss"] = list(range(30)), [20] * 30
    found = figures.class_rows(rows.read(results), most=3)
    assert [row["net"] for row in found] == [9, 8, 7, -18, -19, -20]


def test_objectives_differ_without_color():
    styles = figures.styles(str(i) for i in range(8)).values()
    assert len({style.marker for style in styles}) == len({style.hatch for style in styles}) == 8


@pytest.mark.parametrize("count", [1, 7, 30])
def test_labels_do_not_overlap(results, count):
    runs = [make_run(["weak"], f"objective_{i}", i / 10) for i in range(count)]
    figure = figures_change.change(rows.read(results | {"runs": runs}), figures.WIDE)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == count
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 >= lower.y1


def test_stages_of_a_sequential_run(results, tmp_path):
    run = results["runs"][4] | {"run": f"kl_dp-{NASTY}-1"}
    results["runs"][4] = run
    run["stages"] = [
        dict(run, teachers=[name], accuracy_before=before, accuracy_after=before + 1, delta=1.0)
        for name, before in ((NASTY, 62.0), ("strong", 63.0))
    ]
    lines = tables.as_text(results).split("Teacher after teacher.")[1].splitlines()
    first, second = (line for line in lines if "->" in line and "before" not in line)
    assert first.startswith(run["run"]) and first.count(NASTY) == 2 and "62.00 -> 63.00" in first
    assert second.startswith(" ") and "strong" in second and "63.00 -> 64.00" in second
    page = page_lib.write(tmp_path, results, ()).read_text(encoding="utf-8")
    assert "Teacher after teacher" in page and NASTY not in page


def test_stages_say_which_teacher_was_skipped(results):
    weak = make_run(["weak"], "kl_dp", 0.0) | {"abstained": True, "last_delta": -0.75}
    strong = make_run(["strong"], "kl_dp", 1.0) | {"exported": "the last"}
    results["runs"] = [make_run(["weak", "strong"], "kl_dp", 1.0) | {"stages": [weak, strong]}]
    plain = transfer.tables(rows.read(results))[1]
    assert "exported" not in plain.header
    results["config"]["export"] = "no_regret"
    table = transfer.tables(rows.read(results))[1]
    assert table.header[4:6] == ["exported", "at the end"]
    (stages,) = table.groups
    assert [row[4:6] for row in stages] == [["abstained", "-0.75"], ["the last", "+1.00"]]
    assert table.note.endswith("A teacher whose row abstained was skipped.")
    results["runs"][0]["stages"][0]["abstained"] = False
    assert transfer.tables(rows.read(results))[1].note == transfer.STAGES_NOTE


# What people read: names, legends, and letters of a size that a phone shows.

LONG = "timm/vit_base_patch16_clip_quickgelu_224.openai_ft_in12k_in1k_and_more"


@pytest.fixture
def hostile(results):
    """Of three students and seeds, with paths and long names for models and classes."""
    text = json.dumps(results)
    renamed = {"weak": "/data/some/where/models/weak", "strong": LONG, "mlp": "../runs/a/mlp"}
    for name, other in renamed.items():
        text = text.replace(json.dumps(name), json.dumps(other))
    results = json.loads(text)
    results["classes"] = ["n01440764", f"{'very ' * 20}long", "b"]
    results["pairs"][0]["top_classes"]["5"] = [*results["classes"], *"cdefghij"]
    results["runs"] += [run | {"seed": 1} for run in results["runs"]]
    results["controls"] = [make_run([], "xe-0.1", 0.25, student="../runs/a/mlp")]
    results["config"] = {"strategy": "mutual", "controls": {"xe": {"objective": "xe"}}}
    return results


def test_every_table_has_a_legend(hostile):
    pretrain = of_pretrain(hostile)
    del pretrain["controls"]
    for made in map(rows.read, (hostile, pretrain)):
        page = PAGES[made.job]
        for table in (*page.tables(made), *page.sections(made)):
            assert table.note.endswith("."), table.heading
    text = tables.as_text(hostile)
    assert "No model was frozen" in text and CHANCE in text.replace("\n", " ")


def test_a_legend_is_said_once_for_tables_of_a_kind(results):
    results["runs"].append(make_run(["weak"], "kl_dp soup", 0.0, student="other"))
    text = tables.as_text(results).replace("\n", " ")
    assert text.count("delta: accuracy after minus before") == 1
    assert "soup: the average of the weights" in text


def test_names_are_those_that_people_say(hostile, tmp_path):
    page = Page(page_lib.write(tmp_path, hostile, []).read_text("utf-8"))
    text = page.text.partition("Environment")[0]  # the config may say all
    assert "Knowledge transfer to mlp" in text and "Student mlp:" in text
    assert "weak (50.00\N{NO-BREAK SPACE}%)" in text
    assert text.count("/data/some/where") == 1  # where the model is from
    assert "n01440764" not in text and "tench, very very" in text and "… and" not in text
    assert "very " * 9 not in text and "and 5 more" in text


def test_tails_of_paths_differ():
    found = names.tails(["/a/x/m", "/b/x/m", "/c/other", "timm/m", "glyphs/tiny_vit", "hf:a/b"])
    assert list(found.values()) == [
        "a/x/m",
        "b/x/m",
        "other",
        "timm/m",
        "glyphs/tiny_vit",
        "hf:a/b",
    ]


def test_figures_can_be_read_on_a_phone(hostile, examples):
    found = drawn.check(names.readable(rows.read(hostile)))
    assert found == ["change", "gain_loss", "taught", "progress", "classes"]
    for width in (figures.WIDE, figures.NARROW):
        drawn.check_figure(figures.examples(examples, width), width, "examples")


def test_a_page_tells_a_phone_what_each_number_is(hostile, tmp_path):
    text = page_lib.write(tmp_path, hostile, []).read_text("utf-8")
    cells = re.findall(r"<td.*?</td>", text)
    without = [cell for cell in cells if "data-name" not in cell]
    assert len(without) == text.count("<tr>") - text.count("<thead>")  # the first one of each row
    assert "prefers-color-scheme: dark" in text


@pytest.mark.full
def test_pages_fit_screens_and_phones(hostile, results, examples, tmp_path):
    browser.check(
        page_lib.write(tmp_path / "hostile", hostile, examples),
        page_lib.write(tmp_path / "nasty", results, examples),
        page_lib.write(tmp_path / "pretrain", of_pretrain(results), examples),
    )
