"""Where checkpoints come from: timm's folders, single files, the hub and its cache; new heads."""

import dataclasses
import json
import shutil
import sys
import types

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import rule
from huggingface_hub import errors
from huggingface_hub.utils import hf_raise_for_status
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import models
from ktjax.classifier import InputSpec
from ktjax.models import __main__ as command
from ktjax.models.checkpoints import entries, layouts, weights
from ktjax.models.imported import importing

NAME = "timm/test_resnet.r160_in1k"
CLASSES = tuple(f"thing {i}" for i in range(10))
SPEC = InputSpec((72, 80), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8)


def drawn(architecture, classes=CLASSES, size=None, **options):
    """A Classifier with weights of the rule: those of `create` take seconds to compile."""
    blank, _ = models.skeleton(architecture, classes, size, options)

    def draw(path, leaf):
        (name,) = layouts.timm(tuple(part.key for part in path), leaf.ndim).names
        return jnp.asarray(rule.weight(name, leaf.shape))

    variables = jax.tree_util.tree_map_with_path(draw, blank.variables)
    return dataclasses.replace(blank, variables=variables)


@pytest.fixture(scope="module")
def classifier():
    return dataclasses.replace(drawn("test_resnet"), input=SPEC)


def write(classifier, folder, *, root=None, pretrained_cfg=None):
    """A folder as timm 1.0.31's save_for_hf leaves it."""
    weights.export(classifier, folder, format="timm")
    count, (height, width) = len(classifier.classes), classifier.input.size
    config = {
        "architecture": classifier.architecture,
        "num_classes": count,
        "num_features": 96,
        "global_pool": "avg",
        "model_args": {"num_classes": count, "in_chans": 3, "global_pool": "avg"},
        **(root or {}),
        "pretrained_cfg": {
            "tag": "r160_in1k",
            "custom_load": False,
            "input_size": [3, height, width],
            "fixed_input_size": False,
            "interpolation": classifier.input.interpolation,
            "crop_pct": classifier.input.crop_pct,
            "crop_mode": "center",
            "mean": list(classifier.input.mean),
            "std": list(classifier.input.std),
            "num_classes": count,
            "pool_size": None,
            "first_conv": "conv1.0",
            "classifier": "fc",
            "license": "apache-2.0",
            **(pretrained_cfg or {}),
        },
    }
    (folder / weights.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    """Of timm's; nobody changes it."""
    return write(classifier, tmp_path_factory.mktemp("timm") / "model")


def assert_same(a, b):
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, a[kind], b[kind])


# Folders.


def test_a_folder_of_timms(classifier, folder):
    found = models.load(str(folder))
    assert_same(found.variables, classifier.variables)
    assert (found.architecture, found.name) == ("test_resnet", str(folder))
    assert (found.input, found.origin) == (SPEC, "pretrained model")
    assert found.options == {}


def test_the_input_and_the_classes_go_back_where_they_came_from(classifier, tmp_path):
    names = ["Ä", *CLASSES[1:]]
    before = write(classifier, tmp_path / "before", root={"label_names": names})
    weights.export(models.load(str(before)), tmp_path / "after", format="timm")
    old, new = (
        json.loads((at / weights.CONFIG).read_text()) for at in (before, tmp_path / "after")
    )
    for field in ("architecture", "num_classes", "label_names"):
        assert new[field] == old[field], field
    for field in ("input_size", "mean", "std", "interpolation", "crop_pct"):
        assert new["pretrained_cfg"][field] == old["pretrained_cfg"][field], field
    assert models.blank(str(tmp_path / "after")).input == SPEC
    assert (tmp_path / "after" / weights.WEIGHTS).read_bytes() == (
        before / weights.WEIGHTS
    ).read_bytes()


@pytest.mark.parametrize("place", ["root", "pretrained_cfg"])
def test_names_of_classes_stand_in_either_place(classifier, place, tmp_path):
    write(classifier, tmp_path, **{place: {"label_names": list(CLASSES)}})
    assert models.blank(str(tmp_path)).classes == CLASSES


def test_classes_without_names(classifier, folder, tmp_path):
    assert models.blank(str(folder)).classes == tuple(f"class {i}" for i in range(10))
    write(drawn("test_resnet", models.classes.numbered(1000)), tmp_path)
    synsets = models.blank(str(tmp_path)).classes
    assert (synsets[0], synsets[-1], len(set(synsets))) == ("n01440764", "n15075141", 1000)


def test_classes_may_be_named_or_counted(folder):
    assert models.load(str(folder), classes=CLASSES).classes == CLASSES
    assert models.load(str(folder), classes=10).classes[9] == "class 9"
    misshapen = r"(?s)misshapen fc\.bias: file \(10,\), test_resnet \(11,\).* head='zero' gives"
    with pytest.raises(ValueError, match=misshapen):
        models.load(str(folder), classes=11)


@pytest.mark.parametrize(("size", "expected"), [([64, 48], (64, 48)), (64, (64, 64))])
def test_what_the_network_was_built_for_wins_over_its_origins_size(
    classifier, size, expected, tmp_path
):
    write(classifier, tmp_path, root={"model_args": {"img_size": size}})
    assert models.blank(str(tmp_path)).input == dataclasses.replace(SPEC, size=expected)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"in_chans": 1}, r"model is for images of 1 channels, not 3\.$"),
        ({"global_pool": "catavgmax"}, "model pools features by 'catavgmax', which test_resnet do"),
        (
            {"drop_rat": 0.1},
            r"test_resnet has no option 'drop_rat'\. Nearest: drop_rate.*; known: .*block",
        ),
    ],
)
def test_a_network_that_was_built_otherwise_is_refused(classifier, stored, message, tmp_path):
    write(classifier, tmp_path / "model", root={"model_args": stored})
    with pytest.raises(ValueError, match=message):
        models.load(str(tmp_path / "model"))


def test_options_of_a_network_are_stored_and_given(classifier, tmp_path):
    write(classifier, tmp_path, root={"model_args": {"drop_rate": 0.1, "drop_path_rate": 0.2}})
    assert models.blank(str(tmp_path)).options == {"drop_rate": 0.1, "drop_path_rate": 0.2}
    found = models.load(str(tmp_path), drop_rate=0.3)
    assert found.options == {"drop_rate": 0.3, "drop_path_rate": 0.2}


def test_another_size_leaves_convolutions_as_they_are(classifier, folder):
    found = models.load(str(folder), size=(96, 64))
    assert found.input == dataclasses.replace(SPEC, size=(96, 64))
    assert_same(found.variables, classifier.variables)


@pytest.mark.parametrize("mode", ["squash", "border", None])
def test_the_way_to_crop_is_the_checkpoints(classifier, mode, tmp_path):
    write(classifier, tmp_path / "before", pretrained_cfg={"crop_mode": mode})
    found = models.load(str(tmp_path / "before"))
    assert found.input.crop_mode == (mode or "center")
    weights.export(found, tmp_path / "after", format="timm")
    assert models.blank(str(tmp_path / "after")).input == found.input


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_mode", "random", "crop_mode='random'; ktjax supports center, squash, b"),
        ("interpolation", "lanczos", "interpolation='lanczos'; ktjax supports nearest, bil"),
        ("input_size", [1, 72, 80], r"not for images of 3 channels: input_size=\[1, 72, 80\]"),
        ("mean", [0.5], r"not for images of 3 channels: .*mean=\[0.5\]"),
        ("std", [0.5, 0, 0.5], r"std=\[0.5, 0, 0.5\]: all must be above 0"),
    ],
)
def test_values_that_ktjax_has_not_are_refused_by_name(classifier, field, value, message, tmp_path):
    write(classifier, tmp_path, pretrained_cfg={field: value})
    with pytest.raises(ValueError, match=message):
        models.load(str(tmp_path))


def test_configs_of_older_timms(classifier, folder, tmp_path):
    """What stands in pretrained_cfg now stood beside it until 2023."""
    (tmp_path / weights.WEIGHTS).write_bytes((folder / weights.WEIGHTS).read_bytes())
    config = json.loads((folder / weights.CONFIG).read_text())
    spec = config.pop("pretrained_cfg")
    config.pop("model_args")
    (tmp_path / weights.CONFIG).write_text(json.dumps(spec | config))
    found = models.load(str(tmp_path))
    assert found.input == SPEC
    assert_same(found.variables, classifier.variables)


def test_the_wrapper_of_transformers(classifier, folder, tmp_path):
    """TimmWrapperForImageClassification's own folder, and one of an older version."""
    config = json.loads((folder / weights.CONFIG).read_text())
    config |= {"architectures": ["TimmWrapperForImageClassification"]}
    config |= {"model_type": "timm_wrapper", "label_names": list(CLASSES), "do_pooling": True}
    config["model_args"] = None
    (tmp_path / weights.CONFIG).write_text(json.dumps(config))
    whole = entries.read(folder / weights.WEIGHTS)
    for start in ("", "timm_model."):
        renamed = {start + name: array for name, array in whole.items()}
        (tmp_path / weights.WEIGHTS).write_bytes(weights.safetensors_numpy.save(renamed))
        found = models.load(str(tmp_path))
        assert_same(found.variables, classifier.variables)
        assert (found.classes, found.input) == (CLASSES, SPEC)


def test_a_background_class_that_timm_does_not_count(classifier, folder, tmp_path):
    write(classifier, tmp_path, pretrained_cfg={"label_offset": 1})
    arrays = entries.read(folder / weights.WEIGHTS)
    for name in ("fc.weight", "fc.bias"):
        arrays[name] = np.concatenate([np.ones_like(arrays[name][:1]), arrays[name]])
    (tmp_path / weights.WEIGHTS).write_bytes(weights.safetensors_numpy.save(arrays))
    assert_same(models.load(str(tmp_path)).variables, classifier.variables)


def test_networks_for_any_size_are_used_at_one(tmp_path):
    before = drawn("test_vit", size=(64, 64), depth=2)
    options = {"dynamic_img_size": True, "dynamic_img_pad": False, "depth": 2, "img_size": 64}
    write(before, tmp_path, root={"model_args": options})
    found = models.load(str(tmp_path))
    assert (found.input.size, found.options) == ((64, 64), {"depth": 2})
    jax.tree.map(
        np.testing.assert_array_equal, found.variables["params"], before.variables["params"]
    )
    assert models.load(str(tmp_path), size=(96, 96)).input.size == (96, 96)


def test_an_encoder_of_timms_gets_a_head(classifier, folder, tmp_path):
    write(classifier, tmp_path, root={"num_classes": 0, "model_args": {"num_classes": 0}})
    arrays = entries.read(folder / weights.WEIGHTS, ignored=("fc.",))
    (tmp_path / weights.WEIGHTS).write_bytes(weights.safetensors_numpy.save(arrays))
    with pytest.raises(ValueError, match="has no head, so it cannot"):
        models.load(str(tmp_path))
    found = models.load(str(tmp_path), classes=NEW, head="random")
    assert (found.classes, changed(classifier.variables, found.variables)) == (NEW, FC)
    bare = tmp_path / "features.safetensors"
    bare.write_bytes((tmp_path / weights.WEIGHTS).read_bytes())
    found = models.load(str(bare), architecture="test_resnet", classes=NEW, head="zero")
    assert changed(classifier.variables, found.variables) == FC


# Files.


WRAPPED = {
    "_orig_mod.": lambda name, array: {f"_orig_mod.{name}": array},
    "module.": lambda name, array: {f"module.{name}": array},
    "_orig_mod.module.": lambda name, array: {f"_orig_mod.module.{name}": array},
    "model.": lambda name, array: {f"model.{name}": array},
    "state_dict_ema.": lambda name, array: {
        f"state_dict.{name}": np.zeros_like(array),
        f"state_dict_ema.module.{name}": array,
    },
}


@pytest.mark.parametrize("start", WRAPPED)
def test_what_training_loops_put_before_names_is_left_out(start, folder, tmp_path, caplog):
    whole = entries.read(folder / weights.WEIGHTS)
    wrapped = [WRAPPED[start](name, array) for name, array in whole.items()]
    path = tmp_path / "wrapped.safetensors"
    path.write_bytes(
        weights.safetensors_numpy.save({k: v for one in wrapped for k, v in one.items()})
    )
    found = models.load(str(path), architecture="test_resnet")
    assert_same(found.variables, models.load(str(folder)).variables)
    assert f"names begin with '{start.partition('.')[0]}.', which is removed" in caplog.text
    assert ("what begins with 'state_dict.' is not read" in caplog.text) == (
        start == "state_dict_ema."
    )


def test_integers_are_no_weights(folder, tmp_path):
    arrays = entries.read(folder / weights.WEIGHTS)
    arrays["fc.weight"] = arrays["fc.weight"].astype(np.int8)
    path = tmp_path / "quantized.safetensors"
    path.write_bytes(weights.safetensors_numpy.save(arrays))
    with pytest.raises(ValueError, match=r"quantized fc\.weight: int8, not weights"):
        models.load(str(path), architecture="test_resnet")


def test_images_for_a_bare_file_are_read_as_its_architecture_says(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_numpy.save({"fc.bias": np.zeros(3, np.float32)}))
    for architecture, mode in (("resnet18", "center"), ("efficientnet_b5", "squash")):
        found = models.locate(str(path), architecture=architecture)
        assert weights.input_spec(found.config).crop_mode == mode


def test_a_bare_file_needs_its_architecture(classifier, folder, tmp_path, caplog):
    path = tmp_path / "resnet.safetensors"
    path.write_bytes((folder / weights.WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=rf"`python -m ktjax.models import {path} FOLDER --arch"):
        models.load(str(path))
    with pytest.raises(ValueError, match=r"No architecture 'test_resnt'\. Nearest: test_resnet"):
        models.load(str(path), architecture="test_resnt")
    found = models.load(str(path), architecture="test_resnet")
    assert_same(found.variables, classifier.variables)
    assert found.input == models.MODELS["test_resnet"].input
    assert "resnet.safetensors does not say how images are prepared: using " in caplog.text
    assert (found.classes[9], found.origin) == ("class 9", "pretrained resnet.safetensors")
    given = dict(mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3), interpolation="bilinear", crop_pct=0.8)
    found = models.load(path, architecture="timm/test_resnet.r160_in1k", **given)
    assert {name: getattr(found.input, name) for name in given} == given
    wrong = [("mean", (1.0, "x")), ("mean", (0.5,)), ("interpolation", "cubic"), ("crop_pct", 875)]
    for name, value in (*wrong, ("std", (0.0, 1.0, 1.0))):
        with pytest.raises(ValueError, match=name):
            models.load(path, architecture="test_resnet", **{name: value})


def test_a_bare_file_becomes_a_folder_that_jobs_take(classifier, folder, tmp_path, capsys, caplog):
    path = tmp_path / "model.safetensors"
    path.write_bytes((folder / weights.WEIGHTS).read_bytes())
    (tmp_path / "names").write_text("".join(f"animal {i}\n" for i in range(10)))
    words = ["import", str(path), str(tmp_path / "out"), "--architecture=test_resnet"]
    words += [f"--classes={tmp_path / 'names'}", "--mean", *"000", "--std", *"111", "--size=64"]
    command.main([*words, "--crop-pct=0.5", "--interpolation=bilinear"])
    assert "test_resnet, " in capsys.readouterr().out
    caplog.clear()
    found = models.load(tmp_path / "out")
    assert not caplog.messages  # it says now how images are prepared
    assert_same(found.variables, classifier.variables)
    assert found.input == InputSpec((64, 64), (0, 0, 0), (1, 1, 1), "bilinear", 0.5)
    assert found.classes[9] == "animal 9"
    for wrong, message in (
        (words[:3], "does not name its architecture"),
        ([*words, "--drop-rate=0.1"], "--drop-rate: not of a .safetensors file"),
        (["import", "timm/resnet18", "x", "--mean", *"000"], "--mean: not of such a model"),
        ([*words[:4], f"--classes={tmp_path / 'nowhere'}"], "nowhere"),
    ):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert message in capsys.readouterr().err


def test_weights_by_other_names_are_told_what_to_do(folder, tmp_path):
    """torchvision's MobileNet has its head in classifier.3, its ViT in heads.head."""
    for head in ("classifier.3", "heads.head"):
        found = entries.read(folder / weights.WEIGHTS, ignored=("fc.",))
        found = {f"features.{name}": array for name, array in found.items()}
        path = tmp_path / "theirs.safetensors"
        found[f"{head}.bias"] = np.zeros(10, np.float32)
        path.write_bytes(safetensors_numpy.save(found))
        with pytest.raises(
            ValueError, match=r"torchvision's .* ktjax.import_torch\(module, FOLDER"
        ):
            models.load(path, architecture="test_resnet")


def test_a_file_without_a_classifier_is_refused(folder, tmp_path):
    found = entries.read(folder / weights.WEIGHTS, ignored=("fc.",))
    path = tmp_path / "features.safetensors"
    path.write_bytes(weights.safetensors_numpy.save(found))
    with pytest.raises(ValueError, match="has no head, so it cannot classify"):
        models.load(str(path), architecture="test_resnet")


def test_another_architecture_is_told_all_that_does_not_fit(folder, caplog):
    with pytest.raises(ValueError, match="does not fit") as refusal:
        models.load(str(folder / weights.WEIGHTS), architecture="resnet18")
    lines = str(refusal.value).splitlines()[1:-1]
    same = "and 7 more of layer*.*.conv*.weight"
    assert f"  missing layer1.1.conv1.weight (64, 64, 3, 3), {same}" in lines
    assert "missing layer4.1.conv2.weight: (512, 512, 3, 3)" in caplog.text
    assert any(line.startswith("  unexpected conv1.0.weight (16, 3, 3, 3)") for line in lines)
    assert "  misshapen fc.weight: file (10, 96), resnet18 (10, 512)" in lines
    assert {line.split()[0] for line in lines} == {"missing", "unexpected", "misshapen"}


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused_with_one_sentence(folder, kept, tmp_path):
    for name in (weights.CONFIG, weights.WEIGHTS):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    for name, options in ((tmp_path, {}), (path, {"architecture": "test_resnet"})):
        with pytest.raises(ValueError, match="is not a whole safetensors file") as refusal:
            models.load(str(name), **options)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pth", "weights.pth.tar", "folder"])
def test_pickles_are_refused_with_what_to_do(name, tmp_path):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "pytorch_model.bin").write_bytes(b"")
    else:
        path.write_bytes(b"")
    message = r"is a pickle, which .* never opens.* torch\.load\(FILE.*torch\.save_file\(.* import"
    if name == "folder":
        message = r"are a pickle, which ktjax never opens: `python -m ktjax.models import .*folder"
    with pytest.raises(ValueError, match=message):
        models.load(str(path), architecture="test_resnet")


def test_other_files_and_folders_of_checkpoints_are_told_what_to_do(folder, tmp_path):
    (tmp_path / "vit.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"npz' is not a .safetensors file.*checkpoint_path=FILE"):
        models.load(tmp_path / "vit.npz")
    for step in (500, 1000):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(ValueError, match=r"' is not a model, but holds some: .*t-1000, .*t-500\."):
        models.load(tmp_path / "run")


# The hub.


def cached(folder, home):
    """The folder where huggingface_hub would have put its files."""
    commit = "0123456789" * 4
    repository = home / "hub" / f"models--{NAME.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for number, name in enumerate((weights.CONFIG, weights.WEIGHTS)):
        blob = repository / "blobs" / f"{number:064x}"
        blob.write_bytes((folder / name).read_bytes())
        (repository / "snapshots" / commit / name).symlink_to(f"../../blobs/{blob.name}")


OFFLINE = f"""
from ktjax import models
found = models.load("{NAME}")
said = str(float(abs(found.variables["params"]["fc"]["kernel"]).sum()))
try:
    models.load("timm/resnet18.a1_in1k")
except ValueError as error:
    print(said, found.name, found.input.size[1], found.origin, error)
"""


def test_the_cache_of_the_hub_is_enough(classifier, folder, tmp_path, monkeypatch, python):
    cached(folder, tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    total, *words = python(OFFLINE)
    kernel = np.abs(classifier.variables["params"]["fc"]["kernel"])
    assert float(total) == pytest.approx(kernel.sum(), rel=1e-5)
    assert " ".join(words) == (
        f"{NAME} 80 pretrained {NAME} 'timm/resnet18.a1_in1k' is not in the cache of "
        "huggingface_hub, and huggingface.co does not answer (or HF_HUB_OFFLINE is set)."
    )


def answered(status, headers=None):
    """What huggingface_hub raises when the server answers so."""
    http = sys.modules[errors.HTTPError.__module__]  # httpx or httpx2, as its version has it
    url = f"https://huggingface.co/{NAME}/resolve/main/config.json"
    response = http.Response(status, headers=headers, request=http.Request("HEAD", url))
    with pytest.raises(errors.HfHubHTTPError) as raised:
        hf_raise_for_status(response)
    return raised.value


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", f"'{NAME}' is gated: accept its terms on huggingface.co, then log in"),
        (401, "RepoNotFound", f"There is no repository '{NAME}' on huggingface.co."),
        (401, None, f"There is no repository '{NAME}' on huggingface.co."),
        (404, "EntryNotFound", f"'{NAME}' has no config.json on huggingface.co; ktjax reads no"),
        (404, "RevisionNotFound", f"'{NAME}' cannot be downloaded: 404 Client Error."),
        (503, None, f"'{NAME}' cannot be downloaded: Server error '503 Service Unavailable'"),
    ],
)
def test_what_the_server_refuses_is_one_sentence(status, code, message, monkeypatch):
    error = answered(status, {"X-Error-Code": code} if code else None)

    def hf_hub_download(repository, file, revision=None):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(ValueError, match="^") as refusal:
        models.load(NAME)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_repository_without_safetensors_says_so(folder, monkeypatch):
    def hf_hub_download(repository, file, revision=None):
        if file == weights.CONFIG:
            return str(folder / file)
        raise answered(404, {"X-Error-Code": "EntryNotFound"})

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(ValueError, match=f"^'{NAME}' has no model.safetensors on hugging"):
        models.load(NAME)


def test_an_unknown_architecture_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("it asks"))
    with pytest.raises(ValueError, match=r"No architecture 'resnet17'\. Nearest: resnet1[0-9]"):
        models.load("timm/resnet17.a1_in1k")
    with pytest.raises(
        ValueError, match=r"'timm/resnet10t' lacks its tag, .*: timm/resnet10t\.c3_"
    ):
        models.load("timm/resnet10t")


OF_ANY_OWNER = pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:me/mine", "hf:me/mine", "timm/me/mine", "hf://me/mine@v2", "hf_hub:me/mine@v2"),
        *("https://huggingface.co/me/mine/", "https://huggingface.co/me/mine/tree/v2"),
    ],
)


@OF_ANY_OWNER
def test_repositories_of_any_owner(classifier, folder, name, monkeypatch):
    asked = []

    def hf_hub_download(repository, file, revision=None):
        asked.append((repository, revision))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    found = models.load(name)
    assert_same(found.variables, classifier.variables)
    assert set(asked) == {("me/mine", "v2" if "v2" in name else None)}
    assert (found.name, found.origin) == (name, f"pretrained {name}")


@OF_ANY_OWNER
def test_exports_of_any_owners_models_say_whose_they_are(classifier, name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--me--mine"
    for part in ("refs", "snapshots/0"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / ("v2" if "v2" in name else "main")).write_text("0")
    (repository / "snapshots" / "0" / "README.md").write_text("---\nlicense: mit\n---\n")
    ktjax.export_model(dataclasses.replace(classifier, name=name), tmp_path / "out")
    written = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert (written.data.base_model, written.data.license) == ("me/mine", "mit")
    assert f", from {name}\n" in written.text.replace("\\_", "_")


@OF_ANY_OWNER
def test_transformers_is_asked_for_the_revision(name, tmp_path, monkeypatch):
    asked = []

    class Auto:
        @staticmethod
        def from_pretrained(name, *, revision, **options):
            asked.append((name, revision))
            raise OSError("that is enough")

    theirs = types.SimpleNamespace(AutoModelForImageClassification=Auto)
    monkeypatch.setattr(importing, "_import", lambda _: theirs)
    (tmp_path / "a@b").mkdir()
    file = tmp_path / "a@b" / weights.CONFIG
    file.write_text(json.dumps({"model_type": "swinv2", "architectures": ["Swinv2ForImage"]}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(file))
    for one in (name, str(file.parent)):
        with pytest.raises(ValueError, match="transformers cannot load .*: that is enough"):
            importing.import_named(one, tmp_path / "out")
    revision = "v2" if "v2" in name else None
    assert asked == [("me/mine", revision), (str(file.parent), None)]


@pytest.mark.parametrize(
    ("name", "hinted"),
    [("google/vit-base@v1", True), ("glyphs/tiny", False), ("a/b/c", False), ("vit base/x", False)],
)
def test_a_name_as_on_the_hub_is_told_what_it_is_called(name, hinted):
    with pytest.raises(ValueError, match="No model '") as refusal:
        models.load(name)
    said = f" A model of the hub is called 'hf:{name}'."
    assert str(refusal.value).endswith(f"lists all.{said if hinted else ''}")


def test_timms_word_for_a_folder(classifier, folder):
    assert_same(models.load(f"local-dir:{folder}").variables, classifier.variables)


def test_a_repository_in_parts(classifier, folder, tmp_path, monkeypatch):
    (tmp_path / weights.CONFIG).write_bytes((folder / weights.CONFIG).read_bytes())
    arrays = list(entries.read(folder / weights.WEIGHTS).items())
    names = {}
    for file, part in (("a.safetensors", arrays[::2]), ("b.safetensors", arrays[1::2])):
        (tmp_path / file).write_bytes(weights.safetensors_numpy.save(dict(part)))
        names |= {name: file for name, _ in part}
    (tmp_path / entries.INDEX).write_text(json.dumps({"weight_map": names}))
    asked = []

    def hf_hub_download(repository, file, revision=None):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise answered(404, {"X-Error-Code": "EntryNotFound"})
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert_same(models.load("hf:me/large").variables, classifier.variables)
    assert {"a.safetensors", "b.safetensors"} < set(asked)


def test_a_class_of_the_hub_that_ktjax_lacks_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_has", lambda package: package != "torch")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda _, file, revision: str(tmp_path / file)
    )
    config = {"model_type": "swinv2", "architectures": ["Swinv2ForImageClassification"]}
    (tmp_path / weights.CONFIG).write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"'Swinv2For.*models of transformers needs .*ktjax\[torch\]"
    ):
        models.load("hf:me/swin")
    (tmp_path / weights.CONFIG).write_text(json.dumps({"architecture": "starnet_s1"}))
    with pytest.raises(ValueError, match=r"'starnet_s1'.*models of timm needs .*ktjax\[torch\]"):
        models.load("hf-hub:me/star")


# Heads.

NEW = ("left", "right", "straight on")


def changed(before, after):
    """Paths of the leaves that are not the same."""
    flat = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (before, after))
    before, after = ({jax.tree_util.keystr(k): v for k, v in tree.items()} for tree in flat)
    assert before.keys() == after.keys()
    return {name for name, leaf in before.items() if not np.array_equal(leaf, after[name])}


FC = {f"['params']['fc']['{leaf}']" for leaf in ("kernel", "bias")}


def test_a_new_head_is_all_that_changes(classifier, folder):
    found = models.load(str(folder), classes=NEW, head="zero")
    assert changed(classifier.variables, found.variables) == FC
    assert found.variables["params"]["fc"]["kernel"].shape == (96, 3)
    assert not any(np.any(leaf) for leaf in found.variables["params"]["fc"].values())
    assert (found.classes, found.origin) == (NEW, "pretrained model, new head")
    assert found.input == SPEC


def test_a_new_head_may_be_for_as_many_classes(classifier, folder):
    found = models.load(str(folder), head="zero")
    assert changed(classifier.variables, found.variables) == FC
    assert found.classes == models.classes.numbered(10)


def test_both_heads_of_a_distilled_network_are_new():
    before = drawn("pit_ti_distilled_224", size=(64, 64))
    after = models.replace_head(before, NEW, head="zero")
    heads = {"head", "head_dist"}
    leaves = {f"['params']['{head}']['{leaf}']" for head in heads for leaf in ("kernel", "bias")}
    assert changed(before.variables, after.variables) == leaves


def test_a_zero_head_has_no_opinion():
    before = drawn("tiny_mlp_narrow")
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    after = models.replace_head(before, NEW, head="zero")
    output = after.apply(after.variables, images)[0]
    np.testing.assert_array_equal(output.logits, np.zeros((4, 3)))
    expected = before.apply(before.variables, images)[0].features
    np.testing.assert_allclose(output.features, expected, rtol=1e-5)


def test_a_random_head_is_drawn_from_its_seed():
    before = drawn("tiny_mlp_narrow")
    first, same, other = (
        models.replace_head(before, NEW, head="random", seed=seed) for seed in (1, 1, 2)
    )
    kernel = {f"['params']['head']['{leaf}']" for leaf in ("kernel", "bias")}
    assert changed(before.variables, first.variables) == kernel
    assert changed(first.variables, same.variables) == set()
    assert changed(first.variables, other.variables) == {"['params']['head']['kernel']"}
    assert np.std(first.variables["params"]["head"]["kernel"]) > 0.01


def test_an_unknown_head_is_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(entries, "read", lambda *_, **__: pytest.fail("it reads"))
    with pytest.raises(ValueError, match=r"No head 'ones'\. Known: zero, random\."):
        models.load(str(folder), classes=NEW, head="ones")
    with pytest.raises(ValueError, match=r"No head 'ones'\. Known: zero, random\."):
        models.replace_head(drawn("tiny_mlp_narrow"), NEW, head="ones")


def test_a_workdir_stands_for_its_only_model(classifier, tmp_path):
    (tmp_path / "config.json").write_text('{"job": "transfer"}')
    with pytest.raises(ValueError, match="the workdir of a job that has not exported a model: "):
        models.load(str(tmp_path))
    weights.export(classifier, str(tmp_path / "students" / "kl_dp-1"))
    found = models.load(tmp_path)
    assert (found.name, found.architecture) == (str(tmp_path), "test_resnet")
    weights.export(classifier, tmp_path / "students" / "mutual-1" / "b")  # each of several
    with pytest.raises(ValueError, match=r"holds several models: use one, .*kl_dp-1, .*l-1/b\."):
        models.load(str(tmp_path))


@pytest.mark.parametrize("architecture", ["tiny_mlp_narrow", "ViTForImageClassification"])
def test_what_timm_lacks_is_not_written_in_its_format(architecture, tmp_path):
    own = models.load("glyphs/tiny_mlp_narrow")
    with pytest.raises(ValueError, match=f"timm has no '{architecture}': use format='ktjax'"):
        other = dataclasses.replace(own, architecture=architecture)
        weights.export(other, tmp_path / "export", format="timm")
    assert not (tmp_path / "export").exists()


def test_options_are_what_an_export_can_hold(classifier, folder, tmp_path):
    found = models.load(str(folder), drop_path_rate=np.float32(0.25), remat=True)
    assert type(found.options["drop_path_rate"]) is float
    weights.export(found, tmp_path, format="timm")
    # timm has no remat, which is of the memory here, not of the model.
    assert models.blank(str(tmp_path)).options == {"drop_path_rate": 0.25}
    for value in (jax.nn.silu, np.ones(2), float("nan"), (np.int64(1),)):
        with pytest.raises(ValueError, match="test_resnet cannot have drop_rate=.*: options are"):
            models.load(str(folder), drop_rate=value)


def test_options_that_timm_has_not_are_not_written_in_its_format(tmp_path):
    model = drawn("test_vit", size=(32, 32), depth=1, use_fc_norm=True)
    with pytest.raises(ValueError, match="timm's test_vit has no option use_fc_norm: use format="):
        weights.export(model, tmp_path / "export", format="timm")
    assert not (tmp_path / "export").exists()
    weights.export(model, tmp_path / "export")
    assert models.blank(str(tmp_path / "export")).options == model.options


def test_nothing_is_written_if_something_cannot_be(classifier, tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        weights.export(classifier, tmp_path / "export", accuracy=np.float32(1))
    assert not (tmp_path / "export").exists()
