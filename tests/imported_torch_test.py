"""What only torch and timm can show of imported models; .ci/full has them.

imported_test.py has the rest, on what torch has said before.
"""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import rule
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import models
from ktjax.models import imported, registry
from ktjax.models.checkpoints import catalogue, layouts, weights

pytestmark = pytest.mark.full
NORMAL = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# An architecture of each family that is small, and the size of its images.
NATIVE = {
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "regnet": "regnety_002",
    "convnext": "test_convnext",
    "efficientnet": "test_efficientnet",
    "mobilenetv3": "mobilenetv3_small_050",
    "vision_transformer": "test_vit",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "deit": "deit_tiny_distilled_patch16_224",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "xcit": "xcit_nano_12_p16_224",
    "pit": "pit_ti_224",
    "mlp_mixer": "mixer_s32_224",
}


def timms(architecture, folder, classes=rule.CLASSES):
    """A folder as timm's save_for_hf leaves it, with the weights of the rule; and the model."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    module = timm.create_model(architecture, num_classes=classes).eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(rule.weight(name, tuple(value.shape))))
    folder.mkdir(parents=True)
    spec = dict(module.pretrained_cfg)
    kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "first_conv", "classifier")
    kept += ("fixed_input_size",) if "fixed_input_size" in spec else ()
    config = {
        "architecture": architecture,
        "num_classes": classes,
        "pretrained_cfg": {key: spec[key] for key in kept},
    }
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: value.numpy() for name, value in module.state_dict().items()}
    arrays = {name: np.array(value, order="C") for name, value in arrays.items()}
    safetensors_numpy.save_file(arrays, folder / weights.WEIGHTS)
    return module


def answers(model, x):
    """Logits, and the gradients of their square to the parameters."""

    def run(variables, x):
        def loss(params):
            at = {**variables, "params": params}
            output, _ = model.forward(at, x, train=False, rngs=None, freeze_stats=False)
            return jnp.square(output.logits).mean(), output.logits

        gradients, logits = jax.grad(loss, has_aux=True)(variables["params"])
        return logits, gradients

    return jax.jit(run)(dict(model.variables), x)


def test_every_family_is_here():
    assert NATIVE.keys() == models.FAMILIES.keys()


@pytest.mark.parametrize("family", NATIVE)
def test_native_and_imported_agree(family, tmp_path):
    timms(NATIVE[family], tmp_path / "timms")
    native = models.load(str(tmp_path / "timms"))
    model = imported.import_named(str(tmp_path / "timms"), tmp_path / "graph")
    assert model.definition is not None and native.definition is None
    assert model.input == native.input
    x = jnp.asarray(rule.images(native.input.size[0])[:2])
    (logits, gradients), (expected, wanted) = (answers(each, x) for each in (model, native))
    np.testing.assert_allclose(logits, expected, atol=3e-4 * np.std(expected))
    tree = dataclasses.replace(native, variables={"params": wanted})
    wanted = weights.to_arrays(tree, layout=layouts.timm)
    assert gradients.keys() == wanted.keys()
    size = max(np.linalg.norm(gradient) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert np.linalg.norm(gradients[name] - gradient) < 1e-3 * size, name


def test_an_exported_student_has_torchs_bits(tmp_path):
    """timm loads it as local-dir, torch by load_state_dict."""
    import timm
    import torch

    module = timms("test_byobnet", tmp_path / "timms")
    model = imported.import_named(str(tmp_path / "timms"), tmp_path / "graph")
    ktjax.export_model(model, tmp_path / "export", format="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    x = torch.from_numpy(rule.images(160)).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
    entries = safetensors_numpy.load_file(tmp_path / "export" / weights.WEIGHTS)
    state = {name: torch.from_numpy(array) for name, array in entries.items()}
    module.load_state_dict(state, strict=True)


def of_transformers(folder, kind, **fields):
    """A folder as save_pretrained leaves it, with the weights of the rule; and the model."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = transformers.Swinv2Config(
        image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
    )
    torch.manual_seed(0)
    module = getattr(transformers, kind)(config, **fields).eval()
    module.save_pretrained(folder)
    return module


def test_an_encoder_is_imported_with_a_head_to_come(tmp_path):
    import torch

    timm = timms("test_byobnet", tmp_path / "timms", classes=0)
    swin = of_transformers(tmp_path / "swin", "Swinv2Model")
    for name, module in (("timms", timm), ("swin", swin)):
        imported.import_named(str(tmp_path / name), tmp_path / "graph")
        with pytest.raises(ValueError, match="graph' has no head, so it cannot classify"):
            models.load(str(tmp_path / "graph"))
        with pytest.raises(ValueError, match="graph' has no head"):
            models.load(str(tmp_path / "graph"), classes=("a", "b"))
        model = models.load(str(tmp_path / "graph"), head="zero", classes=("a", "b"))
        x = rule.images(model.input.size[0])[:2]
        output, _ = model.forward(model.variables, x, train=False, rngs=None, freeze_stats=False)
        with torch.no_grad():
            expected = module(torch.from_numpy(x).permute(0, 3, 1, 2))
        expected = getattr(expected, "pooler_output", expected).numpy()
        np.testing.assert_array_equal(output.logits, np.zeros((2, 2)))
        np.testing.assert_allclose(output.features, expected, atol=3e-5 * expected.std())
        assert len(models.load(str(tmp_path / "graph"), head="random", classes=3).classes) == 3


def test_a_head_for_another_problem_is_left_out(tmp_path, caplog):
    of_transformers(tmp_path / "swin", "Swinv2ForImageClassification")
    problem, path = "multi_label_classification", tmp_path / "swin" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": problem}))
    imported.import_named(str(tmp_path / "swin"), tmp_path / "graph")
    assert f"Swinv2ForImageClassification has problem_type={problem}" in caplog.text
    with pytest.raises(ValueError, match="graph' has no head, so it cannot classify"):
        models.load(str(tmp_path / "graph"))
    model = models.load(str(tmp_path / "graph"), head="zero", classes=("a", "b"))
    assert model.classes == ("a", "b")


def test_a_checkpoint_of_something_else_is_not_imported(tmp_path):
    of_transformers(tmp_path / "swin", "Swinv2Model", add_pooling_layer=False)
    file = tmp_path / "swin" / weights.WEIGHTS
    entries = safetensors_numpy.load_file(file)
    del entries["layernorm.weight"]
    safetensors_numpy.save_file(entries, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 entries .* head, swinv2\.layernorm\.weight first"):
        imported.import_named(str(tmp_path / "swin"), tmp_path / "graph")


def test_what_cannot_be_imported_says_why(tmp_path):
    import torch

    class Data(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    class Two(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x.mean((2, 3))

    class OneBatch(torch.nn.Module):
        def forward(self, x):
            return x.reshape(2, 3, -1).mean(-1)

    class Inner(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x) + torch.igamma(x.abs() + 1, x.abs())

    class Unknown(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.odd = Inner()

        def forward(self, x):
            return torch.lgamma(self.odd(x).mean((2, 3)))

    for kind, message in (
        (Data, r"torch\.export cannot trace this Data"),
        (Two, r"The module returns 2 tensors .*wrap it in a module that returns the logits"),
        (OneBatch, r"torch\.export cannot trace this OneBatch .*a batch of any size"),
        (Unknown, r"igamma in odd; lgamma in the model itself; special_bessel_j0 in odd"),
    ):
        with pytest.raises(ValueError, match=message):
            ktjax.import_torch(kind(), tmp_path / "out", size=(8, 8), classes=3, **NORMAL)
    with pytest.raises(ValueError, match="has 3 classes, but 4 are named"):
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        ktjax.import_torch(linear, tmp_path / "out", size=(8, 8), classes=4, **NORMAL)
    for last, name in ((torch.nn.Softmax(1), "softmax"), (torch.nn.Sigmoid(), "sigmoid")):
        sure = torch.nn.Sequential(*linear, last)
        with pytest.raises(ValueError, match=f"returns probabilities: .* before the {name}"):
            ktjax.import_torch(sure, tmp_path / "out", size=(8, 8), classes=3, **NORMAL)
    assert not (tmp_path / "out").exists()


def test_a_module_stays_as_it_was(tmp_path):
    import torch

    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 3),
    ).half()
    model = ktjax.import_torch(module, tmp_path, size=(8, 8), classes=("a", "b", "c"), **NORMAL)
    assert module.training and module[0].weight.dtype == torch.float16
    assert model.classes == ("a", "b", "c") and model.name == str(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["versions"]["torch"] == torch.__version__


def test_the_command(tmp_path):
    timms("test_byobnet", tmp_path / "timms")
    run = [sys.executable, "-m", "ktjax.models", "import"]
    command = [*run, str(tmp_path / "timms"), str(tmp_path / "out"), "--size", "96"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "test_byobnet, " in done.stdout and "images of 96x96, 10 classes" in done.stdout
    assert models.load(str(tmp_path / "out")).input.size == (96, 96)
    done = subprocess.run([*run, "nothing", "out"], capture_output=True, text=True)
    assert done.returncode == 2 and "neither timm/NAME nor hf:" in done.stderr


def test_a_name_of_timms_is_imported_once(tmp_path, monkeypatch):
    from ktjax.models.imported import importing

    timms("test_byobnet", tmp_path / "timms")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def of_timm(name, origin, size, rates):
        asked.append(name)
        return importing_of_timm(f"local-dir:{tmp_path / 'timms'}", origin, size, rates)

    importing_of_timm = importing._of_timm
    monkeypatch.setattr(importing, "_of_timm", of_timm)
    first = models.load("timm/test_byobnet.r160_in1k")
    second = models.load("timm/test_byobnet.r160_in1k")
    assert asked == ["test_byobnet.r160_in1k"]
    (kept,) = (tmp_path / "cache" / "ktjax" / "imported").iterdir()
    assert kept.name == "timm--test_byobnet.r160_in1k"
    assert first.origin == second.origin == "pretrained timm/test_byobnet.r160_in1k"
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    with pytest.raises(
        ValueError, match=r"No architecture 'test_byobnot'\. Nearest: .* timm does not have it"
    ):
        models.load("timm/test_byobnot.r160_in1k")


def test_what_is_else_in_training_is_not_trained_so(tmp_path, caplog):
    import torch

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = torch.nn.Dropout(0.2), torch.nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(self.drop(x.mean((2, 3))))

    class Two(Plain):
        def forward(self, x):
            return (super().forward(x),) * 2 if self.training else super().forward(x)

    class Other(Plain):
        def forward(self, x):
            return super().forward(x) * (2 if self.training else 1)

    class More(Plain):
        def forward(self, x):
            logits = super().forward(x)
            return torch.cat((logits, logits), 1) if self.training else logits

    class Fresh(Plain):
        def __init__(self):
            super().__init__()
            torch.nn.init.zeros_(self.fc.weight)
            torch.nn.init.zeros_(self.fc.bias)

    class Depends(Plain):
        def forward(self, x):
            if self.training and torch.rand([]) < 0.5:
                return self.fc(x.mean((2, 3)))
            return super().forward(x)

    for kind, said in (
        (Plain, None),
        (Fresh, None),  # all logits are 0, and have no spread
        (More, r"More is trained as in evaluation, .* it returns \[2, 8\], not \[2, 4\]"),
        (Two, "Two is trained as in evaluation, .* it returns 2 tensors"),
        (Other, "Other is trained as in evaluation, .* its logits differ, by"),
        (Depends, "Depends is trained as in evaluation, .* cannot trace this Depends"),
    ):
        caplog.clear()
        model = ktjax.import_torch(kind(), tmp_path, size=(8, 8), classes=4, **NORMAL)
        assert (model.definition.training is None) == (said is not None)
        assert (tmp_path / "training.json").exists() == (said is None)
        assert said is None or re.search(said, caplog.text), caplog.text


def test_what_is_dropped_under_any_name_is_trained_so(tmp_path):
    """As torchvision's StochasticDepth, whose rate is `p`, and calls of F.dropout."""
    import torch

    class Drops(torch.nn.Module):
        def __init__(self, p):
            super().__init__()
            self.p, self.bn, self.fc = p, torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4)

        def forward(self, x):
            x = self.bn(x).mean((2, 3))
            return self.fc(torch.nn.functional.dropout(x, self.p, self.training))

    for p in (0.5, 0.0):
        module = Drops(p)
        state, drawn = module.state_dict(), torch.get_rng_state()
        before = {name: value.clone() for name, value in state.items()}
        model = ktjax.import_torch(module, tmp_path, size=(8, 8), classes=4, **NORMAL)
        assert (model.definition.training is not None) == (p > 0)
        assert all(torch.equal(state[name], value) for name, value in before.items())
        assert torch.equal(torch.get_rng_state(), drawn)


def test_dropout_in_place_is_trained_so(tmp_path):
    """As in torchvision's EfficientNets."""
    import torch

    layers = (torch.nn.Flatten(), torch.nn.Linear(192, 4), torch.nn.Dropout(0.5, inplace=True))
    module = torch.nn.Sequential(*layers)
    model = ktjax.import_torch(module, tmp_path, size=(8, 8), classes=4, **NORMAL)
    images = np.full((64, 8, 8, 3), 255, np.uint8)
    rngs = {"dropout": jax.random.key(0)}
    output, _ = model.apply(model.variables, images, train=True, rngs=rngs)
    assert 0.4 < np.mean(np.asarray(output.logits) == 0) < 0.6


@pytest.mark.parametrize("momentum", [None, 0.1, 0.0])
def test_statistics_that_will_not_move_are_told(momentum, tmp_path, caplog):
    """torch averages over all batches then; models that are only evaluated are right."""
    import torch

    module = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3, momentum=momentum), torch.nn.Flatten(), torch.nn.Linear(192, 4)
    )
    model = ktjax.import_torch(module, tmp_path, size=(8, 8), classes=4, **NORMAL)
    said = "has BatchNorm with momentum=None, whose running statistics will not move"
    assert (said in caplog.text) == (momentum is None)
    _, stats = model.apply(model.variables, np.full((2, 8, 8, 3), 255, np.uint8), train=True)
    assert np.any(stats["0.running_mean"]) == bool(momentum)


@pytest.mark.parametrize("family", sorted(models.FAMILIES))
def test_which_options_are_timms(family):
    timm = pytest.importorskip("timm")
    ours = set().union(*map(registry.options_of, models.FAMILIES[family].VARIANTS))
    smallest = min(
        models.FAMILIES[family].VARIANTS,
        key=lambda name: catalogue.TIMM["architectures"][name]["parameters"],
    )
    theirs = set(inspect.signature(type(timm.create_model(smallest)).__init__).parameters)
    assert ours - theirs == {*catalogue.NOT_TIMMS.get(family, ()), "remat"}
