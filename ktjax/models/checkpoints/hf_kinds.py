"""transformers' classifiers: the network of each, and what transformers calls its parts.

Options are fields of transformers' config; networks are those of timm's families, with its names.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from ktjax.models.checkpoints.layouts import Renamed
from ktjax.models.networks import (
    convnext,
    deit,
    hf_vit,
    layers,
    regnet,
    resnet,
    swin_transformer,
    vision_transformer,
)
from ktjax.models.networks.vit_blocks import SwiGLUPacked, quick_gelu

# Pairs of timm's and transformers' names.
Names = Iterator[tuple[str, str | Renamed]]


class Kind(NamedTuple):
    """A classifier of transformers'."""

    model_type: str  # in its config
    family: str  # the kind of network
    options: tuple[str, ...]  # fields of its config that make the network
    fixed: Mapping[str, Any]  # fields that must have these values: the network knows no others
    build: Callable[..., nn.Module]  # build(num_classes=..., **options)
    names: Callable[..., Names]  # names(**options)


_ACTIVATIONS = {
    "gelu": layers.gelu,
    "gelu_new": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


def _norm(epsilon: float) -> Callable[..., nn.Module]:
    return functools.partial(layers.LayerNorm, epsilon=epsilon)


def _blocks(depths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers of stages and of blocks in them."""
    return ((stage, block) for stage, depth in enumerate(depths) for block in range(depth))


# ResNet.


def _resnet(
    *,
    num_classes: int,
    embedding_size: int,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    layer_type: str,
    **training: Any,
) -> nn.Module:
    block = {"bottleneck": resnet.Bottleneck, "basic": resnet.BasicBlock}[layer_type]
    return resnet.ResNet(
        num_classes=num_classes,
        depths=tuple(depths),
        blocks=(block,) * len(depths),
        widths=tuple(width // block.expansion for width in hidden_sizes),
        plain_width=embedding_size,
        **training,
    )


def _resnet_names(*, depths: Sequence[int], layer_type: str, **_: Any) -> Names:
    yield "conv1", "resnet.embedder.embedder.convolution"
    yield "bn1", "resnet.embedder.embedder.normalization"
    for stage, block in _blocks(depths):
        timms = f"layer{stage + 1}.{block}"
        theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
        for i in range({"bottleneck": 3, "basic": 2}[layer_type]):
            yield f"{timms}.conv{i + 1}", f"{theirs}.layer.{i}.convolution"
            yield f"{timms}.bn{i + 1}", f"{theirs}.layer.{i}.normalization"
        yield f"{timms}.downsample.0", f"{theirs}.shortcut.convolution"
        yield f"{timms}.downsample.1", f"{theirs}.shortcut.normalization"
    yield "fc", "classifier.1"


# RegNet.


def _regnet(
    *,
    num_classes: int,
    embedding_size: int,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    groups_width: int,
    layer_type: str,
    hidden_act: str,
    **training: Any,
) -> nn.Module:
    return regnet.RegNet(
        num_classes=num_classes,
        widths=tuple(hidden_sizes),
        depths=tuple(depths),
        group_size=groups_width,
        stem_width=embedding_size,
        se_ratio={"x": 0.0, "y": 0.25}[layer_type],
        activation=_ACTIVATIONS[hidden_act],
        **training,
    )


def _regnet_names(*, depths: Sequence[int], layer_type: str, **_: Any) -> Names:
    def pair(timms: str, theirs: str) -> Names:
        yield f"{timms}.conv", f"regnet.{theirs}.convolution"
        yield f"{timms}.bn", f"regnet.{theirs}.normalization"

    yield from pair("stem", "embedder.embedder")
    layers_of = {"x": (0, 1, 2), "y": (0, 1, 3)}[layer_type]  # in y's third place excites
    for stage, block in _blocks(depths):
        timms = f"s{stage + 1}.b{block + 1}"
        theirs = f"encoder.stages.{stage}.layers.{block}"
        yield from pair(f"{timms}.downsample", f"{theirs}.shortcut")
        for number, layer in enumerate(layers_of, 1):
            yield from pair(f"{timms}.conv{number}", f"{theirs}.layer.{layer}")
        yield f"{timms}.se.fc1", f"regnet.{theirs}.layer.2.attention.0"
        yield f"{timms}.se.fc2", f"regnet.{theirs}.layer.2.attention.2"
    yield "head.fc", "classifier.1"


# ConvNeXt.


def _convnext(
    *,
    num_classes: int,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    hidden_act: str,
    layer_norm_eps: float,
    layer_scale_init_value: float | None = None,
    use_grn: bool = False,
    **training: Any,
) -> nn.Module:
    return convnext.ConvNeXt(
        num_classes=num_classes,
        depths=tuple(depths),
        dims=tuple(hidden_sizes),
        act=_ACTIVATIONS[hidden_act],
        ls_init_value=layer_scale_init_value or None,
        use_grn=use_grn,
        head_norm=_norm(layer_norm_eps),
        **training,
    )


def _convnext_names(start: str, *, depths: Sequence[int], **_: Any) -> Names:
    yield "stem.0", f"{start}.embeddings.patch_embeddings"
    yield "stem.1", f"{start}.embeddings.layernorm"
    for stage, block in _blocks(depths):
        timms = f"stages.{stage}.blocks.{block}"
        theirs = f"{start}.encoder.stages.{stage}.layers.{block}"
        yield f"{timms}.gamma", f"{theirs}.layer_scale_parameter"
        yield f"{timms}.conv_dw", f"{theirs}.dwconv"
        yield f"{timms}.norm", f"{theirs}.layernorm"
        yield f"{timms}.mlp.fc1", f"{theirs}.pwconv1"
        yield f"{timms}.mlp.grn", Renamed((f"{theirs}.grn",), lead=3)
        yield f"{timms}.mlp.fc2", f"{theirs}.pwconv2"
    for stage in range(1, len(depths)):
        for i in range(2):
            theirs = f"{start}.encoder.stages.{stage}.downsampling_layer.{i}"
            yield f"stages.{stage}.downsample.{i}", theirs
    yield "head.norm", f"{start}.layernorm"
    yield "head.fc", "classifier"


# Swin.


def _swin(
    *,
    num_classes: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    **training: Any,
) -> nn.Module:
    if any(32 * heads != embed_dim * 2**stage for stage, heads in enumerate(num_heads)):
        raise ValueError(f"num_heads={tuple(num_heads)}: ktjax has heads of 32 channels only.")
    return swin_transformer.SwinTransformer(
        num_classes=num_classes,
        embed_dim=embed_dim,
        depths=tuple(depths),
        window_size=window_size,
        **training,
    )


def _swin_names(*, depths: Sequence[int], **_: Any) -> Names:
    table = "relative_position_bias_table"
    yield "patch_embed.proj", "swin.embeddings.patch_embeddings.projection"
    yield "patch_embed.norm", "swin.embeddings.norm"
    for stage, block in _blocks(depths):
        timms = f"layers.{stage}.blocks.{block}"
        theirs = f"swin.encoder.layers.{stage}.blocks.{block}"
        yield f"{timms}.attn.{table}", f"{theirs}.attention.self.{table}"
        yield from _block_names(timms, theirs, "attention.self")
    for stage in range(1, len(depths)):
        for part in ("norm", "reduction"):
            theirs = f"swin.encoder.layers.{stage - 1}.downsample.{part}"
            yield f"layers.{stage}.downsample.{part}", theirs
    yield "norm", "swin.layernorm"
    yield "head.fc", "classifier"


def _block_names(timms: str, theirs: str, attention: str) -> Names:
    """Of the block of a transformer."""
    projections = tuple(f"{theirs}.{attention}.{part}" for part in ("query", "key", "value"))
    yield f"{timms}.norm1", f"{theirs}.layernorm_before"
    yield f"{timms}.attn.qkv", Renamed(projections)
    yield f"{timms}.attn.proj", f"{theirs}.attention.output.dense"
    yield f"{timms}.norm2", f"{theirs}.layernorm_after"
    yield f"{timms}.mlp.fc1", f"{theirs}.intermediate.dense"
    yield f"{timms}.mlp.fc2", f"{theirs}.output.dense"


# Vision transformers.


def _vit(
    network: type[nn.Module] = vision_transformer.VisionTransformer,
    *,
    num_classes: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    patch_size: int,
    hidden_act: str,
    layer_norm_eps: float,
    intermediate_size: int,
    qkv_bias: bool = True,
    **more: Any,
) -> nn.Module:
    return network(
        num_classes=num_classes,
        patch_size=patch_size,
        embed_dim=hidden_size,
        depth=num_hidden_layers,
        num_heads=num_attention_heads,
        mlp_ratio=(intermediate_size + 0.5) / hidden_size,  # which is rounded down
        qkv_bias=qkv_bias,
        act_layer=_ACTIVATIONS[hidden_act],
        norm_layer=_norm(layer_norm_eps),
        **more,
    )


def _vit_names(start: str, *, num_hidden_layers: int, **_: Any) -> Names:
    yield "cls_token", f"{start}.embeddings.cls_token"
    yield "dist_token", f"{start}.embeddings.distillation_token"
    yield "pos_embed", f"{start}.embeddings.position_embeddings"
    yield "patch_embed.proj", f"{start}.embeddings.patch_embeddings.projection"
    for i in range(num_hidden_layers):
        yield from _block_names(f"blocks.{i}", f"{start}.encoder.layer.{i}", "attention.attention")
    yield "norm", f"{start}.layernorm"
    yield "head", "classifier"


def _deit_names(**options: Any) -> Names:
    yield from _vit_names("deit", **options)
    yield "head", "cls_classifier"
    yield "head_dist", "distillation_classifier"


def _dinov2(
    *, hidden_size: int, mlp_ratio: float, use_swiglu_ffn: bool, **options: Any
) -> nn.Module:
    hidden = int(hidden_size * mlp_ratio)
    gated = {}
    if use_swiglu_ffn:
        hidden = 2 * (-(-int(hidden * 2 / 3) // 8) * 8)  # gate and layer together
        gated = {"mlp_layer": SwiGLUPacked}
        options["hidden_act"] = "silu"
    return _vit(
        hf_vit.DINOv2,
        hidden_size=hidden_size,
        intermediate_size=hidden,
        init_values=1.0,
        resize=hf_vit.torch_bicubic,
        **gated,
        **options,
    )


def _dinov2_names(*, num_hidden_layers: int, use_swiglu_ffn: bool, **_: Any) -> Names:
    yield from _vit_names("dinov2", num_hidden_layers=num_hidden_layers)
    parts = ("weights_in", "weights_out") if use_swiglu_ffn else ("fc1", "fc2")
    for i in range(num_hidden_layers):
        timms, theirs = f"blocks.{i}", f"dinov2.encoder.layer.{i}"
        for number, part in enumerate(parts, 1):
            yield f"{timms}.norm{number}", f"{theirs}.norm{number}"
            yield f"{timms}.mlp.fc{number}", f"{theirs}.mlp.{part}"
            yield f"{timms}.ls{number}.gamma", f"{theirs}.layer_scale{number}.lambda1"


def _beit(
    *,
    use_absolute_position_embeddings: bool,
    use_relative_position_bias: bool,
    use_shared_relative_position_bias: bool,
    use_mean_pooling: bool,
    layer_scale_init_value: float,
    **options: Any,
) -> nn.Module:
    relative = "shared" if use_shared_relative_position_bias else None
    return _vit(
        hf_vit.BEiT,
        absolute=use_absolute_position_embeddings,
        relative="blocks" if use_relative_position_bias else relative,
        global_pool="avg" if use_mean_pooling else "token",
        init_values=layer_scale_init_value or None,
        **options,
    )


def _beit_names(*, num_hidden_layers: int, **_: Any) -> Names:
    table = "relative_position_bias.relative_position_bias_table"
    yield from _vit_names("beit", num_hidden_layers=num_hidden_layers)
    yield "rel_pos_bias.relative_position_bias_table", f"beit.encoder.{table}"
    yield "fc_norm", "beit.pooler.layernorm"
    for i in range(num_hidden_layers):
        timms, theirs = f"blocks.{i}", f"beit.encoder.layer.{i}"
        attention = f"{theirs}.attention.attention"
        yield f"{timms}.attn.rel_pos.relative_position_bias_table", f"{attention}.{table}"
        yield f"{timms}.attn.q_bias", f"{attention}.query.bias"
        yield f"{timms}.attn.v_bias", f"{attention}.value.bias"
        for part in (1, 2):
            yield f"{timms}.ls{part}.gamma", f"{theirs}.lambda_{part}"


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

# By the names of their classes.
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
        _resnet,
        _resnet_names,
    ),
    "RegNetForImageClassification": Kind(
        "regnet",
        "regnet",
        ("embedding_size", *_SIZES, "groups_width", "layer_type", "hidden_act"),
        {"downsample_in_first_stage": True, "num_channels": 3},
        _regnet,
        _regnet_names,
    ),
    "ConvNextForImageClassification": Kind(
        "convnext",
        "convnext",
        (*_SIZES, "hidden_act", "layer_norm_eps", "layer_scale_init_value"),
        _STEM,
        _convnext,
        functools.partial(_convnext_names, "convnext"),
    ),
    "ConvNextV2ForImageClassification": Kind(
        "convnextv2",
        "convnext",
        (*_SIZES, "hidden_act", "layer_norm_eps"),
        _STEM,
        functools.partial(_convnext, use_grn=True),
        functools.partial(_convnext_names, "convnextv2"),
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
        _swin,
        _swin_names,
    ),
    "ViTForImageClassification": Kind(
        "vit",
        "vision_transformer",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        _vit,
        functools.partial(_vit_names, "vit"),
    ),
    "DeiTForImageClassification": Kind(
        "deit",
        "deit",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        functools.partial(_vit, hf_vit.DeiT),
        functools.partial(_vit_names, "deit"),
    ),
    "DeiTForImageClassificationWithTeacher": Kind(
        "deit",
        "deit",
        (*_TRANSFORMER, "intermediate_size", "qkv_bias"),
        {"num_channels": 3},
        functools.partial(_vit, deit.VisionTransformerDistilled),
        _deit_names,
    ),
    "Dinov2ForImageClassification": Kind(
        "dinov2",
        "vision_transformer",
        (*_TRANSFORMER, "mlp_ratio", "use_swiglu_ffn", "qkv_bias"),
        {"num_channels": 3},
        _dinov2,
        _dinov2_names,
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
        _beit,
        _beit_names,
    ),
}
