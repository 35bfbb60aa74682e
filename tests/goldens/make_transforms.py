"""Makes transforms.npz: what timm's transform for evaluation and torchvision's crops give.

  python tests/goldens/make_transforms.py

pip install torch torchvision timm; the tests need none of them.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import timm.data
except RuntimeError:  # torchvision built for CUDA: its two operators are declared first
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm.data
from torchvision import transforms
from torchvision.transforms import functional

SHAPES = ((61, 97), (113, 75), (90, 90), (40, 300))
SIZES = ((24, 24), (17, 29), (70, 70))
CROP_PCTS = (0.875, 0.95, 1.0)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MEAN = (0.1, 0.5, 0.9)  # the color of borders
CROP = (7, 11, 33, 47)  # top, left, height, width, in the first image
DRAWS = 20_000


def jpeg(height: int, width: int, rng: np.random.Generator) -> bytes:
    """Blobs, edges and some noise."""
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    image = image.astype(int) + rng.integers(-12, 13, image.shape)
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    encoded = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def main() -> None:
    """Writes the file."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    golden = {}
    for shape in SHAPES:
        encoded = jpeg(*shape, rng)
        name = f"{shape[0]}x{shape[1]}"
        golden[f"jpeg/{name}"] = np.frombuffer(encoded, np.uint8)
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        for size in SIZES:
            # One is enough to see an image grow.
            grows = size == (70, 70)
            if grows and shape != SHAPES[0]:
                continue
            for crop_pct in CROP_PCTS[:1] if grows else CROP_PCTS:
                for interpolation in INTERPOLATIONS:
                    transform = timm.data.create_transform(
                        (3, *size), crop_pct=crop_pct, interpolation=interpolation, normalize=False
                    )
                    key = f"eval/{name}/{size[0]}x{size[1]}/{crop_pct}/{interpolation}"
                    golden[key] = transform(image).permute(1, 2, 0).numpy()
        for size in ((24, 24), (29, 17)):
            for mode in ("squash", "border"):
                transform = timm.data.create_transform(
                    (3, *size), crop_pct=0.9, crop_mode=mode, mean=MEAN, normalize=False
                )
                key = f"{mode}/{name}/{size[0]}x{size[1]}"
                golden[key] = transform(image).permute(1, 2, 0).numpy()
        if shape == SHAPES[0]:
            for interpolation in INTERPOLATIONS:
                mode = transforms.InterpolationMode(interpolation)
                crop = functional.resized_crop(image, *CROP, (24, 32), mode)
                golden[f"crop/{interpolation}"] = np.asarray(crop)
        draws = [
            transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
            for _ in range(DRAWS)
        ]
        # What the law says of each number: a thousandth, a hundredth, ... of the draws are below.
        golden[f"draws/{name}"] = np.quantile(draws, np.linspace(0, 1, 201), axis=0)
    np.savez_compressed(Path(__file__).parent / "transforms.npz", **golden)


if __name__ == "__main__":
    main()
