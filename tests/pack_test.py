"""Teachers that ktjax cannot run: their answers to a pool of images become a store."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import small_jobs
from small_jobs import transferring

import ktjax
from ktjax import settings
from ktjax.checkpoint import Checkpoints
from ktjax.data import pipeline
from ktjax.experiment import views as views_lib
from ktjax.jobs import transfer
from ktjax.settings.transfer import Transfer
from ktjax.targets import __main__ as program
from ktjax.targets import pack
from ktjax.targets import store as store_lib

pytestmark = pytest.mark.usefixtures("compile_once")

VIEWS = 2


def config_of(noisy, quartet, teachers, arg="objectives=kl_dp", **fields):
    given = dict(total_steps=6, eval_every_steps=6, views=VIEWS, crop_pct=1.0)
    given |= dict(augment="shift_colour")  # goldens/torch_answers.npz are of such views
    return transferring(noisy, quartet[0], teachers, arg=arg, **given | fields)


@pytest.fixture(scope="module")
def pool(noisy, quartet, tmp_path_factory):
    config = config_of(noisy, quartet, quartet[2:3])
    return views_lib.write(Transfer.read(config), tmp_path_factory.mktemp("pool") / "new")


@pytest.fixture(scope="module")
def answers(pool, quartet):
    """What a model says of the images of the pool: its class order is what it likes."""
    model = ktjax.load_model(quartet[2])
    found = {}
    for path in pool.glob("*.npy"):
        if path.stem != pack.LABELS:
            images = np.load(path)
            split = pipeline.Images(images, np.zeros(len(images), np.int32))
            found[path.stem] = small_jobs.logits_of(model, split)
    return found


def asked(answers, *names):
    return {name: answers[name] for name in names}


VIEWED = tuple(store_lib.view_name(view) for view in range(VIEWS))
MEASURED = ("tune", "validation")


@pytest.fixture(scope="module")
def packed(pool, answers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "A"
    backwards = {k: v[:, ::-1] for k, v in asked(answers, *VIEWED, *MEASURED).items()}
    classes = small_jobs.CLASSES[::-1]
    return pack.pack(pool, backwards, folder, name="theirs", classes=classes)


def test_the_pool_is_what_training_sees(pool, packed, noisy, quartet, tmp_path):
    """A model that was asked about the pool said what it says when it is asked by a run."""
    config = config_of(
        noisy, quartet, quartet[2:3], targets="stored", store=str(tmp_path / "stores")
    )
    (expected,) = transfer.run(config, tmp_path / "own")["runs"]
    (folder,) = (tmp_path / "stores").glob("weak-*")
    own = store_lib.open_store(folder)
    for name in VIEWED:
        found = store_lib.read_rows(packed, name, packed.form)
        np.testing.assert_allclose(
            found, store_lib.read_rows(own, name, own.form), atol=1e-5, err_msg=name
        )
    assert not np.array_equal(*(np.load(pool / f"{name}.npy") for name in VIEWED))
    (row,) = transfer.run(config_of(noisy, quartet, [packed.name]), tmp_path / "packed")["runs"]
    for key in ("taught", "accuracy_before", "accuracy_after", "rho_pos", "ensemble_accuracy"):
        assert row[key] == expected[key], key
    assert row["history"][0]["loss"] == pytest.approx(expected["history"][0]["loss"], abs=1e-5)
    models = small_jobs.read(tmp_path / "packed")["models"]
    assert models[packed.name]["origin"] == "answers of theirs (packed)"
    assert models[packed.name]["parameters"] is None


def test_a_pool_is_written_once(pool, noisy, quartet):
    before, path = small_jobs.tree(pool), pool / f"{VIEWED[1]}.npy"
    written = path.stat().st_mtime_ns
    (pool / f"{VIEWED[0]}.npy").unlink()  # it was killed
    views_lib.write(Transfer.read(config_of(noisy, quartet, quartet[2:3])), pool)
    assert small_jobs.tree(pool) == before and path.stat().st_mtime_ns == written
    for fields, message in (
        (dict(augment="minimal"), r"holds other images: images.augment is 'shift_colour' there"),
        (dict(seeds=(1, 2)), r"config.seeds=\(1, 2\): views need a single seed"),
    ):
        config = config_of(noisy, quartet, quartet[2:3], **fields)
        with pytest.raises(ValueError, match=message):
            views_lib.write(Transfer.read(config), pool)


def test_a_pool_gets_more_views(pool, noisy, quartet, tmp_path):
    shutil.copytree(pool, tmp_path / "pool")
    more = config_of(noisy, quartet, quartet[2:3], views=VIEWS + 1, total_steps=12)
    for config in (more, config_of(noisy, quartet, quartet[2:3])):  # the latter needs fewer
        views_lib.write(Transfer.read(config), tmp_path / "pool")
        found, before = small_jobs.tree(tmp_path / "pool"), small_jobs.tree(pool)
        assert found.keys() - before.keys() == {f"{store_lib.view_name(VIEWS)}.npy"}
        assert [name for name in before if found[name] != before[name]] == [pack.POOL]
        assert pack.read_pool(tmp_path / "pool")["views"] == VIEWS + 1


def test_two_that_write_a_pool_do_not_clash(tmp_path):
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    path = tmp_path / "view-00000.npy"

    def parts():
        yield images[:2]
        views_lib._write(path, images.shape, iter([images]))  # another is faster
        yield images[2:]

    views_lib._write(path, images.shape, parts())
    np.testing.assert_array_equal(np.load(path), images)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_pool_of_a_study_is_that_of_its_transfers(pool, noisy, quartet):
    before = small_jobs.tree(pool)
    fields = dict(seeds=(1,), views=VIEWS, crop_pct=1.0, augment="shift_colour", export="last")
    config = small_jobs.studying(noisy, quartet[:2], quartet[2:3], **fields)
    views_lib.write(program._of_runs(settings.read(config)), pool)
    assert small_jobs.tree(pool) == before
    config = small_jobs.pretraining(noisy)
    with pytest.raises(ValueError, match="config.job=pretrain: views are those of a transfer or"):
        program._of_runs(settings.read(config))


def test_a_pool_for_a_decision_has_half_of_tune(noisy, quartet, tmp_path, monkeypatch, caplog):
    config = config_of(noisy, quartet, quartet[2:3], export="no_regret")
    whole = np.load(
        views_lib.write(Transfer.read(config_of(noisy, quartet, quartet[2:3])), tmp_path / "whole")
        / "tune.npy"
    )
    caplog.set_level(logging.INFO)
    pool = views_lib.write(Transfer.read(config), tmp_path / "half")
    assert len(np.load(pool / "tune.npy")) == len(whole) // 2
    assert "2 views of " in caplog.text
    monkeypatch.setattr(views_lib.store_lib.shutil, "disk_usage", lambda path: Usage(0))
    with pytest.raises(ValueError, match=r"/new' would take 0\.\d+ GB more, and 0\.00 GB are free"):
        views_lib.write(Transfer.read(config), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_answers_of_the_name_are_others(pool, answers, noisy, quartet, tmp_path):
    """What the first said of tune and validation is not taken for the second's."""
    folder, told = tmp_path / "A", dict(name="A", classes=small_jobs.CLASSES)
    store = pack.pack(pool, asked(answers, *VIEWED, *MEASURED), folder, **told)
    config, workdir = config_of(noisy, quartet, [store.name]), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        small_jobs.kill_at(patch, Checkpoints, "save", calls=0)
        with pytest.raises(small_jobs.KilledError):
            transfer.run(config, workdir)
    again = pack.pack(pool, {v: answers[v][::-1] for v in VIEWED[:1]}, folder, **told)
    assert [name for name in (*VIEWED, *MEASURED) if again.has(name)] == [VIEWED[0]]
    pack.pack(pool, {v: answers[v][::-1] for v in (*VIEWED, *MEASURED)}, folder, **told)
    with pytest.raises(ValueError, match=f"started with other weights or answers of {store.name}"):
        transfer.run(config, workdir)


class Usage(NamedTuple):
    """Of a disk."""

    free: int


def test_what_was_not_answered_is_blank(pool, answers, noisy, quartet, tmp_path, caplog):
    """Two such teachers at once, of which one was asked about the plain images alone."""
    given = {"A": asked(answers, *VIEWED), "B": asked(answers, "plain", "tune")}
    stores = [
        pack.pack(pool, said, tmp_path / name, name=name, classes=small_jobs.CLASSES, k=k)
        for (name, said), k in zip(given.items(), (None, 3), strict=True)
    ]
    names = [store.name for store in stores]
    arg = "objectives=kl_dp,strategy=parallel"
    results = transfer.run(config_of(noisy, quartet, names, arg=arg), tmp_path / "run")
    (row,) = results["runs"]
    assert row["ensemble_accuracy"] is row["rho_pos"] is row["taught_by"] is None
    assert results["pairs"] == [] and 0 < row["taught"] <= 100
    assert {results["models"][name]["accuracy"] for name in names} == {None}
    assert row["history"][0]["taught_1"] != row["history"][0]["taught_2"]
    blank = "results that need them are left blank."
    assert f"{names[0]} has no logits for the tune images and validation images: {blank}" in (
        caplog.text
    )
    assert f"{names[1]} has no logits for the validation images: {blank}" in caplog.text
    page = (tmp_path / "run" / "report.html").read_text()
    assert "answers of A (packed), no logits for the tune and validation images" in page
    assert "(packed), run on the plain images, no logits for the validation images" in page
    json.dumps(results, allow_nan=False)


def test_what_cannot_be_blank_is_refused(pool, answers, noisy, quartet, refused, tmp_path):
    store = pack.pack(
        pool, asked(answers, *VIEWED), tmp_path / "A", name="A", classes=small_jobs.CLASSES
    )
    for fields, message in (
        (dict(calibrate=True), "config.calibrate need a model's logits on the tune images"),
        (
            dict(arg="objectives=kl,strategy=sequential,order=ascending"),
            "config.order=ascending need a model's logits on the tune",
        ),
    ):
        refused(transfer.run, config_of(noisy, quartet, [store.name], **fields), message)
    short = pack.pack(
        *(pool, asked(answers, *VIEWED), tmp_path / "B"),
        name="B",
        classes=small_jobs.CLASSES,
        k=2,
    )
    config = config_of(noisy, quartet, [short.name])
    config.objectives.kl_dp.temperature = 2.0
    refused(
        transfer.run,
        config,
        "keeps the sum of the other classes at temperature 1.0, but config.objectives need "
        "temperature 2.0: pack it with --temperatures, or without --k",
    )
    config.objectives.kl_dp.standardized = True
    lacking = "need temperature 2.0 of standardized logits: pack it without --k"
    refused(transfer.run, config, lacking)


def wrong(answers):
    """name -> (answers, classes, message)."""
    view, rest = VIEWED[0], asked(answers, *VIEWED[1:])
    right = answers[view]
    nan = right.copy()
    nan[[3, 5], 1] = -np.inf
    e = np.exp(right - right.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    of_view = {
        "shape": (
            right[:-1],
            r"are float32 \[67, 4\], but must be .* \[68, 4\]: one row per",
        ),
        "integers": (right.astype(int), r"are int64 \[68, 4\]"),
        "finite": (nan, "are not finite for 2 images, the first being 3"),
        "range": (1e5 * right, "logits and log-probabilities must be within 10000 of 0"),
        "probabilities": (p, "are probabilities: give logits"),
        "percent": (100 * p, "sum to 100 for each image, as probabilities in percent do: give"),
        "rounded": (np.round(p - 0.04, 1).clip(0), "are all between 0 and 1, as probabilities"),
    }
    found = {k: (rest | {view: v}, small_jobs.CLASSES, m) for k, (v, m) in of_view.items()}
    names = ("checks", "columns", "corner", "diagonals")
    return found | {
        "classes": (
            rest,
            names,
            "other classes: they lack rows and have diagonals, which the images do not",
        ),
        "twice": (rest, (*names[:3], "checks"), "two columns for one class"),
        "unknown": (rest | {"train": right}, names, "No images are called 'train'. The pool has"),
        "both": (rest | {"plain": right}, names, "are for view-00001, plain"),
        "neither": (asked(answers, "tune"), names, "are for neither"),
    }


def test_a_store_of_something_else_is_left_as_it_is(pool, answers, tmp_path):
    def packed(name, **options):
        said = asked(answers, *VIEWED, *MEASURED)
        return pack.pack(
            pool, said, tmp_path / "s", name=name, classes=small_jobs.CLASSES, **options
        )

    packed("A")
    before = small_jobs.tree(tmp_path)
    with pytest.raises(ValueError, match="does not match: model.name is 'A' there and 'B' here"):
        packed("B")
    with pytest.raises(ValueError, match="k is None there and 2 here"):
        packed("A", k=2)
    packed("A")
    assert small_jobs.tree(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["shape", "integers", "finite", "range", "probabilities", "percent", "rounded"],
)
def test_answers_that_are_none_are_told(name, pool, answers, tmp_path):
    given, classes, message = wrong(answers)[name]
    with pytest.raises(ValueError, match=message):
        pack.pack(pool, given, tmp_path / "store", name="A", classes=classes)
    assert not (tmp_path / "store").exists()


def test_logits_that_could_be_probabilities_are_taken(pool, answers, tmp_path):
    """Those of a head of zeros, and after a ReLU."""
    right = answers[VIEWED[0]]
    for i, logits in enumerate((np.zeros_like(right), right.clip(0))):
        said = {VIEWED[0]: logits}
        store = pack.pack(pool, said, tmp_path / str(i), name="A", classes=small_jobs.CLASSES)
        np.testing.assert_array_equal(store_lib.read_rows(store, VIEWED[0], store.form), logits)


def test_answers_are_in_memory_one_after_the_other(pool, answers, tmp_path, monkeypatch):
    """Those to 20 views of ImageNet's tenth would be 10 GB."""
    made, alive, check = [], [], pack._checked

    def counted(*arguments):
        alive.append(sum(ref() is not None for ref in made))
        found = check(*arguments)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(pack, "_checked", counted)
    said = asked(answers, *VIEWED, *MEASURED)
    pack.pack(pool, said, tmp_path / "store", name="A", classes=small_jobs.CLASSES, k=2)
    assert max(alive) <= 1 < len(said) <= len(made)


@pytest.mark.parametrize("name", ["classes", "twice", "unknown", "both", "neither"])
def test_answers_to_something_else_are_told(name, pool, answers, tmp_path):
    given, classes, message = wrong(answers)[name]
    with pytest.raises(ValueError, match=message):
        pack.pack(pool, given, tmp_path / "store", name="A", classes=classes)
    assert not (tmp_path / "store").exists()


def test_as_a_program(pool, answers, packed, tmp_path, capsys):
    for name, logits in asked(answers, *VIEWED, *MEASURED).items():
        np.save(tmp_path / f"{name}.npy", logits[:, [2, 0, 1, 3]])
    arguments = ["pack", str(pool), str(tmp_path), str(tmp_path / "store"), "--name=theirs"]
    with pytest.raises(SystemExit, match="lacks classes.txt: the class of each column"):
        program.main(arguments)
    classes = [small_jobs.CLASSES[i] for i in (2, 0, 1, 3)]
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    program.main(arguments)
    assert f"teachers=store:{tmp_path / 'store'}" in capsys.readouterr().out
    assert small_jobs.tree(tmp_path / "store") == small_jobs.tree(packed.folder)
    with pytest.raises(SystemExit, match="has no answers"):
        program.main(["pack", str(pool), str(pool.parent), str(tmp_path / "s"), "--name=x"])
    with pytest.raises(SystemExit, match="is not a pool of images"):
        program.main(["pack", str(tmp_path), *arguments[2:]])


def test_answers_from_other_systems(pool, answers, tmp_path):
    """Windows writes a mark first, macOS splits accents and leaves files of its own."""
    described = json.loads((pool / "pool.json").read_text())
    described["classes"][1] = unicodedata.normalize("NFC", "café")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pool.json").write_text(json.dumps(described))
    np.save(tmp_path / "view-00000.npy", answers[VIEWED[0]][:, ::-1])
    (tmp_path / "._view-00000.npy").write_bytes(b"Mac OS X")
    names = [unicodedata.normalize("NFD", name) for name in described["classes"][::-1]]
    text = "".join(f"{name}\r\n" for name in (*names, "", ""))
    arguments = [str(tmp_path / "pool"), str(tmp_path), str(tmp_path / "store"), "--name=x"]
    (tmp_path / "classes.txt").write_text(text, encoding="utf-16")
    with pytest.raises(SystemExit, match=r"classes.txt' is not UTF-8 text: save it as UTF-8\."):
        program.main(["pack", *arguments])
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8-sig")
    program.main(["pack", *arguments])
    store = store_lib.open_store(tmp_path / "store")
    assert store.description["classes"] == described["classes"]
    rows = store_lib.read_rows(store, VIEWED[0], store.form)
    np.testing.assert_array_equal(rows, answers[VIEWED[0]])


def test_temperatures_as_a_program(pool, answers, tmp_path):
    for name, logits in asked(answers, *VIEWED, *MEASURED).items():
        np.save(tmp_path / f"{name}.npy", logits)
    (tmp_path / "classes.txt").write_text("\n".join(small_jobs.CLASSES))
    arguments = ["pack", str(pool), str(tmp_path), str(tmp_path / "store"), "--name=theirs"]
    with pytest.raises(SystemExit, match=r"--temperatures=\[-1.0, 1.0\]: all must be positive"):
        program.main([*arguments, "--k=2", "--temperatures", "-1"])
    with pytest.raises(SystemExit, match="k=0: keep at least 1 logit of each image"):
        program.main([*arguments, "--k=0"])
    assert not (tmp_path / "store").exists()
    program.main([*arguments, "--k=2", "--temperatures", "4", "1"])
    found = store_lib.open_store(tmp_path / "store")
    assert found.form.ways == ((1.0, False), (4.0, False))


def test_files_that_hold_no_answers_are_told(answers, tmp_path):
    path, right = tmp_path / f"{VIEWED[0]}.npy", answers[VIEWED[0]]
    np.save(path, right)
    whole = path.read_bytes()
    np.savez(tmp_path / "archive", right)
    archive = (tmp_path / "archive.npz").read_bytes()
    for content in (b"", whole[:20], whole[:-100], b"logits", archive):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=r"view-00000.npy' is not a complete array of numbers"):
            program.main(["pack", "pool", str(tmp_path), str(tmp_path / "store"), "--name=x"])


@pytest.mark.full
def test_views_as_a_program(pool, noisy, quartet, cached, tmp_path):
    arg = f"student={quartet[0]},teachers={quartet[2]},data=folder:{noisy},objectives=kl_dp"
    fields = ("image_size=12", "interpolation=bicubic", "batch_size=16", "eval_batch_size=16")
    fields += ("crop_pct=1.0", "views=2", "augment=shift_colour", "total_steps=6", "export=last")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ktjax.targets", "views"),
            f"--config=configs/transfer.py:{arg}",
            *(f"--config.{field}" for field in fields),
            f"--workdir={tmp_path / 'pool'}",
        ],
        cwd=small_jobs.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | cached,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "python -m ktjax.targets pack" in done.stdout
    assert small_jobs.tree(tmp_path / "pool") == small_jobs.tree(pool)


@pytest.fixture
def unlabeled(noisy, tmp_path):
    """The same images without their labels."""
    folder = tmp_path / "pool_images"
    folder.mkdir()
    for i, path in enumerate(sorted(noisy.glob("*/*.png"))[::3]):
        shutil.copy(path, folder / f"{i:03}.png")
    return folder


def test_parties_exchange_answers_on_a_pool_without_labels(noisy, quartet, unlabeled, tmp_path):
    """configs/exchange.py: the run has one party's model, and of the others their answers alone."""
    student, *others = quartet[0], *quartet[2:]
    arg = f"student={student},teachers=store:{tmp_path / 'A'}+store:{tmp_path / 'B'}"
    config = small_jobs.load_config("exchange", f"{arg},data=folder:{unlabeled}")
    config.update(eval_data=f"folder:{noisy}", total_steps=4, eval_every_steps=4)
    pool = views_lib.write(Transfer.read(config), tmp_path / "pool")
    assert (np.load(pool / "labels.npy") == -1).all()
    # Its labeled images stay with the party that writes the pool.
    assert not any((pool / f"{split}.npy").exists() for split in MEASURED)
    own = dict.fromkeys(("tune", "plain"), np.zeros((32, 4), np.float32))
    with pytest.raises(ValueError, match=r"called 'tune'. The pool has: view-.*, plain\.$"):
        pack.pack(pool, own, tmp_path / "A", name="A", classes=small_jobs.CLASSES)
    names = [path.stem for path in pool.glob("view-*.npy")]
    assert len(names) == 2  # of 32 images, 16 a step
    for name, other in zip("AB", others, strict=True):
        model = ktjax.load_model(other)
        said = {}
        for called in names:
            images = np.load(pool / f"{called}.npy")
            split = pipeline.Images(images, np.zeros(len(images), np.int32))
            said[called] = small_jobs.logits_of(model, split)
        store = pack.pack(pool, said, tmp_path / name, name=name, classes=model.classes, k=2)
        kinds = {path.suffix for path in store.folder.iterdir()}
        assert kinds == {".json", ".npy", ".sha256"}  # no weights, no images
    (row,) = transfer.run(config, tmp_path / "run")["runs"]
    results = small_jobs.read(tmp_path / "run")
    assert row["objective"] == "kl_dp_unsupervised" and 0 < row["taught"] <= 100
    assert row["history"][-1]["taught_1"] > 0 and row["history"][-1]["taught_2"] > 0
    assert row["ensemble_accuracy"] is None and results["controls"] == []
    assert row["control"] is row["net"] is None
    # A control that needs all logits: of the student alone, so not of what the parties sent.
    softened = dict(temperature=1.0, top_k=None, standardized=False)
    with config.unlocked():
        config.controls = {"self_pool": dict(objective="self_pool", **softened)}
        config.store_top_k = None
    transfer.run(config, tmp_path / "compared")
    compared = small_jobs.read(tmp_path / "compared")
    assert {one["objective"][:9] for one in compared["controls"]} == {"self_pool"}
    assert compared["served"] == results["served"]
    assert results["served"] == {"kl_dp_unsupervised": "approximate"}
    assert results["data"]["train"] == 32


def test_a_teacher_that_pytorch_runs(pool, noisy, quartet, tmp_path):
    """Its answers are kept in goldens/, where make_torch_answers.py has asked it."""
    golden = np.load(small_jobs.ROOT / "tests" / "goldens" / "torch_answers.npz")
    names = (*VIEWED, *MEASURED)
    for name in names:  # it was asked about these very images
        digest = hashlib.sha256(np.load(pool / f"{name}.npy").tobytes()).hexdigest()
        assert digest == golden[f"digest/{name}"], name
    said = {name: golden[f"logits/{name}"] for name in names}
    store = pack.pack(pool, said, tmp_path / "store", name="net", classes=small_jobs.CLASSES)
    config = config_of(noisy, quartet, [store.name], total_steps=24, eval_every_steps=24)
    (row,) = transfer.run(config, tmp_path / "run")["runs"]
    split = small_jobs.splits(noisy)
    right = 100 * np.mean(said["validation"].argmax(axis=1) == split.validation.label_N)
    model = small_jobs.read(tmp_path / "run")["models"][store.name]
    assert model["accuracy"] == pytest.approx(right) and right > row["accuracy_before"]
    assert row["rho_pos"] > 0 and 0 < row["taught"] < 100
    assert row["delta"] > 0 and row["transfer_rate"] > 0  # what it knew has come over
