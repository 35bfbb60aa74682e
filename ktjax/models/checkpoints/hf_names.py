"""transformers' names of the parts of its classifiers, beside timm's."""

from collections.abc import Iterator, Sequence
from typing import Any

from ktjax.models.checkpoints.layouts import Renamed

# Pairs of timm's and transformers' names.
Names = Iterator[tuple[str, str | Renamed]]


def _blocks(depths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers of stages and of blocks in them."""
    return ((stage, block) for stage, depth in enumerate(depths) for block in range(depth))


def resnet_names(*, depths: Sequence[int], layer_type: str, **_: Any) -> Names:
    """ResNet's."""
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


def regnet_names(*, depths: Sequence[int], layer_type: str, **_: Any) -> Names:
    """RegNet's."""

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


def convnext_names(start: str, *, depths: Sequence[int], **_: Any) -> Names:
    """ConvNeXt's; `start` is transformers' name of the whole network."""
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


def swin_names(*, depths: Sequence[int], **_: Any) -> Names:
    """Swin's."""
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
    """Names of the parts of a transformer's block."""
    projections = tuple(f"{theirs}.{attention}.{part}" for part in ("query", "key", "value"))
    yield f"{timms}.norm1", f"{theirs}.layernorm_before"
    yield f"{timms}.attn.qkv", Renamed(projections)
    yield f"{timms}.attn.proj", f"{theirs}.attention.output.dense"
    yield f"{timms}.norm2", f"{theirs}.layernorm_after"
    yield f"{timms}.mlp.fc1", f"{theirs}.intermediate.dense"
    yield f"{timms}.mlp.fc2", f"{theirs}.output.dense"


def vit_names(start: str, *, num_hidden_layers: int, **_: Any) -> Names:
    """A vision transformer's; `start` is transformers' name of the whole network."""
    yield "cls_token", f"{start}.embeddings.cls_token"
    yield "dist_token", f"{start}.embeddings.distillation_token"
    yield "pos_embed", f"{start}.embeddings.position_embeddings"
    yield "patch_embed.proj", f"{start}.embeddings.patch_embeddings.projection"
    for i in range(num_hidden_layers):
        yield from _block_names(f"blocks.{i}", f"{start}.encoder.layer.{i}", "attention.attention")
    yield "norm", f"{start}.layernorm"
    yield "head", "classifier"


def deit_names(**options: Any) -> Names:
    """Those of DeiT with a distillation head."""
    yield from vit_names("deit", **options)
    yield "head", "cls_classifier"
    yield "head_dist", "distillation_classifier"


def dinov2_names(*, num_hidden_layers: int, use_swiglu_ffn: bool, **_: Any) -> Names:
    """DINOv2's."""
    yield from vit_names("dinov2", num_hidden_layers=num_hidden_layers)
    parts = ("weights_in", "weights_out") if use_swiglu_ffn else ("fc1", "fc2")
    for i in range(num_hidden_layers):
        timms, theirs = f"blocks.{i}", f"dinov2.encoder.layer.{i}"
        for number, part in enumerate(parts, 1):
            yield f"{timms}.norm{number}", f"{theirs}.norm{number}"
            yield f"{timms}.mlp.fc{number}", f"{theirs}.mlp.{part}"
            yield f"{timms}.ls{number}.gamma", f"{theirs}.layer_scale{number}.lambda1"


def beit_names(*, num_hidden_layers: int, **_: Any) -> Names:
    """BEiT's."""
    table = "relative_position_bias.relative_position_bias_table"
    yield from vit_names("beit", num_hidden_layers=num_hidden_layers)
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


def _tower_names(*, num_hidden_layers: int, **_: Any) -> Names:
    """What the image towers of CLIP and SigLIP have in common."""
    yield "pos_embed", "vision_model.embeddings.position_embedding.weight"
    yield "patch_embed.proj", "vision_model.embeddings.patch_embedding"
    for i in range(num_hidden_layers):
        timms, theirs = f"blocks.{i}", f"vision_model.encoder.layers.{i}"
        projections = tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        yield f"{timms}.norm1", f"{theirs}.layer_norm1"
        yield f"{timms}.attn.qkv", Renamed(projections)
        yield f"{timms}.attn.proj", f"{theirs}.self_attn.out_proj"
        yield f"{timms}.norm2", f"{theirs}.layer_norm2"
        yield f"{timms}.mlp.fc1", f"{theirs}.mlp.fc1"
        yield f"{timms}.mlp.fc2", f"{theirs}.mlp.fc2"
    yield "norm", "vision_model.post_layernorm"
    yield "logit_scale", "logit_scale"
    yield "head", "texts"  # not in any file: the text tower makes them


def clip_names(**options: Any) -> Names:
    """Those of CLIP's image tower."""
    yield "cls_token", "vision_model.embeddings.class_embedding"
    yield "norm_pre", "vision_model.pre_layrnorm"
    yield from _tower_names(**options)
    yield "visual_projection", "visual_projection"


def siglip_names(**options: Any) -> Names:
    """Those of SigLIP's; its attention has one matrix for queries, keys and values."""
    yield from _tower_names(**options)
    yield "logit_bias", "logit_bias"
    yield "attn_pool.latent", "vision_model.head.probe"
    yield "attn_pool.q", "vision_model.head.attention.q"
    yield "attn_pool.kv", "vision_model.head.attention.kv"
    yield "attn_pool.proj", "vision_model.head.attention.out_proj"
    yield "attn_pool.norm", "vision_model.head.layernorm"
    for part in ("fc1", "fc2"):
        yield f"attn_pool.mlp.{part}", f"vision_model.head.mlp.{part}"
