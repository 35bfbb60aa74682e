"""What timm says about its architectures, and how its models compare once they are imported.

Likewise for transformers. Written by make_timm.py, sweep_timm.py and sweep_transformers.py in
tests/goldens.
"""

import json
from pathlib import Path
from typing import Any


def _read(name: str) -> Any:
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


# architectures: family, parameters, classes, input (size, mean, std, interpolation, crop_pct),
# whether the weights are for images of one size, the names of the first and the last layer, and the
# tags of the ImageNet-1k checkpoints; checkpoints: how many of these timm has in all.
TIMM = _read("timm.json")
# files: for each file of timm's its ImageNet-1k checkpoints and, if ktjax has no such family, how
# it compares with torch.
IMPORTED = _read("timm_imported.json")
# files: for each of transformers' image classifiers, some with an option after a dash, how a tiny
# one compares with torch; why it is refused; or why it is not a classifier (apart).
TRANSFORMERS = _read("transformers_imported.json")
# Options of ktjax's networks that timm's constructors lack, or have by another name, by family.
NOT_TIMMS = {
    "resnet": (
        *("attention", "average_down", "blocks", "depths", "down_kernel", "groups", "norm"),
        *("plain_width", "pool", "reduce_first", "replace_pool", "stem", "widths"),
    ),
    "resnetv2": (
        *("activation", "average_down", "block", "conv", "depths", "norm", "stem", "widths"),
    ),
    "regnet": (
        *("activation", "bottle_ratio", "depths", "downsample", "group_min_ratio", "group_size"),
        *("linear_out", "norm", "num_features", "preact", "se_ratio", "stem_width", "widths"),
    ),
    "convnext": ("act", "head_norm", "norm"),
    "efficientnet": ("activation", "attention", "norm", "pool", "same", "stages"),
    "mobilenetv3": (
        *("activation", "attention", "norm", "pool", "same", "stages"),
        "stem_kernel_size",
    ),
    "vision_transformer": ("embed_norm", "resize", "use_fc_norm"),
    "deit": ("embed_norm", "resize", "use_fc_norm"),
    "vision_transformer_relpos": (
        *("attn_layer", "embed_norm", "final_norm", "mlp_layer", "no_embed_class"),
        *("pool_include_prefix", "pre_norm", "proj_bias", "reg_tokens", "resize"),
        *("scale_attn_norm", "scale_mlp_norm", "share_rel_pos", "use_fc_norm"),
    ),
    "mlp_mixer": ("block", "block_options", "norm"),
}
