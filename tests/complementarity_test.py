"""The complementarity job through its front door: results, resuming, errors."""

import json
import runpy
import shutil
from pathlib import Path

import browser
import drawn
import numpy as np
import pytest
from PIL import Image
from report_test import NASTY, Page, make_run
from safetensors import numpy as safetensors_numpy

from ktjax import data, evaluate, models
from ktjax.analysis import calibration, flips, predictions, rows, transfers
from ktjax.data import pipeline
from ktjax.jobs import complementarity
from ktjax.models.checkpoints import weights
from ktjax.models.networks import clip_text
from ktjax.report import page as page_lib
from ktjax.report import tables
from ktjax.report.pages import PAGES
from ktjax.settings.complementarity import Complementarity

pytestmark = pytest.mark.usefixtures("compile_once")

ROOT = Path(__file__).parents[1]
MODELS = ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mlp", "glyphs/tiny_resnet_narrow")


def config_of(**fields):
    config = runpy.run_path(str(ROOT / "configs" / "complementarity.py"))["get_config"]("runlocal")
    config.lock()
    config.update(dict(models=MODELS, random_students=("tiny_mlp",)) | fields)
    return config


NAMED = {"name": "glyphs", "measured": "glyphs"}
DIGITS = {"name": "digits", "measured": "digits", "train": 9, "validation": 9, "skipped": {}}


def made_transfers(folder, **fields):
    """A workdir of finished transfers between MODELS, as far as this job reads it."""
    runs = [
        make_run([teacher], "kl_dp", delta, student=student)
        for student, teacher, delta in (
            (MODELS[0], MODELS[1], 1.0),
            (MODELS[0], MODELS[2], 0.5),
            (MODELS[1], MODELS[0], -0.5),
        )
    ]
    runs.append(make_run([], "xe", 0.0, student=MODELS[0]))
    counts = {"train": 9, "validation": 9, "skipped": {}}
    results = {"job": "transfer", "runs": runs, "data": {**NAMED, **counts}, "pairs": []}
    results |= {"classes": ["a"], "class_counts": [9]}
    results |= {name: {} for name in ("objectives", "models", "environment", "config")} | fields
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    past = made_transfers(tmp_path_factory.mktemp("past") / "transfers")
    return config_of(transfers=(past,))


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """(workdir, results) of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("complementarity") / "new" / "workdir"
    return workdir, complementarity.run(config, workdir)


def tree(workdir):
    """What every file of a workdir holds, and when it was written."""
    files = sorted(path for path in workdir.rglob("*") if path.is_file())
    return {str(p.relative_to(workdir)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def calls_of(monkeypatch, *, most=99):
    """Counts the models that are run, and raises instead of running one more than `most`."""
    work, calls = evaluate.make_predict, []

    def counted(*args, **kwargs):
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(1)
        return work(*args, **kwargs)

    monkeypatch.setattr(evaluate, "make_predict", counted)
    return calls


def test_results_are_those_of_the_kept_answers(done):
    workdir, results = done
    assert json.loads((workdir / "results.json").read_text()) == json.loads(json.dumps(results))
    kept = [predictions.load(path) for path in sorted((workdir / "predictions").iterdir())]
    assert len(kept) == len(MODELS) + 1
    correct = {name: of.correct_N for name, of in zip(MODELS, kept, strict=False)}
    assert [(row["student"], row["teacher"]) for row in results["pairs"]] == [
        (student, teacher) for student in MODELS for teacher in MODELS if teacher != student
    ]
    for row in results["pairs"]:
        teacher, student = correct[row["teacher"]], correct[row["student"]]
        rho = flips.rho(teacher_correct_N=teacher, student_correct_N=student)
        assert (row["rho_pos"], row["rho_neg"]) == pytest.approx([100 * x for x in rho])
    for name in MODELS:
        assert results["models"][name]["accuracy"] == 100 * correct[name].mean()
        assert results["models"][name]["family"] == ("resnet" if "resnet" in name else "mlp")
    assert (results["data"]["name"], results["data"]["validation"]) == ("glyphs", 128)


def test_flips_per_class_of_every_pair_are_kept(done):
    workdir, results = done
    flips_MxMxC = safetensors_numpy.load_file(workdir / "class_flips.safetensors")["positive_flips"]
    assert flips_MxMxC.shape == (3, 3, len(results["classes"]))
    for row in results["pairs"]:
        t, s = MODELS.index(row["teacher"]), MODELS.index(row["student"])
        assert row["rho_pos"] == pytest.approx(100 * flips_MxMxC[t, s].sum() / 128)


def test_controls_and_past_transfers_are_in_the_results(done):
    _, results = done
    controls = results["controls"]
    for row in controls["random_students"]:
        assert row["student_accuracy"] < 10
        assert row["teacher_accuracy"] - 10 < row["rho_pos"] <= row["teacher_accuracy"]
    assert [row["teacher"] for row in controls["random_students"]] == list(MODELS)
    assert controls["shuffled"]["expected_mean"] > 10
    past = results["transfers"]
    assert [row["delta"] for row in past["rows"]] == [1.0, 0.5, -0.5]
    assert past["success"]["kl_dp"]["per_student"] == {MODELS[0]: 100.0, MODELS[1]: 0.0}
    kinds = {
        by: {row["kind"] for row in past["groups"] if row["by"] == by} for by in transfers.KINDS
    }
    assert kinds["family"] == {"mlp", "resnet"} and kinds["protocol"] == set()
    assert kinds["inductive_bias"] == {"MLP", "convolution"}


def test_killed_job_goes_on_with_the_next_model(config, done, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        calls_of(patch, most=1)
        complementarity.run(config, tmp_path)
    (kept,) = (tmp_path / "predictions").iterdir()
    before = kept.stat().st_mtime_ns
    assert not (tmp_path / "results.json").exists()
    began = json.loads((tmp_path / "data.json").read_text())
    other = began | {"models": began["models"] | {MODELS[0]: "cd34"}}
    (tmp_path / "data.json").write_text(json.dumps(other))
    message = f"started with other weights or answers of {MODELS[0]}, and a resumed"
    with pytest.raises(ValueError, match=message):
        complementarity.run(config, tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(began, indent=1, ensure_ascii=False) + "\n")
    calls = calls_of(monkeypatch)
    complementarity.run(config, tmp_path)
    assert len(calls) == len(MODELS)  # two models and a random student
    assert kept.stat().st_mtime_ns == before
    found, expected = tree(tmp_path), tree(done[0])
    assert list(found) == list(expected)
    differ = [name for name in expected if found[name][1] != expected[name][1]]
    assert all(name.startswith("logs/") for name in differ)  # these tell the time


def test_kept_answers_that_are_damaged_are_named(config, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "workdir")
    (tmp_path / "workdir" / "results.json").unlink()
    damaged = sorted((tmp_path / "workdir" / "predictions").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:99])
    with pytest.raises(ValueError, match=f"{damaged.name} was not written by ktjax"):
        complementarity.run(config, tmp_path / "workdir")


def test_finished_job_is_not_run_again(config, done, monkeypatch, capsys):
    calls, before = calls_of(monkeypatch), tree(done[0])
    assert complementarity.run(config, done[0]) == json.loads(json.dumps(done[1]))
    assert not calls and tree(done[0]) == before
    assert "ordered pairs" in capsys.readouterr().out


def test_calibrated_confidences_move_ensembles_gains_and_ranks(done, tmp_path):
    """Every model is asked at the temperature that suits it on tune; who is right stays."""
    results = complementarity.run(config_of(calibrate=True), tmp_path)
    dataset = data.load("glyphs")
    tune, validation = (
        pipeline.read(source.take(128), pipeline.Reading(24), name="some")
        for source in (dataset.tune, dataset.validation)
    )
    scaled = {}
    for name in MODELS:
        model = models.load(name)
        predict = evaluate.make_predict(model, batch_size=64)
        tune_NxC, said_NxC = (predict(model.variables, images) for images in (tune, validation))
        temperature = calibration.temperature(tune_NxC, tune.label_N)
        assert results["models"][name]["temperature"] == pytest.approx(temperature, rel=1e-6)
        scaled[name] = said_NxC / np.float32(temperature)
    label_N = validation.label_N
    moved = 0
    for row, before in zip(results["pairs"], done[1]["pairs"], strict=True):
        student, teacher = scaled[row["student"]], scaled[row["teacher"]]
        pair = np.stack([student, teacher])
        right_2xN = pair.argmax(axis=2) == label_N
        surer_N = flips.confidence(pair).argmax(axis=0)
        surer_of_label_N = flips.confidence(pair, label_N).argmax(axis=0)
        ensemble, partitioned = (
            100 * right_2xN[source_N, np.arange(128)].mean()
            for source_N in (surer_N, surer_of_label_N)
        )
        own = 100 * right_2xN[0].mean()
        assert row["ensemble_accuracy"] == pytest.approx(ensemble)
        assert row["partition_gain"] == pytest.approx(partitioned - own)
        assert row["partition_gain_unsupervised"] == pytest.approx(ensemble - own)
        assert row["rho_pos"] == before["rho_pos"]
        moved += row["ensemble_accuracy"] != before["ensemble_accuracy"]
    assert moved
    for student in MODELS:  # ranked by the gains above
        rows = [row for row in results["pairs"] if row["student"] == student]
        for name in ("partition_gain", "partition_gain_unsupervised"):
            better = [sum(other[name] > row[name] for other in rows) for row in rows]
            assert [row[f"rank_{name}"] for row in rows] == [1 + n for n in better]
    assert done[1]["models"][MODELS[0]]["temperature"] is None


def test_classes_of_imagenet_are_embedded_in_words(tmp_path, monkeypatch):
    classes = ("n01440764", "n02012849", "n03126707", "spoon")
    for name in classes:
        (tmp_path / "images" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (12, 12)).save(tmp_path / "images" / "val" / name / "0.png")
    for seed in (0, 1):
        model = models.create("tiny_mlp_narrow", classes=classes, seed=seed)
        weights.export(model, tmp_path / "models" / str(seed))
    folders = tuple(str(tmp_path / "models" / name) for name in "01")
    asked = []

    def embed_names(where, names, template):
        asked.append((where, names, template))
        return np.eye(4)

    monkeypatch.setattr(clip_text, "embed_names", embed_names)
    fields = dict(data=f"folder:{tmp_path / 'images'}", models=folders, random_students=())
    fields |= dict(similarity="clip:some/model")
    results = complementarity.run(config_of(**fields), tmp_path / "1")
    assert results["similarity_of_all"] == 0
    template = dict(clip_template="a photo of a {}.")
    complementarity.run(config_of(**fields, **template), tmp_path / "2")
    names = ("tench, Tinca tinca", "crane", "crane", "spoon")
    assert asked == [("some/model", names, "{}"), ("some/model", names, "a photo of a {}.")]


def test_similarity_of_prototypes(done, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(done[0] / "predictions", workdir / "predictions")
    config = config_of(similarity="prototypes")
    (workdir / "config.json").write_text(json.dumps(Complementarity.read(config).identity()))
    results = complementarity.run(config, workdir)
    assert -1 < results["similarity_of_all"] < 1
    # Of groups it is a share of pairs: 0 or 1 for two classes.
    found = [row["top_classes_similarity"]["50"] for row in results["pairs"]]
    assert all(-1 <= mean <= largest <= 1 for mean, largest in found)
    assert any(largest not in (0, 1) for _, largest in found)
    for row in done[1]["pairs"]:
        assert row["top_classes_similarity"]["50"][1] in (0, 1)
    assert results["transfers"]["rows"] == []
    assert not (workdir / "figures" / "transfer_delta.png").exists()


def test_models_and_images_of_a_users_own(tmp_path):
    """Folders, nasty names, no groups of classes: nothing is known of how alike they are."""
    rng, classes = np.random.default_rng(0), ("<i>", "b&c", "d")
    for name in classes:  # nobody trains: what there is to train on may be missing
        (tmp_path / "images" / "val" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8))
            image.save(tmp_path / "images" / "val" / name / f"{i}.png")
    folders = [tmp_path / name for name in ("<b>&amp;", "$x^$ \\frac{", "same")]
    for seed, folder in enumerate(folders):
        weights.export(models.create("tiny_mlp_narrow", classes=classes, seed=seed % 2), folder)
    config = config_of(
        data=f"folder:{tmp_path / 'images'}",
        models=tuple(map(str, folders)),
        max_examples=None,
    )
    results = complementarity.run(config, tmp_path / "workdir")
    assert (results["data"]["train"], results["data"]["validation"]) == (0, 12)
    assert results["similarity_of_all"] is None
    assert not (tmp_path / "workdir" / "figures" / "similarity.png").exists()
    # The first and the last are the same model.
    (row,) = (
        row
        for row in results["pairs"]
        if (row["student"], row["teacher"]) == (str(folders[0]), str(folders[2]))
    )
    assert (row["rho_pos"], row["partition_gain"], row["agreement"]) == (0, 0, 100)
    assert row["mcnemar_p"] == 1
    page = Page((tmp_path / "workdir" / "report.html").read_text("utf-8"))
    assert page.open == [] and {"b", "i"}.isdisjoint(page.tags)
    assert all(str(folder) in page.text for folder in folders)


def test_page_stands_alone_and_escapes_names(done, tmp_path):
    text = json.dumps(done[1])
    for name in (MODELS[0], done[1]["expertise"]["classes"][0]["class"], "kl_dp"):
        text = text.replace(json.dumps(name), json.dumps(NASTY))
    results = json.loads(text)
    results["models"][NASTY]["origin"] = results["data"]["measured"] = NASTY
    image = np.zeros((4, 4, 3), np.uint8)
    says = {"label": NASTY, "teacher_says": NASTY, "student_says": "b"}
    example = {"image": image, "teacher": NASTY, **says}
    text = page_lib.write(tmp_path, results, [example]).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert {"script", "b", "link"}.isdisjoint(page.tags)
    assert page.text.count(NASTY) >= 8
    assert page.tags.count("img") == page.tags.count("figcaption") == 9
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "http" not in text


@pytest.mark.full
def test_page_fits_screens_and_phones(done):
    browser.check(done[0] / "report.html")


def test_page_is_explained(done):
    """Also on a phone: every table has a legend, and every figure letters that can be read."""
    results = rows.read(done[1])
    assert len(drawn.check(results)) == 8
    page = PAGES["complementarity"]
    for table in (*page.tables(results), *page.sections(results)):
        assert table.note.endswith("."), table.heading
    assert page.title(results).startswith(f"Complementary knowledge of {len(MODELS)} models and ")
    assert "rho_pos: share of the images" in tables.as_text(results)


def test_page_of_the_run_has_every_figure(done):
    workdir, _ = done
    text = (workdir / "report.html").read_text("utf-8")
    assert "http" not in text
    pictures = {path.stem for path in (workdir / "figures").glob("*.png")}
    assert pictures == {path.stem for path in (workdir / "figures").glob("*.csv")}
    assert pictures == {
        *("rho_pos", "pairs", "entropy", "areas", "similarity", "examples"),
        *("transfer_delta", "transfer_success", "transfer_foresight"),
    }


# Errors: before anything is compiled or written.


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """refused(config, message): the job says so in a sentence, and does nothing."""
    workdir = tmp_path / "workdir"
    calls = calls_of(monkeypatch)

    def check(config, message):
        with pytest.raises(ValueError, match=message) as error:
            complementarity.run(config, workdir)
        assert "\n" not in str(error.value)
        assert not calls and not workdir.exists()

    return check


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(models=MODELS[:1]), "models has 1 entries, but must have 2 or more"),
        (dict(models=()), "models has 0 entries, but must have 2 or more"),
        (dict(models=(*MODELS, "glyphs/tiny_mlpp")), r"'glyphs/tiny_mlpp'.*glyphs/tiny_mlp\b"),
        (dict(models=(*MODELS, "tiny_vit")), "'tiny_vit' is an architecture"),
        (dict(models=(*MODELS, MODELS[0])), "names a model twice"),
        (dict(random_students=("tiny_mpl",)), r"'tiny_mpl'.*tiny_mlp\b"),
        (dict(random_students=("tiny_mlp", "tiny_mlp")), "names an architecture twice"),
        (dict(similarity="words"), r"similarity='words'.*groups, prototypes, clip:NAME"),
        (dict(similarity="clip:/nowhere"), "/nowhere"),
        (dict(data="glyphz"), r"'glyphz'.*glyphs"),
        (dict(data="folder:/nowhere"), "/nowhere"),
        (dict(max_examples=0), "max_examples=0"),
        (dict(image_size=0), "image_size=0"),
        (dict(eval_batch_size=0), "eval_batch_size=0"),
        (dict(seed=-1), "seed=-1 must be 0 or more"),
    ],
)
def test_refuses(fields, message, refused):
    refused(config_of(**fields), message)


def test_models_have_to_know_the_classes(refused, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (12, 12)).save(tmp_path / "images" / name / f"{i}.png")
    config = config_of(data=f"folder:{tmp_path / 'images'}")
    refused(config, r"has 100 classes, .* has 2")


def test_transfers_have_to_be_of_these_models_and_images(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    other = [make_run([MODELS[0]], "kl", 1.0, student="x")]
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "results.json").write_text("[]")
    for folder, message in (
        (str(tmp_path / "empty"), "empty' has no readable results.json"),
        (made_transfers(tmp_path / "a", job="pretrain"), "is from a pretrain job"),
        (made_transfers(tmp_path / "b", data=DIGITS), "is from digits, not glyphs"),
        (str(tmp_path / "list"), "list/results.json' is not as ktjax writes it"),
        (made_transfers(tmp_path / "c", runs=other), "models that are not in config.models: x"),
    ):
        refused(config_of(transfers=(folder,)), message)


def test_workdir_of_another_experiment_is_refused(done, config):
    before = tree(done[0])
    with pytest.raises(ValueError, match=r"another experiment: .* seed \(0 there, 1 here\)"):
        complementarity.run(config_of(seed=1), done[0])
    assert tree(done[0]) == before
