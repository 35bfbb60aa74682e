"""Data sets on disk: folders as archives unpack, TFDS's ArrayRecord, subsets, robustness sets."""

import io
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io as scipy_io
from small_jobs import ROOT, load_config
from sources_test import COUNTS, encoded, files, fill

from ktjax import data, imagenet, models, progress
from ktjax.data import __main__ as command
from ktjax.data import convert, pipeline, robustness, sources
from ktjax.jobs import complementarity, pretrain, transfer
from ktjax.models import classes
from ktjax.models.checkpoints import weights
from ktjax.settings.transfer import Transfer

PARTS = ("train", "tune", "validation")


def write(path, number=0, kind="jpeg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number, kind))


def contents(source):
    """(label, bytes) of every image, in any order."""
    return sorted((int(source.label_N[i]), source.read(i)) for i in range(len(source)))


# The archives.


def make_birds(folder):
    """As CUB_200_2011.tgz unpacks: lists beside the images."""
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    rows = [(f"{names[i % 2]}/bird_{i}.jpg", i % 2 + 1, int(i < 8)) for i in range(14)]
    lists = {
        "images": [file for file, _, _ in rows],
        "image_class_labels": [label for _, label, _ in rows],
        "train_test_split": [train for _, _, train in rows],
        "classes": names,
    }
    for i, (file, _, _) in enumerate(rows):
        write(folder / "images" / file, i)
    for name, values in lists.items():
        lines = (f"{i} {value}\n" for i, value in enumerate(values, 1))
        (folder / f"{name}.txt").write_text("".join(lines))
    return names, {"train": 8, "validation": 6}


def make_cars(folder):
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    kind = [("class", "u1"), ("fname", "O")]
    annotations = {
        "train": np.array([(i % 2 + 1, f"{i:05}.jpg") for i in range(8)], kind),
        "test": np.array([(2 - i % 2, f"{i:05}.jpg") for i in range(6)], kind),
    }
    for split, rows in annotations.items():
        for row in rows:
            write(folder / f"cars_{split}" / row["fname"], int(row["class"]))
    (folder / "devkit").mkdir()
    meta = {"class_names": np.array(names, object)}
    scipy_io.savemat(folder / "devkit" / "cars_meta.mat", meta)
    for path, split in (
        ("devkit/cars_train_annos.mat", "train"),
        ("cars_test_annos_withlabels.mat", "test"),
    ):
        scipy_io.savemat(folder / path, {"annotations": annotations[split]})
    return names, {"train": 8, "validation": 6}


def make_infograph(folder):
    names = ("aircraft_carrier", "zebra")
    for split, count in (("train", 8), ("test", 6)):
        rows = [f"infograph/{names[i % 2]}/{split}_{i}.jpg" for i in range(count)]
        for i, file in enumerate(rows):
            write(folder / file, i % 2)
        lines = (f"{file} {i % 2}\n" for i, file in enumerate(rows))
        (folder / f"infograph_{split}.txt").write_text("".join(lines))
    return names, {"train": 8, "validation": 6}


def make_imagenet(folder):
    """Its validation images have no classes: TFDS's list says image 1 is a n01751748."""
    names = ("n01751748", "n09193705")
    for i in range(8):
        write(folder / "train" / names[i % 2] / f"{names[i % 2]}_{i}.JPEG", i)
    for number in (1, 2):
        write(folder / "val" / f"ILSVRC2012_val_{number:08}.JPEG", number)
    return names, {"train": 8, "validation": 2}


ARCHIVES = {"birds": make_birds, "cars": make_cars, "infograph": make_infograph}
ARCHIVES |= {"imagenet": make_imagenet}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_as_they_unpack(make, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    names, counts = make(folder)
    dataset = data.load(f"folder:{folder}", minival=0.25)
    assert dataset.classes == names
    assert len(dataset.train) + len(dataset.tune) == counts["train"]
    assert len(dataset.validation) == counts["validation"]
    assert np.bincount(dataset.tune.label_N).tolist() == [1, 1]
    if make is make_cars:  # drawn in the colour of its class
        for source in dataset[1:4]:
            for i, label in enumerate(source.label_N):
                assert source.read(i) == encoded(int(label) + 1, "jpeg")
    elif make is make_imagenet:
        assert dataset.validation.label_N.tolist() == [0, 1]
    else:
        for source in dataset[1:4]:
            assert all(
                names[label] in file
                for file, label in zip(files(source), source.label_N, strict=True)
            )


def test_words_of_imagenets_classes():
    words = imagenet.words()
    assert len(words) == len(set(words)) + 1 == 1000  # a crane is a bird or a machine
    assert [n for n, name in enumerate(words) if name == "crane"] == [134, 517]
    assert words[0] == "tench, Tinca tinca" and words[999].startswith("toilet tissue, ")
    assert classes.is_imagenet(words)  # as transformers' configs have them
    assert imagenet.in_words(imagenet.synsets()) == words
    assert imagenet.in_words(("n01443537", "n99999999", "hen")) == (
        "goldfish, Carassius auratus", "n99999999", "hen"
    )  # fmt: skip


def test_validation_images_of_other_synsets_are_refused(tmp_path):
    make_imagenet(tmp_path)
    write(tmp_path / "val" / "ILSVRC2012_val_00000003.JPEG")
    with pytest.raises(ValueError, match=r"_00000003.JPEG is of class n\d{8}, of which train"):
        data.load(f"folder:{tmp_path}")


def test_what_lists_name_has_to_be_there(tmp_path):
    make_birds(tmp_path)
    (tmp_path / "images" / "001.Black_footed_Albatross" / "bird_0.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks images/001.*bird_0.jpg, which its lists name"):
        data.load(f"folder:{tmp_path}")


# Pools without labels.


def test_unlabeled_train_beside_labeled_validation(tmp_path):
    fill(tmp_path / "validation", {"a": 10, "b": 20})
    for i in range(7):
        write(tmp_path / "train" / f"{i}.jpg", i)
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.classes == ("a", "b")
    assert dataset.train.label_N.tolist() == [-1] * 7
    assert np.bincount(dataset.tune.label_N).tolist() == [2, 4]
    assert np.bincount(dataset.validation.label_N).tolist() == [8, 16]
    assert not set(files(dataset.tune)) & set(files(dataset.validation))
    fill(tmp_path / "tune", {"a": 1, "b": 2})
    with_tune = data.load(f"folder:{tmp_path}")
    assert np.bincount(with_tune.tune.label_N).tolist() == [1, 2]
    assert len(with_tune.validation) == 30


def test_images_alone_are_measured_on_another_data_set(tmp_path):
    labeled = fill(tmp_path / "labeled", COUNTS)
    for i in range(7):
        write(tmp_path / "flat" / f"{i}.jpg", i)
    dataset = data.load(f"folder:{tmp_path}/flat", eval_data=f"folder:{labeled}")
    other = data.load(f"folder:{labeled}")
    assert len(dataset.train) == 7 and not dataset.train.labeled
    assert dataset.classes == other.classes
    assert files(dataset.tune) == files(other.tune)
    assert files(dataset.validation) == files(other.validation)
    with pytest.raises(ValueError, match="has no labels, which tune and validation need"):
        data.load(f"folder:{tmp_path}/flat")
    fill(tmp_path / "others", {"x": 5, "y": 5})
    with pytest.raises(ValueError, match="have labels of other classes"):
        data.load(f"folder:{tmp_path}/others", eval_data=f"folder:{labeled}")
    fill(tmp_path / "measured" / "val", COUNTS)
    with pytest.raises(ValueError, match="/measured' has only validation: nothing to train on"):
        data.load(f"folder:{tmp_path}/measured", eval_data=f"folder:{labeled}")


def test_images_beside_classes_are_refused(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    write(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="both beside and in directories of classes: loose.jpg"):
        data.load(f"folder:{tmp_path}")


# Subsets.


@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
def test_subset_is_exact_per_class_and_of_the_whole(fraction, tmp_path):
    folder = fill(tmp_path, {"a": 100, "b": 57, "c": 12})
    whole = data.load(f"folder:{folder}", minival=0.1)
    part = data.load(f"folder:{folder}", minival=0.1, train_fraction=fraction)
    assert files(part.tune) == files(whole.tune)
    assert files(part.validation) == files(whole.validation)
    assert set(files(part.train)) <= set(files(whole.train))
    # Of what there was before the tune split was held out: 80, 46 and 10 images.
    had = np.bincount(whole.train.label_N) + np.bincount(whole.tune.label_N)
    assert had.tolist() == [80, 46, 10]
    taken = np.bincount(part.train.label_N)
    if fraction < 1:
        assert (np.abs(taken - fraction * had) <= 0.5).all()
    else:
        assert taken.tolist() == np.bincount(whole.train.label_N).tolist()
    again = data.load(f"folder:{folder}", minival=0.1, train_fraction=fraction)
    assert files(again.train) == files(part.train)


def test_subsets_of_seeds_differ_and_larger_ones_hold_smaller_ones(tmp_path):
    folder = fill(tmp_path, {"a": 100, "b": 57})

    def train(**options):
        return set(files(data.load(f"folder:{folder}", **options).train))

    assert train(train_fraction=0.2) != train(train_fraction=0.2, subset_seed=1)
    assert train(train_fraction=0.1) < train(train_fraction=0.2) < train()


def test_subset_of_imagenet_has_the_size_of_the_papers():
    """1,281,167 images in classes of 732 to 1,300; a tenth is 128,117."""
    sizes = np.full(1000, 1300)
    sizes[:105] = np.linspace(732, 1299, 105).astype(int)
    label_N = np.repeat(np.arange(1000), sizes)
    kept, held = sources.stratified(label_N, fraction=0.01, seed=1234)
    chosen = sources.subset(label_N, kept, fraction=0.1, seed=1234)
    taken = np.bincount(label_N[chosen], minlength=1000)
    assert (np.abs(taken - 0.1 * sizes) <= 0.5).all()
    assert not np.isin(chosen, held).any()


# ArrayRecord.


def test_converted_folder_holds_the_same_bytes(tmp_path, capsys):
    folder = fill(tmp_path / "images", COUNTS)
    command.main(["convert", str(folder), str(tmp_path / "prepared" / "animals")])
    assert "data=tfds:animals" in capsys.readouterr().out
    dataset = data.load("tfds:animals", data_dir=str(tmp_path / "prepared"))
    plain = data.load(f"folder:{folder}")
    assert dataset.classes == plain.classes
    both = [sorted(x for source in d[1:4] for x in contents(source)) for d in (dataset, plain)]
    assert both[0] == both[1]
    for a, b in zip(dataset[1:4], plain[1:4], strict=True):
        assert np.bincount(a.label_N).tolist() == np.bincount(b.label_N).tolist()
    # In a random order, as a reader in sequence wants them.
    assert (
        np.diff(data.load("tfds:animals", data_dir=str(tmp_path / "prepared")).train.label_N) < 0
    ).any()


def test_converted_splits_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_SHARD_BYTES", 4000)
    fill(tmp_path / "images" / "train", {"a": 20, "b": 30})
    fill(tmp_path / "images" / "val", {"a": 4, "b": 6})
    path = convert.convert(tmp_path / "images", tmp_path / "pair")
    assert len(list(path.glob("*train.array_record*"))) > 2
    dataset = data.load("tfds:pair", data_dir=str(tmp_path))
    plain = data.load(f"folder:{tmp_path}/images")
    assert contents(dataset.validation) == contents(plain.validation)
    assert np.bincount(dataset.train.label_N).tolist() == [18, 27]


def test_converted_pool_without_labels(tmp_path):
    for i in range(7):
        write(tmp_path / "flat" / f"{i}.jpg", i)
    convert.convert(tmp_path / "flat", tmp_path / "pool")
    labeled = fill(tmp_path / "labeled", COUNTS)
    dataset = data.load("tfds:pool", data_dir=str(tmp_path), eval_data=f"folder:{labeled}")
    assert dataset.train.label_N.tolist() == [-1] * 7
    assert sorted(dataset.train.read(i) for i in range(7)) == sorted(
        encoded(i, "jpeg") for i in range(7)
    )


@pytest.mark.parametrize(
    ("out", "message"),
    [("Animals", "small letters"), ("taken", "exists: delete it"), ("fine", "No folder")],
)
def test_conversion_refuses(out, message, tmp_path):
    (tmp_path / "taken" / convert.VERSION).mkdir(parents=True)
    folder = tmp_path if out == "fine" else fill(tmp_path / "images", COUNTS)
    with pytest.raises(SystemExit, match=message):
        command.main(
            ["convert", f"{folder}/x" if out == "fine" else str(folder), str(tmp_path / out)]
        )


def test_labels_are_read_once_and_not_believed_of_other_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    folder = fill(tmp_path / "images", {"a": 10, "b": 10})
    path = convert.convert(folder, tmp_path / "animals")
    first = data.load("tfds:animals", data_dir=str(tmp_path))
    assert "labels of train: " in capsys.readouterr().err  # of ImageNet it takes minutes
    (kept,) = path.glob("ktjax_labels_*.npy")
    label_N = np.load(kept)
    np.save(kept, 1 - label_N)
    again = data.load("tfds:animals", data_dir=str(tmp_path))
    np.testing.assert_array_equal(again.train.label_N, first.train.label_N)
    np.testing.assert_array_equal(np.load(kept), label_N)
    monkeypatch.setattr(sources, "_AT_ONCE", None)  # nothing is read in parts any more
    data.load("tfds:animals", data_dir=str(tmp_path))


MISSING = {
    "imagenet2012": r"image-net.org.*train/<synset>.*ktjax.data convert FOLDER .*tfds build",
    "caltech_birds2011": r"CUB_200_2011.tgz.*images.txt.*convert",
    "caltech256": r"256_ObjectCategories.tar.*001.ak47.*convert",
    "cars196": r"cars_test_annos_withlabels.mat.*convert",
    "domainnet_infograph": r"infograph_train.txt.*convert.*tfds build domainnet/infograph",
    "tfds:oxford_iiit_pet": r"tfds build oxford_iiit_pet --file_format=array_record",
    "tfds:oxford_iit_pet": r"nor does TFDS know it. Nearest there: .*oxford_iiit_pet",
}


TFDS_CAN = {"imagenet2012", "caltech_birds2011", "domainnet_infograph", "tfds:oxford_iiit_pet"}


@pytest.mark.parametrize(("name", "message"), MISSING.items(), ids=MISSING)
def test_missing_data_sets_say_where_they_come_from(name, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refusal:
        data.load(name, data_dir=str(tmp_path))
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert ("tfds build" in str(refusal.value)) == (name in TFDS_CAN)


def test_missing_data_sets_without_a_data_dir(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # of TFDS_DATA_DIR
    for name in ("caltech256", "tfds:oxford_iiit_pet"):
        with pytest.raises(ValueError, match=rf"in {tmp_path} \(config.data_dir\)"):
            data.load(name)
    with pytest.raises(ValueError, match=f"There is no 'imagenet_a' in {tmp_path}"):
        robustness.load("imagenet_a", data_dir=None)
    fill(tmp_path / "caltech256", COUNTS)
    assert data.load("caltech256").classes == ("Bee", "ant", "zebra")


@pytest.mark.parametrize("name", ["Oxford-Pet", "a b", ""])
def test_names_that_tfds_does_not_take(name, tmp_path):
    with pytest.raises(ValueError, match=rf"'{name}' is no name that TFDS takes: tfds:NAME, .*\.$"):
        data.load(f"tfds:{name}", data_dir=str(tmp_path))


def test_known_data_set_as_a_folder_in_data_dir(tmp_path):
    fill(tmp_path / "caltech256", COUNTS)
    dataset = data.load("caltech256", data_dir=str(tmp_path))
    assert dataset.classes == ("Bee", "ant", "zebra")
    assert dataset.name == "caltech256"


def test_tensorflow_is_not_imported(python, tmp_path):
    fill(tmp_path / "images", COUNTS)
    (tmp_path / "tensorflow.py").write_text("")
    assert python(
        "import sys\n"
        f"folder = {os.fspath(tmp_path)!r}\n"
        "sys.path.insert(0, folder)\n"
        "from ktjax import data\n"
        "from ktjax.data import convert\n"
        "convert.convert(f'{folder}/images', f'{folder}/animals')\n"
        "dataset = data.load('tfds:animals', data_dir=folder)\n"
        "dataset.train.read(0)\n"
        "print(len(dataset.train), 'tensorflow' in sys.modules)"
    ) == ["57", "False"]


# ImageNet, and what it is compared with.

IMAGENET = imagenet.synsets()


@pytest.mark.smoke
def test_classes_of_robustness_sets():
    assert len(IMAGENET) == 1000 and list(IMAGENET) == sorted(IMAGENET)
    for name in ("imagenet_a", "imagenet_r"):
        of_set = imagenet.synsets(name)
        assert len(set(of_set)) == 200 and set(of_set) < set(IMAGENET)
        assert list(of_set) == sorted(of_set)
    assert IMAGENET[0] == "n01440764" and "n01498041" in imagenet.synsets("imagenet_a")


def prepare(name, version, splits, data_dir, features):
    """A TFDS data set of these examples, written as TFDS would, without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    folder = Path(data_dir) / name / version
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    infos = []
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=name.partition("/")[0],
            split=split,
            filetype_suffix="array_record",
        )
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(features.serialize_example(example))
        writer.close()
        infos.append(tfds.core.SplitInfo(split, [len(examples)], 0, template))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=infos,
        filename_template=infos[0].filename_template,
        check_data=False,
    )


def jpeg(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "jpeg")
    buffer.seek(0)
    return buffer


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
        ("imagenet2012_real", ["real.json", "a.jpg"], "a.jpg is no validation image"),
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


def test_data_without_labels_in_its_records_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    image = tfds.features.Image(encoding_format="jpeg")
    examples = {"train": [{"image": jpeg(0)}], "test": [{"image": jpeg(1)}]}
    prepare("images_alone", "1.0.0", examples, tmp_path, {"image": image})
    with pytest.raises(ValueError, match="has no feature label with names of classes: .*image"):
        data.load("tfds:images_alone", data_dir=str(tmp_path))


def test_validation_alone_is_enough_for_who_does_not_train(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
    }
    examples = [{"image": jpeg(i), "label": i % 2} for i in range(10)]
    prepare("held", "1.0.0", {"validation": examples}, tmp_path, features)
    with pytest.raises(ValueError, match="has only validation, .*config.eval_data"):
        data.load("tfds:held", data_dir=str(tmp_path))
    found = data.load_validation("tfds:held", data_dir=str(tmp_path))
    assert [len(found.train), len(found.tune), len(found.validation)] == [0, 0, 10]
    # Of one split to be parted it is what models that were trained there have not seen.
    prepare("whole", "1.0.0", {"train": examples}, tmp_path, features)
    found = data.load_validation("tfds:whole", data_dir=str(tmp_path))
    assert len(found.validation) == 2


def test_data_that_cannot_be_read_at_random_says_how_to_prepare_it(tmp_path):
    path = convert.convert(fill(tmp_path / "images", COUNTS), tmp_path / "animals")
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        ValueError, match="is not prepared as ArrayRecord.*--file_format=array_record"
    ):
        data.load("tfds:animals", data_dir=str(tmp_path))


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
