"""CLIP and SigLIP as classifiers against transformers (goldens/make_zero_shot.py), and in jobs."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_jobs
from flax import traverse_util
from goldens import rule
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import data, models
from ktjax.experiment import inputs
from ktjax.jobs import transfer
from ktjax.models.checkpoints import weights
from ktjax.models.networks import clip_text

GOLDENS = Path(__file__).parent / "goldens"
EXPECTED = json.loads((GOLDENS / "zero_shot" / "expected.json").read_text(encoding="utf-8"))
NAMES, TEMPLATES = EXPECTED["names"], EXPECTED["templates"]
SIGLIP = GOLDENS / "zero_shot" / "siglip"
FOLDERS = {"clip": GOLDENS / "clip_text", "siglip": SIGLIP}
each_kind = pytest.mark.parametrize("kind", FOLDERS)


def load(kind, classes=NAMES, **asked):
    return models.load(f"zeroshot:{FOLDERS[kind]}", classes=classes, **asked)


@pytest.fixture(scope="module")
def loaded():
    """With both templates."""
    return {kind: load(kind, templates=TEMPLATES) for kind in FOLDERS}


@functools.partial(jax.jit, static_argnums=0)
def run(forward, variables, x):
    return forward(variables, x, train=False, rngs=None, freeze_stats=False)[0]


def output_of(model, variables=None):
    x = rule.images(model.input.size[0])
    return run(model.forward, model.variables if variables is None else variables, x)


def error(model, kind, template, variables=None):
    expected = np.array(EXPECTED[kind][template])
    found = np.asarray(output_of(model, variables).logits)
    return np.abs(found - expected).max() / expected.std()


def test_a_folder_may_lie_at_home(monkeypatch):
    monkeypatch.setenv("HOME", str(SIGLIP.parent))
    assert models.blank("zeroshot:~/siglip").definition.where == str(SIGLIP)


@each_kind
def test_logits_are_transformers(loaded, kind):
    model = loaded[kind]
    assert error(model, kind, "mean") < 1e-5
    plain = load(kind).variables  # with the template that is taken if none is given
    assert error(model, kind, TEMPLATES[0], plain) < 1e-5
    assert error(model, kind, TEMPLATES[0]) > 1e-3
    features = np.asarray(output_of(model).features)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    assert (model.classes, model.definition) == (tuple(NAMES), None)


@each_kind
def test_every_parameter_is_used_in_its_place(loaded, kind):
    flat = traverse_util.flatten_dict(loaded[kind].variables["params"], sep="/")

    # What all keys have in common softmax does not see.
    for name in flat:
        changed = flat[name] * jnp.linspace(0.5, 1.5, flat[name].size).reshape(flat[name].shape)
        at = {"params": traverse_util.unflatten_dict(flat | {name: changed + 0.1}, sep="/")}
        assert error(loaded[kind], kind, "mean", at) > 1e-4, name


def test_the_input_is_that_of_the_image_processor(loaded):
    clip, siglip = loaded["clip"].input, loaded["siglip"].input
    assert (clip.size, siglip.size) == ((4, 4), (12, 12))
    assert (clip.crop_mode, siglip.crop_mode) == ("center", "squash")
    assert clip.mean == (0.48145466, 0.4578275, 0.40821073) and siglip.mean == (0.5, 0.5, 0.5)


def test_it_is_a_classifier_like_any_other(loaded, tmp_path):
    model = loaded["siglip"]
    fewer = models.fitted(model, ("hen", "cat"), "farm")
    np.testing.assert_allclose(
        output_of(fewer).logits, np.asarray(output_of(model).logits)[:, [3, 0]], rtol=1e-6
    )
    head = models.head_of(model)["params"]
    assert [k for k, v in traverse_util.flatten_dict(head, sep="/").items() if v] == ["head/kernel"]
    ktjax.export_model(model, tmp_path)
    after = ktjax.load_model(str(tmp_path))  # where there is no text tower
    assert (after.classes, after.input) == (model.classes, model.input)
    jax.tree.map(np.testing.assert_array_equal, after.variables, model.variables)
    with pytest.raises(ValueError, match="has a text tower, too"):
        ktjax.export_model(model, tmp_path / "hf", format="hf")
    larger = load("siglip", size=(20, 20))
    assert larger.variables["params"]["pos_embed"].shape == (1, 25, 20)
    fresh = load("siglip", classes=("a", "b"), head="zero")
    assert not np.asarray(fresh.variables["params"]["head"]["kernel"]).any()


def test_logits_are_exact_in_bfloat16(loaded):
    model = loaded["clip"]
    half = ktjax.classifier.cast(dict(model.variables), jnp.bfloat16)
    output = run(model.forward, half, jnp.asarray(rule.images(4)).astype(jnp.bfloat16))
    exact = output.features @ half["params"]["head"]["kernel"].astype(jnp.float32)
    scale = np.exp(np.float32(half["params"]["logit_scale"]))
    np.testing.assert_allclose(output.logits, scale * exact, rtol=1e-5, atol=1e-6)


def test_synsets_are_named_in_words(monkeypatch):
    asked = []
    embed = lambda where, names, *templates: asked.extend(names) or np.zeros((len(names), 20))  # noqa: E731
    monkeypatch.setattr(clip_text, "embed_names", embed)
    model = load("siglip", classes=("n01440764", "sea_lion"))
    assert asked == ["tench, Tinca tinca", "sea_lion"]
    assert model.classes == ("n01440764", "sea_lion")


def test_a_job_asks_it_about_the_classes_of_the_data(monkeypatch, tmp_path, noisy, quartet):
    asked = []

    def embed_names(where, names, *templates):
        asked.append((where, tuple(names), templates))
        return embed(where, names, *templates)

    embed = clip_text.embed_names
    monkeypatch.setattr(clip_text, "embed_names", embed_names)
    name = f"zeroshot:{SIGLIP}"
    config = small_jobs.transferring(
        noisy, quartet[0], [name], total_steps=2, templates=tuple(TEMPLATES)
    )
    results = transfer.run(config, tmp_path)
    assert asked == [(str(SIGLIP), small_jobs.CLASSES, tuple(TEMPLATES))]  # once
    (row,) = results["runs"]
    teacher = load("siglip", classes=small_jobs.CLASSES, templates=TEMPLATES)
    found = small_jobs.accuracy_of(teacher, noisy)
    assert row["teachers"] == [name]
    assert results["models"][name]["accuracy"] == pytest.approx(found)


def test_it_has_whatever_classes_are_shared(noisy):
    blank = models.blank(f"zeroshot:{SIGLIP}")
    other = models.named(blank, ("rows", "stars", "corner"))
    loaded = inputs.Loaded(data.load(f"folder:{noisy}"))
    loaded, found = inputs.with_shared_classes(loaded, {"a": blank, "b": other}, trained=())
    assert loaded.dataset.classes == ("corner", "rows")
    for model in found.values():
        assert model.classes == ("corner", "rows")
        assert model.variables["params"]["head"]["kernel"].shape == (20, 2)


# Errors.


def test_without_classes_it_says_nothing():
    model = load("siglip", classes=None)
    assert model.classes == ()
    for use in (
        lambda: ktjax.predict(model, np.zeros((4, 4, 3), np.uint8)),
        lambda: ktjax.export_model(model, "nowhere"),
        lambda: models.head_of(model),
    ):
        with pytest.raises(ValueError, match="has no classes of its own"):
            use()
    assert models.named(model, NAMES).classes == tuple(NAMES)
    with pytest.raises(ValueError, match="by the names of the classes, and 'class 0' says"):
        load("siglip", classes=3)
    with pytest.raises(ValueError, match="pass those of the new head, too"):
        load("siglip", classes=None, head="zero")
    assert load("siglip", classes=3, head="zero").classes == models.classes.numbered(3)
    blank = models.blank(f"zeroshot:{SIGLIP}")
    kernel = models.fitted(blank, NAMES, "farm").variables["params"]["head"]["kernel"]
    assert isinstance(kernel, jax.ShapeDtypeStruct) and kernel.shape == (20, 4)


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "siglip2"}, "not of a CLIP or SigLIP model"),
        ({"model_type": "siglip_text_model"}, "of a text tower only"),
        ({"vision_config": {"vision_use_head": False}}, "has vision_use_head=False; ktjax"),
        ({"vision_config": {"num_channels": 1}}, "has num_channels=1; ktjax supports only 3"),
        ({"vision_config": {"hidden_size": 24}}, "does not fit"),
    ],
)
def test_other_models_are_refused(tmp_path, fields, message):
    folder = Path(shutil.copytree(SIGLIP, tmp_path / "siglip"))
    old = json.loads((folder / "config.json").read_text())
    change(folder, **{k: old[k] | v if isinstance(v, dict) else v for k, v in fields.items()})
    with pytest.raises(ValueError, match=message):
        models.load(f"zeroshot:{folder}")


def test_a_processor_of_two_channels_is_refused(tmp_path):
    folder = Path(shutil.copytree(SIGLIP, tmp_path / "siglip"))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5]}))
    with pytest.raises(ValueError, match="is not for images of 3 channels"):
        models.blank(f"zeroshot:{folder}")


def test_towers_of_other_widths_are_refused(tmp_path):
    folder = Path(shutil.copytree(SIGLIP, tmp_path / "siglip"))
    old = json.loads((folder / "config.json").read_text())
    change(folder, text_config=old["text_config"] | {"projection_size": 8})
    arrays = safetensors_numpy.load_file(folder / weights.WEIGHTS)
    for name in ("weight", "bias"):
        arrays[f"text_model.head.{name}"] = arrays[f"text_model.head.{name}"][:8]
    safetensors_numpy.save_file(arrays, folder / weights.WEIGHTS)
    with pytest.raises(ValueError, match="embeddings have 20 dimensions, and text embeddings 8"):
        models.load(f"zeroshot:{folder}", classes=NAMES)


def test_a_plain_name_says_how_it_is_asked():
    with pytest.raises(ValueError, match=f"zeroshot:{SIGLIP} uses it with those of the data"):
        models.load(str(SIGLIP))
