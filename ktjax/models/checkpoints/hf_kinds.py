"""transformers' classifiers: the network of each, and transformers' names of its parts.

Options are fields of transformers' config; networks are those of timm's families, with its names.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from ktjax.models.checkpoints import hf_names, hf_networks
from ktjax.models.networks import deit, hf_vit


class Kind(NamedTuple):
    """One of transformers' classifiers."""

    model_type: str  # its config's model_type
    family: str  # the kind of network
    options: tuple[str, ...]  # fields of its config that make the network
    fixed: Mapping[str, Any]  # fields that must have these values: the network supports no others
    build: Callable[..., nn.Module]  # build(num_classes=..., **options)
    names: Callable[..., hf_names.Names]  # names(**options)


_SIZES = ("hidden_sizes", "depths")
_TRANSFORMER = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_STEM = {"patch_size": 4, "num_channels": 3}


# Keyed by the names of transformers' classes.
KINDS = {
    "ResNetForImageClassification": Kind(
        "resnet",
        "resnet",
        ("embedding_size", *_SIZES, "layer_type"),
        {
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
        },
        hf_networks.resnet_network,
        hf_names.resnet_names,
    ),
    "RegNetForImageClassification": Kind(
        "regnet",
        "regnet",
        ("embedding_size", *_SIZES, "groups_width", "layer_type", "hidden_act"),
        {"downsample_in_first_stage": True, "num_channels": 3},
        hf_networks.regnet_network,
        hf_names.regnet_names,
    ),
    "ConvNextForImageClassification": Kind(
        "convnext",
        "convnext",
        (*_SIZES, "hidden_act", "layer_norm_eps", "layer_scale_init_value"),
        _STEM,
        hf_networks.convnext_network,
        functools.partial(hf_names.convnext_names, "convnext"),
    ),
    "ConvNextV2ForImageClassification": Kind(
        "convnextv2",
        "convnext",
        (*_SIZES, "hidden_act", "layer_norm_eps"),
        _STEM,
        functools.partial(hf_networks.convnext_network, use_grn=True),
        functools.partial(hf_names.convnext_names, "convnextv2"),
    ),
    "SwinForImageClassification": Kind(
        "swin",
        "swin_transformer",
        ("embed_dim", "depths", "num_heads", "window_size"),
        {
            **_STEM,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "use_absolute_embeddings": False,
        },
        hf_networks.swin_network,
        hf_names.swin_names,
    ),
    "ViTForImageClassification": Kind(
        "vit",
        "vision_transformer",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        hf_networks.vit_network,
        functools.partial(hf_names.vit_names, "vit"),
    ),
    "DeiTForImageClassification": Kind(
        "deit",
        "deit",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        functools.partial(hf_networks.vit_network, hf_vit.DeiT),
        functools.partial(hf_names.vit_names, "deit"),
    ),
    "DeiTForImageClassificationWithTeacher": Kind(
        "deit",
        "deit",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        functools.partial(hf_networks.vit_network, deit.VisionTransformerDistilled),
        hf_names.deit_names,
    ),
    "Dinov2ForImageClassification": Kind(
        "dinov2",
        "vision_transformer",
        (*_TRANSFORMER, "mlp_ratio", "use_swiglu_ffn", "qkv_bias"),
        {"num_channels": 3},
        hf_networks.dinov2_network,
        hf_names.dinov2_names,
    ),
    "BeitForImageClassification": Kind(
        "beit",
        "beit",
        (
            *_TRANSFORMER,
            "intermediate_size",
            "use_absolute_position_embeddings",
            "use_relative_position_bias",
            "use_shared_relative_position_bias",
            "use_mean_pooling",
            "layer_scale_init_value",
        ),
        {"num_channels": 3},
        hf_networks.beit_network,
        hf_names.beit_names,
    ),
}
# transformers' image-text models, whose image tower classifies
# (models/zero_shot.py).
ZERO_SHOT = {
    "CLIPModel": Kind(
        "clip",
        "vision_transformer",
        (*_TRANSFORMER, "intermediate_size", "projection_dim"),
        {"num_channels": 3},
        hf_networks.clip_network,
        hf_names.clip_names,
    ),
    "SiglipModel": Kind(
        "siglip",
        "vision_transformer",
        (*_TRANSFORMER, "intermediate_size"),
        {"num_channels": 3, "vision_use_head": True},
        hf_networks.siglip_network,
        hf_names.siglip_names,
    ),
}
