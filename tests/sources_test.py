"""Image folders: classes, splits and refusals. Data set names."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import COUNTS, files, fill, load

from ktjax import data
from ktjax.data import decode, sources


@pytest.mark.smoke
def test_classes_are_sorted_and_files_keep_their_class(tmp_path):
    dataset = load(fill(tmp_path, COUNTS))
    assert dataset.classes == ("Bee", "ant", "zebra")
    assert len(dataset.groups) == 3
    for source in (dataset.train, dataset.tune, dataset.validation):
        assert source.label_N.dtype == np.int32
        for i, file in enumerate(files(source)):
            assert f"/{dataset.classes[source.label_N[i]]}/" in file
            with open(file, "rb") as f:
                assert source.read(i) == f.read()


def test_splits_are_exact_per_class_and_disjoint(tmp_path):
    dataset = load(fill(tmp_path, COUNTS))
    # A fifth of each class is validation, a tenth of the rest is tune.
    assert np.bincount(dataset.validation.label_N).tolist() == [4, 10, 2]
    assert np.bincount(dataset.tune.label_N).tolist() == [2, 4, 1]
    assert np.bincount(dataset.train.label_N).tolist() == [14, 36, 7]
    every = [f for s in (dataset.train, dataset.tune, dataset.validation) for f in files(s)]
    assert sorted(every) == sorted(str(f) for f in tmp_path.glob("*/*"))


def test_splits_are_the_same_every_time_and_everywhere(tmp_path):
    first, second = fill(tmp_path / "first", COUNTS), fill(tmp_path / "second", COUNTS)
    for a, b in zip(load(first)[1:4], load(second)[1:4], strict=True):
        assert [f.removeprefix(str(first)) for f in files(a)] == [
            f.removeprefix(str(second)) for f in files(b)
        ]


def test_a_class_more_does_not_move_the_images_of_the_others(tmp_path):
    small, large = fill(tmp_path / "s", COUNTS), fill(tmp_path / "l", COUNTS | {"zzz": 30})
    held = [f.removeprefix(str(small)) for f in files(load(small).validation)]
    assert held == [f.removeprefix(str(large)) for f in files(load(large).validation)][:16]


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=5),
    st.sampled_from([0.1, 0.2, 0.5, 0.9]),
    st.integers(0, 3),
)
def test_stratified_parts_every_class(counts, fraction, seed):
    label_N = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held = sources.stratified(label_N, fraction=fraction, seed=seed)
    assert sorted([*kept, *held]) == list(range(len(label_N)))
    share = np.bincount(label_N[held], minlength=len(counts))
    for count, taken in zip(counts, share, strict=True):
        assert 1 <= taken < count
        assert taken in (1, count - 1) or abs(taken - fraction * count) <= 0.5


def test_halves_are_halves_where_classes_have_one_image():
    label_N = np.arange(21)
    one, other = sources.halves(label_N, seed=0)
    assert sorted([*one, *other]) == label_N.tolist() and len(one) == 11
    label_N = np.repeat(np.arange(7), [1, 4, 1, 5, 2, 1, 1])
    one, other = sources.halves(label_N, seed=0)
    assert sorted([*one, *other]) == list(range(len(label_N)))
    assert np.bincount(label_N[one], minlength=7).tolist() == [1, 2, 0, 3, 1, 0, 1]
    # Where there are none, they are those of `stratified`.
    label_N = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8))
    for ours, theirs in zip(
        sources.halves(label_N, seed=3),
        sources.stratified(label_N, fraction=0.5, seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_needs_an_image_for_every_split(tmp_path, count):
    fill(tmp_path, {"a": 5, "b": count})
    with pytest.raises(ValueError, match="fewer than 3 images: b"):
        load(tmp_path)


def test_a_part_of_a_source_has_all_classes(tmp_path):
    fill(tmp_path, {"a": 40, "b": 40})
    train = load(tmp_path).train
    part = train.take(16)
    assert set(part.label_N) == {0, 1} and len(part) == 16
    assert [part.where(i) for i in range(16)] == sorted(part.where(i) for i in range(16))
    by_name = {train.where(i): (train.read(i), train.label_N[i]) for i in range(len(train))}
    for i in range(16):
        assert by_name[part.where(i)] == (part.read(i), part.label_N[i])


def test_stratified_is_random_and_seeded():
    label_N = np.zeros(100, int)
    held = [sources.stratified(label_N, fraction=0.2, seed=s)[1].tolist() for s in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    assert held[0] not in (list(range(20)), list(range(80, 100)))


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "test"])
@pytest.mark.parametrize("train", ["train", "training"])
def test_folders_of_splits_are_honoured(tmp_path, train, validation):
    fill(tmp_path / train, {"a": 10, "b": 20})
    fill(tmp_path / validation, {"a": 3, "b": 4})
    dataset = load(tmp_path)
    assert dataset.classes == ("a", "b")
    assert set(files(dataset.validation)) == {str(f) for f in (tmp_path / validation).glob("*/*")}
    assert set(files(dataset.train)) | set(files(dataset.tune)) == {
        str(f) for f in (tmp_path / train).glob("*/*")
    }
    assert np.bincount(dataset.tune.label_N).tolist() == [1, 2]
    assert np.bincount(dataset.train.label_N).tolist() == [9, 18]


def test_other_files_and_empty_directories_are_no_images(tmp_path):
    fill(tmp_path, {"a": 10, "b": 10, "empty": 0})
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "README").write_text("not a class")
    (tmp_path / "a" / "._000.png").write_bytes(b"left behind by macOS")
    fill(tmp_path, {".ipynb_checkpoints": 10})
    dataset = load(tmp_path)
    assert dataset.classes == ("a", "b")
    assert len(dataset.train) + len(dataset.tune) + len(dataset.validation) == 20


def test_taking_more_than_there_is_takes_all(tmp_path):
    source = load(fill(tmp_path, COUNTS)).train
    assert files(source.take(10**6)) == files(source)


REFUSED = {
    "one-sided": ({"train/a": 3, "train/b": 3}, "has only .*, and training needs both train"),
    "one-sided validation": (
        {"val/a": 3, "val/b": 3},
        "has only .*, and training needs both train",
    ),
    "other classes": (
        {"train/a": 3, "train/b": 3, "train/c": 3, "val/a": 3, "val/b": 3, "val/d": 3},
        "have different classes: c, d",
    ),
    "empty": ({}, "holds no images: it needs one directory per class"),
    "empty classes": ({"a": 0, "b": 0}, "holds no images: it needs one directory per class"),
    "one class": ({"a": 9}, "holds images of only one class, 'a': it needs one directory"),
}


@pytest.mark.parametrize(("counts", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_one_sentence(tmp_path, counts, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load(fill(tmp_path, counts))
    text = str(refusal.value)
    assert str(tmp_path) in text
    assert text.endswith(".")
    assert "\n" not in text


def test_a_class_may_be_called_like_a_split(tmp_path):
    dataset = load(fill(tmp_path, {"bus": 9, "train": 9, "tram": 9}))
    assert dataset.classes == ("bus", "train", "tram")


def test_no_such_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="No folder '.*/nowhere'"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"'{tmp_path}' is a folder: data=folder:{tmp_path} reads"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("name", ["glyph", "imagenet", ""])
def test_an_unknown_data_set_lists_the_known_ones(name):
    with pytest.raises(
        ValueError,
        match=rf"No data set '{name}'\. Known: .*(glyphs|imagenet2012).*, tfds:NAME, folder:PATH\.",
    ):
        data.load(name)


def test_files_that_are_no_images_are_not_waited_for(tmp_path, monkeypatch):
    pipe, endless, large = (tmp_path / f"{name}.png" for name in ("pipe", "endless", "large"))
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    large.write_bytes(b"12345")
    monkeypatch.setattr(sources, "_MAX_BYTES", 4)
    device = "not a regular file"
    for path, reason in ((pipe, device), (endless, device), (large, "5 bytes, more")):
        source = sources.of_files(tmp_path, [path.name], np.zeros(1, np.int32))
        with pytest.raises(decode.DecodeError, match=reason):
            source.read(0)
