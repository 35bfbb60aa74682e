"""Data sets on disk: folders as archives unpack, pools without labels, subsets, what is missing."""

import itertools
import os

import numpy as np
import pytest
from image_files import COUNTS, encoded, files, fill, write
from scipy import io as scipy_io

from ktjax import data, imagenet
from ktjax.data import convert, overlap, robustness, sources
from ktjax.models import classes

PARTS = ("train", "tune", "validation")


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
    if make is make_cars:  # drawn in the color of its class
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


def test_lists_that_begin_with_a_mark(tmp_path):
    names, _ = make_birds(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.write_text(path.read_text(), encoding="utf-8-sig")  # as Windows saves them
    assert data.load(f"folder:{tmp_path}").classes == names


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


def test_validation_images_of_imagenet_alone_are_of_its_classes(tmp_path):
    make_imagenet(tmp_path / "whole")
    (tmp_path / "whole" / "val").rename(tmp_path / "val")
    found = data.load_validation(f"folder:{tmp_path}")
    assert found.classes == imagenet.synsets() and len(found.train) == len(found.tune) == 0
    names = [found.classes[label] for label in found.validation.label_N]
    assert names == ["n01751748", "n09193705"]
    write(tmp_path / "val" / "other.JPEG")
    assert data.load_validation(f"folder:{tmp_path}").classes == ()


def test_who_reads_only_validation_does_not_need_train(tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 20})
    fill(tmp_path / "val", {"a": 4, "b": 4})
    with pytest.raises(ValueError, match="Classes with fewer than 2 images: a"):
        data.load(f"folder:{tmp_path}")
    found = data.load_validation(f"folder:{tmp_path}")
    assert len(found.validation) == 8 and len(found.train) + len(found.tune) == 21
    fill(tmp_path / "train" / "a", {"more": 1})
    found, trained = (load(f"folder:{tmp_path}") for load in (data.load_validation, data.load))
    for ours, theirs in zip(found[1:4], trained[1:4], strict=True):  # as one trains on them
        assert files(ours) == files(theirs)
    (tmp_path / "train").rename(tmp_path / "tune")
    found = data.load_validation(f"folder:{tmp_path}")
    assert [len(getattr(found, split)) for split in PARTS] == [0, 22, 8]


def test_validation_images_of_other_synsets_are_refused(tmp_path):
    make_imagenet(tmp_path)
    write(tmp_path / "val" / "ILSVRC2012_val_00000003.JPEG")
    with pytest.raises(ValueError, match=r"_00000003.JPEG is of class n\d{8}, which has no images"):
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
    with pytest.raises(ValueError, match="have different classes"):
        data.load(f"folder:{tmp_path}/others", eval_data=f"folder:{labeled}")
    same = data.load(f"folder:{labeled}", eval_data=f"folder:{tmp_path}/flat/../labeled")
    for ours, theirs in zip(same[1:4], other[1:4], strict=True):
        assert [os.path.normpath(name) for name in files(ours)] == files(theirs)
    fill(tmp_path / "measured" / "val", COUNTS)
    with pytest.raises(ValueError, match="/measured' has only validation: nothing to train on"):
        data.load(f"folder:{tmp_path}/measured", eval_data=f"folder:{labeled}")


def test_links_to_evaluated_images_are_not_trained_on(tmp_path):
    own = fill(tmp_path / "own", {"a": 10, "b": 10})
    other = data.load(f"folder:{own}")
    (tmp_path / "pool").mkdir()
    for path in own.glob("*/*"):
        (tmp_path / "pool" / f"{path.parent.name}-{path.name}").symlink_to(path)
    (tmp_path / "link").symlink_to(own)
    for name in ("link", "pool"):
        found = data.load(f"folder:{tmp_path / name}", eval_data=f"folder:{own}")
        trained = [os.path.realpath(file) for file in files(found.train)]
        assert sorted(trained) == sorted(files(other.train)), name


def test_images_beside_classes_are_refused(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    write(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="both in class directories and next to them: loose.jpg"):
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


MISSING = {
    "imagenet2012": r"image-net.org.*train/<synset>.*ktjax.data convert FOLDER .*tfds build",
    "caltech_birds2011": r"CUB_200_2011.tgz.*images.txt.*convert",
    "caltech256": r"256_ObjectCategories.tar.*001.ak47.*convert",
    "cars196": r"cars_test_annos_withlabels.mat.*convert",
    "domainnet_infograph": r"infograph_train.txt.*convert.*tfds build domainnet/infograph",
    "tfds:oxford_iiit_pet": r"tfds build oxford_iiit_pet --file_format=array_record",
    "tfds:oxford_iit_pet": r"and TFDS does not know it. Nearest in TFDS: .*oxford_iiit_pet",
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
    with pytest.raises(ValueError, match=rf"not accept the name '{name}': .*tfds:NAME .*\.$"):
        data.load(f"tfds:{name}", data_dir=str(tmp_path))


def test_known_data_set_as_a_folder_in_data_dir(tmp_path):
    fill(tmp_path / "caltech256", COUNTS)
    dataset = data.load("caltech256", data_dir=str(tmp_path))
    assert dataset.classes == ("Bee", "ant", "zebra")
    assert dataset.name == "caltech256"


@pytest.mark.parametrize("name", ["caltech256", "tfds:prepared"])
def test_a_data_dir_at_home(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "data" / "caltech256", COUNTS)
    convert.convert(tmp_path / "data" / "caltech256", "~/data/prepared")
    assert data.load(name, data_dir="~/data").classes == ("Bee", "ant", "zebra")


def test_robustness_sets_in_a_data_dir_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for i, synset in enumerate(imagenet.synsets("imagenet_r")[:2]):
        write(tmp_path / "data" / "imagenet_r" / synset / f"{i}.jpg", i)
    assert len(robustness.load("imagenet_r", data_dir="~/data").source) == 2


def test_a_validation_that_tune_would_empty_is_refused(tmp_path):
    """Tune gets an image of each class, so a class with one would silently leave validation."""
    for i in range(4):
        write(tmp_path / "train" / f"{i}.jpg", i)
    for i, name in enumerate("aabbc"):
        write(tmp_path / "val" / name / f"{i}.jpg", 10 + i)
    for load in (data.load, data.load_validation):
        with pytest.raises(ValueError, match="fewer than 2 images of validation, from .*: c\\."):
            load(f"folder:{tmp_path}")
    write(tmp_path / "val" / "c" / "5.jpg", 15)
    dataset = data.load(f"folder:{tmp_path}")
    assert [len(getattr(dataset, name)) for name in PARTS] == [4, 3, 3]


def overlaps(folder, **options):
    dataset = data.load(f"folder:{folder}", **options)
    splits = {"tune": dataset.tune, "validation": dataset.validation}
    return list(overlap.sentences(dataset.train, splits))


def test_images_of_train_that_are_measured_on_are_told(tmp_path):
    for split, numbers in (("train", range(8)), ("val", range(6, 14)), ("tune", range(20, 24))):
        for i in numbers:
            write(tmp_path / split / "ab"[i % 2] / f"{i}.jpg", i)
    (told,) = overlaps(tmp_path)
    assert "2 of 8 images of validation that were looked at are in train, too" in told
    assert "such as " in told and "/val/a/6.jpg" in told


def test_a_link_to_train_is_told(tmp_path):
    for i in range(200):
        write(tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg", i)
    (tmp_path / "val").symlink_to(tmp_path / "train")
    (told,) = overlaps(tmp_path)
    found, _, looked, *_ = told.split()
    assert 40 < int(found) <= int(looked) == 64  # the others are among those held out as tune


def test_copies_in_a_pool_without_labels_are_told(tmp_path):
    """Other files than those of eval_data, or they would not be trained on."""
    for i in range(8):
        write(tmp_path / "pool" / f"{i}.jpg", i)
        write(tmp_path / "labeled" / "ab"[i % 2] / f"{4 + i}.jpg", 4 + i)
    pool = data.load(f"folder:{tmp_path / 'pool'}", eval_data=f"folder:{tmp_path / 'labeled'}")
    splits = {"all": sources.of_files(tmp_path, [f"labeled/{'ab'[i % 2]}/{i}.jpg" for i in (4, 9)],
                                      np.array([0, 1], np.int32))}  # fmt: skip
    (told,) = overlap.sentences(pool.train, splits)
    assert told.startswith("1 of 2 images of all that were looked at are in train, too")


@pytest.mark.parametrize(
    ("image", "number"), [("val/a/0.jpg", 1), ("val/b/0.jpg", 0), ("val/a/7.jpg", 0)],
    ids=["other contents", "another class", "another name"],
)  # fmt: skip
def test_same_names_or_contents_alone_are_no_copies(image, number, tmp_path):
    """Names are numbers in many data sets, and some have one picture of several classes."""
    for split, class_name, i in itertools.product(("train", "tune", "val"), "ab", range(4)):
        write(tmp_path / split / class_name / f"{split}{i}.jpg", i)
    write(tmp_path / "train" / "a" / "0.jpg", 0)
    write(tmp_path / image, number)
    assert not overlaps(tmp_path)
    write(tmp_path / "val" / "a" / "0.jpg", 0)  # and that is one
    assert len(overlaps(tmp_path)) == 1
