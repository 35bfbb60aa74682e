"""What a job warns of before it works, and accuracy by a model's own transform; nothing runs."""

import dataclasses
import io
import types

import numpy as np
import pytest
import small_jobs
from PIL import ExifTags, Image

from ktjax import data
from ktjax.classifier import InputSpec
from ktjax.data import pipeline, sources
from ktjax.data.sources import Source
from ktjax.experiment import evaluation, shared, transform
from ktjax.experiment.inputs import Splits
from ktjax.jobs.transfer import setup
from ktjax.settings.transfer import Transfer


def photograph(orientation, seed=0):
    exif, encoded = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, "png", exif=exif)
    return encoded.getvalue()


def source_of(orientations):
    files = [photograph(one, seed) for seed, one in enumerate(orientations)]
    return Source(np.zeros(len(files), np.int32), files.__getitem__, str)


def settings_of(**fields):
    return types.SimpleNamespace(**{"upright": False, "decode_threads": 2} | fields)


def test_turned_images_are_counted(caplog):
    splits = [source_of(orientations) for orientations in ((1, 6, 3), (), (8, 1))]
    dataset = data.Dataset("photos", *splits, classes=("a",), groups=("",), measured="photos")
    transform.say_turned(settings_of(upright=True), dataset, names=data.SPLITS)
    assert not caplog.messages
    transform.say_turned(settings_of(), dataset, names=data.SPLITS)
    assert caplog.messages == [
        "photos: EXIF says to rotate 3 of 5 images, which are used unrotated, as in timm; "
        "config.upright=True rotates them."
    ]
    assert pipeline.turned(source_of([6] * 9), threads=2, most=4) == (4, 4)


def test_a_file_that_is_no_image_lies_as_it_is(tmp_path):
    """Whoever decodes it names it, or leaves it out."""
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**30 + 1)
    source = sources.of_files(tmp_path, ["sparse.jpg"], np.zeros(1, np.int32))
    assert pipeline.turned(source, threads=1) == (0, 1)


def test_what_is_read_is_turned():
    source = source_of([6])
    lying, upright = (
        pipeline.Stream(source, pipeline.Reading(8, upright=turn)).take(np.array([0]))[0]
        for turn in (False, True)
    )
    # Of two directions that are resized the other one is rounded first.
    np.testing.assert_allclose(upright.astype(int), np.rot90(lying, -1), atol=1)


@dataclasses.dataclass
class Labels:
    """A split of which only labels are asked."""

    label_N: np.ndarray

    def __len__(self):
        return len(self.label_N)


@pytest.mark.parametrize(
    ("images", "controls", "fields", "said"),
    [
        (499, "", dict(rate=None), "learning rates chosen on it are largely due to chance"),
        (100, "", dict(rate=None, learning_rates=(0.1,)), None),  # there is no choice
        (100, "xe", dict(max_examples=100), "due to chance. config.max_examples leaves so few."),
        (100, "xe", {}, "is up to 5.0 points: the control chosen"),
        (100, "xe", dict(export="best"), "the control and the weights to export chosen"),
        (100, "xe", dict(train=[-1, -1]), None),  # it needs labels
        (100, "xe", dict(train=[0, -1]), None),  # of all images
        (100, "self", {}, None),  # it would not move
        (500, "xe", dict(export="best", rate=None), None),
        (100, "", {}, None),
        (100, "", dict(objective="kl_pool"), ": the weights of pools chosen on it are"),
    ],
)
def test_a_small_tune_split_chooses_by_chance(images, controls, fields, said, caplog):
    given = dict(rate=0.1, train=[0, 1], export="last", objective="kl") | fields
    given = dict(learning_rates=(0.1, 1.0)) | given
    objective = given.pop("objective")
    rate, train = given.pop("rate"), Labels(np.array(given.pop("train")))
    splits = Splits(train, tune=Labels(np.zeros(images, int)), validation=train)
    arg = f"objectives={objective},controls={controls}"
    config = small_jobs.load_config("transfer", arg, **given)
    config.objectives[objective].learning_rate = rate
    settings = Transfer.read(config)
    once = shared.Shared().of(settings, but=())
    for _ in range(2):  # of the runs of a study only the first says so
        setup.say_what_chance_decides(settings, splits, once, moves=False)
    assert said in caplog.text if said else not caplog.messages
    assert len(caplog.messages) == (said is not None)


@pytest.mark.parametrize(
    ("controls", "train", "moves", "lost"),
    [
        ("xe+self", [-1], False, True),
        ("xe+self", [-1], True, False),
        ("xe+self_pool", [-1], False, False),
        ("xe", [0], False, False),
        ("", [-1], False, False),
    ],
)
def test_no_control_without_labels(controls, train, moves, lost, caplog):
    arg = f"objectives=kl_pool,controls={controls}"
    settings = Transfer.read(small_jobs.load_config("transfer", arg))
    labels = Labels(np.array(train))
    once = shared.Shared().of(settings, but=())
    for _ in range(2):
        setup.warn_of_no_controls(settings, Splits(labels, labels, labels), once, moves=moves)
    assert len(caplog.messages) == lost
    assert not lost or "none of the controls (self, xe) can train" in caplog.text


@pytest.mark.parametrize(
    ("of_models", "said"),
    [
        ([(16, 1.0), (12, 1.0)], "config.image_size=16 and config.crop_pct=1 would suit them"),
        ([(24, 1.0), (16, 0.9)], "config.crop_pct=1 would suit them"),
        ([(16, 0.875), (12, 1.0)], ": config.image_size=16 would suit them"),
        ([(12, 0.875), (32, 0.875)], None),  # what is right for one of them
        ([], None),
    ],
)
def test_a_transform_that_suits_no_model(of_models, said, caplog):
    models = [
        types.SimpleNamespace(input=InputSpec((size, size), crop_pct=crop_pct))
        for size, crop_pct in of_models
    ]
    transform.say_unlike(models, image_size=24, crop_pct=0.875)
    assert said in caplog.text if said else not caplog.messages


def own_accuracy(spec, how, seen):
    def predict(variables, images):
        seen.append(images.reading)
        return np.eye(2)[[0, 0, 1]]

    model = types.SimpleNamespace(input=spec, variables={})
    source = Source(np.array([0, 1, 1], np.int32), lambda i: b"", str)
    return evaluation.own_accuracy(model, predict, source, how, shared=12.5)


def test_own_transform_is_the_models():
    how, seen = pipeline.Reading(24, crop_pct=0.9, interpolation="bilinear"), []
    spec = InputSpec((16, 16), interpolation="bicubic", crop_pct=0.5)
    assert own_accuracy(spec, how, seen) == pytest.approx(200 / 3)
    assert [(one.size, one.crop_pct, one.interpolation) for one in seen] == [(16, 0.5, "bicubic")]
    # And what the shared way of others does not have: borders, and their color.
    bordered = InputSpec((24, 24), mean=(0.5, 0.5, 0.0), crop_mode="border")
    own_accuracy(bordered, how, seen)
    assert (seen[-1].crop_mode, seen[-1].fill) == ("border", (128, 128, 0))
    # The same way, and one that is not known: nobody is asked.
    same = InputSpec((24, 24), interpolation="bilinear", crop_pct=0.9)
    assert own_accuracy(same, how, seen) == 12.5
    assert own_accuracy(InputSpec((16, 24)), how, seen) is None
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("tune", "validation", "data", "warns"),
    [
        (40, 24, "folder:birds", True),  # 100 % against 60 %
        (32, 24, "folder:birds", False),  # 80 % of 40 are within three standard errors of 60 %
        (40, 39, "folder:birds", False),
        (40, 24, "glyphs", False),  # its validation has other fonts
    ],
)
def test_models_that_have_seen_tune_are_told(tune, validation, data, warns, caplog):
    def answers(right):
        return np.eye(2)[(np.arange(40) < right).astype(int)]

    of_model = types.SimpleNamespace(tune_NxC=answers(tune), validation_NxC=answers(validation))
    blank = types.SimpleNamespace(tune_NxC=None, validation_NxC=None)  # of a store
    split = pipeline.Images(np.zeros((40, 2, 2, 3), np.uint8), np.ones(40, np.int32))
    start = types.SimpleNamespace(
        splits=types.SimpleNamespace(tune=split, validation=split),
        settings=types.SimpleNamespace(data=data, eval_data=None),
        once=shared.anew,
        models={"resnet50": of_model, "store:x": blank},
    )
    setup.warn_of_seen_images(start)
    said = "resnet50 is right on 100.0 % of tune and 60.0 % of validation: it has probably been"
    assert [record.getMessage().startswith(said) for record in caplog.records] == [True] * warns


def test_models_that_see_other_images_are_told(caplog):
    how = pipeline.Reading(224)
    sizes = {"small": (96, 96), "large": (384, 384), "wide": (64, 128)}
    models = [
        types.SimpleNamespace(name=name, input=InputSpec(size, (0,) * 3, (1,) * 3, "bicubic", 0.9))
        for name, size in sizes.items()
    ]
    transform.say_crops(how, models)
    large, wide = caplog.messages
    assert large.startswith("large expects images of 384 pixels, but gets 224, enlarged: ")
    assert wide.startswith("wide expects images of 64 x 128 pixels, but all models get squares")
