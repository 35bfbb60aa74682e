"""Modules of one's own as Classifiers: Linen, NNX, functions; alone and in a job."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_jobs
from flax import linen as nn
from flax import nnx
from flax.core import freeze

import ktjax
from ktjax import models, parallel
from ktjax.checkpoint import Checkpoints
from ktjax.jobs import transfer
from ktjax.models.checkpoints import weights
from ktjax.settings.transfer import Transfer
from ktjax.targets import describe

SPEC = dict(size=(12, 12), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SPEC |= dict(classes=small_jobs.CLASSES)


class Mine(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), 2, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x)).mean((1, 2))
        return nn.Dense(4, name="head")(x), x


class Yours(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(432, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)])
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.bn(self.layers[0](x.reshape(x.shape[0], -1))))
        return self.layers[1](self.dropout(x))


def of_linen():
    module = Mine()
    return module, ktjax.from_linen(
        module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 3))), **SPEC
    )


def of_nnx():
    module = Yours(nnx.Rngs(0))
    return module, ktjax.from_nnx(module, **SPEC)


def of_function():
    kernel = jax.random.normal(jax.random.key(0), (432, 4)) / 20

    def apply(params, x):
        return jnp.dot(x.reshape(x.shape[0], -1), params["dense"]["kernel"])

    return apply, ktjax.from_function(apply, {"dense": {"kernel": kernel}}, **SPEC)


IMAGES = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)
PREPARED = (jnp.asarray(IMAGES, jnp.float32) / 255 - 0.5) / 0.25


def test_they_answer_as_the_module():
    module, model = of_linen()
    output, stats = jax.jit(model.apply)(model.variables, IMAGES)
    logits, features = module.apply(model.variables, PREPARED)
    np.testing.assert_allclose(output.logits, logits, atol=1e-5)
    np.testing.assert_allclose(output.features, features, atol=1e-5)
    assert stats is not None and model.architecture == "linen:Mine"
    module, model = of_nnx()
    output, _ = jax.jit(model.apply)(model.variables, IMAGES)
    module.eval()
    np.testing.assert_allclose(output.logits, module(PREPARED), atol=1e-5)
    assert output.features is None
    assert "layers.0.kernel" in model.variables["params"]
    apply, model = of_function()
    output, stats = jax.jit(model.apply)(model.variables, IMAGES)
    np.testing.assert_allclose(output.logits, apply(model.variables["params"], PREPARED), atol=1e-5)
    assert stats == {}


@pytest.mark.parametrize("make", [of_linen, of_nnx])
def test_training_moves_statistics_and_drops(make):
    _, model = make()

    @functools.partial(jax.jit, static_argnames="freeze_stats")
    def run(key, freeze_stats=False):
        return model.apply(
            model.variables,
            IMAGES,
            train=True,
            rngs={"dropout": jax.random.key(key)},
            freeze_stats=freeze_stats,
        )

    first, stats = run(0)
    same, _ = run(0)
    other, _ = run(1)
    np.testing.assert_array_equal(first.logits, same.logits)
    assert np.abs(first.logits - other.logits).max() > 1e-3
    before = model.variables["batch_stats"]
    assert jax.tree.structure(stats) == jax.tree.structure(before)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), stats, before)
    assert min(jax.tree.leaves(moved)) > 1e-3
    _, frozen = run(0, freeze_stats=True)
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_what_drops_is_known():
    """So that such a student is compared with one that learned from itself alone."""

    class Deterministic(nn.Module):
        rate: float

        @nn.compact
        def __call__(self, x, deterministic=True):
            x = nn.Dropout(self.rate)(x.mean((1, 2)), deterministic=deterministic)
            return nn.Dense(4)(x)

    def drops(rate):
        variables = Deterministic(rate).init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
        return ktjax.from_linen(Deterministic(rate), variables, **SPEC).definition.drops

    assert drops(0.5) and not drops(0.0)
    assert of_nnx()[1].definition.drops
    assert not of_linen()[1].definition.drops  # as long as its statistics are frozen
    assert not of_function()[1].definition.drops


def test_statistics_are_the_mean_over_devices():
    _, model = of_linen()

    def step(image):
        return model.apply(model.variables, image, train=True, rngs={"dropout": jax.random.key(0)})

    _, whole = jax.jit(jax.vmap(step, axis_name=parallel.AXIS))(IMAGES.reshape(2, 4, 12, 12, 3))
    halves = [jax.jit(step)(half)[1] for half in (IMAGES[:4], IMAGES[4:])]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), whole, mean)


def test_batch_norm_trains_outside_of_pmap():
    model = models.create("tiny_resnet_narrow", classes=small_jobs.CLASSES, seed=0)
    step = functools.partial(model.apply, train=True)
    output, stats = jax.jit(step)(model.variables, IMAGES)
    mapped = jax.jit(jax.vmap(step, (None, 0), axis_name=parallel.AXIS))
    expected, same = mapped(model.variables, IMAGES.reshape(2, 4, 12, 12, 3))
    np.testing.assert_allclose(output.logits, expected.logits.reshape(8, 4), atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-4), stats, same)


class Bent(nn.Module):
    """Of which only the variables are known to be those of another."""

    bend: str = "relu"
    scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        table = self.variable("constants", "table", jnp.ones, (1, 1, 1, 3)).value
        inner = jax.jit(lambda x: x * np.full((1, 1, 1, 3), self.scale, np.float32))
        return nn.Dense(4)(getattr(nn, self.bend)(inner(x) * table).mean((1, 2)))


def described(bend="relu", scale=1.0, table=1.0):
    module = Bent(bend, scale)
    params = {"Dense_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
    variables = {"params": params, "constants": {"table": jnp.full((1, 1, 1, 3), table)}}
    model = ktjax.from_linen(module, variables, **SPEC, name="mine")
    return describe.model(model), describe.fingerprint(model)


def test_stored_answers_are_of_the_function_too(python):
    model, found = described()
    assert (model, found) == described()
    for other in (dict(bend="gelu"), dict(scale=2.0), dict(table=2.0)):
        changed, fingerprint = described(**other)
        assert changed["weights"] == model["weights"]
        assert changed != model and fingerprint != found
    tests = small_jobs.ROOT / "tests"
    code = f"import sys; sys.path[:0] = [{str(tests)!r}]; import own_test as t"
    assert python(f"{code}; print(t.described()[1])") == [found]


@pytest.mark.usefixtures("compile_once")
def test_a_job_takes_them_beside_names(zoo, images, tmp_path, monkeypatch):
    given = {"mine": of_linen()[1], "yours": of_nnx()[1], "ours": of_function()[1]}
    config = small_jobs.transferring(
        images, "mine", ["yours", "ours", zoo[2]], arg="objectives=kl_dp,strategy=parallel"
    )
    (tmp_path / "undisturbed" / "mine").mkdir(parents=True)  # no model, though of this name
    monkeypatch.chdir(tmp_path / "undisturbed")
    results = transfer.run(config, tmp_path / "undisturbed", models=given)
    with monkeypatch.context() as patch:
        small_jobs.kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(small_jobs.KilledError):
            transfer.run(config, tmp_path / "resumed", models=given)
    transfer.run(config, tmp_path / "resumed", models=given)
    small_jobs.check_same(tmp_path / "resumed", tmp_path / "undisturbed")
    (row,) = results["runs"]
    # It has finished, with these models and no others of their names.
    assert transfer.run(config, tmp_path / "undisturbed", models=given)["runs"] == results["runs"]
    other = ktjax.from_function(
        lambda params, x: x.mean((1, 2)) @ params["k"], {"k": jnp.ones((3, 4))}, **SPEC
    )
    with pytest.raises(ValueError, match="was started with other weights or answers of ours"):
        transfer.run(config, tmp_path / "undisturbed", models=given | {"ours": other})
    folder = tmp_path / "undisturbed" / "students" / row["run"]
    # The student's weights, for its own module.
    student = ktjax.load_weights(given["mine"], folder)
    assert small_jobs.accuracy_of(student, images) == row["accuracy_after"]
    assert "after kl_dp from" in student.origin
    before = given["mine"].variables
    assert jax.tree.structure(student.variables) == jax.tree.structure(dict(before))
    logits, _ = Mine().apply(student.variables, PREPARED)
    np.testing.assert_allclose(
        logits, student.apply(student.variables, IMAGES)[0].logits, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"a user's own module, linen:Mine: ktjax\.load_w"):
        models.load(str(folder))


def test_a_student_of_nnx_goes_back_into_its_module(tmp_path):
    _, model = of_nnx()
    params = {name: value + 1 for name, value in model.variables["params"].items()}
    changed = dataclasses.replace(model, variables={**model.variables, "params": params})
    ktjax.export_model(changed, tmp_path)
    module = Yours(nnx.Rngs(1))
    ktjax.update_nnx(module, ktjax.load_weights(model, tmp_path))
    module.eval()
    output, _ = jax.jit(changed.apply)(changed.variables, IMAGES)
    np.testing.assert_allclose(module(PREPARED), output.logits, atol=1e-4)


def test_two_models_of_one_architecture_are_two(noisy, quartet):
    """They have one forward function, but not the same weights."""
    one, other = map(ktjax.load_model, (quartet[0], quartet[1]))
    assert one.forward is other.forward
    config = small_jobs.transferring(noisy, "one", ["other"], arg="objectives=kl_dp")
    transfer.check(Transfer.read(config), given={"one": one, "other": other})
    with pytest.raises(ValueError, match="Student and teachers must differ: one, other"):
        transfer.check(Transfer.read(config), given={"one": one, "other": one})


def test_how_images_are_prepared():
    apply, params = (lambda params, x: x), {}
    given = dict(interpolation="bilinear", crop_pct=0.9, crop_mode="squash")
    for name, value in (("interpolation", "cubic"), ("crop_pct", 87.5), ("crop_mode", "corner")):
        with pytest.raises(ValueError, match=f"The input has {name}="):
            ktjax.from_function(apply, params, **SPEC, **given | {name: value})
    with pytest.raises(ValueError, match="it is for values from 0 to 1, not to 255"):
        ktjax.from_function(apply, params, **SPEC | {"mean": (123.7, 116.3, 103.5)})
    with pytest.raises(ValueError, match="The input has std="):
        ktjax.from_function(apply, params, **SPEC | {"std": (0.0, 1.0, 1.0)})
    kernel = jnp.zeros((432, 4))

    def logits(params, x):
        return jnp.dot(x.reshape(x.shape[0], -1), params["dense"]["kernel"])

    found = ktjax.from_function(logits, {"dense": {"kernel": kernel}}, **SPEC, **given)
    assert {name: getattr(found.input, name) for name in given} == given


@pytest.mark.parametrize("named", [nn.with_partitioning, nn.with_logical_partitioning])
def test_axis_names_of_a_mesh_are_left_out(named):
    """Flax keeps them in boxes around the arrays."""

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = named(nn.initializers.zeros, (None, "m"))
            return nn.Dense(4, kernel_init=init)(x.mean(axis=(1, 2)))

    variables = Module().init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
    model = ktjax.from_linen(Module(), variables, **SPEC)
    assert isinstance(model.variables["params"]["Dense_0"]["kernel"], jax.Array)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([jnp.zeros((3, 4))], "weights must be dicts of dicts of arrays, but 'params' is a list"),
        ({"a": {"w": (jnp.zeros((3, 4)),)}}, "but 'params/a/w' is a tuple"),
        ({"a": {"w": jnp.zeros((3, 4), int)}}, "'params/a/w' is int32, which cannot be trained"),
    ],
)
def test_weights_are_dicts_of_numbers(params, message):
    def logits(params, x):
        return x.mean(axis=(1, 2)) @ jax.tree.leaves(params)[0].astype(float)

    with pytest.raises(ValueError, match=message):
        ktjax.from_function(logits, params, **SPEC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(size=16), r"size=16 must be \(height, width\), from 1 to 16,384 pixels"),
        (dict(size=(0, 12)), r"size=\(0, 12\) must be"),
        (dict(mean=0.5), "mean=0.5 must be three numbers, one for each channel"),
        (dict(std=(58.0, 57.0, 57.0)), "std=.* for values from 0 to 1, not to 255"),
        (dict(classes="abcd"), "classes='abcd' must be the names of all classes, or their number"),
        (dict(classes=[0, 1, 2, 3]), r"classes=\(0, 1, 2, 3\) must be the names of all classes"),
    ],
)
def test_what_cannot_describe_a_model(fields, message):
    apply, model = of_function()
    with pytest.raises(ValueError, match=message):
        ktjax.from_function(apply, model.variables["params"], **SPEC | fields)
    with pytest.raises(ValueError, match=message):
        ktjax.load_model("glyphs/tiny_mlp", **fields)
    if "size" in fields:
        with pytest.raises(ValueError, match=message):
            models.imported.import_named("timm/resnet18", "nowhere", **fields)


@pytest.mark.parametrize(
    "given",
    [
        dict(size=[12, 12], mean=[0.5, 0.25, 0.5], std=[1, 1, 1], classes=list("abcd")),
        dict(size=np.array([12, 12]), mean=np.array([0.5, 0.25, 0.5]), std=np.ones(3, np.float32)),
        dict(size=tuple(np.array([12, 12])), mean=jnp.array([0.5, 0.25, 0.5]), std=(1, 1, 1)),
        dict(classes=np.array([*"abcd"])),
        dict(classes=np.int64(4)),
    ],
)
def test_lists_and_arrays_describe_a_model_as_tuples_do(given, tmp_path):
    apply, model = of_function()
    weights.export(
        models.create("tiny_mlp", classes=tuple("wxyz"), seed=0, size=(12, 12)), tmp_path
    )
    names = tuple("abcd") if np.ndim(given.get("classes")) else models.classes.numbered(4)
    for found in (
        ktjax.from_function(apply, model.variables["params"], **SPEC | given),
        ktjax.load_model(tmp_path, **given),
    ):
        if "size" in given:
            spec = (found.input.size, found.input.mean, found.input.std)
            assert spec == ((12, 12), (0.5, 0.25, 0.5), (1, 1, 1))
            assert {type(number) for number in spec[1]} == {float}
        if "classes" in given:
            assert found.classes == names
        hash(found.input)
        weights.export(found, tmp_path / "again")


def test_weights_come_back_in_the_tree_that_they_were_in(tmp_path):
    """Haiku's modules have slashes in their names, and those without weights are empty."""
    kernel = jax.random.normal(jax.random.key(0), (432, 4))
    params = {"net/~/linear": {"w": kernel, "b": jnp.zeros(4)}, "net/~/relu": {}}

    def apply(params, x):
        linear, _ = params["net/~/linear"], params["net/~/relu"]
        return x.reshape(x.shape[0], -1) @ linear["w"] + linear["b"][None]

    model = ktjax.from_function(apply, params, **SPEC)
    trained = dataclasses.replace(model, variables=jax.tree.map(lambda x: x + 1, model.variables))
    ktjax.export_model(trained, tmp_path)
    found = ktjax.load_weights(model, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.variables, trained.variables)
    np.testing.assert_array_equal(
        *(each.apply(each.variables, IMAGES)[0].logits for each in (found, trained))
    )


def test_two_weights_of_one_name_are_refused():
    def apply(params, x):
        return x.reshape(x.shape[0], -1) @ (params["a/b"] + params["a"]["b"])

    params = {"a/b": jnp.zeros((432, 4)), "a": {"b": jnp.ones((432, 4))}}
    with pytest.raises(ValueError, match="two weights would be called 'params/a/b': rename one"):
        ktjax.from_function(apply, params, **SPEC)
    module = Yours(nnx.Rngs(0))
    module.named = nnx.Dict({"0.bias": nnx.Param(jnp.zeros(8))})
    module.named["0"] = nnx.Dict(bias=nnx.Param(jnp.zeros(8)))
    with pytest.raises(ValueError, match=r"Yours: two weights would be called 'named\.0\.bias'"):
        ktjax.from_nnx(module, **SPEC)


def test_slips_are_told_in_a_sentence(tmp_path):
    module, model = of_linen()
    with pytest.raises(ValueError, match="from_linen takes a Linen module, not a Yours"):
        ktjax.from_linen(of_nnx()[0], model.variables, **SPEC)
    with pytest.raises(ValueError, match="from_nnx takes an NNX module, not a Mine"):
        ktjax.from_nnx(module, **SPEC)
    with pytest.raises(ValueError, match="variables must have 'params', as those that module.init"):
        ktjax.from_linen(module, model.variables["params"], **SPEC)
    params = of_function()[1].variables["params"]
    with pytest.raises(ValueError, match=r"return logits, or \(logits, features\), not a dict"):
        ktjax.from_function(lambda params, x: {"logits": x}, params, **SPEC)
    with pytest.raises(ValueError, match="has no weights"):
        ktjax.from_function(lambda params, x: x, {}, **SPEC)
    with pytest.raises(ValueError, match="logits, features.*, not a tuple of 3"):
        ktjax.from_function(lambda params, x: (x, x, x), params, **SPEC)
    with pytest.raises(ValueError, match="Only a Classifier is exported, .* not a str"):
        ktjax.export_model("mine", tmp_path)
    (tmp_path / "config.json").write_text('{"job": "transfer"}')  # a workdir
    with pytest.raises(ValueError, match="holds no student: name its folder, WORKDIR/students"):
        ktjax.load_weights(model, tmp_path)


def test_what_trains_is_what_is_measured():
    """In dicts and in float32, as training has them, whatever was given."""
    module, model = of_linen()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), dict(model.variables))
    frozen = ktjax.from_linen(module, freeze(half), **SPEC)
    kinds = {type(node) for node in (frozen.variables, *frozen.variables.values())}
    assert kinds == {dict} and type(frozen.variables["params"]["bn"]) is dict
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen.variables)} == {np.dtype(np.float32)}
    apply, model = of_function()
    half = jax.tree.map(lambda x: x.astype(jnp.float16), model.variables["params"])
    arrays = {name: np.asarray(SPEC[name]) for name in ("mean", "std", "classes")}
    found = ktjax.from_function(apply, freeze(half), **SPEC | arrays)
    assert found.classes == tuple(SPEC["classes"])
    assert type(found.variables["params"]["dense"]) is dict
    assert found.apply(found.variables, IMAGES)[0].logits.dtype == jnp.float32


def test_statistics_that_count_are_refused():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("batch_stats", "count", lambda: jnp.zeros((), jnp.int32))
            return nn.Dense(4)(x.mean((1, 2)))

    variables = Counting().init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
    with pytest.raises(ValueError, match="'batch_stats/count' is int32, which cannot be trained"):
        ktjax.from_linen(Counting(), variables, **SPEC)


def test_what_does_not_fit_is_refused(images, zoo, refused, tmp_path):
    module, model = of_linen()
    with pytest.raises(ValueError, match=r"logits of shape \[2, 4\].* there are 5 classes"):
        ktjax.from_linen(module, model.variables, **{**SPEC, "classes": 5})
    with pytest.raises(ValueError, match="is your own module: there is no format timm"):
        ktjax.export_model(model, tmp_path, format="timm")
    with pytest.raises(ValueError, match="give it the head that you want"):
        models.replace_head(model, ("a", "b"), head="zero")
    ktjax.export_model(of_nnx()[1], tmp_path)
    with pytest.raises(ValueError, match="missing params/head/kernel"):
        ktjax.load_weights(model, tmp_path)
    ktjax.export_model(model, tmp_path / "ordered")
    other = dataclasses.replace(model, classes=model.classes[::-1])
    with pytest.raises(ValueError, match="has different classes from .*, or another order: che"):
        ktjax.load_weights(other, tmp_path / "ordered")
    assert weights.is_export(tmp_path)
    run = functools.partial(transfer.run, models={"mine": model, "other": model})
    config = small_jobs.transferring(images, "mine", [zoo[0]])
    refused(run, config, "Neither config.student nor config.teachers names the given other")
    run = functools.partial(transfer.run, models={"yours": of_nnx()[1]})
    config = small_jobs.transferring(images, zoo[0], ["yours"], arg="objectives=cd")
    refused(run, config, r"cd compares features, but yours returns none: let it return \(logits")
    run = functools.partial(transfer.run, models={"mine": model, "other": model})
    config = small_jobs.transferring(images, "mine", ["other"])
    refused(run, config, "Student and teachers must differ: mine, other")
