"""Makes the goldens of transformers' classifiers: small ones, with the weights of rule.py.

  python tests/goldens/make_transformers.py            tests/goldens/transformers/<case>: config and
      preprocessor config as transformers writes them; names, shapes and logits
  python tests/goldens/make_transformers.py --exported FOLDER
      whether transformers loads FOLDER/<case>, which ktjax exported, with the golden's logits

pip install torch transformers.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors import torch as safetensors_torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import rule  # noqa: E402

_DEPTHS = [1, 1, 2, 1]
_STAGES = dict(hidden_sizes=[8, 16, 24], depths=[1, 2, 1])
_SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
)
_VIT = dict(**_SMALL, intermediate_size=44)
_BEIT = dict(**_VIT, layer_scale_init_value=0.5)
_EDGES = {"height": 32, "width": 32}
# Case -> class, config, image processor.
CASES = {
    "resnet": (
        transformers.ResNetForImageClassification,
        transformers.ResNetConfig(embedding_size=12, **_STAGES),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, image_mean=[0.4, 0.5, 0.6]),
    ),
    "resnet_basic": (
        transformers.ResNetForImageClassification,
        transformers.ResNetConfig(embedding_size=8, layer_type="basic", **_STAGES),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, image_mean=[0.4, 0.5, 0.6]),
    ),
    "regnet": (
        transformers.RegNetForImageClassification,
        transformers.RegNetConfig(embedding_size=8, groups_width=8, **_STAGES),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "regnet_x": (
        transformers.RegNetForImageClassification,
        transformers.RegNetConfig(embedding_size=12, groups_width=4, layer_type="x", **_STAGES),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "convnext": (
        transformers.ConvNextForImageClassification,
        transformers.ConvNextConfig(image_size=64, hidden_sizes=[8, 12, 16, 24], depths=_DEPTHS),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 64}),
    ),
    "convnextv2": (
        transformers.ConvNextV2ForImageClassification,
        transformers.ConvNextV2Config(image_size=64, hidden_sizes=[8, 12, 16, 24], depths=_DEPTHS),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 64}),
    ),
    "swin": (
        transformers.SwinForImageClassification,
        transformers.SwinConfig(
            image_size=64, embed_dim=32, depths=[2, 2], num_heads=[1, 2], window_size=4
        ),
        transformers.ViTImageProcessor(size={"height": 64, "width": 64}),
    ),
    "vit": (
        transformers.ViTForImageClassification,
        transformers.ViTConfig(**_VIT),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "vit_quick_gelu": (
        transformers.ViTForImageClassification,
        transformers.ViTConfig(
            **_VIT, hidden_act="quick_gelu", qkv_bias=False, layer_norm_eps=1e-3
        ),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "deit": (
        transformers.DeiTForImageClassification,
        transformers.DeiTConfig(**_VIT),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "deit_teacher": (
        transformers.DeiTForImageClassificationWithTeacher,
        transformers.DeiTConfig(**_VIT),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "dinov2": (
        transformers.Dinov2ForImageClassification,
        transformers.Dinov2Config(**_SMALL),
        transformers.BitImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
        ),
    ),
    "dinov2_resized": (  # positions for images of 56 pixels
        transformers.Dinov2ForImageClassification,
        transformers.Dinov2Config(**{**_SMALL, "image_size": 56}, use_swiglu_ffn=True),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "beit": (
        transformers.BeitForImageClassification,
        transformers.BeitConfig(**_BEIT, use_relative_position_bias=True),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
    "beit_shared": (
        transformers.BeitForImageClassification,
        transformers.BeitConfig(
            **_BEIT,
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
        ),
        transformers.ViTImageProcessor(size=_EDGES),
    ),
}
FOLDER = HERE / "transformers"


def make(case: str) -> None:
    """Writes the golden of a case."""
    kind, config, processor = CASES[case]
    config.num_labels = rule.CLASSES
    model = kind(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        with safe_open(path, "pt") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, value in entries.items():
            if value.is_floating_point():
                entries[name] = torch.from_numpy(rule.weight(name, tuple(value.shape)))
        safetensors_torch.save_file(entries, path, {"format": "pt"})
        size = _size(processor)
        logits = _logits(folder, size)
    where = FOLDER / case
    where.mkdir(parents=True, exist_ok=True)
    config.architectures = [kind.__name__]
    config.save_pretrained(where)
    processor.save_pretrained(where)
    weights = sorted(name for name, value in entries.items() if value.is_floating_point())
    names = [f"{name} {'x'.join(map(str, entries[name].shape))}" for name in weights]
    np.savez_compressed(
        where / "golden.npz",
        logits=logits,
        size=size,
        names=np.frombuffer("\n".join(names).encode(), np.uint8),
    )
    print(
        f"{case}: logits {np.abs(logits).mean():.3g}, over images {logits.std(axis=0).mean():.3g}"
    )


def _size(processor: transformers.BaseImageProcessor) -> int:
    """Side of the images."""
    if getattr(processor, "do_center_crop", False):
        return processor.crop_size["height"]
    return processor.size.get("height") or processor.size["shortest_edge"]


def _logits(folder: str | Path, size: int) -> np.ndarray:
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    images = torch.from_numpy(rule.images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(images).logits.numpy()


def main(arguments: list[str]) -> None:
    for case in CASES:
        if not arguments:
            make(case)
        else:
            golden = np.load(FOLDER / case / "golden.npz")
            logits = _logits(Path(arguments[1]) / case, int(golden["size"]))
            transformers.AutoImageProcessor.from_pretrained(Path(arguments[1]) / case)
            distance = np.abs(logits - golden["logits"]).max()
            print(f"{case}: {f'up to {distance:.1e} off' if distance else 'the same bits'}")


if __name__ == "__main__":
    main(sys.argv[1:])
