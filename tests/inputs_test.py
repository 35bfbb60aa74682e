"""What jobs read, through their front door: bad images, unlabeled pools, streams, new heads."""

import dataclasses
import io
import shutil
import types

import jax
import numpy as np
import pytest
from PIL import Image
from small_jobs import CLASSES, KilledError, kill_at, make_images, pretraining, read, transferring

import ktjax
from ktjax import data, models
from ktjax.data import pipeline, sources
from ktjax.experiment import accept, inputs, logs
from ktjax.jobs import pretrain, transfer
from ktjax.jobs.study import plan
from ktjax.settings.pretrain import Pretrain
from ktjax.settings.transfer import Transfer

pytestmark = pytest.mark.usefixtures("compile_once")


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("per_class", "sizes"), [(7, (2, 2)), (40, (6, 6))])
def test_half_of_tune_decides_and_half_is_left(per_class, sizes, tmp_path, caplog):
    """Also where tune has an image of each class alone."""
    loaded = inputs.Loaded(
        data.load(f"folder:{make_images(tmp_path / 'few', per_class=per_class)}")
    )
    settings = types.SimpleNamespace(subset_seed=0, max_examples=None)
    halved = accept.with_accept(settings, loaded)
    assert (len(halved.dataset.tune), len(halved.accept)) == sizes
    accept.say_what_it_shows(halved, {1})
    # Five images that all became right are the fewest that decide: 5 of 6 are 83 points.
    said = "gains of 83.3 points at best" if sizes == (6, 6) else "every run will abstain"
    assert said in caplog.messages[0]
    # Of two images a class each half has one, of one image a class it has none of half of them.
    apart = "4 of the 4 classes in tune are in one of its halves only"
    assert [apart in message for message in caplog.messages[1:]] == [True] * (sizes == (2, 2))
    whole, *halves = (loaded.dataset.tune, halved.dataset.tune, halved.accept)
    names = [source.where(i) for source in halves for i in range(len(source))]
    assert sorted(names) == sorted(whole.where(i) for i in range(len(whole)))
    alone = loaded._replace(dataset=loaded.dataset._replace(tune=whole.take(1)))
    with pytest.raises(ValueError, match="has 1 tune images, too few to split in half"):
        accept.with_accept(settings, alone)


@pytest.mark.parametrize(
    ("images", "decisions", "said"),
    [
        (4, {1}, "They are too few to show any gain, and every run will abstain: raise"),
        (5, {1}, "They can show gains of 100 points at best."),
        (5, {3}, "They are too few to show any gain, and every run will abstain: raise"),
        (6, {3}, "They can show gains of 100 points at best."),
        (7, {12}, "They are too few"),
        (8, {1, 3, 12}, "They can show gains of 62.5 points at best."),
        (7, {1, 3, 12}, "Runs that make 12 decisions need 8 images, and will abstain."),
    ],
)
def test_what_images_show_depends_on_how_much_they_decide(images, decisions, said, caplog):
    def split(count):
        return sources.Source(np.zeros(count, np.int32), lambda i: b"", str)

    dataset = data.Dataset(
        "photos", split(9), split(9), split(9), classes=("a",), groups=("",), measured="photos"
    )
    accept.say_what_it_shows(inputs.Loaded(dataset, accept=split(images)), decisions)
    (found,) = caplog.messages
    assert found.startswith(f"photos has no accept split: using half of tune, {images} images, in")
    assert said in found and found.endswith(said) == said.endswith(".")
    own = dataset._replace(accept=split(images))
    accept.say_what_it_shows(inputs.Loaded(own, accept=split(images)), decisions)
    accept.say_what_it_shows(inputs.Loaded(dataset), decisions)
    assert len(caplog.messages) == 1


def test_a_tune_split_of_ones_own_is_not_enlarged_by_minival(tmp_path, caplog):
    for split, per_class in (("train", 5), ("val", 2), ("tune", 1)):
        make_images(tmp_path / split, per_class=per_class)
    settings = types.SimpleNamespace(subset_seed=0, max_examples=None)
    loaded = inputs.Loaded(data.load(f"folder:{tmp_path}"))
    accept.say_what_it_shows(accept.with_accept(settings, loaded), {1})
    for message in caplog.messages:
        assert "add an accept split (a folder accept/ beside train/)" in message
        assert "minival" not in message
    assert len(caplog.messages) == 2


def test_images_that_decide_need_labels(tmp_path):
    dataset = data.load(f"folder:{make_images(tmp_path)}")
    settings = Transfer.read(transferring(tmp_path, "A", ["B"]))
    unknown = dataclasses.replace(dataset.tune, label_N=np.full(len(dataset.tune), -1, np.int32))
    transfer.check_labels(settings, dataset._replace(accept=dataset.tune))
    with pytest.raises(ValueError, match="has accept images without labels"):
        transfer.check_labels(settings, dataset._replace(accept=unknown))


def test_the_log_has_what_is_told_before_and_after_it_begins(noisy, quartet, tmp_path):
    """That half of tune decides, and that the teacher is a copy of the student."""
    copy = shutil.copytree(quartet[0], tmp_path / "copy")
    logs.expect()  # as the command does
    config = transferring(noisy, quartet[0], [copy], export="no_regret", total_steps=2)
    transfer.run(config, tmp_path / "w")
    log = (tmp_path / "w" / "logs" / "process-0.log").read_text()
    assert f"student and {copy} have the same weights: none of them adds what the" in log
    assert log.count("has no accept split: using half of tune") == 1
    assert (
        log.index("has no accept split") < log.index("process 0 of 1") < log.index("same weights")
    )


@pytest.mark.parametrize("name", ["hf://me/mine@v2", "https://huggingface.co/me/mine"])
def test_models_of_the_hub_lie_apart(name, images, tmp_path):
    """Not in a bucket of an unknown kind."""
    settings = Transfer.read(transferring(images, name, ["glyphs/tiny_mlp"]))
    inputs.check_apart(settings, tmp_path / "w", [name])
    assert not plan._drops(settings, name)


def test_images_of_train_in_validation_are_told(tmp_path, caplog):
    (tmp_path / "val").symlink_to(make_images(tmp_path / "train"))
    inputs.load(Transfer.read(transferring(tmp_path, "A", ["B"])))
    (told,) = caplog.messages
    assert "images of validation that were looked at are in train, too, such as" in told


def test_images_of_train_that_decide_are_told(tmp_path, caplog):
    (tmp_path / "accept").symlink_to(make_images(tmp_path / "train"))
    make_images(tmp_path / "val", noise=46)
    inputs.load(Transfer.read(transferring(tmp_path, "A", ["B"])))
    (told,) = caplog.messages
    assert "images of accept that were looked at are in train, too, such as" in told


def test_the_start_says_what_the_images_show_to_these_runs(
    noisy, quartet, tmp_path, monkeypatch, caplog
):
    """Two images of each of three classes, for the three decisions of a sequence."""
    kill_at(monkeypatch, inputs, "prepare", calls=0)
    fields = dict(export="no_regret", minival=0.21, classes="shared")
    teachers = ["part", *quartet[2:]]
    config = transferring(noisy, quartet[0], teachers, arg="strategy=sequential", **fields)
    whole = ktjax.load_model(quartet[1])
    part = models.select(whole, np.arange(3), CLASSES[:3], trained=False)
    with pytest.raises(KilledError):
        transfer.run(config, tmp_path / "w", models={"part": part})
    (said,) = [message for message in caplog.messages if "no accept split" in message]
    assert said.endswith("tune, 6 images, instead. They can show gains of 100 points at best.")


def test_a_head_stays_where_classes_are_taken_by_position(images, tmp_path, caplog):
    model = models.create("tiny_mlp_narrow", classes=models.classes.numbered(4), seed=0)
    ktjax.export_model(model, tmp_path)
    dataset = data.load(f"folder:{images}")
    for classes, kept in (("position", True), ("names", False)):
        config = pretraining(images, names=(str(tmp_path),), classes=classes)
        start = pretrain._start(str(tmp_path), dataset, Pretrain.read(config))
        assert start.classes == dataset.classes
        same = jax.tree.map(np.array_equal, dict(start.variables), dict(model.variables))
        assert all(jax.tree.leaves(same)) == kept
    (said,) = caplog.messages
    assert "does not name its 4 classes: " in said and "position keeps its last layer" in said


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """300 files: JPEG and PNG of every kind, of which a corrupt, a cut and an empty one are bad."""
    folder = make_images(tmp_path_factory.mktemp("odd") / "images", per_class=72)
    for i, path in enumerate(sorted(folder.glob("*/*.png"))):
        if i % 2:
            path.with_suffix(".jpg").write_bytes(encoded(Image.open(path), "jpeg"))
            path.unlink()
    image = Image.open(next(folder.glob("checks/*.png")))
    rows = np.arange(120, dtype=np.uint16).reshape(10, 12) * 500
    good = {
        "checks/cmyk.jpg": encoded(image.convert("CMYK"), "jpeg"),
        "checks/gray.jpg": encoded(image.convert("L"), "jpeg"),
        "checks/gray.png": encoded(image.convert("L"), "png"),
        "columns/deep.png": encoded(Image.fromarray(rows), "png"),
        "columns/alpha.png": encoded(image.convert("RGBA"), "png"),
        "columns/palette.png": encoded(image.convert("P"), "png"),
        "corner/two.png": encoded(image.convert("1"), "png"),
        "corner/progressive.jpg": encoded(image, "jpeg", progressive=True),
        "rows/large.JPEG": encoded(image.resize((400, 300)), "jpeg"),
    }
    bad = {
        "checks/corrupt.jpg": b"\xff\xd8" + bytes(200),
        "columns/cut.png": encoded(image, "png")[:60],
        "rows/empty.jpg": b"",
    }
    for name, content in (good | bad).items():
        (folder / name).write_bytes(content)
    assert len(list(folder.glob("*/*"))) == 300
    return folder, sorted(bad)


def small(images, **fields):
    fields = dict(total_steps=2, eval_every_steps=2) | fields
    return pretraining(images, names=("tiny_mlp_narrow",), **fields)


def test_bad_images_stop_the_job_or_are_left_out_and_counted(odd, tmp_path):
    folder, bad = odd
    bad_one = r"Image .*/(corrupt|cut|empty)\..* does not decode: .*config.on_bad_image=skip"
    with pytest.raises(ValueError, match=bad_one):
        pretrain.run(small(folder), tmp_path / "error")
    assert not (tmp_path / "error").exists()
    results = pretrain.run(small(folder, on_bad_image="skip"), tmp_path / "skip")
    data = results["data"]
    assert sum(data["skipped"].values()) == len(bad) == 3
    tune = 300 - data["train"] - data["validation"] - 3
    assert 20 < tune < 30 and sum(results["class_counts"]) == data["validation"]
    assert read(tmp_path / "skip")["data"] == data
    # Streamed, the same: what a run sees does not depend on how it is read.
    config = small(folder, on_bad_image="skip", cache_gb=0.0)
    streamed = pretrain.run(config, tmp_path / "streamed")
    assert streamed["data"] == data
    assert [r["accuracy_after"] for r in streamed["runs"]] == [
        r["accuracy_after"] for r in results["runs"]
    ]
    weights = (next((tmp_path / k).rglob("model.safetensors")) for k in ("skip", "streamed"))
    first, second = (path.read_bytes() for path in weights)
    assert first == second


@pytest.mark.parametrize("job", [pretrain, transfer])
def test_models_of_other_classes_are_told_before_images_are_tried(
    job, odd, zoo, tmp_path, refused, monkeypatch
):
    monkeypatch.setattr(pipeline, "decodable", lambda *_, **__: pytest.fail("it tries them"))
    other = models.replace_head(models.load(zoo[0]), ("a", "b"), head="zero")
    models.checkpoints.weights.export(other, tmp_path / "other")
    if job is pretrain:
        config = small(odd[0], on_bad_image="skip")
        config.update(models=(str(tmp_path / "other"),), head="keep")
    else:
        config = transferring(odd[0], tmp_path / "other", zoo[2:], on_bad_image="skip")
    refused(job.run, config, "2 classes")


def test_a_bad_image_stops_a_stream_where_it_comes(odd, tmp_path):
    folder, _ = odd
    with pytest.raises(ValueError, match=r"Image .*/(corrupt|cut|empty)\..* does not decode: "):
        pretrain.run(small(folder, cache_gb=0.0, total_steps=20), tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.fixture
def pool(images, tmp_path):
    """train/ without labels, validation/ with them."""
    folder = tmp_path / "pool"
    for path in sorted(images.glob("*/*.png")):
        held = int(path.stem) < 8
        below = folder / "validation" / path.parent.name if held else folder / "train"
        below.mkdir(parents=True, exist_ok=True)
        name = path.name if held else f"{path.parent.name}{path.name}"
        (below / name).write_bytes(path.read_bytes())
    return folder


def test_unlabeled_folder_end_to_end(pool, zoo, tmp_path):
    arg = "objectives=kl_dp_unsupervised"
    fields = dict(total_steps=4, eval_every_steps=4, targets="stored")
    config = transferring(pool, zoo[0], zoo[2:], arg=arg, **fields)
    results = transfer.run(config, tmp_path / "whole")
    # Nobody knows whether the student is right on the pool.
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text("utf-8")
    assert "train/loss" in lines and "train/accuracy" not in lines
    # 64 images to learn from; of 32 with labels a fifth of each class is tune.
    assert results["data"]["train"] == 64 and results["data"]["validation"] == 24
    assert results["classes"] == list(CLASSES)
    (row,) = results["runs"]
    assert 0 < row["taught"] < 100
    # Images alone, measured on another folder: the same pool.
    flat = f"folder:{pool}/train"
    config = transferring(pool, zoo[0], zoo[2:], arg=arg, **fields)
    config.update(data=flat, eval_data=f"folder:{pool}")
    alone = transfer.run(config, tmp_path / "alone")
    assert alone["runs"][0]["accuracy_after"] == row["accuracy_after"]
    assert alone["data"]["train"] == 64
    assert (alone["data"]["name"], alone["data"]["measured"]) == (flat, f"folder:{pool}")
    assert f"images of folder:{pool} right<" in (tmp_path / "alone" / "report.html").read_text(
        "utf-8"
    )


def test_labels_are_asked_for_where_they_lack(pool, zoo, refused):
    config = transferring(pool, zoo[0], zoo[2:])
    refused(transfer.run, config, "kl_dp_unsupervised instead of kl_dp")
    refused(pretrain.run, small(pool), "train images without labels")
    config = transferring(pool / "train", zoo[0], zoo[2:], arg="objectives=kl_dp_unsupervised")
    refused(transfer.run, config, "has no labels, which tune and validation need")


def test_stored_targets_on_random_crops(images, zoo, tmp_path):
    """They are of the views that training sees, as what is asked in each step must be."""
    fields = dict(crop_scale=(0.5, 1.0), cache_gb=0.0, augment="none", total_steps=6)
    runs = {}
    for targets in ("live", "stored"):
        config = transferring(images, zoo[0], zoo[2:], targets=targets, **fields)
        (runs[targets],) = transfer.run(config, tmp_path / targets)["runs"]
    losses = [[entry["loss"] for entry in runs[k]["history"]] for k in ("live", "stored")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Images of three other classes."""
    return make_images(tmp_path_factory.mktemp("others") / "three", ("a", "b", "c"))


@pytest.mark.parametrize("head", ["zero", "random"])
def test_a_new_head_alone_is_trained(head, others, zoo, tmp_path):
    config = pretraining(others, names=(zoo[0],), train="head", head=head, batch_norm="frozen")
    pretrain.run(config, tmp_path)
    (folder,) = (tmp_path / "models").iterdir()
    before, after = models.load(zoo[0]), models.load(str(folder))
    assert after.classes == ("a", "b", "c")
    changed = {
        name
        for name in before.variables["params"]
        if any(
            x.shape != y.shape or (np.asarray(x) != np.asarray(y)).any()
            for x, y in zip(
                *(_leaves(v.variables["params"][name]) for v in (before, after)), strict=True
            )
        )
    }
    assert changed == {"head"}
    # What a transfer says of such a model is this command, and takes what comes of it.
    data = f"folder:{others}"
    with pytest.raises(ValueError, match=rf"pretrain:model={before.name},data={data},train=head"):
        models.fitted(before, after.classes, data)
    fitted = models.load(str(tmp_path))
    assert models.fitted(fitted, after.classes, data).classes == ("a", "b", "c")
    assert any((np.asarray(x) != 0).any() for x in _leaves(after.variables["params"]["head"]))


def test_all_weights_are_trained(others, zoo, tmp_path):
    results = pretrain.run(pretraining(others, names=(zoo[0],)), tmp_path)
    (folder,) = (tmp_path / "models").iterdir()
    before, after = (models.load(name).variables["params"] for name in (zoo[0], str(folder)))
    same = [
        name
        for name in before
        if name != "head"
        and all(
            (np.asarray(x) == np.asarray(y)).all()
            for x, y in zip(_leaves(before[name]), _leaves(after[name]), strict=True)
        )
    ]
    assert not same
    (row,) = results["runs"]
    assert row["accuracy_before"] == pytest.approx(100 / 3, abs=0.1)  # a head of zeros


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(minival=0.0), r"minival=0.0 must be above 0"),
        (dict(train_fraction=1.5), r"train_fraction=1.5 must be at most 1"),
        (dict(crop_pct=0.0), r"crop_pct=0.0 must be 0.1 or more"),
        (dict(interpolation="lanczos"), r"interpolation='lanczos'.*bicubic"),
        (dict(crop_scale=(0.5, 0.2)), r"crop_scale=\(0.5, 0.2\) must be the smallest"),
        (dict(on_bad_image="ignore"), r"on_bad_image='ignore'.*error, skip"),
        (dict(eval_data="glyphz"), r"'glyphz'.*glyphs"),
        (dict(robustness=("imagenet_b",)), r"'imagenet_b'.*imagenet_a"),
        (dict(robustness=("imagenet_a",)), r"classes of ImageNet-1k"),
        (dict(train="tail"), r"train='tail'.*all, head"),
        (dict(head="new"), r"head='new'.*keep, zero, random"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_refused(fields, message, images, refused):
    refused(pretrain.run, small(images, **fields), message)
