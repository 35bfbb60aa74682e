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

_STAGES = dict(hidden_sizes=[8, 16, 24], depths=[1, 2, 1])
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
        logits = _logits(folder)
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
        size=_size(config),
        names=np.frombuffer("\n".join(names).encode(), np.uint8),
    )
    print(
        f"{case}: logits {np.abs(logits).mean():.3g}, over images {logits.std(axis=0).mean():.3g}"
    )


def _size(config: transformers.PretrainedConfig) -> int:
    return 32 if config.model_type in ("resnet", "regnet") else config.image_size


def _logits(folder: str | Path) -> np.ndarray:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.from_numpy(rule.images(_size(model.config)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(images).logits.numpy()


def main(arguments: list[str]) -> None:
    for case in CASES:
        if not arguments:
            make(case)
        else:
            logits = _logits(Path(arguments[1]) / case)
            expected = np.load(FOLDER / case / "golden.npz")["logits"]
            transformers.AutoImageProcessor.from_pretrained(Path(arguments[1]) / case)
            print(f"{case}: {'the same bits' if (logits == expected).all() else 'DIFFERENT'}")


if __name__ == "__main__":
    main(sys.argv[1:])
