"""Makes torch_answers.npz: what a model that lives in PyTorch says of the views of a transfer.

  PYTHONPATH=. python tests/goldens/make_torch_answers.py

pip install torch; the tests do not need it. tests/pack_test.py makes the same images and views,
compares their digests, and lets the answers teach.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import small_jobs

from ktjax.experiment import views
from ktjax.settings.transfer import Transfer

STUDENT = "glyphs/tiny_mlp_narrow"  # it does not count: size, crop and filter are fixed
FIELDS = dict(total_steps=6, eval_every_steps=6, views=2, crop_pct=1.0)


def tensor(images: np.ndarray) -> torch.Tensor:
    """As the model takes them: float32 [N, 3, H, W], normalized."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    """Writes the file."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        images = small_jobs.make_images(Path(folder) / "noisy", noise=120)
        config = small_jobs.transferring(images, STUDENT, ["store:theirs"], **FIELDS)
        pool = views.write(Transfer.read(config), Path(folder) / "pool")
        asked = {path.stem: np.load(path) for path in sorted(pool.glob("*.npy"))}
    label_N = torch.from_numpy(asked.pop("labels")).long()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 6 * 6, len(small_jobs.CLASSES)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tensor(asked["plain"])), label_N).backward()
        optimizer.step()
    golden = {}
    with torch.inference_mode():
        for name, image_NxHxWx3 in asked.items():
            logits_NxC = model(tensor(image_NxHxWx3)).numpy()
            golden[f"logits/{name}"] = logits_NxC
            golden[f"digest/{name}"] = hashlib.sha256(image_NxHxWx3.tobytes()).hexdigest()
            print(name, logits_NxC.shape, logits_NxC.std())
    np.savez_compressed(Path(__file__).parent / "torch_answers.npz", **golden)


if __name__ == "__main__":
    main()
