"""The architectures of timm's vision_transformer.py, by its names, and what they share."""

import functools
from collections.abc import Callable

from flax import linen as nn

from ktjax.models.networks import positions
from ktjax.models.networks.attention import DiffAttention
from ktjax.models.networks.norms import LayerNorm
from ktjax.models.networks.vision_transformer import VisionTransformer
from ktjax.models.networks.vit_blocks import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    SwiGLU,
    SwiGLUPacked,
    quick_gelu,
)

_P = functools.partial
_Build = Callable[..., VisionTransformer]


def _size(embed_dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0) -> _Build:
    return _P(
        VisionTransformer,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
    )


_tiny, _small, _base = _size(192, 12, 3), _size(384, 12, 6), _size(768, 12, 12)
_large, _huge = _size(1024, 24, 16), _size(1280, 32, 16)
_giant, _gigantic = _size(1408, 40, 16, 48 / 11), _size(1664, 48, 16, 64 / 13)
_xsmall, _medium, _mediumd = _size(256, 10, 4), _size(512, 12, 8), _size(512, 20, 8)
_betwixt, _plus = _size(640, 12, 10), _size(896, 12, 14)
_wee, _pwee, _little = _size(256, 14, 4, 5), _size(256, 16, 4, 5), _size(320, 14, 5, 5.6)
_so150m, _so150m2 = _size(896, 18, 14, 2.572), _size(832, 21, 13, 34 / 13)
_so400m, _giantopt = _size(1152, 27, 16, 3.7362), _size(1536, 40, 16)
_beit3_giant = _size(1408, 40, 16, 4.3637)
_dinov2_giant = _P(_size(1536, 40, 24, 2 * 2.66667), mlp_layer=SwiGLUPacked, act_layer=nn.silu)
_aim_large, _aim_huge = _size(1024, 24, 8, 2.75), _size(1536, 24, 12, 2.6667)
_aim_1b, _aim_3b = _size(2048, 24, 16, 2.75), _size(3072, 24, 24, 2.6667)

_gelu_tanh = _P(nn.gelu, approximate=True)
_norm5 = _P(LayerNorm, epsilon=1e-5)
_GAP = {"class_token": False, "global_pool": "avg", "use_fc_norm": False}
_GAP_LS = {**_GAP, "qkv_bias": False, "init_values": 1e-6}
_GAP_TANH = {**_GAP, "act_layer": _gelu_tanh}
_MAP = {"class_token": False, "global_pool": "map"}
_MAP_TANH = {**_MAP, "act_layer": _gelu_tanh}
_TEST = {"class_token": False, "global_pool": "avg", "reg_tokens": 1, "init_values": 1e-5}
_REG = {"class_token": False, "global_pool": "avg", "no_embed_class": True}
_REG1 = {**_REG, "reg_tokens": 1, "init_values": 1e-5}
_REG4 = {**_REG1, "reg_tokens": 4}
_SO150M2 = {**_TEST, "qkv_bias": False}
_CLIP = {"pre_norm": True, "norm_layer": _norm5}
_QUICK = {**_CLIP, "act_layer": quick_gelu}
_FLEXI = {"no_embed_class": True, "resize": positions.bilinear}
_DINOV2 = {"patch_size": 14, "init_values": 1e-5}
_DINOV2_REG4 = {**_DINOV2, "reg_tokens": 4, "no_embed_class": True}
_TIPSV2 = {**_DINOV2_REG4, "reg_tokens": 1, "init_values": 1.0}
_RADIO3 = {**_FLEXI, "reg_tokens": 7, "final_norm": False}
_RADIO3_CORNERS = {**_RADIO3, "resize": positions.bilinear_corners}
_RADIO4 = {**_RADIO3, "reg_tokens": 9}
_18X2 = {"depth": 18, "init_values": 1e-5, "block_fn": ParallelThingsBlock}
_RPN = {
    "class_token": False,
    "global_pool": "avg",
    "qkv_bias": False,
    "init_values": 1e-5,
    "block_fn": ResPostBlock,
}
_XP = {
    "pre_norm": True,
    "no_embed_class": True,
    "norm_layer": nn.RMSNorm,
    "block_fn": ParallelScalingBlock,
    "qkv_bias": False,
    "qk_norm": True,
}
_BEIT3 = {
    "scale_attn_norm": True,
    "scale_mlp_norm": True,
    "global_pool": "avg",
    "norm_layer": _norm5,
}
_AIM = {
    **_GAP,
    "patch_size": 14,
    "qkv_bias": False,
    "proj_bias": False,
    "act_layer": nn.silu,
    "mlp_layer": SwiGLU,
    "norm_layer": _P(nn.RMSNorm, epsilon=1e-5),
    "embed_norm": True,
}

VARIANTS = {
    "vit_tiny_patch16_224": _P(_tiny),
    "vit_tiny_patch16_384": _P(_tiny),
    "vit_small_patch32_224": _P(_small, patch_size=32),
    "vit_small_patch32_384": _P(_small, patch_size=32),
    "vit_small_patch16_224": _P(_small),
    "vit_small_patch16_384": _P(_small),
    "vit_small_patch8_224": _P(_small, patch_size=8),
    "vit_base_patch32_224": _P(_base, patch_size=32),
    "vit_base_patch32_384": _P(_base, patch_size=32),
    "vit_base_patch16_224": _P(_base),
    "vit_base_patch16_384": _P(_base),
    "vit_base_patch8_224": _P(_base, patch_size=8),
    "vit_large_patch32_224": _P(_large, patch_size=32),
    "vit_large_patch32_384": _P(_large, patch_size=32),
    "vit_large_patch16_224": _P(_large),
    "vit_large_patch16_384": _P(_large),
    "vit_large_patch14_224": _P(_large, patch_size=14),
    "vit_huge_patch14_224": _P(_huge, patch_size=14),
    "vit_giant_patch14_224": _P(_giant, patch_size=14),
    "vit_gigantic_patch14_224": _P(_gigantic, patch_size=14),
    "vit_base_patch16_224_miil": _P(_base, qkv_bias=False),
    "vit_medium_patch16_gap_240": _P(_medium, **_GAP_LS),
    "vit_medium_patch16_gap_256": _P(_medium, **_GAP_LS),
    "vit_medium_patch16_gap_384": _P(_medium, **_GAP_LS),
    "vit_betwixt_patch16_gap_256": _P(_betwixt, **_GAP_LS),
    "vit_base_patch16_gap_224": _P(_base, num_heads=16, **_GAP),
    "vit_huge_patch14_gap_224": _P(_huge, patch_size=14, **_GAP),
    "vit_huge_patch16_gap_448": _P(_huge, **_GAP),
    "vit_giant_patch16_gap_224": _P(_giant, **_GAP),
    "vit_xsmall_patch16_clip_224": _P(_xsmall, **_CLIP),
    "vit_medium_patch32_clip_224": _P(_medium, patch_size=32, **_CLIP),
    "vit_medium_patch16_clip_224": _P(_medium, **_CLIP),
    "vit_betwixt_patch32_clip_224": _P(_betwixt, patch_size=32, **_CLIP),
    "vit_base_patch32_clip_224": _P(_base, patch_size=32, **_CLIP),
    "vit_base_patch32_clip_256": _P(_base, patch_size=32, **_CLIP),
    "vit_base_patch32_clip_384": _P(_base, patch_size=32, **_CLIP),
    "vit_base_patch32_clip_448": _P(_base, patch_size=32, **_CLIP),
    "vit_base_patch16_clip_224": _P(_base, **_CLIP),
    "vit_base_patch16_clip_384": _P(_base, **_CLIP),
    "vit_base_patch16_plus_clip_240": _P(_plus, **_CLIP),
    "vit_large_patch14_clip_224": _P(_large, patch_size=14, **_CLIP),
    "vit_large_patch14_clip_336": _P(_large, patch_size=14, **_CLIP),
    "vit_huge_patch14_clip_224": _P(_huge, patch_size=14, **_CLIP),
    "vit_huge_patch14_clip_336": _P(_huge, patch_size=14, **_CLIP),
    "vit_huge_patch14_clip_378": _P(_huge, patch_size=14, **_CLIP),
    "vit_giant_patch14_clip_224": _P(_giant, patch_size=14, **_CLIP),
    "vit_gigantic_patch14_clip_224": _P(_gigantic, patch_size=14, **_CLIP),
    "vit_gigantic_patch14_clip_378": _P(_gigantic, patch_size=14, **_CLIP),
    "vit_base_patch32_clip_quickgelu_224": _P(_base, patch_size=32, **_QUICK),
    "vit_base_patch16_clip_quickgelu_224": _P(_base, **_QUICK),
    "vit_large_patch14_clip_quickgelu_224": _P(_large, patch_size=14, **_QUICK),
    "vit_large_patch14_clip_quickgelu_336": _P(_large, patch_size=14, **_QUICK),
    "vit_huge_patch14_clip_quickgelu_224": _P(_huge, patch_size=14, **_QUICK),
    "vit_huge_patch14_clip_quickgelu_378": _P(_huge, patch_size=14, **_QUICK),
    "vit_gigantic_patch14_clip_quickgelu_224": _P(_gigantic, patch_size=14, **_QUICK),
    "vit_base_patch32_plus_256": _P(_plus, patch_size=32, init_values=1e-5),
    "vit_base_patch16_plus_240": _P(_plus, init_values=1e-5),
    "vit_base_patch16_rpn_224": _P(_base, **_RPN),
    "vit_small_patch16_36x1_224": _P(_small, depth=36, init_values=1e-5),
    "vit_small_patch16_18x2_224": _P(_small, **_18X2),
    "vit_base_patch16_18x2_224": _P(_base, **_18X2),
    "eva_large_patch14_196": _P(_large, patch_size=14, global_pool="avg"),
    "eva_large_patch14_336": _P(_large, patch_size=14, global_pool="avg"),
    "flexivit_small": _P(_small, **_FLEXI),
    "flexivit_base": _P(_base, **_FLEXI),
    "flexivit_large": _P(_large, **_FLEXI),
    "vit_base_patch16_xp_224": _P(_base, **_XP),
    "vit_large_patch14_xp_224": _P(_large, patch_size=14, **_XP),
    "vit_huge_patch14_xp_224": _P(_huge, patch_size=14, **_XP),
    "vit_small_patch14_dinov2": _P(_small, **_DINOV2),
    "vit_base_patch14_dinov2": _P(_base, **_DINOV2),
    "vit_large_patch14_dinov2": _P(_large, **_DINOV2),
    "vit_giant_patch14_dinov2": _P(_dinov2_giant, **_DINOV2),
    "vit_small_patch14_reg4_dinov2": _P(_small, **_DINOV2_REG4),
    "vit_base_patch14_reg4_dinov2": _P(_base, **_DINOV2_REG4),
    "vit_large_patch14_reg4_dinov2": _P(_large, **_DINOV2_REG4),
    "vit_giant_patch14_reg4_dinov2": _P(_dinov2_giant, **_DINOV2_REG4),
    "vit_base_patch14_reg1_tipsv2": _P(_base, **_TIPSV2),
    "vit_large_patch14_reg1_tipsv2": _P(_large, **_TIPSV2),
    "vit_so400m_patch14_reg1_tipsv2": _P(_so400m, **_TIPSV2),
    "vit_giant_patch14_reg1_tipsv2": _P(_dinov2_giant, **_TIPSV2),
    "vit_base_patch32_siglip_256": _P(_base, patch_size=32, **_MAP_TANH),
    "vit_base_patch16_siglip_224": _P(_base, **_MAP),
    "vit_base_patch16_siglip_256": _P(_base, **_MAP),
    "vit_base_patch16_siglip_384": _P(_base, **_MAP),
    "vit_base_patch16_siglip_512": _P(_base, **_MAP),
    "vit_large_patch16_siglip_256": _P(_large, **_MAP),
    "vit_large_patch16_siglip_384": _P(_large, **_MAP),
    "vit_large_patch16_siglip_512": _P(_large, **_MAP_TANH),
    "vit_so400m_patch14_siglip_224": _P(_so400m, patch_size=14, **_MAP),
    "vit_so400m_patch14_siglip_378": _P(_so400m, patch_size=14, **_MAP),
    "vit_so400m_patch14_siglip_384": _P(_so400m, patch_size=14, **_MAP),
    "vit_so400m_patch16_siglip_256": _P(_so400m, **_MAP_TANH),
    "vit_so400m_patch16_siglip_384": _P(_so400m, **_MAP_TANH),
    "vit_so400m_patch16_siglip_512": _P(_so400m, **_MAP_TANH),
    "vit_giantopt_patch16_siglip_256": _P(_giantopt, **_MAP_TANH),
    "vit_giantopt_patch16_siglip_384": _P(_giantopt, **_MAP_TANH),
    "vit_base_patch32_siglip_gap_256": _P(_base, patch_size=32, **_GAP_TANH),
    "vit_base_patch16_siglip_gap_224": _P(_base, **_GAP),
    "vit_base_patch16_siglip_gap_256": _P(_base, **_GAP),
    "vit_base_patch16_siglip_gap_384": _P(_base, **_GAP),
    "vit_base_patch16_siglip_gap_512": _P(_base, **_GAP),
    "vit_large_patch16_siglip_gap_256": _P(_large, **_GAP),
    "vit_large_patch16_siglip_gap_384": _P(_large, **_GAP),
    "vit_large_patch16_siglip_gap_512": _P(_large, **_GAP_TANH),
    "vit_so400m_patch14_siglip_gap_224": _P(_so400m, patch_size=14, **_GAP),
    "vit_so400m_patch14_siglip_gap_378": _P(_so400m, patch_size=14, **_GAP),
    "vit_so400m_patch14_siglip_gap_384": _P(_so400m, patch_size=14, **_GAP),
    "vit_so400m_patch14_siglip_gap_448": _P(_so400m, patch_size=14, **_GAP),
    "vit_so400m_patch14_siglip_gap_896": _P(_so400m, patch_size=14, **_GAP),
    "vit_so400m_patch16_siglip_gap_256": _P(_so400m, **_GAP_TANH),
    "vit_so400m_patch16_siglip_gap_384": _P(_so400m, **_GAP_TANH),
    "vit_so400m_patch16_siglip_gap_512": _P(_so400m, **_GAP_TANH),
    "vit_giantopt_patch16_siglip_gap_256": _P(_giantopt, **_GAP_TANH),
    "vit_giantopt_patch16_siglip_gap_384": _P(_giantopt, **_GAP_TANH),
    "vit_wee_patch16_reg1_gap_256": _P(_wee, **_REG1),
    "vit_dwee_patch16_reg1_gap_256": _P(_wee, attn_layer=DiffAttention, **_REG1),
    "vit_pwee_patch16_reg1_gap_256": _P(_pwee, block_fn=ParallelScalingBlock, **_REG1),
    "vit_dpwee_patch16_reg1_gap_256": _P(_pwee, block_fn=DiffParallelScalingBlock, **_REG1),
    "vit_little_patch16_reg1_gap_256": _P(_little, **_REG1),
    "vit_dlittle_patch16_reg1_gap_256": _P(_little, attn_layer=DiffAttention, **_REG1),
    "vit_little_patch16_reg4_gap_256": _P(_little, **_REG4),
    "vit_medium_patch16_reg1_gap_256": _P(_medium, **_REG1),
    "vit_medium_patch16_reg4_gap_256": _P(_medium, **_REG4),
    "vit_mediumd_patch16_reg4_gap_256": _P(_mediumd, **_REG4),
    "vit_mediumd_patch16_reg4_gap_384": _P(_mediumd, **_REG4),
    "vit_betwixt_patch16_reg1_gap_256": _P(_betwixt, **_REG1),
    "vit_betwixt_patch16_reg4_gap_256": _P(_betwixt, **_REG4),
    "vit_betwixt_patch16_reg4_gap_384": _P(_betwixt, **_REG4),
    "vit_base_patch16_reg4_gap_256": _P(_base, reg_tokens=4, **_REG),
    "vit_so150m_patch16_reg4_map_256": _P(_so150m, reg_tokens=4, **_MAP),
    "vit_so150m_patch16_reg4_gap_256": _P(_so150m, reg_tokens=4, **_GAP),
    "vit_so150m_patch16_reg4_gap_384": _P(_so150m, reg_tokens=4, **_GAP),
    "vit_so150m2_patch16_reg1_gap_256": _P(_so150m2, **_SO150M2),
    "vit_so150m2_patch16_reg1_gap_384": _P(_so150m2, **_SO150M2),
    "vit_so150m2_patch16_reg1_gap_448": _P(_so150m2, **_SO150M2),
    "vit_intern300m_patch14_448": _P(_large, patch_size=14, init_values=0.1, final_norm=False),
    "aimv2_large_patch14_224": _P(_aim_large, **_AIM),
    "aimv2_huge_patch14_224": _P(_aim_huge, **_AIM),
    "aimv2_1b_patch14_224": _P(_aim_1b, **_AIM),
    "aimv2_3b_patch14_224": _P(_aim_3b, **_AIM),
    "aimv2_large_patch14_336": _P(_aim_large, **_AIM),
    "aimv2_huge_patch14_336": _P(_aim_huge, **_AIM),
    "aimv2_1b_patch14_336": _P(_aim_1b, **_AIM),
    "aimv2_3b_patch14_336": _P(_aim_3b, **_AIM),
    "aimv2_large_patch14_448": _P(_aim_large, **_AIM),
    "aimv2_huge_patch14_448": _P(_aim_huge, **_AIM),
    "aimv2_1b_patch14_448": _P(_aim_1b, **_AIM),
    "aimv2_3b_patch14_448": _P(_aim_3b, **_AIM),
    "test_vit": _P(_size(64, 6, 2, 3)),
    "test_vit2": _P(_size(64, 8, 2, 3), **_TEST),
    "test_vit3": _P(
        _size(96, 9, 3, 2), reg_tokens=1, init_values=1e-5, pool_include_prefix=True, **_MAP
    ),
    "test_vit4": _P(_size(96, 9, 3, 3), **_TEST, norm_layer=nn.RMSNorm),
    "beit3_base_patch16_224": _P(_base, **_BEIT3),
    "beit3_large_patch16_224": _P(_large, **_BEIT3),
    "beit3_giant_patch14_224": _P(_beit3_giant, patch_size=14, **_BEIT3),
    "beit3_giant_patch14_336": _P(_beit3_giant, patch_size=14, **_BEIT3),
    "vit_base_patch16_radio_v3": _P(_base, init_values=1e-5, **_RADIO3_CORNERS),
    "vit_large_patch16_radio_v3": _P(_large, init_values=1e-5, **_RADIO3),
    "vit_huge_patch16_radio_v3": _P(_huge, **_RADIO3_CORNERS),
    "vit_giant_patch16_radio_v3": _P(_size(1536, 40, 24), **_RADIO3),
    "vit_so400m_patch16_radio_v4": _P(_so400m, **_RADIO4),
    "vit_huge_patch16_radio_v4": _P(_huge, **_RADIO4),
}
