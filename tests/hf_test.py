"""transformers' classifiers against goldens of its own: folders as it writes them, both ways."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import small_jobs
from goldens import rule
from safetensors import numpy as safetensors_numpy

from ktjax import models
from ktjax.jobs import transfer
from ktjax.models.checkpoints import hf, weights

GOLDENS = Path(__file__).parent / "goldens" / "transformers"
CASES = sorted(folder.name for folder in GOLDENS.iterdir())
each_case = pytest.mark.parametrize("case", CASES)


@functools.cache
def golden(case):
    return dict(np.load(GOLDENS / case / "golden.npz"))


def entries(case):
    """The file's entries, with the weights of the rule."""
    lines = (line.split(" ") for line in golden(case)["names"].tobytes().decode().splitlines())
    shapes = {name: tuple(map(int, filter(None, shape.split("x")))) for name, shape in lines}
    return {name: rule.weight(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as transformers writes them."""
    root = tmp_path_factory.mktemp("transformers")
    for case in CASES:
        (root / case).mkdir()
        for name in ("config.json", hf.PREPROCESSOR):
            (root / case / name).write_bytes((GOLDENS / case / name).read_bytes())
        safetensors_numpy.save_file(entries(case), root / case / weights.WEIGHTS)
    return root


def logits(model):
    def forward(variables, x):
        return model.forward(variables, x, train=False, rngs=None, freeze_stats=False)[0].logits

    x = rule.images(model.input.size[0])
    run = jax.jit(forward).lower(model.variables, x).compile()
    return np.asarray(run(model.variables, x))


def test_what_the_network_has_not_is_not_native():
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}
    assert hf.is_native(config) and hf.is_native(config | {"hidden_act": "relu"})
    assert not hf.is_native(config | {"downsample_in_bottleneck": True})
    assert not hf.is_native({"model_type": "swinv2", "architectures": ["Swinv2Model"]})


def test_every_kind_has_a_case():
    configs = (json.loads((GOLDENS / case / "config.json").read_text()) for case in CASES)
    assert {config["architectures"][0] for config in configs} == set(hf.KINDS)


@each_case
def test_logits_are_transformers(folders, case):
    found, expected = logits(models.load(str(folders / case))), golden(case)["logits"]
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean(axis=0))
    assert distance < 1e-5
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


@each_case
@pytest.mark.parametrize("format", ["hf", "ktjax"])
def test_there_and_back(folders, tmp_path, case, format):
    before = models.load(str(folders / case))
    weights.export(before, tmp_path, format=format)
    after = models.load(str(tmp_path))
    assert (after.input, after.classes) == (before.input, before.classes)
    assert (after.architecture, after.options) == (before.architecture, before.options)
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
    if format == "hf":
        found = safetensors_numpy.load_file(tmp_path / weights.WEIGHTS)
        for name, array in entries(case).items():
            if name.endswith("mask_token"):  # of pretraining
                continue
            if case == "dinov2_resized" and name.endswith("position_embeddings"):
                assert found.pop(name).shape == (1, 1 + (32 // 8) ** 2, 32)
                continue
            np.testing.assert_array_equal(found.pop(name), array, strict=True)
        assert all(name.endswith("num_batches_tracked") for name in found)


def test_input_and_classes_come_from_the_files(folders):
    model = models.load(str(folders / "resnet"))
    assert model.input.size == (32, 32)
    assert model.input.mean == (0.4, 0.5, 0.6)
    assert (model.input.interpolation, model.input.crop_pct) == ("bicubic", 0.875)
    assert model.classes == tuple(f"LABEL_{i}" for i in range(rule.CLASSES))
    assert (models.family(model.architecture), model.origin) == ("resnet", "pretrained resnet")


@pytest.fixture
def resnet(folders, tmp_path):
    """A copy to be spoilt."""
    for path in (folders / "resnet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_act", "gelu", r"hidden_act='gelu'; ktjax supports only 'relu'"),
        ("architectures", ["ResNetNoModel"], r"has no head, so it cannot classify"),
        ("architectures", ["ViTNewForImageClassification"], r"is of ViTNew.*; ktjax has ResNetFor"),
        ("architectures", None, "is of no class; ktjax has "),
        ("model_type", "nothing", "transformers cannot read .*config.json: "),
        (
            "depths",
            [1, 2, 2],
            r"\(15 missing, all of them in the log\):\n  missing resnet.*, and 2 more of",
        ),
    ],
)
def test_configs_of_something_else_are_refused(resnet, field, value, message):
    path = resnet / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=message):
        models.load(str(resnet))


@pytest.mark.parametrize("kind", ["resnet", "unknown"])
def test_code_of_a_folder_is_never_run(resnet, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    mark = resnet / "it_ran"
    (resnet / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass EvilConfig: pass\n")
    path = resnet / "config.json"
    evil = {"model_type": kind, "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | evil))
    if kind == "resnet":  # transformers' own class reads it
        models.load(str(resnet))
    else:
        with pytest.raises(ValueError, match="transformers cannot read .*config.json: "):
            models.load(str(resnet))
    assert not mark.exists()


def test_without_a_preprocessor_config_the_models_class_says_it(resnet, caplog):
    (resnet / hf.PREPROCESSOR).unlink()
    found = models.blank(str(resnet)).input
    assert (found.size, found.mean, found.crop_pct) == ((224, 224), (0.5, 0.5, 0.5), 0.875)
    assert "with the defaults of ConvNextImageProcessor" in caplog.text


def test_a_file_of_a_vit_squeezes(folders):
    assert models.blank(str(folders / "vit")).input.crop_mode == "squash"
    assert models.blank(str(folders / "resnet")).input.crop_mode == "center"


@pytest.mark.parametrize("first", [1, 5])
def test_classes_may_be_counted_from_anywhere(resnet, first, caplog):
    path = resnet / "config.json"
    count = rule.CLASSES
    numbers = [first + i + (i > 3) for i in range(count)]  # with a hole
    named = {str(number): f"thing {i}" for i, number in enumerate(numbers)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": named}))
    found = models.load(str(resnet))
    assert found.classes == tuple(f"thing {i}" for i in range(count))
    assert f"has the numbers {first} to {first + count} for {count} classes" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, jax.numpy.bfloat16])
def test_half_precision_is_read(resnet, dtype):
    path, expected = resnet / weights.WEIGHTS, models.load(str(resnet)).variables
    half = {k: v.astype(dtype) for k, v in safetensors_numpy.load_file(path).items()}
    path.write_bytes(safetensors_numpy.save(half))
    found = models.load(str(resnet)).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(dtype).astype(np.float32), expected)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)


@pytest.mark.parametrize("case", ["vit", "dinov2", "swin", "resnet"])
def test_an_encoder_gets_a_head(folders, tmp_path, case):
    """As transformers' save_pretrained leaves one: names without the model's, and a pooler."""
    config = json.loads((folders / case / "config.json").read_text())
    whole, start = entries(case), f"{config['model_type']}."
    alone = {n.removeprefix(start): a for n, a in whole.items() if n.startswith(start)}
    alone["pooler.dense.weight"] = np.zeros((4, 4), np.float32)
    config["architectures"] = [
        config["architectures"][0].replace("ForImageClassification", "Model")
    ]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / hf.PREPROCESSOR).write_bytes((folders / case / hf.PREPROCESSOR).read_bytes())
    safetensors_numpy.save_file(alone, tmp_path / weights.WEIGHTS)
    with pytest.raises(ValueError, match="has no head, so .* head='zero' or 'random'"):
        models.load(str(tmp_path))
    with pytest.raises(ValueError, match="has no head"):
        models.load(str(tmp_path), classes=3)
    expected = models.load(str(folders / case))
    found = models.load(str(tmp_path), classes=("a", "b", "c"), head="zero")
    assert found.classes == ("a", "b", "c")
    heads = jax.tree.leaves(models.head_of(expected))
    pairs = zip(jax.tree.leaves(found.variables), jax.tree.leaves(expected.variables), strict=True)
    for in_head, (ours, theirs) in zip(heads, pairs, strict=True):
        np.testing.assert_array_equal(ours, np.zeros_like(ours) if in_head else theirs)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_head_for_another_problem_is_left_out(folders, resnet, problem, caplog):
    path = resnet / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    assert len(models.load(str(resnet)).classes) == rule.CLASSES
    path.write_text(json.dumps(config | {"problem_type": problem}))
    with pytest.raises(ValueError, match="has no head, so it cannot classify"):
        models.load(str(resnet))
    assert f"has problem_type={problem}: its head is left out" in caplog.text
    found = models.load(str(resnet), classes=("a", "b"), head="zero").variables["params"]
    expected = models.load(str(folders / "resnet")).variables["params"]
    jax.tree.map(np.testing.assert_array_equal, found["conv1"], expected["conv1"])


def test_weights_in_parts(resnet):
    whole = models.load(str(resnet)).variables
    arrays = sorted(safetensors_numpy.load_file(resnet / weights.WEIGHTS).items())
    (resnet / weights.WEIGHTS).unlink()
    names = {}
    for part in range(2):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        safetensors_numpy.save_file(dict(arrays[part::2]), resnet / file)
        names |= {name: file for name, _ in arrays[part::2]}
    index = resnet / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    jax.tree.map(np.testing.assert_array_equal, models.load(str(resnet)).variables, whole)
    for listed, message in (
        (names | {"extra": "model-00001-of-00002.safetensors"}, "lacks extra, which model.safe"),
        (names | {"extra": "../model.safetensors"}, "not a .safetensors beside it"),
        (names | {"extra": "model-3.safetensors"}, "There is no .*model-3.safetensors"),
        ({}, "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(ValueError, match=message):
            models.load(str(resnet))


def test_only_transformers_models_go_to_transformers(tmp_path):
    model = models.create("tiny_mlp_narrow", classes=("a", "b"), seed=0)
    with pytest.raises(ValueError, match="Format hf is for models that came from transformers"):
        weights.export(model, tmp_path / "there", format="hf")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("case", ["resnet", "vit", "dinov2", "swin"])
def test_images_that_are_not_square(folders, case, tmp_path):
    """A ViT's size may be two; not all of transformers' networks and processors take that."""
    model = models.load(str(folders / case), size=(32, 64))
    if case != "vit":
        with pytest.raises(ValueError, match="Format hf is for square images: transformers"):
            weights.export(model, tmp_path / "there", format="hf")
        assert not (tmp_path / "there").exists()
        return
    weights.export(model, tmp_path, format="hf")
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == [32, 64]
    after = models.load(str(tmp_path))
    assert after.input == model.input
    jax.tree.map(np.testing.assert_array_equal, after.variables, model.variables)


def test_nothing_is_written_if_no_processor_prepares_such_images(folders, tmp_path):
    model = models.load(str(folders / "resnet"))
    spec = dataclasses.replace(model.input, crop_mode="border")
    with pytest.raises(ValueError, match="no image processor that adds borders"):
        weights.export(dataclasses.replace(model, input=spec), tmp_path / "there", format="hf")
    assert not (tmp_path / "there").exists()


@pytest.mark.usefixtures("compile_once")
def test_models_of_timm_and_transformers_teach_each_other(tmp_path):
    """Through the front door: both as they write them, and the student back to transformers.

    The teacher has the classes in another order, and one more.
    """
    images = small_jobs.make_images(tmp_path / "images")
    names = {"id2label": dict(enumerate(small_jobs.CLASSES)), "label2id": {}}
    config = json.loads((GOLDENS / "vit" / "config.json").read_text()) | names
    student = tmp_path / "vit"
    student.mkdir()
    (student / "config.json").write_text(json.dumps(config))
    (student / hf.PREPROCESSOR).write_bytes((GOLDENS / "vit" / hf.PREPROCESSOR).read_bytes())
    arrays = entries("vit")
    arrays |= {n: a[: len(small_jobs.CLASSES)] for n, a in arrays.items() if "classifier" in n}
    safetensors_numpy.save_file(arrays, student / weights.WEIGHTS)
    architecture, options = models.TESTING["mlp_mixer"]
    teacher = models.create(
        architecture,
        classes=("moon", *reversed(small_jobs.CLASSES)),
        seed=0,
        size=(32, 32),
        **options,
    )
    weights.export(teacher, tmp_path / "mixer", format="timm")
    job = small_jobs.transferring(images, student, [tmp_path / "mixer"], total_steps=2)
    results = transfer.run(job, tmp_path / "workdir")
    assert results["models"][str(student)]["accuracy"] < 100
    after = models.load(str(next((tmp_path / "workdir" / "students").iterdir())))
    assert after.architecture == "ViTForImageClassification"
    weights.export(after, tmp_path / "back", format="hf")
    back = safetensors_numpy.load_file(tmp_path / "back" / weights.WEIGHTS)
    assert set(back) == set(arrays)
    assert any((back[name] != array).any() for name, array in arrays.items())
