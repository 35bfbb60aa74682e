"""What a model says of images, from Python and from the command line."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image

import ktjax
from ktjax import inference, main, models
from ktjax.data import decode

NAME = "glyphs/tiny_resnet_narrow"


@pytest.fixture(scope="module")
def model():
    return models.load(NAME)


@pytest.fixture(scope="module")
def photo():
    """Larger than the model's input, and not square."""
    return np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)


def test_probabilities_are_the_models(model, validation):
    images = validation.image_NxHxWx3[:5]
    found = ktjax.predict(model, images, top=3)
    expected = np.asarray(jax.nn.softmax(model.apply(model.variables, images)[0].logits))
    for classes, probability_C in zip(found, expected, strict=True):
        order = np.argsort(-probability_C)[:3]
        assert [one.label for one in classes] == [model.classes[c] for c in order]
        np.testing.assert_allclose([p for _, p in classes], probability_C[order], rtol=1e-5)


def check_same(found, expected):
    """Batches of another size are rounded otherwise."""
    for a, b in zip(found, expected, strict=True):
        assert [one.label for one in a] == [one.label for one in b]
        np.testing.assert_allclose([p for _, p in a], [p for _, p in b], rtol=1e-5)


def test_batches_do_not_show(model, validation):
    images = validation.image_NxHxWx3[:5]
    at_once, by_two = (ktjax.predict(model, images, batch_size=b) for b in (64, 2))
    check_same(at_once, by_two)


def test_any_image_goes_through_the_models_transform(model, photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    spec = model.input
    crop = decode.eval_crop(
        photo, size=spec.size, crop_pct=spec.crop_pct, interpolation=spec.interpolation
    )
    (expected,) = ktjax.predict(model, crop)
    for given in (photo, Image.fromarray(photo), path, str(path)):
        assert ktjax.predict(model, given) == [expected]
    check_same(ktjax.predict(model, [path, photo]), [expected, expected])
    assert ktjax.predict(model, []) == []


def test_a_name_is_compiled_once(photo):
    inference._probabilities.clear_cache()
    for _ in range(3):
        inference.predict("glyphs/tiny_mlp_narrow", photo)
    assert inference._probabilities._cache_size() == 1


def test_all_classes_add_up(model, photo):
    (classes,) = ktjax.predict(NAME, photo, top=1000)
    assert len(classes) == len(model.classes) == 100
    assert sum(one.probability for one in classes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ("nowhere.png", {}, r"There is no image 'nowhere\.png'\."),
        (__file__, {}, r"inference_test\.py' does not decode: unknown format\."),
        (np.zeros((8, 8, 3), np.float32), {}, r"uint8 \[H, W, 3\], .*not float32 \[8, 8, 3\]\."),
        (np.zeros((8, 8), np.uint8), {}, r"not uint8 \[8, 8\]\."),
        (np.zeros((0, 8, 3), np.uint8), {}, r"not uint8 \[0, 8, 3\]\."),
        (np.zeros((8, 8, 3), np.uint8), {"top": 0}, r"top=0 must be 1 or more\."),
    ],
)
def test_what_is_refused(model, image, options, message):
    with pytest.raises(ValueError, match=message):
        ktjax.predict(model, image, **options)


def test_a_single_class_is_no_answer(photo):
    model = models.create("tiny_mlp_narrow", classes=["cat"], seed=0)
    with pytest.raises(ValueError, match=r"has one class, 'cat', whose probability would always"):
        ktjax.predict(model, photo)


def said(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["ktjax", *words])
    main.cli()
    return capsys.readouterr().out


def test_command_line(model, photo, tmp_path, monkeypatch, capsys):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    (expected,) = ktjax.predict(model, path, top=2)
    told = said(monkeypatch, capsys, "predict", NAME, str(path), "--top", "2", "--json")
    assert json.loads(told) == {str(path): [one._asdict() for one in expected]}
    first, best, _ = said(monkeypatch, capsys, "predict", NAME, str(path), "--top=2").splitlines()
    assert first == str(path)
    assert best.split(" %  ") == [f"  {100 * expected[0].probability:5.1f}", expected[0].label]


def test_bad_images_do_not_cost_the_others_their_answers(photo, tmp_path, monkeypatch, capsys):
    good, bad = tmp_path / "photo.png", tmp_path / "broken.png"
    Image.fromarray(photo).save(good)
    bad.write_bytes(good.read_bytes()[:50])
    words = ("predict", NAME, str(bad), str(tmp_path), str(good), "--top=1")
    with pytest.raises(SystemExit) as stopped:
        said(monkeypatch, capsys, *words)
    told = str(stopped.value)
    assert "broken.png' does not decode" in told and "is a folder: name its images" in told
    assert capsys.readouterr().out.splitlines()[0] == str(good)


def test_an_array_of_jax_is_an_image(model, photo):
    assert ktjax.predict(model, jnp.asarray(photo)) == ktjax.predict(model, photo)


def test_a_wrong_name_is_a_sentence(monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"^ktjax: There is no image 'nowhere\.png'\.$"):
        said(monkeypatch, capsys, "predict", NAME, "nowhere.png")


@pytest.mark.parametrize("word", ["quickstart", "predcit"])
def test_a_word_that_is_no_command_is_a_sentence(word, monkeypatch, capsys):
    message = rf"unknown command '{word}'\. Commands: configs, predict\. To run a job: ktjax --conf"
    with pytest.raises(SystemExit, match=message):
        said(monkeypatch, capsys, word)


def test_configs_are_listed(monkeypatch, capsys):
    told = said(monkeypatch, capsys, "configs")
    assert "transfer\n  Transfers knowledge from one or more teachers" in told
    assert "\n  Arguments: student, teachers, " in told
    assert re.fullmatch(r"(\S+\n(  .+\n){1,2})+", told)  # each a name, its sentence, its arguments
    one = said(monkeypatch, capsys, "configs", "paper/success")
    assert one.startswith("Figure 4 and table 1") and "\n\nArguments: students, teachers" in one
    assert Path(one.split("\n\nAll fields: ")[1].strip()).read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="No config is called 'tranfer'. Nearest: transfer"):
        said(monkeypatch, capsys, "configs", "tranfer")
    with pytest.raises(SystemExit, match="one name at most, not a b"):
        said(monkeypatch, capsys, "configs", "a", "b")


def test_a_photograph_is_turned_where_that_is_asked_for(model, photo, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "a.png"
    Image.fromarray(photo).save(path, exif=exif)
    as_it_lies, turned = ktjax.predict(model, [photo, np.rot90(photo, -1)], batch_size=1)
    assert as_it_lies != turned
    assert ktjax.predict(model, [path, Image.open(path)], batch_size=1) == [as_it_lies] * 2
    found = ktjax.predict(model, [path, Image.open(path)], batch_size=1, upright=True)
    assert found == [turned] * 2
