"""Architectures, inputs, BatchNorm, exported folders; errors."""

import dataclasses
import functools
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import imagenet, models
from ktjax.classifier import InputSpec, cast
from ktjax.models import loading
from ktjax.models.checkpoints import weights

# With 100 classes.
NUM_PARAMETERS = {
    "tiny_mlp_narrow": 60_964,
    "tiny_mlp": 204_772,
    "tiny_mixer": 67_316,
    "tiny_resnet_narrow": 13_696,
    "tiny_resnet": 48_604,
    "tiny_resnet_wide": 231_876,
    "tiny_resnet_gn": 83_892,
    "tiny_convnext": 59_596,
    "tiny_vit": 127_524,
}
CLASSES = tuple(f"class {i}" for i in range(100))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 17, 31, 3), np.uint8)

# The others have families_test.py and hf_test.py.
TINY = [name for name in models.MODELS if name.startswith("tiny_")]
each_architecture = pytest.mark.parametrize("name", TINY)


@functools.cache
def classifier(name):
    """A Classifier with variables drawn by NumPy: those of `create` take seconds to compile."""
    made = []

    def create():
        made.append(models.create(name, classes=CLASSES, seed=0))
        return made[0].variables

    generator = np.random.default_rng(0)

    def draw(path, leaf):
        noise = generator.normal(0, 0.1, leaf.shape)
        near_one = path[-1].key in ("scale", "var")
        return jnp.asarray(1 + np.abs(noise) if near_one else noise, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(create))
    return dataclasses.replace(made[0], variables=variables, origin="drawn by a test")


@functools.cache
def compiled(name):
    return jax.jit(lambda variables, image: classifier(name).apply(variables, image)[0])


def outputs(name, images=IMAGES, dtype=jnp.float32):
    return jax.device_get(compiled(name)(cast(classifier(name).variables, dtype), images))


def assert_trees_equal(a, b):
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), a, b)


# Architectures.


def test_what_kind_of_network_it_is():
    kinds = {models.inductive_bias(name) for name in models.MODELS}
    assert kinds == {"convolution", "attention", "MLP"}
    assert models.inductive_bias("torch:resnet18") is None
    assert models.protocol("timm/resnet18.a1_in1k") == "a1_in1k"
    assert models.protocol("hf:timm/resnet18.a1_in1k") == "a1_in1k"
    for name in ("glyphs/tiny_mlp", "hf:google/vit.base", "folder/a.b"):
        assert models.protocol(name) is None


def test_every_architecture_has_a_row():
    assert list(NUM_PARAMETERS) == TINY


@each_architecture
def test_number_of_parameters(name):
    assert classifier(name).num_parameters() == NUM_PARAMETERS[name]


@pytest.mark.smoke
def test_create_draws_from_the_seed():
    first, same, other = (
        models.create("tiny_mlp_narrow", classes=CLASSES, seed=seed) for seed in (1, 1, 2)
    )
    kernel = [c.variables["params"]["fc_0"]["kernel"] for c in (first, same, other)]
    assert_trees_equal(first.variables, same.variables)
    assert (kernel[0] != kernel[2]).any()
    assert (first.classes, first.origin) == (CLASSES, "random weights, seed 1")

    _, module = models.skeleton("tiny_mlp_narrow", CLASSES, None, {})
    image = jnp.zeros((1, *first.input.size, 3))
    optimized = jax.jit(lambda key: module.init(key, image), compiler_options=xla.OPTIMIZED)
    assert_trees_equal(first.variables, optimized(jax.random.key(1)))


@each_architecture
def test_finite_outputs_for_images_of_another_size(name):
    logits, features = outputs(name)
    assert logits.shape == (4, 100)
    assert features.shape[0] == 4
    assert features.ndim == 2
    assert np.isfinite(logits).all()
    assert np.isfinite(features).all()
    assert logits.std(axis=0).min() > 0  # the images are not all the same to it


@each_architecture
def test_same_variables_give_the_same_bits(name):
    again = jax.jit(classifier.__wrapped__(name).apply)(classifier(name).variables, IMAGES)[0]
    assert_trees_equal(jax.device_get(again), outputs(name))


@each_architecture
def test_images_do_not_see_each_other(name):
    mixed = IMAGES.copy()
    mixed[1:] = 255 - mixed[1:]
    alone, changed = outputs(name), outputs(name, mixed)
    np.testing.assert_allclose(alone.logits[0], changed.logits[0], rtol=1e-4, atol=1e-4)
    assert np.abs(alone.logits[1] - changed.logits[1]).max() > 1e-3


def operands(jaxpr):
    """The dtypes that go into matrix products and convolutions."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield from (variable.aval.dtype.name for variable in equation.invars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operands(inner)


@each_architecture
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_of_the_parameters_is_computed_in(name, dtype):
    student = classifier(name)
    variables = cast(student.variables, dtype)
    if "batch_stats" in variables:  # as in training, where they stay float32
        variables = variables | {"batch_stats": student.variables["batch_stats"]}
    image = jnp.zeros((2, *student.input.size, 3), jnp.uint8)  # no resizing, which is in float32
    found = set(operands(jax.make_jaxpr(student.apply)(variables, image).jaxpr))
    assert found == {dtype}


@each_architecture
def test_outputs_are_float32_and_alike_in_bfloat16(name):
    exact, rounded = outputs(name), outputs(name, dtype=jnp.bfloat16)
    assert {a.dtype for a in (*exact, *rounded)} == {np.dtype(np.float32)}
    for a, b in zip(exact, rounded, strict=True):
        assert 0 < np.abs(a - b).max() < 0.2 * np.abs(a).max()


# Input.


@pytest.mark.smoke
def test_prepare_against_numpy():
    spec = InputSpec(size=(17, 31), mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    expected = (IMAGES / 255.0 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
    x = spec.prepare(jnp.asarray(IMAGES))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 10), (24, 24), (40, 64)])
def test_resizing_keeps_a_constant_image(size, interpolation):
    x = InputSpec(size=size, interpolation=interpolation).prepare(
        jnp.full((2, 24, 30, 3), 204, jnp.uint8)
    )
    assert x.shape == (2, *size, 3)
    np.testing.assert_allclose(x, 0.6, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_antialiases(interpolation):
    stripes = np.zeros((1, 72, 72, 3), np.uint8)
    stripes[:, :, ::2] = 255
    x = InputSpec(size=(24, 24), interpolation=interpolation).prepare(jnp.asarray(stripes))
    # Without, every third column is read: -1 and 1 in turn.
    assert np.abs(np.asarray(x)[:, :, 2:-2]).max() < 0.2


def test_models_of_several_sizes_share_images():
    assert len({models.MODELS[name].input.size for name in TINY}) > 1
    assert all(classifier(name).input is models.MODELS[name].input for name in TINY)


# BatchNorm.


@functools.cache
def run_batch_norm(devices=1, **options):
    """tiny_resnet on IMAGES spread over devices, which vmap plays."""
    student = classifier("tiny_resnet_narrow")

    def apply(variables, image):
        return student.apply(variables, image, **options)

    images = IMAGES.reshape(devices, -1, *IMAGES.shape[1:])
    apply = jax.jit(jax.vmap(apply, in_axes=(None, 0), axis_name="batch"))
    output, stats = jax.device_get(apply(student.variables, images))
    return output.logits.reshape(-1, 100), stats


def stats_of_devices(devices, **options):
    """The updated statistics, which are the same on all devices."""
    stats = run_batch_norm(devices, **options)[1]
    assert_trees_equal(stats, jax.tree.map(lambda a: np.stack([a[0]] * devices), stats))
    return jax.tree.map(lambda a: a[0], stats)


BEFORE = "tiny_resnet_narrow"


def test_train_updates_the_statistics():
    before = classifier(BEFORE).variables["batch_stats"]
    after = stats_of_devices(1, train=True)
    changed = jax.tree.map(lambda a, b: bool((a != b).all()), before, after)
    assert all(jax.tree.leaves(changed))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


def test_statistics_move_by_a_tenth():
    student = classifier(BEFORE)
    kernel = np.asarray(student.variables["params"]["conv1"]["kernel"])
    x = np.asarray(student.input.prepare(jnp.asarray(IMAGES)))
    y = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before = student.variables["batch_stats"]["bn1"]
    after = stats_of_devices(1, train=True)["bn1"]
    for name, batch in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * batch, rtol=1e-4)


@pytest.mark.parametrize("devices", [2, 4])
def test_statistics_are_those_of_all_devices(devices):
    one, many = run_batch_norm(1, train=True), run_batch_norm(devices, train=True)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-3, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        stats_of_devices(devices, train=True),
        stats_of_devices(1, train=True),
    )


def test_frozen_statistics_are_used_and_left_alone():
    frozen = run_batch_norm(1, train=True, freeze_stats=True)
    assert_trees_equal(frozen[0], run_batch_norm(1, train=False)[0])
    assert np.abs(frozen[0] - run_batch_norm(1, train=True)[0]).max() > 1e-2
    assert_trees_equal(
        stats_of_devices(1, train=True, freeze_stats=True),
        jax.device_get(classifier(BEFORE).variables["batch_stats"]),
    )


def test_evaluation_leaves_the_statistics_alone_and_needs_no_axis():
    student = classifier(BEFORE)
    output, stats = jax.jit(student.apply)(student.variables, IMAGES)
    assert_trees_equal(jax.device_get(stats), jax.device_get(student.variables["batch_stats"]))
    np.testing.assert_allclose(output.logits, run_batch_norm(2, train=False)[0], atol=1e-4)


def test_a_model_without_batch_norm_has_no_statistics():
    student = classifier("tiny_mlp_narrow")
    output, stats = student.apply(student.variables, IMAGES, train=True)
    assert stats == {}
    np.testing.assert_allclose(output.logits, outputs("tiny_mlp_narrow").logits, atol=1e-4)


# Folders.


@pytest.mark.parametrize("name", ["tiny_resnet_narrow", "tiny_mlp_narrow"])
def test_export_and_load_is_a_round_trip(name, tmp_path):
    size = (20, 28) if name == "tiny_resnet_narrow" else (12, 12)
    spec = InputSpec(size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9)
    before = dataclasses.replace(classifier(name), input=spec, classes=("Ä", *CLASSES[1:]))
    weights.export(before, tmp_path / "model", accuracy=12.5)
    after = models.load(str(tmp_path / "model"))
    assert_trees_equal(jax.device_get(after.variables), jax.device_get(before.variables))
    assert (after.input, after.classes, after.origin) == (spec, before.classes, "drawn by a test")
    assert (after.architecture, after.name) == (name, str(tmp_path / "model"))
    assert weights.read_config(tmp_path / "model")["accuracy"] == 12.5


@pytest.mark.smoke
def test_a_folder_may_be_a_string(tmp_path):
    ktjax.export_model(classifier("tiny_mlp_narrow"), str(tmp_path / "deep" / "model"))
    assert ktjax.load_model(str(tmp_path / "deep" / "model")).architecture == "tiny_mlp_narrow"


def test_what_a_notebook_shows_of_a_model_is_short():
    shown = repr(models.load("glyphs/tiny_vit"))
    assert shown.startswith("Classifier(name='glyphs/tiny_vit', architecture='tiny_vit', input=")
    assert len(shown) < 500
    assert {"load_model", "export_model", "jobs"} <= set(dir(ktjax))
    # What editors are told is what is there.
    assert set(ktjax.__all__) == set(ktjax._LAZY)
    for name in ktjax.__all__:
        assert getattr(ktjax, name) is not None
    source = inspect.getsource(ktjax).partition("if TYPE_CHECKING")[2].partition("__all__")[0]
    assert set(re.findall(r"\w+", source)) >= set(ktjax.__all__)


def test_a_loaded_model_says_the_same(exported):
    after = models.load(str(exported))
    np.testing.assert_array_equal(
        jax.jit(after.apply)(after.variables, IMAGES)[0].logits, outputs(after.architecture).logits
    )


@pytest.fixture
def exported(tmp_path):
    weights.export(classifier("tiny_mlp_narrow"), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def small_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "ZOO", tmp_path)
    for name in ("tiny_mlp_narrow", "tiny_vit"):
        weights.export(classifier(name), tmp_path / name)


def test_the_zoo_is_what_lies_in_its_folder(small_zoo):
    assert models.zoo() == ("glyphs/tiny_mlp_narrow", "glyphs/tiny_vit")
    after = models.load("glyphs/tiny_mlp_narrow")
    assert after.name == "glyphs/tiny_mlp_narrow"
    assert_trees_equal(after.variables, classifier("tiny_mlp_narrow").variables)


# Errors.


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("glyphs/tiny_vits", "Nearest: glyphs/tiny_vit"),
        ("tiny_mlp_narow", "Nearest: tiny_mlp_narrow, glyphs/tiny_mlp_narrow"),
        ("resnet50.a1_in1k", r"timm's checkpoint is called 'timm/resnet50\.a1_in1k'"),
        ("Xqz", r"Nearest: .*; `python -m ktjax\.models` lists all"),
    ],
)
def test_an_unknown_model_lists_the_nearest(small_zoo, name, nearest):
    with pytest.raises(ValueError, match=f"^No model '{name}'.*{nearest}"):
        models.load(name)


def test_a_path_without_a_model_is_looked_at(tmp_path, monkeypatch):
    for name in ("teacher-1", "student"):
        (tmp_path / name).mkdir()
    told = {
        tmp_path / "teacher1": f"'{tmp_path}' has no such folder. Nearest there: teacher-1.",
        tmp_path / "no/model": f"there is no folder '{tmp_path}/no'.",
        tmp_path / "student": "is no model: config.json and model.safetensors are not both there.",
    }
    for path, text in told.items():
        with pytest.raises(ValueError, match=re.escape(text)):
            models.load(str(path))
    monkeypatch.chdir(tmp_path)
    for name in ("student", "student/none", "./none"):
        with pytest.raises(ValueError, match="is no model: |has no such folder"):
            models.load(name)


def test_an_unknown_architecture_lists_the_nearest():
    with pytest.raises(ValueError, match=r"No architecture 'tiny_vits'\. Nearest: tiny_vit[,.]"):
        models.create("tiny_vits", classes=CLASSES, seed=0)


def test_an_architecture_given_as_a_model_says_how_to_train_it():
    with pytest.raises(ValueError, match=r"train it with configs/pretrain\.py:model=tiny_resnet,"):
        models.load("tiny_resnet")
    with pytest.raises(ValueError, match=r"this exports; or use one of timm's: timm/resnet18\.a1_"):
        models.load("resnet18")


def test_images_that_somebody_has_normalized_are_refused():
    model = models.load("glyphs/tiny_mlp_narrow")
    with pytest.raises(ValueError, match="takes uint8 images .*, not float32"):
        model.apply(model.variables, np.zeros((1, 24, 24, 3), np.float32), train=False)
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\], not \[255, 237, 3\]: pass a single im"):
        model.apply(model.variables, np.zeros((255, 237, 3), np.uint8))


def rewrite(folder, change):
    path = folder / weights.WEIGHTS
    entries = safetensors_numpy.load_file(path)
    change(entries)
    safetensors_numpy.save_file(entries, path)


def test_all_that_does_not_fit_is_listed_at_once(exported):
    def change(entries):
        del entries["params/fc_1/bias"], entries["params/head/bias"]
        entries["params/fc_9/bias"] = np.zeros(3, np.float32)
        entries["params/fc_0/bias"] = np.zeros(3, np.float32)
        entries["params/norm_0/scale"] = np.zeros((96, 1), np.float32)

    rewrite(exported, change)
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit") as refusal:
        models.load(str(exported))
    assert str(refusal.value).splitlines()[1:] == [
        "  missing params/fc_1/bias (96,)",
        "  missing params/head/bias (100,)",
        "  unexpected params/fc_9/bias (3,)",
        "  misshapen params/fc_0/bias: file (3,), tiny_mlp_narrow (96,)",
        "  misshapen params/norm_0/scale: file (96, 1), tiny_mlp_narrow (96,)",
    ]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_refused_with_one_sentence(exported, kept):
    path = exported / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"safetensors is not a whole safetensors file.*") as error:
        models.load(str(exported))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"architecture": "resnet50", "num_classes": 1000}',
            "neither by ktjax nor by timm or transformers: it lacks pretrained_cfg",
        ),
        ("[]", "does not hold a JSON object"),
        ('{"architecture": ', "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(exported, text, message):
    (exported / weights.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(exported))}/config\.json.*{message}"):
        models.load(str(exported))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "jax", r"says format 'jax'\. Known: ktjax, timm"),
        ("architecture", "tiny_vits", r"No architecture 'tiny_vits'\. Nearest: tiny_vit"),
        ("label_names", ["a", "b"], "misshapen params/head/bias: file "),
    ],
)
def test_a_config_with_another_value_is_refused(exported, field, value, message):
    config = json.loads((exported / weights.CONFIG).read_text())
    (exported / weights.CONFIG).write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match=message):
        models.load(str(exported))


def test_classes_have_to_be_those_of_the_data():
    student = classifier("tiny_mlp_narrow")
    models.check_classes(student, list(CLASSES), "glyphs")
    with pytest.raises(ValueError, match="tiny_mlp_narrow has 100 classes, cub has 2"):
        models.check_classes(student, ["a", "b"], "cub")
    other = [*CLASSES[:7], "ant", *CLASSES[8:]]
    with pytest.raises(ValueError, match="class 7 is 'class 7' there and 'ant' here"):
        models.check_classes(student, other, "cub")


def test_models_are_named_without_importing_data(python):
    code = (
        "import sys; from ktjax import models; models.blank('glyphs/tiny_vit');"
        "models.classes.is_imagenet([]); print(*(m for m in sys.modules if m.startswith('ktjax')))"
    )
    assert not [name for name in python(code) if name.startswith("ktjax.data")]


def test_imagenet_has_synsets_and_words():
    """A model of transformers' says tench, Tinca tinca, where data says n01440764."""
    synsets = imagenet.synsets()
    words = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 281: "tabby, tabby cat"}
    words |= {388: "giant panda, panda", 817: "sports car, sport car", 954: "banana"}
    words |= {999: "toilet tissue, toilet paper, bathroom tissue"}
    in_words = tuple(words.get(i, f"something {i}") for i in range(1000))
    nameless = tuple(f"LABEL_{i}" for i in range(1000))
    student = classifier("tiny_mlp_narrow")
    for classes in (synsets, in_words, nameless):
        known = dataclasses.replace(student, classes=classes)
        models.check_classes(known, list(synsets), "imagenet2012")
        for others in (sorted(in_words), synsets[::-1], [f"class {i}" for i in range(1000)]):
            with pytest.raises(ValueError, match="has different classes from others: class 0"):
                models.check_classes(known, others, "others")
