"""Imported graphs against goldens of torch, on weights that both draw by one rule; no torch here.

goldens/make_imported.py has the modules, goldens/sweep_timm.py compares models of timm.
"""

import dataclasses
import functools
import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_jobs
from goldens import rule
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import classifier as classifier_lib
from ktjax import models
from ktjax.checkpoint import Checkpoints
from ktjax.jobs import transfer
from ktjax.jobs.study import plan as study_plan
from ktjax.jobs.transfer import plan as transfer_plan
from ktjax.models import imported
from ktjax.models.checkpoints import entries, weights
from ktjax.models.imported import evaluate, importing, operations

GOLDENS = Path(__file__).parent / "goldens" / "imported"
CASES = sorted(folder.name for folder in GOLDENS.iterdir())
each_case = pytest.mark.parametrize("case", CASES)
TOLERANCE = 2e-5  # of the spread of what is compared


def write(case, folder):
    """The folder as import_torch wrote it, with the weights of the rule."""
    shutil.copytree(GOLDENS / case, folder, dirs_exist_ok=True)
    graph = json.loads((folder / imported.GRAPH).read_text())
    arrays = {}
    for name, (shape, dtype) in graph["weights"].items():
        drawn = rule.weight(name, tuple(shape))
        arrays[name] = drawn if dtype == "float32" else np.zeros(shape, dtype)
    # Of an array that has two names the rule has written the second.
    for name, first in graph["tied"].items():
        arrays[first] = rule.weight(name, arrays[first].shape)
    arrays |= {name: arrays[first] for name, first in graph["tied"].items()}
    (folder / weights.WEIGHTS).write_bytes(safetensors_numpy.save(arrays, {"format": "pt"}))
    (folder / "golden.npz").unlink()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("imported")
    for case in CASES:
        write(case, root / case)
    return root


@functools.cache
def golden(case):
    return dict(np.load(GOLDENS / case / "golden.npz"))


@functools.cache
def answers(folder):
    """(classifier, output, gradients) in evaluation, (output, statistics) in training mode."""
    model = models.load(str(folder))
    x = jnp.asarray(rule.images(model.input.size[0]))

    @jax.jit
    def run(variables):
        def loss(params):
            output, _ = model.forward(
                {**variables, "params": params}, x, train=False, rngs=None, freeze_stats=False
            )
            return jnp.square(output.logits).mean(), output

        (_, output), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        trained = model.forward(variables, x, train=True, rngs=None, freeze_stats=False)
        frozen = model.forward(variables, x, train=True, rngs=None, freeze_stats=True)
        return output, gradients, trained, frozen

    return model, *run(dict(model.variables))


def assert_close(found, expected, tolerance=TOLERANCE):
    spread = np.std(expected) or 1
    np.testing.assert_allclose(np.asarray(found) / spread, expected / spread, atol=tolerance)


@each_case
def test_logits_are_torchs(folders, case):
    model, output, *_ = answers(folders / case)
    assert_close(output.logits, golden(case)["logits"])
    assert output.features.shape[0] == rule.IMAGES
    assert output.features.dtype == jnp.float32
    assert len(model.classes) == rule.CLASSES


@each_case
def test_gradients_are_torchs(folders, case):
    _, _, gradients, *_ = answers(folders / case)
    expected = {k.removeprefix("gradient/"): v for k, v in golden(case).items() if "gradient/" in k}
    assert expected.keys() == gradients.keys()
    size = max(norm for norm, _ in expected.values())
    for name, gradient in gradients.items():
        found = rule.projection(name, gradient)
        np.testing.assert_allclose(found / size, expected[name] / size, atol=1e-4, err_msg=name)


@each_case
def test_training_mode_is_torchs(folders, case):
    model, output, _, (trained, stats), (frozen, same) = answers(folders / case)
    assert_close(trained.logits, golden(case)["train/logits"])
    expected = {k.removeprefix("train/"): v for k, v in golden(case).items() if "running" in k}
    assert expected.keys() == stats.keys() == model.variables.get("batch_stats", {}).keys()
    for name, value in expected.items():
        assert_close(stats[name], value)
        np.testing.assert_array_equal(same[name], model.variables["batch_stats"][name])
    assert_close(frozen.logits, np.asarray(output.logits))


@each_case
def test_a_student_that_drops_is_compared_with_itself(case, folders):
    """Nothing else than the graph of training says so."""
    model = models.load(str(folders / case))
    settings = types.SimpleNamespace(batch_norm="frozen", drop_path_rate=None)
    for moves in (
        transfer_plan.moves_alone(settings, model),
        study_plan._drops(settings, str(folders / case)),
    ):
        assert moves == (case == "dropping")


def test_training_drops_and_evaluation_does_not(folders):
    model, output, *_ = answers(folders / "dropping")
    x = jnp.asarray(rule.images(16))

    @functools.partial(jax.jit, static_argnames=("train", "freeze_stats"))
    def logits(seed, *, train, freeze_stats):
        rngs = {"dropout": jax.random.key(seed)}
        options = dict(train=train, freeze_stats=freeze_stats)
        return model.forward(dict(model.variables), x, rngs=rngs, **options)[0].logits

    np.testing.assert_allclose(
        logits(1, train=False, freeze_stats=False), output.logits, rtol=1e-5, atol=1e-6
    )
    drawn = functools.partial(logits, train=True, freeze_stats=True)
    np.testing.assert_array_equal(drawn(1), drawn(1))
    many = np.asarray(jax.jit(jax.vmap(drawn))(jnp.arange(4000)))
    spread = many.std(0)
    assert (spread > 0.05 * np.std(output.logits)).all()
    # The logits are linear in all that is dropped: in the mean nothing is.
    assert np.abs((many.mean(0) - output.logits) / (spread / 4000**0.5)).max() < 5
    moved = logits(1, train=True, freeze_stats=False)
    assert np.abs(moved - drawn(1)).max() > 1e-3  # by the statistics of the batch


def test_each_kind_of_dropping_drops(folders):
    """Of its draws each is of its own, and at its rate."""
    model, *_ = answers(folders / "dropping")
    program = model.definition._training_program
    drawn = {}

    def visit(call, value):
        if call.op in ("native_dropout", "bernoulli.p"):
            kept = value[1] if isinstance(value, tuple) else value
            drawn[call.name] = np.asarray(kept, np.float32)

    x = jnp.asarray(np.repeat(rule.images(16), 500, axis=0))
    key = jax.random.key(0)
    evaluate.run(program, dict(model.variables), x, train=False, key=key, visit=visit)
    rates = sorted(1 - kept.mean() for kept in drawn.values())
    np.testing.assert_allclose(rates, [0.2, 0.25, 0.3, 0.3], atol=0.03)
    paths = [kept.ravel() for kept in drawn.values() if kept.size == len(x)]
    assert len(paths) == 2 and not np.array_equal(*paths)


def test_features_are_what_the_head_reads(folders):
    model, output, *_ = answers(folders / "convolutional")
    weight, bias = (model.variables["params"][f"fc.{leaf}"] for leaf in ("weight", "bias"))
    logits = output.features @ weight[:, :, 0, 0].T + bias[None]
    np.testing.assert_allclose(output.logits, logits, atol=1e-4)
    model, output, *_ = answers(folders / "attentive")  # two heads, each with tokens of its own
    params = model.variables["params"]
    both = output.features.reshape(-1, 2, 16).transpose(1, 0, 2)
    logits = sum(
        tokens @ params[f"{head}.weight"].T + params[f"{head}.bias"][None]
        for tokens, head in zip(both, ("head", "head_dist"), strict=True)
    )
    np.testing.assert_allclose(output.logits, logits / 2, atol=1e-4)


@pytest.mark.parametrize("case", ["attentive", "convolutional"])
def test_it_computes_in_bfloat16(folders, case):
    model, output, *_ = answers(folders / case)

    @jax.jit
    def run(variables, x):
        params = classifier_lib.cast(variables["params"], jnp.bfloat16)
        at = {**variables, "params": params}
        return model.forward(at, x, train=True, rngs=None, freeze_stats=True)[0]

    x = jnp.asarray(rule.images(16), jnp.bfloat16)
    found = run(dict(model.variables), x)
    # The dtype of all activations, as no float32 of a constant must have got among them.
    assert found.logits.dtype == found.features.dtype == jnp.bfloat16
    assert_close(found.logits.astype(jnp.float32), output.logits, 0.1)


@pytest.mark.parametrize("width", [64, 48])  # of a head: a scale that bfloat16 has, and one not
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_as_exact_as_jaxs(width, masked):
    attention = operations.OPERATIONS["scaled_dot_product_attention"]
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = [1.5 * jax.random.normal(key, (1, 2, 300, width), jnp.bfloat16) for key in keys]
    mask = jnp.arange(300)[None, :] < 200 if masked else None
    exact = attention(*(a.astype(jnp.float32) for a in qkv), mask)
    ours = attention(*qkv, mask)
    jaxs = jax.nn.dot_product_attention(*(a.swapaxes(1, 2) for a in qkv), mask=mask).swapaxes(1, 2)
    error, theirs = (jnp.linalg.norm(y.astype(jnp.float32) - exact) for y in (ours, jaxs))
    assert ours.dtype == jnp.bfloat16
    assert error < 1.1 * theirs


def test_it_takes_uint8_images_and_any_batch(folders):
    model, *_ = answers(folders / "attentive")
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    run = jax.jit(lambda variables, image: model.apply(variables, image)[0])
    whole = run(dict(model.variables), image)
    alone = run(dict(model.variables), image[1:2])
    np.testing.assert_allclose(whole.logits[1:2], alone.logits, atol=1e-5)
    x = (image / 255 - 0.5) / 0.25
    forward = jax.jit(functools.partial(model.forward, train=False, rngs=None, freeze_stats=False))
    np.testing.assert_allclose(
        forward(dict(model.variables), jnp.asarray(x, jnp.float32))[0].logits,
        whole.logits,
        atol=1e-4,
    )


def test_an_export_is_what_was_imported(folders, tmp_path):
    for case in CASES:
        model = models.load(str(folders / case))
        ktjax.export_model(model, tmp_path / case, format="timm")
        for path in (folders / case).iterdir():
            assert (tmp_path / case / path.name).read_bytes() == path.read_bytes(), path


def test_an_export_has_torchs_names_and_shares(folders, tmp_path):
    model = models.load(str(folders / "attentive"))
    params = {name: value + 1 for name, value in model.variables["params"].items()}
    changed = dataclasses.replace(model, variables={**model.variables, "params": params})
    ktjax.export_model(changed, tmp_path)
    before = entries.read(folders / "attentive" / weights.WEIGHTS)
    after = entries.read(tmp_path / weights.WEIGHTS)
    assert before.keys() == after.keys()
    # What the graph does not read, or nothing trains, is as it was; one array has two names.
    kept = {"unused.weight", "unused.bias", "scale"}
    for name in before:
        np.testing.assert_allclose(after[name], before[name] + (name not in kept), rtol=1e-6)
    assert {"proj.weight", "proj2.weight"} <= set(after)
    assert "proj2.weight" not in params
    assert "index" not in after
    with pytest.raises(ValueError, match="into transformers' model with load_state_dict"):
        ktjax.export_model(changed, tmp_path, format="hf")


def test_new_heads(folders, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for case, of_head in (
        ("convolutional", {"fc.weight", "fc.bias"}),
        ("dropping", {"fc.weight", "fc.bias"}),
        (
            "attentive",
            {f"{head}.{leaf}" for head in ("head", "head_dist") for leaf in ("weight", "bias")},
        ),
    ):
        model = models.load(str(folders / case), classes=("a", "b", "c"), head="zero")
        where = models.head_of(model)
        assert {name for name, is_head in where["params"].items() if is_head} == of_head
        assert not any(where.get("batch_stats", {}).values())
        output, _ = jax.jit(model.apply)(model.variables, x)
        assert output.logits.shape == (2, 3) and not output.logits.any()
        drawn = models.replace_head(model, ("a", "b"), head="random", seed=1)
        ktjax.export_model(drawn, tmp_path / case)
        again = models.load(str(tmp_path / case))
        assert again.classes == ("a", "b")
        training = again.definition.training
        assert (training is None) == (case != "dropping")
        assert training is None or training.num_classes == 2
        output, _ = jax.jit(again.apply)(again.variables, x)
        expected, _ = jax.jit(drawn.apply)(drawn.variables, x)
        np.testing.assert_array_equal(output.logits, expected.logits)
        assert np.ptp(output.logits) > 0


@pytest.mark.usefixtures("compile_once")
def test_imported_models_teach_and_learn(folders, zoo, images, tmp_path, monkeypatch):
    names = {}
    for case in ("convolutional", "attentive"):
        model = models.load(
            str(folders / case), classes=small_jobs.CLASSES, head="random", seed=len(names)
        )
        names[case] = str(tmp_path / case)
        ktjax.export_model(model, names[case])
    teachers = [names["attentive"], zoo[2]]
    arg = "objectives=kl_dp,strategy=soup"
    config = small_jobs.transferring(
        images, names["convolutional"], teachers, arg=arg, batch_norm="train"
    )
    results = transfer.run(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        small_jobs.kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(small_jobs.KilledError):
            transfer.run(config, tmp_path / "resumed")
    transfer.run(config, tmp_path / "resumed")
    small_jobs.check_same(tmp_path / "resumed", tmp_path / "undisturbed")
    # What it exports is what it imported, but for what training changes: also the soup of two.
    before = Path(names["convolutional"])
    for row in results["runs"]:
        folder = tmp_path / "undisturbed" / "students" / row["run"]
        assert (folder / imported.GRAPH).read_bytes() == (before / imported.GRAPH).read_bytes()
        old, new = (entries.read(path / weights.WEIGHTS) for path in (before, folder))
        same = {name for name in old if np.array_equal(old[name], new[name])}
        assert old.keys() == new.keys()
        assert same == {name for name in old if name.endswith("num_batches_tracked")}
        student = models.load(str(folder))
        assert small_jobs.accuracy_of(student, images) == row["accuracy_after"]
        assert student.architecture == "torch:Convolutional"
    assert [row["objective"] for row in results["runs"]] == ["kl_dp", "kl_dp", "kl_dp soup"]


def test_what_a_graph_has_not_is_not_asked_of_it(folders):
    name = str(folders / "attentive")
    with pytest.raises(ValueError, match="imported graph, which has no option drop_rate"):
        models.load(name, drop_rate=0.1)
    with pytest.raises(ValueError, match=r"of 16x16: import it again with size=\(24, 24"):
        models.load(name, size=(24, 24))
    with pytest.raises(ValueError, match="has 10 classes, but 2 are named: head='zero'"):
        models.load(name, classes=("a", "b"))
    renamed = models.load(name, classes=tuple("abcdefghij"))
    assert renamed.classes[9] == "j"
    assert models.family(renamed.architecture) == "torch"


def nodes(graph):
    return {node["name"]: node for node in graph["nodes"]}


def first(graph, op):
    return next(node for node in graph["nodes"] if node["op"] == op)


# What somebody has changed in graph.json, and what is said of it.
EDITS = {
    "an unknown operation": (
        lambda g: first(g, "linear").update(op="os.system"),
        "ktjax lacks these operations of torch: os.system in",
    ),
    "another one's shape": (
        lambda g: first(g, "linear").update(shape=[{"batch": 1}, 5]),
        "linear.* gives float32 .* but the file says float32",
    ),
    "other arguments": (
        lambda g: first(g, "permute").update(args=[{"node": "image"}, [0, 1]]),
        "a node cannot be computed|axes",
    ),
    "a circle": (
        lambda g: first(g, "linear")["args"].__setitem__(0, {"node": g["logits"]}),
        "reads the node '.*', which does not exist before it",
    ),
    "itself": (
        lambda g: first(g, "linear")["args"].__setitem__(0, {"node": first(g, "linear")["name"]}),
        "which does not exist before it",
    ),
    "an absurd size": (
        lambda g: first(g, "linear").update(shape=[{"batch": 10**6}, 10**6, 10**6]),
        "is of the absurd size",
    ),
    "an absurd weight": (
        lambda g: g["weights"]["head.weight"].__setitem__(0, [10**9, 10**9]),
        "is of the absurd size",
    ),
    "absurd sums of sizes": (
        lambda g: g["nodes"].insert(
            0,
            {
                **{"name": "big", "op": "python.mul", "args": ["a" * 99, 10**9], "kwargs": {}},
                **{"shape": None, "dtype": None, "module": ""},
            },
        ),
        "sizes are integers",
    ),
    "a negative size": (
        lambda g: g.update(image=[3, -16, 16]),
        "image is of the absurd size",
    ),
    "a name twice": (
        lambda g: g["nodes"].append(g["nodes"][-1]),
        "two nodes are called",
    ),
    "a missing field": (lambda g: g["nodes"][0].pop("op"), "node 0 lacks op"),
    "another field": (lambda g: g.update(code="import os"), "has the unknown code"),
    "another schema": (lambda g: g.update(schema=2), "has schema 2, but ktjax reads 1"),
    "a strange argument": (
        lambda g: first(g, "linear")["args"].__setitem__(0, {"object": "posix"}),
        "is of an unknown kind",
    ),
    "no logits": (lambda g: g.update(logits="nothing"), "logits names 'nothing', which does not"),
    "logits without a shape": (
        lambda g: next(n for n in g["nodes"] if n["name"] == g["logits"]).update(shape=None),
        "the logits, has no number of classes",
    ),
    "a head that is none": (
        lambda g: g.update(heads=[first(g, "permute")["name"]]),
        "has arguments other than its own",
    ),
    "a lack of memory": (
        lambda g: first(g, "cat").update(op="repeat", args=[{"node": "image"}, [10**6] * 4]),
        "gives float32|cannot be computed",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_graph_is_refused(edit, folders, tmp_path, monkeypatch):
    change, message = EDITS[edit]
    folder = shutil.copytree(folders / "attentive", tmp_path / "edited")
    graph = json.loads((folder / imported.GRAPH).read_text())
    change(graph)
    (folder / imported.GRAPH).write_text(json.dumps(graph))
    monkeypatch.setattr(entries, "read", lambda *_, **__: pytest.fail("it reads"))
    with pytest.raises(ValueError, match=message) as refusal:
        models.load(str(folder))
    assert str(refusal.value).startswith(f"{folder / imported.GRAPH} is invalid: ")
    assert len(str(refusal.value)) < 700


def test_deep_nesting_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders / "attentive", tmp_path / "deep")
    (folder / imported.GRAPH).write_text("[" * 10**6)
    with pytest.raises(ValueError, match="is invalid: it is nested too deeply"):
        models.load(str(folder))


def test_weights_that_do_not_fit_are_listed(folders, tmp_path):
    folder = shutil.copytree(folders / "attentive", tmp_path / "misfit")
    found = entries.read(folder / weights.WEIGHTS)
    found["head.weight"] = found["head.weight"][:3]
    found["extra"] = found.pop("token")
    (folder / weights.WEIGHTS).write_bytes(safetensors_numpy.save(found))
    with pytest.raises(ValueError, match="does not fit") as refusal:
        models.load(str(folder))
    for problem in ("missing token (1, 1, 16)", "unexpected extra", "misshapen head.weight"):
        assert problem in str(refusal.value)
    folder = shutil.copytree(folders / "attentive", tmp_path / "other")
    config = json.loads((folder / "config.json").read_text()) | {"num_classes": 7}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"says 7 classes, but graph\.json has 10"):
        models.load(str(folder))


def test_graphs_that_do_not_belong_together_are_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "dropping", tmp_path / "other"))
    shutil.copy(folders / "attentive" / imported.GRAPH, folder / "training.json")
    with pytest.raises(ValueError, match=r"training\.json and graph\.json differ in weights"):
        models.load(str(folder))
    shutil.copy(folders / "dropping" / "training.json", folder / imported.GRAPH)
    with pytest.raises(ValueError, match="it draws random numbers in evaluation"):
        models.load(str(folder))


def test_without_torch_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importing, "_has", lambda package: package not in ("torch", "timm"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"No architecture 'starnet_s1'.*pip install 'ktjax\[torch\]'"
    ):
        models.load("timm/starnet_s1.in1k")
    with pytest.raises(ValueError, match=r"needs torch: pip install 'ktjax\[torch\]'"):
        models.load("import:timm/resnet18.a1_in1k")
    with pytest.raises(ValueError, match="neither timm/NAME nor hf:"):
        imported.import_named("resnet18", tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="whose config sets dropout: drop_rate are for timm's"):
        imported.import_named(str(tmp_path), tmp_path / "out", drop_rate=0.1)
