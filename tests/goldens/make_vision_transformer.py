"""Makes vision_transformer_options.npz: what timm says of vision transformers that are too large to
be tested as they are, with few and narrow blocks, and how it resizes position embeddings.

  python tests/goldens/make_vision_transformer.py
"""

import tempfile
from pathlib import Path

import numpy as np
import rule
import safetensors.torch
import torch
from make_timm import HERE, _images, _weights, draw, timm

NARROW = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# Architectures, and the size of their images.
OPTIONS = {
    "vit_medium_patch16_gap_240": 64,
    "vit_base_patch16_clip_quickgelu_224": 64,
    "vit_base_patch16_rpn_224": 64,
    "vit_small_patch16_18x2_224": 64,
    "vit_base_patch16_xp_224": 64,
    "vit_giant_patch14_reg4_dinov2": 56,
    "vit_intern300m_patch14_448": 56,
    "vit_large_patch16_siglip_512": 64,
    "vit_so150m_patch16_reg4_map_256": 64,
    "vit_so150m2_patch16_reg1_gap_256": 64,
    "vit_base_patch16_siglip_gap_224": 64,
    "eva_large_patch14_196": 56,
    "beit3_base_patch16_224": 64,
    "aimv2_large_patch14_224": 56,
    "vit_relpos_base_patch16_clsgap_224": 64,
    "vit_relpos_base_patch32_plus_rpn_256": 96,
}
# Architectures with position embeddings of 64 pixels; the sizes that they are resized to. (To as
# many patches in other rows, timm resizes them only in set_input_size.)
RESIZED = {
    "test_vit": (32, 112, (32, 112), (48, 64)),
    "vit_so150m_patch16_reg4_gap_256": (112, (128, 48)),
    "vit_base_patch14_reg4_dinov2": (112,),
    "flexivit_small": (32, 112),
    "vit_base_patch16_radio_v3": (32, 112),
    "vit_large_patch16_radio_v3": (112,),
    "deit_tiny_distilled_patch16_224": (112,),
}


def create(architecture: str, size: int | tuple[int, int], **options: object) -> torch.nn.Module:
    """A narrow network for images of this size."""
    options = NARROW | options
    return timm.create_model(architecture, num_classes=rule.CLASSES, img_size=size, **options)


def names(model: torch.nn.Module) -> np.ndarray:
    state = model.state_dict()
    lines = [f"{name} {'x'.join(map(str, state[name].shape))}" for name in _weights(model)]
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def main() -> None:
    arrays = {}
    for architecture, size in OPTIONS.items():
        model = create(architecture, size).eval()
        draw(model)
        with torch.no_grad():
            arrays[f"{architecture}/logits"] = model(_images(size)).numpy()
        arrays[f"{architecture}/names"] = names(model)
        arrays[f"{architecture}/size"] = np.asarray(size)
    for architecture, sizes in RESIZED.items():
        model = create(architecture, 64)
        draw(model)
        arrays[f"{architecture}/resized/names"] = names(model)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.safetensors")
            safetensors.torch.save_file(model.state_dict(), path)
            overlay = {"file": path, "num_classes": rule.CLASSES}
            for size in sizes:
                other = create(architecture, size, pretrained=True, pretrained_cfg_overlay=overlay)
                sides = size if isinstance(size, tuple) else (size, size)
                key = f"{architecture}/resized/{'x'.join(map(str, sides))}"
                arrays[key] = other.pos_embed.detach().numpy()
    np.savez_compressed(HERE / "vision_transformer_options.npz", **arrays)


if __name__ == "__main__":
    main()
