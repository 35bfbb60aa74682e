"""ImageNet and its robustness sets, on stand-ins in the formats that people have them in."""

import runpy

import numpy as np
import pytest
from image_files import encoded, jpeg, prepare, write
from small_jobs import ROOT, load_config

from ktjax import imagenet, models
from ktjax.data import pipeline, robustness
from ktjax.jobs import complementarity, pretrain, transfer
from ktjax.models.checkpoints import weights
from ktjax.settings.transfer import Transfer

IMAGENET = imagenet.synsets()


@pytest.mark.smoke
def test_classes_of_robustness_sets():
    assert len(IMAGENET) == 1000 and list(IMAGENET) == sorted(IMAGENET)
    for name in ("imagenet_a", "imagenet_r"):
        of_set = imagenet.synsets(name)
        assert len(set(of_set)) == 200 and set(of_set) < set(IMAGENET)
        assert list(of_set) == sorted(of_set)
    assert IMAGENET[0] == "n01440764" and "n01498041" in imagenet.synsets("imagenet_a")


@pytest.fixture(scope="module")
def imagenet_dir(tmp_path_factory):
    """ImageNet and its robustness sets in TFDS's format: 12 of the classes, 10 images each."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("imagenet")
    some = [IMAGENET.index(name) for name in imagenet.synsets("imagenet_a")[:12]]
    image, text = tfds.features.Image(encoding_format="jpeg"), tfds.features.Text()
    label = tfds.features.ClassLabel(names=IMAGENET)
    features = {"image": image, "label": label, "file_name": text}

    def examples(count, first):
        return [
            {"image": jpeg(first + i), "label": some[i % 12], "file_name": f"{i}.JPEG"}
            for i in range(count)
        ]

    splits = {"train": examples(240, 0), "validation": examples(60, 1000)}
    prepare("imagenet2012", "5.1.0", splits, folder, features)
    for i, name in enumerate(("imagenet_v2/matched-frequency", "imagenet_a", "imagenet_sketch")):
        test = {"test": examples(24, 2000 + 100 * i)}
        prepare(name, "1.0.0", test, folder, features)
    real = {"image": image, "original_label": label, "file_name": text}
    real["real_label"] = tfds.features.Sequence(label)
    of_real = [
        {
            "image": jpeg(3000 + i),
            "original_label": some[0],
            "real_label": [(), (some[1],), (some[2], some[3])][i % 3],
            "file_name": f"{i}.JPEG",
        }
        for i in range(24)
    ]
    prepare("imagenet2012_real", "1.0.0", {"validation": of_real}, folder, real)
    synsets = imagenet.synsets("imagenet_r")
    for i in range(24):  # as its archive unpacks
        write(folder / "imagenet_r" / synsets[i % 6] / f"{i}.jpg", i)
    return folder


@pytest.mark.parametrize("name", robustness.SETS)
def test_accuracy_on_robustness_sets(name, imagenet_dir):
    found = robustness.load(name, data_dir=str(imagenet_dir))
    count = 16 if name == "imagenet2012_real" else 24
    assert len(found.source) == len(found.right_NxC) == count
    assert found.among_C.sum() == (200 if name in ("imagenet_a", "imagenet_r") else 1000)
    assert (found.right_NxC & found.among_C).any(axis=1).all()
    rows = np.arange(count)
    logits_NxC = np.zeros((count, 1000))
    logits_NxC[rows, found.source.label_N if name == "imagenet2012_real" else _first(found)] = 1
    assert robustness.accuracy(found, logits_NxC) == 100
    # A class that the set is not about cannot be answered.
    outside = np.flatnonzero(~found.among_C)
    logits_NxC[:, outside] = 2
    assert robustness.accuracy(found, logits_NxC) == 100
    if name == "imagenet2012_real":  # any of several labels is right
        last = 999 - found.right_NxC[:, ::-1].argmax(axis=1)
        assert (last != _first(found)).sum() == 8
        logits_NxC[rows, last] = 3
        assert robustness.accuracy(found, logits_NxC) == 100
    others_NxC = found.among_C & ~found.right_NxC
    logits_NxC[rows[:6], others_NxC[:6].argmax(axis=1)] = 4
    assert robustness.accuracy(found, logits_NxC) == pytest.approx(100 * (count - 6) / count)


def _first(found):
    return found.right_NxC.argmax(axis=1)


def test_robustness_sets_say_where_they_come_from(tmp_path):
    for name in robustness.SETS:
        with pytest.raises(ValueError, match=f"There is no '{name}' in .*tfds build {name}"):
            robustness.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("imagenet_a", ["n01440764/a.jpg", "n01498041/a.jpg"], "imagenet_a.*not n01440764"),
        ("imagenet_a", ["n01498041/a.jpg", "cat/a.jpg"], "imagenet_a.*not cat"),
        ("imagenet_v2", ["0/a.jpg", "1000/a.jpg"], "imagenet_v2.*number, not 1000"),
        ("imagenet_a", ["0/a.jpg", "6/a.jpg"], "imagenet_a.*number, not 0"),
        ("imagenet_r", ["a.jpg"], "a directory for each class of imagenet_r.*and nothing else"),
        ("imagenet_r", ["test/n01443537/a.jpg", "test/n01484850/a.jpg"], "and nothing else"),
        ("imagenet2012_real", ["a.jpg"], "lacks real.json: ILSVRC2012_img_val.tar"),
        ("imagenet2012_real", ["real.json", "a.jpg"], "a.jpg is not a validation image"),
    ],
)
def test_folders_that_are_no_robustness_set_are_refused(name, files, message, tmp_path):
    for file in files:
        write(tmp_path / name / file)
        if file == "real.json":
            (tmp_path / name / file).write_text("[[0]]")
    with pytest.raises(ValueError, match=message):
        robustness.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize("below", ["", "n01751748/", "val/"])
def test_real_from_its_list_beside_the_images(below, tmp_path):
    folder = tmp_path / "imagenet2012_real"
    for number in (1, 3, 4):
        write(folder / below / f"ILSVRC2012_val_{number:08}.JPEG", number)
    write(
        folder / below / "../n03595614/ILSVRC2012_val_00000002.JPEG"
        if below[:1] == "n"
        else folder / below / "ILSVRC2012_val_00000002.JPEG",
        2,
    )
    (folder / "real.json").write_text("[[65], [970, 795], [], [516]]")
    found = robustness.load("imagenet2012_real", data_dir=str(tmp_path))
    right = {found.source.read(i): np.flatnonzero(found.right_NxC[i]).tolist() for i in range(3)}
    expected = {1: [65], 2: [795, 970], 4: [516]}
    assert right == {encoded(number, "jpeg"): labels for number, labels in expected.items()}
    assert len(found.source) == 3


@pytest.fixture(scope="module")
def imagenet_models(tmp_path_factory):
    """Two tiny models of ImageNet's classes."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("student", "teacher")):
        model = models.create("tiny_mlp_narrow", classes=IMAGENET, seed=seed)
        weights.export(model, folder / name, accuracy=0.0)
    return folder


def test_imagenet_config_end_to_end(imagenet_dir, imagenet_models, tmp_path):
    """configs/transfer.py:data=imagenet2012,runlocal on a stand-in in TFDS's format."""
    student, teacher = imagenet_models / "student", imagenet_models / "teacher"
    arg = f"student={student},teachers={teacher},data=imagenet2012,runlocal,controls="
    plain = Transfer.read(load_config("transfer", arg))
    assert plain.train_fraction == 0.1 and plain.minival == 0.01
    config = load_config(
        "transfer",
        arg,
        data_dir=str(imagenet_dir),
        image_size=None,
        crop_scale=(0.08, 1.0),
        cache_gb=0.0,
        robustness=tuple(robustness.SETS),
        total_steps=2,
        eval_every_steps=2,
    )
    results = transfer.run(config, tmp_path)
    # Of 20 images of each of 12 classes one is tune, and two are learned from.
    assert results["data"]["train"] == 24 and results["data"]["validation"] == 60
    assert len(results["classes"]) == 1000
    for row in results["runs"]:
        assert set(row["robustness"]) == set(robustness.SETS)
        for found in row["robustness"].values():
            assert found["delta"] == found["after"] - found["before"]
    assert set(results["models"][str(teacher)]["robustness"]) == set(robustness.SETS)


def test_missing_robustness_sets_are_told_before_images_are_read(
    imagenet_dir, imagenet_models, tmp_path, monkeypatch
):
    data_dir, names = tmp_path / "data", ("imagenet_sketch", "imagenet_r")
    data_dir.mkdir()
    for name in ("imagenet2012", "imagenet_sketch"):
        (data_dir / name).symlink_to(imagenet_dir / name)
    monkeypatch.setattr(pipeline, "read", lambda *_, **__: pytest.fail("it reads"))
    student, teacher = imagenet_models / "student", imagenet_models / "teacher"
    fields = dict(data_dir=str(data_dir), robustness=names, total_steps=2, eval_every_steps=2)
    for job, arg in (
        (pretrain, f"model={student}"),
        (transfer, f"student={student},teachers={teacher}"),
    ):
        config = load_config(
            job.__name__.rpartition(".")[2], f"{arg},data=imagenet2012,runlocal", **fields
        )
        with pytest.raises(ValueError, match="There is no 'imagenet_r' in"):
            job.run(config, tmp_path / "workdir")


@pytest.mark.parametrize("job", ["pretrain", "complementarity"])
def test_imagenet_in_other_jobs(job, imagenet_dir, imagenet_models, tmp_path):
    student, teacher = imagenet_models / "student", imagenet_models / "teacher"
    if job == "pretrain":
        arg = f"model={student},data=imagenet2012,train=head,runlocal"
        config = load_config(job, arg, data_dir=str(imagenet_dir), total_steps=2)
        results = pretrain.run(config, tmp_path)
        assert results["data"]["train"] == config.max_examples == 128
        assert "trained (head alone) on imagenet2012" in results["models"]["student"]["origin"]
    else:
        arg = f"models={student}+{teacher},data=imagenet2012,runlocal"
        config = runpy.run_path(str(ROOT / "configs" / f"{job}.py"))["get_config"](arg)
        config.update(data_dir=str(imagenet_dir), random_students=())
        results = complementarity.run(config, tmp_path)
        assert len(results["pairs"]) == 2
    assert results["data"]["validation"] == 60 and len(results["classes"]) == 1000
