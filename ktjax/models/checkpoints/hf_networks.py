"""Networks of transformers' classifiers, built from fields of its configs.

They are those of timm's families, with timm's names of parts.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from ktjax.models.networks import (
    contrastive,
    convnext,
    hf_vit,
    layers,
    norms,
    regnet,
    resnet,
    swin_transformer,
    vision_transformer,
)
from ktjax.models.networks.vit_blocks import SwiGLUPacked, quick_gelu

_ACTIVATIONS = {
    "gelu": layers.gelu,
    "gelu_new": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


def _norm(epsilon: float) -> Callable[..., nn.Module]:
    return functools.partial(norms.LayerNorm, epsilon=epsilon)


def resnet_network(
    *,
    num_classes: int,
    embedding_size: int,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    layer_type: str,
    **training: Any,
) -> nn.Module:
    """A ResNet, from fields of transformers' config."""
    block = {"bottleneck": resnet.Bottleneck, "basic": resnet.BasicBlock}[layer_type]
    return resnet.ResNet(
        num_classes=num_classes,
        depths=tuple(depths),
        blocks=(block,) * len(depths),
        widths=tuple(width // block.expansion for width in hidden_sizes),
        plain_width=embedding_size,
        **training,
    )


def regnet_network(
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
    """A RegNet, from fields of transformers' config."""
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


def convnext_network(
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
    """A ConvNeXt, of version 1 or 2, from fields of transformers' config."""
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


def swin_network(
    *,
    num_classes: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    **training: Any,
) -> nn.Module:
    """A Swin transformer, from fields of transformers' config."""
    if any(32 * heads != embed_dim * 2**stage for stage, heads in enumerate(num_heads)):
        raise ValueError(f"num_heads={tuple(num_heads)}: ktjax supports only heads of 32 channels.")
    return swin_transformer.SwinTransformer(
        num_classes=num_classes,
        embed_dim=embed_dim,
        depths=tuple(depths),
        window_size=window_size,
        **training,
    )


def vit_network(
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
    """A vision transformer, or a network like it, from fields of transformers' config."""
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


def dinov2_network(
    *, hidden_size: int, mlp_ratio: float, use_swiglu_ffn: bool, **options: Any
) -> nn.Module:
    """DINOv2's vision transformer with a linear head, from fields of transformers' config."""
    hidden = int(hidden_size * mlp_ratio)
    gated = {}
    if use_swiglu_ffn:
        hidden = 2 * (-(-int(hidden * 2 / 3) // 8) * 8)  # gate and layer together
        gated = {"mlp_layer": SwiGLUPacked}
        options["hidden_act"] = "silu"
    return vit_network(
        hf_vit.DINOv2,
        hidden_size=hidden_size,
        intermediate_size=hidden,
        init_values=1.0,
        resize=hf_vit.torch_bicubic,
        **gated,
        **options,
    )


def beit_network(
    *,
    use_absolute_position_embeddings: bool,
    use_relative_position_bias: bool,
    use_shared_relative_position_bias: bool,
    use_mean_pooling: bool,
    layer_scale_init_value: float,
    **options: Any,
) -> nn.Module:
    """BEiT, from fields of transformers' config."""
    relative = "shared" if use_shared_relative_position_bias else None
    return vit_network(
        hf_vit.BEiT,
        absolute=use_absolute_position_embeddings,
        relative="blocks" if use_relative_position_bias else relative,
        global_pool="avg" if use_mean_pooling else "token",
        init_values=layer_scale_init_value or None,
        **options,
    )


def clip_network(*, num_classes: int, projection_dim: int, **options: Any) -> nn.Module:
    """CLIP's image tower with texts for classes, from fields of transformers' config."""
    return vit_network(
        contrastive.ImageTower,
        num_classes=num_classes,
        pre_norm=True,
        projection=projection_dim,
        **options,
    )


def siglip_network(*, num_classes: int, **options: Any) -> nn.Module:
    """SigLIP's, likewise."""
    return vit_network(
        contrastive.ImageTower,
        num_classes=num_classes,
        class_token=False,
        global_pool="map",
        logit_bias=True,
        **options,
    )
