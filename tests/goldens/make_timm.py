"""Makes the goldens of the model families with torch and timm: what they compute, see rule.py.

  python tests/goldens/make_timm.py FAMILY...   tests/goldens/FAMILY.npz: logits and features of
      each of its architectures in GOLDENS, and one train-mode step of the first
  python tests/goldens/make_timm.py --table     ktjax/models/timm.json
  python tests/goldens/make_timm.py --exported FAMILY FOLDER
      whether timm loads FOLDER/<architecture>, which ktjax exported, with the golden's logits

pip install torch timm. torchvision from the registry is built for CUDA; where it fails to import,
its two operators are declared first.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import rule  # noqa: E402

try:
    import timm
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

# Architectures: small, deep and odd ones of each family, and the size of their images. The first is
# also trained for a step.
GOLDENS = {
    "resnet": {
        "test_resnet": 64,
        "resnet18": 64,
        "resnet34d": 64,
        "resnet26t": 64,
        "resnet50_gn": 64,
        "seresnext26d_32x4d": 96,
        "ecaresnet26t": 64,
        "resnetblur50": 64,
        "resnetaa50d": 64,
        "resnetrs50": 64,
        "senet154": 64,
    },
    "convnext": {
        "test_convnext3": 64,
        "test_convnext": 64,
        "convnext_zepto_rms_ols": 64,
        "convnext_atto_ols": 64,
        "convnext_atto_rms": 64,
        "convnext_nano_ols": 64,
        "convnext_tiny_hnf": 64,
        "convnext_small": 64,
        "convnextv2_atto": 64,
        "convnextv2_tiny": 64,
    },
    "vision_transformer": {
        "test_vit": 64,
        "test_vit2": 64,
        "test_vit3": 64,
        "test_vit4": 64,
        "vit_xsmall_patch16_clip_224": 64,
        "vit_dwee_patch16_reg1_gap_256": 64,
        "vit_dpwee_patch16_reg1_gap_256": 64,
        "vit_pwee_patch16_reg1_gap_256": 64,
        "flexivit_small": 64,
    },
    "regnet": {
        "regnety_002": 64,
        "regnetx_004_tv": 64,
        "regnety_040_sgn": 64,
        "regnetv_040": 64,
        "regnetv_064": 64,
        "regnetz_005": 64,
        "regnetz_040": 64,
    },
    "resnetv2": {
        "resnetv2_18": 32,
        "resnetv2_18d": 64,
        "resnetv2_50t": 64,
        "resnetv2_50x1_bit": 64,
        "resnetv2_50d_gn": 64,
        "resnetv2_50d_evos": 64,
        "resnetv2_50d_frn": 64,
    },
    "swin_transformer": {
        "swin_tiny_patch4_window7_224": 36,
        "swin_s3_tiny_224": 64,
        "swin_s3_small_224": 60,
        "swin_small_patch4_window7_224": 64,
        "swin_base_patch4_window12_384": 52,
    },
    "mlp_mixer": {
        "resmlp_12_224": 48,
        "resmlp_36_224": 64,
        "mixer_s32_224": 96,
        "gmixer_12_224": 32,
        "gmlp_ti16_224": 64,
    },
    "deit": {
        "deit_tiny_distilled_patch16_224": 64,
        "deit_tiny_patch16_224": 64,
        "deit_small_distilled_patch16_224": 64,
        "deit3_small_patch16_224": 64,
        "deit3_medium_patch16_224": 64,
    },
    "vision_transformer_relpos": {
        "test_vit_relpos": 64,
        "vit_relpos_small_patch16_224": 64,
        "vit_relpos_small_patch16_rpn_224": 64,
        "vit_srelpos_small_patch16_224": 64,
        "vit_relpos_medium_patch16_cls_224": 64,
    },
    "pit": {
        "pit_ti_224": 64,
        "pit_ti_distilled_224": 96,
        "pit_xs_224": 64,
        "pit_s_distilled_224": 64,
        "pit_b_224": 64,
    },
    "xcit": {
        "xcit_nano_12_p16_224": 64,  # of depth 2
        "xcit_nano_12_p8_384": 48,
        "xcit_tiny_12_p16_384": 96,
        "xcit_tiny_24_p8_224": 32,
        "xcit_small_12_p16_224": 64,
    },
    "efficientnet": {
        "test_efficientnet": 64,
        "test_efficientnet_gn": 64,
        "test_efficientnet_ln": 64,
        "test_efficientnet_evos": 64,
        "tf_efficientnet_b0": 75,
        "efficientnet_b0_g8_gn": 64,
        "efficientnet_lite0": 64,
        "tf_efficientnet_es": 75,
        "tf_efficientnet_cc_b0_4e": 75,
        "tf_efficientnetv2_b0": 76,
        "gc_efficientnetv2_rw_t": 64,
        "efficientnet_x_b3": 64,
        "tf_mixnet_s": 75,
        "mobilenetv1_100": 64,
        "mobilenet_edgetpu_v2_xs": 64,
        "efficientnet_b1_pruned": 75,
    },
    "mobilenetv3": {
        "mobilenetv3_small_050": 64,
        "mobilenetv3_rw": 64,
        "tf_mobilenetv3_large_075": 75,
        "tf_mobilenetv3_small_minimal_100": 75,
        "fbnetv3_b": 64,
        "mobilenetv4_conv_small_035": 64,
        "mobilenetv4_conv_aa_medium": 64,
        "mobilenetv4_conv_blur_medium": 64,
        "mobilenetv4_hybrid_medium_075": 64,
        "mobilenetv4_hybrid_large_075": 64,
    },
}

# What is not as timm's table has it, to try an option or to be quick to compile.
OPTIONS = {
    "xcit_nano_12_p16_224": {"depth": 2},
    "xcit_tiny_12_p16_384": {"global_pool": "avg"},
}

# The modules of timm whose architectures are counted.
MODULES = (
    "resnet",
    "resnetv2",
    "vision_transformer",
    "vision_transformer_relpos",
    "deit",
    "convnext",
    "mlp_mixer",
    "pit",
    "xcit",
    "swin_transformer",
    "regnet",
    "efficientnet",
    "mobilenetv3",
)


def draw(model: torch.nn.Module) -> None:
    """Replaces all weights and statistics by those of the rule."""
    state = model.state_dict()
    for name in _weights(model):
        state[name] = torch.from_numpy(rule.weight(name, tuple(state[name].shape)))
    model.load_state_dict(state)


def _weights(model: torch.nn.Module) -> list[str]:
    """Names of what is learned, and of BatchNorm's statistics."""
    learned = {name for name, _ in model.named_parameters()}
    ends = ("running_mean", "running_var")
    return sorted(name for name in model.state_dict() if name in learned or name.endswith(ends))


def _create(architecture: str, size: int, **options: float) -> torch.nn.Module:
    """A network for images of this size."""
    options = {**OPTIONS.get(architecture, {}), **options}
    spec = timm.get_pretrained_cfg(architecture)
    if spec.fixed_input_size and spec.input_size[1] != size:
        options["img_size"] = size
    model = timm.create_model(architecture, num_classes=rule.CLASSES, **options)
    draw(model)
    return model


def _images(size: int) -> torch.Tensor:
    return torch.from_numpy(rule.images(size).transpose(0, 3, 1, 2).copy())


def golden(architecture: str, size: int) -> dict[str, np.ndarray]:
    """What an architecture says."""
    model = _create(architecture, size).eval()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(_images(size)), pre_logits=True)
        logits = model(_images(size))
    state = model.state_dict()
    names = [f"{name} {'x'.join(map(str, state[name].shape))}" for name in _weights(model)]
    return {
        "logits": logits.numpy(),
        "features": features.numpy(),
        "size": np.asarray(size),
        "options": np.frombuffer(json.dumps(OPTIONS.get(architecture, {})).encode(), np.uint8),
        "names": np.frombuffer("\n".join(names).encode(), np.uint8),
    }


def train_step(architecture: str, size: int) -> dict[str, np.ndarray]:
    """One batch in train mode: gradients of mean(logits^2), and BatchNorm's statistics after it."""
    model = _create(architecture, size, drop_path_rate=0.0).train()
    logits = model(_images(size))
    """One batch in train mode: gradients of mean(logits^2), and BatchNorm's statistics after it.

    Without what dropout there is although none is asked for.
    """
    model = _create(architecture, size).train()
    with mock.patch.object(torch.nn.functional, "dropout", lambda x, *_, **__: x):
        logits = model(_images(size))
    loss = (logits**2).mean()
    loss.backward()
    found = {"train/loss": loss.detach().numpy()}
    for name, parameter in model.named_parameters():
        found[f"train/gradient/{name}"] = rule.projection(name, parameter.grad.numpy())
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            found[f"train/stats/{name}"] = rule.projection(name, value.numpy())
    return found


def randomness(architecture: str, size: int) -> dict[str, np.ndarray]:
    """The rates of dropout and of stochastic depth, in the order in which they are applied."""
    found = {"dropout": [], "drop_path": []}

    def dropout(x, p=0.5, training=True, inplace=False):
        found["dropout"] += [p] * bool(p and training)
        return x

    def drop_path(x, drop_prob=0.0, training=False, *_):
        found["drop_path"] += [drop_prob] * bool(drop_prob and training)
        return x

    options = {"drop_rate": 0.2, "drop_path_rate": 0.3}
    with (
        mock.patch.object(torch.nn.functional, "dropout", dropout),
        mock.patch.object(timm.layers.drop, "drop_path", drop_path),
    ):
        _create(architecture, size, **options).train()(_images(size))
    return {f"train/{name}": np.asarray(rates) for name, rates in found.items()}


def make(family: str) -> None:
    """Writes the goldens of a family."""
    arrays = {}
    for number, (architecture, size) in enumerate(GOLDENS[family].items()):
        found = golden(architecture, size)
        if number == 0:
            found |= train_step(architecture, size) | randomness(architecture, size)
        arrays |= {f"{architecture}/{name}": value for name, value in found.items()}
        logits = found["logits"]
        print(
            f"{architecture}: logits {np.abs(logits).mean():.3g}, their spread over images "
            f"{logits.std(axis=0).mean():.3g}"
        )
    np.savez_compressed(HERE / f"{family}.npz", **arrays)


def exported(family: str, folder: Path) -> None:
    """Loads what ktjax exported."""
    for architecture, size in GOLDENS[family].items():
        model = timm.create_model(f"local-dir:{folder / architecture}", pretrained=True).eval()
        expected = _create(architecture, size).eval()
        same = all(
            torch.equal(value, expected.state_dict()[name])
            for name, value in model.state_dict().items()
            if value.is_floating_point()
        )
        with torch.no_grad():
            same &= torch.equal(model(_images(size)), expected(_images(size)))
        print(f"{architecture}: {'the same bits' if same else 'DIFFERENT'}")


def table() -> dict[str, dict]:
    """timm's architectures of MODULES, and how many ImageNet-1k checkpoints all of timm has."""
    checkpoints: dict[str, list[str]] = {}
    for name in timm.list_models(pretrained=True):
        if timm.get_pretrained_cfg(name).num_classes == 1000:
            architecture, _, tag = name.partition(".")
            checkpoints.setdefault(architecture, []).append(tag)
    found = {}
    for module in MODULES:
        for architecture in sorted(timm.list_models(module=module)):
            try:
                with torch.device("meta"):
                    model = timm.create_model(architecture)
            except Exception as error:  # an architecture that needs what is not installed
                print(f"{architecture}: {error}")
                continue
            spec = model.default_cfg
            found[architecture] = {
                "family": module,
                "parameters": sum(p.numel() for p in model.parameters()),
                "classes": model.num_classes,
                "input": [
                    spec["input_size"][1],
                    [round(v, 4) for v in spec["mean"]],
                    [round(v, 4) for v in spec["std"]],
                    spec["interpolation"],
                    spec["crop_pct"],
                    *([] if spec["crop_mode"] == "center" else [spec["crop_mode"]]),
                ],
                "fixed_size": bool(spec.get("fixed_input_size")),
                "ends": [spec["first_conv"], spec["classifier"]],
                "checkpoints": checkpoints.get(architecture, []),
            }
    return {
        "timm": timm.__version__,
        "checkpoints": sum(map(len, checkpoints.values())),
        "architectures": found,
    }


def main(arguments: list[str]) -> None:
    if arguments[0] == "--table":
        path = HERE.parents[1] / "ktjax" / "models" / "timm.json"
        text = json.dumps(table(), indent=0).replace("\n", "").replace('},"', '},\n"')
        path.write_text(text + "\n", encoding="utf-8")
    elif arguments[0] == "--exported":
        exported(arguments[1], Path(arguments[2]))
    else:
        for family in arguments:
            make(family)


if __name__ == "__main__":
    main(sys.argv[1:])
