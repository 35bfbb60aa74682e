"""CLIP's text tower against transformers (goldens/make_clip_text.py); what it refuses to read."""

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from ktjax.models.checkpoints import weights
from ktjax.models.networks import clip_text

GOLDEN = Path(__file__).parent / "goldens" / "clip_text"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
TEXTS = [f"a photo of a {name}." for name in EXPECTED["names"]]


def error(embedding, variant="plain"):
    """Distance to what transformers says, relative to the spread over the names."""
    expected = np.array(EXPECTED["embeddings"][variant])
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-30)
    return np.linalg.norm(unit - expected) / np.linalg.norm(expected - expected.mean(axis=0))


@pytest.fixture(scope="module")
def model():
    return clip_text.load(str(GOLDEN))


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden folder, to be changed."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "clip"))


def change_config(folder, change, **text):
    path = folder / weights.CONFIG
    config = json.loads(path.read_text())
    config["text_config"] |= text
    path.write_text(json.dumps(config | change))


def change_entries(folder, change):
    path = folder / weights.WEIGHTS
    entries = safetensors_numpy.load_file(path)
    changed = change(entries)
    safetensors_numpy.save_file(entries if changed is None else changed, path)


# Parity.


def test_names_are_embedded_as_by_transformers():
    embedding = clip_text.embed_names(str(GOLDEN), EXPECTED["names"])
    assert embedding.dtype == np.float32
    assert error(embedding) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-6)


def test_texts_become_the_same_tokens(model):
    ids = clip_text.tokenize(model, TEXTS)
    np.testing.assert_array_equal(ids, np.array(EXPECTED["ids"], np.int32), strict=True)


@pytest.mark.parametrize(
    ("variant", "text"), [("gelu", {"hidden_act": "gelu"}), ("eos_2", {"eos_token_id": 2})]
)
def test_configs_mean_what_they_mean_to_transformers(folder, variant, text):
    change_config(folder, {}, **text)
    embedding = clip_text.embed_names(str(folder), EXPECTED["names"])
    assert error(embedding, variant) < 1e-5
    assert error(embedding) > 1e-4


def test_a_text_tower_alone_is_read_too(folder):
    config = json.loads((folder / weights.CONFIG).read_text())
    alone = config["text_config"] | {"projection_dim": config["projection_dim"]}
    (folder / weights.CONFIG).write_text(json.dumps(alone))
    change_entries(folder, lambda e: {k: v for k, v in e.items() if k.startswith("text_")})
    assert error(clip_text.embed_names(str(folder), EXPECTED["names"])) < 1e-5


def test_every_parameter_is_used_in_its_place(model):
    ids = clip_text.tokenize(model, TEXTS)
    apply = jax.jit(model.tower.apply)
    flat = traverse_util.flatten_dict(model.variables["params"], sep="/")

    def error_with(change):
        variables = {"params": traverse_util.unflatten_dict(flat | change, sep="/")}
        return error(np.asarray(apply(variables, ids)))

    # Softmax does not see what all keys have in common: the test below has to do for these.
    visible = sorted(name for name in flat if not name.endswith("k_proj/bias"))
    assert error_with({}) < 1e-5
    for name in visible:
        assert error_with({name: jnp.zeros_like(flat[name])}) > 1e-4, name
    swapped = 0
    for i, a in enumerate(visible):
        for b in visible[i + 1 :]:
            if flat[a].shape == flat[b].shape:
                assert error_with({a: flat[b], b: flat[a]}) > 1e-4, (a, b)
                swapped += 1
    assert (len(visible), swapped) == (35, 184)


def test_biases_of_keys_are_those_of_the_file(model):
    entries = safetensors_numpy.load_file(GOLDEN / weights.WEIGHTS)
    for i in range(2):
        bias = model.variables["params"][f"layers_{i}"]["k_proj"]["bias"]
        entry = entries[f"text_model.encoder.layers.{i}.self_attn.k_proj.bias"]
        np.testing.assert_array_equal(bias, entry, strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_become_float32(folder, model, dtype):
    change_entries(folder, lambda e: {k: v.astype(jnp.dtype(dtype)) for k, v in e.items()})
    found = clip_text.load(str(folder)).variables
    expected = jax.tree.map(
        lambda a: np.asarray(a).astype(jnp.dtype(dtype)).astype(np.float32), model.variables
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, expected)


# Names and batches.


def test_the_name_takes_its_place_in_the_template():
    texts = ("the grey {owl}, {a} photo", "the cat, {a} photo")
    whole = clip_text.embed_names(str(GOLDEN), texts, "{}")
    split = clip_text.embed_names(str(GOLDEN), ("grey_{owl}", "cat"), "the {}, {a} photo")
    np.testing.assert_array_equal(whole, split)


@pytest.mark.parametrize("size", [3, 64])
def test_batches_of_any_size_compile_once_and_in_float32(model, monkeypatch, size):
    traces = []

    class Tower:
        def apply(self, variables, ids):
            traces.append((*ids.shape, jax.config.jax_default_matmul_precision))
            return model.tower.apply(variables, ids)

    monkeypatch.setattr(clip_text, "_BATCH", size)
    ids = clip_text.tokenize(model, TEXTS)
    assert error(clip_text._embed(model._replace(tower=Tower()), ids)) < 1e-5
    assert traces == [(min(size, len(TEXTS)), ids.shape[1], "float32")]


# Where it lies.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("where", "stored", "ref", "commit"),
    [
        ("someone/clip", "someone--clip", "main", "1" * 40),
        ("someone/clip@refs/pr/7", "someone--clip", "refs/pr/7", "2" * 40),
        # Its main holds no safetensors: the Hub's conversion is read unless another is named.
        (
            "openai/clip-vit-base-patch32",
            "openai--clip-vit-base-patch32",
            None,
            "c237dc49a33fc61debc9276459120b7eac67e7ef",
        ),
        (
            "openai/clip-vit-base-patch32@main",
            "openai--clip-vit-base-patch32",
            "main",
            "3" * 40,
        ),
    ],
)
def test_a_repository_is_read_from_the_cache(cache, where, stored, ref, commit):
    with pytest.raises(ValueError, match=f"^No CLIP model '{where}'.*: "):
        clip_text.load(where)
    shutil.copytree(GOLDEN, cache / f"models--{stored}" / "snapshots" / commit)
    if ref:
        path = cache / f"models--{stored}" / "refs" / ref
        path.parent.mkdir(parents=True)
        path.write_text(commit)
    assert clip_text.load(where).tower.width == 32


# Errors.


@pytest.mark.parametrize("where", ["no such/folder/here", "nobody/nothing", "", "a b"])
def test_a_model_that_is_nowhere_is_refused_with_one_sentence(cache, where):
    with pytest.raises(ValueError, match=f"^No CLIP model '{where}', a folder or repos") as refusal:
        clip_text.embed_names(where, ["cat"])
    assert "\n" not in str(refusal.value)


def test_a_refusal_of_the_hub_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("404 Client Error. (Request ID: 1)\n\nRepository Not Found for url: there.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"\(Request ID: 1\) Repository Not Found for url: there"):
        clip_text.load("nobody/nothing")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_pickled_weights_are_never_read(folder):
    (folder / weights.WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"has no model\.safetensors, and ktjax never unpickles"):
        clip_text.load(str(folder))


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_tokenizer_has_to_be_there(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        clip_text.load(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"has no config\.json"),
        ("", r"config\.json' is not valid JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"model_type": ["clip"]}', r"its model_type is \['clip'\]"),
        ('{"model_type": "siglip2"}', "not of a CLIP or SigLIP model: its model_type is 'siglip2'"),
        ('{"model_type": "clip", "text_config": {"hidden_size": "x"}}', "'hidden_size' expected"),
        (
            '{"model_type": "clip", "text_config": {"hidden_act": "relu"}}',
            "hidden_act 'relu'; ktjax supports quick_gelu, gelu",
        ),
    ],
)
def test_a_config_of_something_else_is_refused(folder, text, message):
    path = folder / weights.CONFIG
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as refusal:
        clip_text.load(str(folder))
    assert "\n" not in str(refusal.value)


def test_all_that_does_not_fit_is_listed_at_once(folder):
    def change(entries):
        del entries["text_projection.weight"]
        del entries["text_model.encoder.layers.1.mlp.fc2.bias"]
        entries["text_model.encoder.layers.2.mlp.fc2.bias"] = np.zeros(32, np.float32)
        fc1 = "text_model.encoder.layers.0.mlp.fc1.weight"
        entries[fc1] = np.ascontiguousarray(entries[fc1].T)
        entries["text_model.final_layer_norm.bias"] = np.zeros(33, np.float32)

    change_entries(folder, change)
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit") as refusal:
        clip_text.load(str(folder))
    assert str(refusal.value).splitlines()[1:] == [
        "  missing text_model.encoder.layers.1.mlp.fc2.bias (32,)",
        "  missing text_projection.weight (16, 32)",
        "  unexpected text_model.encoder.layers.2.mlp.fc2.bias (32,)",
        "  misshapen text_model.encoder.layers.0.mlp.fc1.weight: file (32, 40), config (40, 32)",
        "  misshapen text_model.final_layer_norm.bias: file (33,), config (32,)",
    ]


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_weights_are_refused(folder, kept):
    path = folder / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        clip_text.load(str(folder))


def test_a_tokenizer_of_another_tower_is_refused(folder):
    change_config(folder, {}, vocab_size=557)
    change_entries(
        folder,
        lambda e: e.update(
            {n: e[n][:557] for n in e if n == "text_model.embeddings.token_embedding.weight"}
        ),
    )
    assert clip_text.embed_names(str(folder), ["cat"]).shape == (1, 16)
    with pytest.raises(ValueError, match="gives token 557, but the text tower has 557"):
        clip_text.embed_names(str(folder), ["cat", "<extra> hen"])
    change_config(folder, {}, eos_token_id=550)
    with pytest.raises(ValueError, match="ends texts without token 550"):
        clip_text.embed_names(str(folder), ["cat"])


@pytest.mark.parametrize(
    ("names", "template", "message"),
    [
        ([], "{}", "no names"),
        (["cat"], "a photo", "one {}"),
        (["cat"], "{} and {}", "one {}"),
    ],
)
def test_names_and_template_are_checked_before_anything_is_read(names, template, message):
    with pytest.raises(ValueError, match=message):
        clip_text.embed_names("no such folder", names, template)
