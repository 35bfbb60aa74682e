"""Compares imported models of transformers with torch: a tiny one of each image classifier.

  PYTHONPATH=. nice -n 15 python tests/goldens/sweep_transformers.py [CLASS ...]

pip install 'ktjax[torch]' transformers; no network. Weights and numbers are those of sweep_timm.py.
It writes transformers_imported.json of ktjax/models/checkpoints, which `python -m ktjax.models
coverage` reads, after each model, and leaves out those that it has already: delete a row, or name
classes, to compare again.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import jax
import torch
import transformers
from transformers.models.auto import modeling_auto

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import sweep_timm  # noqa: E402

TABLE = sweep_timm.TABLE.with_name("transformers_imported.json")
CLASSES = 10
_VIT = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
)
_DINO = {name: value for name, value in _VIT.items() if name != "intermediate_size"}
_SWIN = dict(image_size=64, embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=4)
_TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
_TWO = dict(vision_config=_VIT, text_config=_TEXT)
_WIDTHS = dict(hidden_sizes=[8, 16, 24, 32])
_FOUR = dict(**_WIDTHS, depths=[1, 1, 2, 1])
_HEADS = dict(**_FOUR, num_attention_heads=[1, 2, 3, 4])
_STAGES = dict(embedding_size=8, hidden_sizes=[16, 24, 32], depths=[1, 2, 1])
_LEVIT = dict(
    image_size=64,
    hidden_sizes=[16, 24, 32],
    num_attention_heads=[2, 3, 4],
    depths=[1, 1, 1],
    key_dim=[8, 8, 8],
)
_PERCEIVER = dict(num_latents=8, d_latents=16, num_self_attends_per_block=2, num_blocks=1)
_PERCEIVER |= dict(num_self_attention_heads=2, num_cross_attention_heads=1)
_HGNET = dict(
    stem_channels=[3, 8, 12],
    stage_in_channels=[12, 16, 24, 32],
    stage_mid_channels=[8, 8, 12, 12],
    stage_out_channels=[16, 24, 32, 48],
    hidden_sizes=[16, 24, 32, 48],
    depths=[1, 1, 1, 1],
    stage_num_blocks=[1, 1, 1, 1],
)
# Case, a class and what is special about it after a dash -> fields of the config, side of images.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "BeitForImageClassification": (_VIT | dict(use_relative_position_bias=True), 32),
    "BitForImageClassification": (_STAGES | dict(num_groups=4), 64),
    "CLIPForImageClassification": (_TWO, 32),
    "ConvNextForImageClassification": (_FOUR, 64),
    "ConvNextV2ForImageClassification": (_FOUR, 64),
    "CvtForImageClassification": (
        dict(embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3]),
        64,
    ),
    "Data2VecVisionForImageClassification": (_VIT, 32),
    "DeiTForImageClassification": (_VIT, 32),
    "DeiTForImageClassificationWithTeacher": (_VIT, 32),
    "DinatForImageClassification": (dict(embed_dim=16, depths=[1, 1], num_heads=[1, 2]), 64),
    "Dinov2ForImageClassification": (_DINO, 32),
    "Dinov2WithRegistersForImageClassification": (_DINO, 32),
    "DonutSwinForImageClassification": (_SWIN, 64),
    "EfficientNetForImageClassification": (
        dict(width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640, image_size=64),
        64,
    ),
    "FocalNetForImageClassification": (
        dict(image_size=64, embed_dim=16, depths=[1, 1], hidden_sizes=[16, 32])
        | dict(focal_levels=[2, 2], focal_windows=[3, 3]),
        64,
    ),
    "HGNetV2ForImageClassification": (_HGNET, 64),
    "HieraForImageClassification": (
        dict(embed_dim=16, image_size=[64, 64], depths=[1, 1, 2, 1]),
        64,
    ),
    "IJepaForImageClassification": (_VIT, 32),
    "LevitForImageClassification": (_LEVIT, 64),
    "LevitForImageClassificationWithTeacher": (_LEVIT, 64),
    "MetaClip2ForImageClassification": (_TWO, 32),
    "MobileNetV1ForImageClassification": (dict(depth_multiplier=0.25, image_size=64), 64),
    "MobileNetV2ForImageClassification": (dict(depth_multiplier=0.35, image_size=64), 64),
    "MobileViTForImageClassification": (
        dict(hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 12, 16, 24, 32, 40])
        | dict(image_size=64),
        64,
    ),
    "MobileViTV2ForImageClassification": (dict(width_multiplier=0.25, image_size=64), 64),
    "PPLCNetForImageClassification": (dict(scale=0.25), 64),
    "PerceiverForImageClassificationConvProcessing": (_PERCEIVER, 224),
    "PerceiverForImageClassificationFourier": (_PERCEIVER, 224),
    "PerceiverForImageClassificationLearned": (_PERCEIVER, 56),
    "PoolFormerForImageClassification": (_FOUR, 64),
    "PvtForImageClassification": (_HEADS | dict(image_size=64), 64),
    "PvtV2ForImageClassification": (_HEADS | dict(image_size=64), 64),
    "RegNetForImageClassification": (_STAGES | dict(groups_width=8), 64),
    "ResNetForImageClassification": (_STAGES, 64),
    "ResNetForImageClassification-downsample_in_bottleneck": (
        _STAGES | dict(downsample_in_bottleneck=True),
        64,
    ),
    "SegformerForImageClassification": (_HEADS, 64),
    "SiglipForImageClassification": (_TWO, 32),
    "SwiftFormerForImageClassification": (
        dict(image_size=64, embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1]),
        64,
    ),
    "SwinForImageClassification": (_SWIN, 64),
    "Swinv2ForImageClassification": (_SWIN, 64),
    "TextNetForImageClassification": (dict(image_size=[64, 64]), 64),
    "ViTForImageClassification": (_VIT, 32),
    "ViTMSNForImageClassification": (_VIT, 32),
}
# Classes that are no functions of an image alone, or are somebody else's.
APART = {
    "ImageGPTForImageClassification": "reads clusters of colors, not images",
    "ShieldGemma2ForImageClassification": "reads text, too",
    "Siglip2ForImageClassification": "reads patches of images of any proportions, and their places",
    "TimmWrapperForImageClassification": "is timm's networks",
}


def known() -> set[str]:
    """transformers' image classifiers."""
    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    return {name for entry in names for name in ([entry] if isinstance(entry, str) else entry)}


def row(case: str) -> dict[str, Any]:
    """Compares a case."""
    fields, side = CASES[case]
    kind = getattr(transformers, case.partition("-")[0])

    def make() -> torch.nn.Module:
        return kind(kind.config_class(**fields, num_labels=CLASSES))

    module = sweep_timm.drawn(make)
    size = [side, side]
    return sweep_timm.row(case, module, size, CLASSES)


def main(cases: list[str]) -> None:
    """Adds rows to the table."""
    lacking = known() - APART.keys() - {case.partition("-")[0] for case in CASES}
    if lacking:
        raise ValueError(f"No case of {', '.join(sorted(lacking))}.")
    table = json.loads(TABLE.read_text()) if TABLE.is_file() else {"files": {}}
    table |= {"transformers": transformers.__version__, "jax": jax.__version__}
    table["torch"] = torch.__version__.partition("+")[0]
    table["files"] |= {name: {"apart": why} for name, why in APART.items()}
    for case in CASES:
        if case not in cases if cases else case in table["files"]:
            continue
        try:
            table["files"][case] = row(case)
        except (ValueError, ImportError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            table["files"][case] = {"refused": said}
        except Exception as error:  # of a config that is too small, say
            print(case, type(error), error, flush=True)
            continue
        print(case, table["files"][case], flush=True)
        sweep_timm.write(table, TABLE)
        jax.clear_caches()
        gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
