"""EfficientNets and their like as in timm's efficientnet.py, with its names.

EfficientNet (Tan and Le 2019) and its Lite, EdgeTPU, CondConv, X and V2 kinds; MnasNet, MobileNet
V1 and V2, FBNet-C, Single-Path NAS, MixNet, TinyNet. Networks called `tf_...` were trained with
TensorFlow: its "SAME" padding, and a larger epsilon in BatchNorm.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks.mobile import before_v3, efficientnets
from ktjax.models.networks.mobile.blocks import (
    GlobalContext,
    blur_pool_zeros,
    convolve,
    evo_norm,
    norm_act,
    tf_norm,
)
from ktjax.models.networks.mobile.stages import Trunk
from ktjax.models.networks.norms import GroupNorm, LayerNorm


class EfficientNet(Trunk):
    """Trunk, perhaps a 1x1 convolution, global average pooling, a linear head."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = self._trunk(x, train=train)
        if self.num_features:
            x = convolve(x, self.num_features, 1, name="conv_head")
            x = self.norm(x, self.activation, name="bn2")
        x = x.mean(axis=(1, 2))
        return Output(logits=self._classify(x, train=train), features=x)


def _net(definition: efficientnets.Definition, **options: object) -> Callable[..., EfficientNet]:
    return functools.partial(EfficientNet, **definition, **options)


def _group_norm(group_size: int) -> dict[str, object]:
    norm = functools.partial(GroupNorm, group_size=group_size)
    return {"norm": functools.partial(norm_act, norm=norm)}


_LAYER_NORM = {"norm": functools.partial(norm_act, norm=functools.partial(LayerNorm, epsilon=1e-5))}
_EPSILON = {"norm": tf_norm}
TF = {**_EPSILON, "same": True}
_CONTEXT = {"attention": GlobalContext}

_V2_S = dict(depths=(2, 4, 4, 6, 9, 15), channels=(24, 48, 64, 128, 160, 256))
_V2_RW = {**_V2_S, "channels": (24, 48, 64, 128, 160, 272)}
_V2_RW |= {"fused_first": True, "num_features": 1792}
_V2_T = {**_V2_S, "width": 0.8, "depth": 0.9}
_V2_M = dict(depths=(3, 5, 5, 7, 14, 18, 5), channels=(24, 48, 80, 160, 176, 304, 512))
_V2_L = dict(depths=(4, 7, 7, 10, 19, 25, 7), channels=(32, 64, 96, 192, 224, 384, 640))
_V2_XL = dict(depths=(4, 8, 8, 16, 24, 32, 8), channels=(32, 64, 96, 192, 256, 512, 640))

VARIANTS = {
    "mnasnet_050": _net(before_v3.mnasnet(0.5)),
    "mnasnet_075": _net(before_v3.mnasnet(0.75)),
    "mnasnet_100": _net(before_v3.mnasnet(1.0)),
    "mnasnet_140": _net(before_v3.mnasnet(1.4)),
    "semnasnet_050": _net(before_v3.semnasnet(0.5)),
    "semnasnet_075": _net(before_v3.semnasnet(0.75)),
    "semnasnet_100": _net(before_v3.semnasnet(1.0)),
    "semnasnet_140": _net(before_v3.semnasnet(1.4)),
    "mnasnet_small": _net(before_v3.mnasnet_small()),
    "mobilenetv1_100": _net(before_v3.mobilenetv1(1.0)),
    "mobilenetv1_100h": _net(before_v3.mobilenetv1(1.0, head=True)),
    "mobilenetv1_125": _net(before_v3.mobilenetv1(1.25)),
    "mobilenetv2_035": _net(before_v3.mobilenetv2(0.35)),
    "mobilenetv2_050": _net(before_v3.mobilenetv2(0.5)),
    "mobilenetv2_075": _net(before_v3.mobilenetv2(0.75)),
    "mobilenetv2_100": _net(before_v3.mobilenetv2(1.0)),
    "mobilenetv2_140": _net(before_v3.mobilenetv2(1.4)),
    "mobilenetv2_110d": _net(before_v3.mobilenetv2(1.1, 1.2, fixed_ends=True)),
    "mobilenetv2_120d": _net(before_v3.mobilenetv2(1.2, 1.4, fixed_ends=True)),
    # timm uses the larger epsilon only if weights are loaded.
    "fbnetc_100": _net(before_v3.fbnetc(), **_EPSILON),
    "spnasnet_100": _net(before_v3.spnasnet()),
    "efficientnet_b0": _net(efficientnets.b(1.0, 1.0)),
    "efficientnet_b1": _net(efficientnets.b(1.0, 1.1)),
    "efficientnet_b2": _net(efficientnets.b(1.1, 1.2)),
    "efficientnet_b3": _net(efficientnets.b(1.2, 1.4)),
    "efficientnet_b4": _net(efficientnets.b(1.4, 1.8)),
    "efficientnet_b5": _net(efficientnets.b(1.6, 2.2)),
    "efficientnet_b6": _net(efficientnets.b(1.8, 2.6)),
    "efficientnet_b7": _net(efficientnets.b(2.0, 3.1)),
    "efficientnet_b8": _net(efficientnets.b(2.2, 3.6)),
    "efficientnet_l2": _net(efficientnets.b(4.3, 5.3)),
    "efficientnet_b0_gn": _net(efficientnets.b(1.0, 1.0), **_group_norm(8)),
    "efficientnet_b0_g8_gn": _net(efficientnets.b(1.0, 1.0, group_size=8), **_group_norm(8)),
    "efficientnet_b0_g16_evos": _net(efficientnets.b(1.0, 1.0, divisor=16, group_size=16)),
    "efficientnet_b3_gn": _net(efficientnets.b(1.2, 1.4, divisor=16), **_group_norm(16)),
    "efficientnet_b3_g8_gn": _net(
        efficientnets.b(1.2, 1.4, divisor=16, group_size=8), **_group_norm(16)
    ),
    "efficientnet_blur_b0": _net(efficientnets.b(1.0, 1.0), pool=blur_pool_zeros),
    "efficientnet_es": _net(efficientnets.edge(1.0, 1.0)),
    "efficientnet_es_pruned": _net(efficientnets.edge(1.0, 1.0)),
    "efficientnet_em": _net(efficientnets.edge(1.0, 1.1)),
    "efficientnet_el": _net(efficientnets.edge(1.2, 1.4)),
    "efficientnet_el_pruned": _net(efficientnets.edge(1.2, 1.4)),
    "efficientnet_cc_b0_4e": _net(efficientnets.condconv(1.0, 4)),
    "efficientnet_cc_b0_8e": _net(efficientnets.condconv(1.0, 8)),
    "efficientnet_cc_b1_8e": _net(efficientnets.condconv(1.1, 8)),
    "efficientnet_lite0": _net(efficientnets.lite(1.0, 1.0)),
    "efficientnet_lite1": _net(efficientnets.lite(1.0, 1.1)),
    "efficientnet_lite2": _net(efficientnets.lite(1.1, 1.2)),
    "efficientnet_lite3": _net(efficientnets.lite(1.2, 1.4)),
    "efficientnet_lite4": _net(efficientnets.lite(1.4, 1.8)),
    "efficientnet_b1_pruned": _net(
        efficientnets.pruned(efficientnets.b(1.0, 1.1), *efficientnets.B1_PRUNED), **TF
    ),
    "efficientnet_b2_pruned": _net(
        efficientnets.pruned(efficientnets.b(1.1, 1.2), *efficientnets.B2_PRUNED), **TF
    ),
    "efficientnet_b3_pruned": _net(
        efficientnets.pruned(efficientnets.b(1.2, 1.4), *efficientnets.B3_PRUNED), **TF
    ),
    "efficientnetv2_rw_t": _net(efficientnets.v2(**_V2_T)),
    "gc_efficientnetv2_rw_t": _net(efficientnets.v2(**_V2_T), **_CONTEXT),
    "efficientnetv2_rw_s": _net(efficientnets.v2(**_V2_RW)),
    "efficientnetv2_rw_m": _net(
        efficientnets.v2(**_V2_RW, width=1.2, depth=(1.2,) * 4 + (1.6,) * 2)
    ),
    "efficientnetv2_s": _net(efficientnets.v2(**_V2_S)),
    "efficientnetv2_m": _net(efficientnets.v2(**_V2_M)),
    "efficientnetv2_l": _net(efficientnets.v2(**_V2_L)),
    "efficientnetv2_xl": _net(efficientnets.v2(**_V2_XL)),
    "tf_efficientnet_b0": _net(efficientnets.b(1.0, 1.0), **TF),
    "tf_efficientnet_b1": _net(efficientnets.b(1.0, 1.1), **TF),
    "tf_efficientnet_b2": _net(efficientnets.b(1.1, 1.2), **TF),
    "tf_efficientnet_b3": _net(efficientnets.b(1.2, 1.4), **TF),
    "tf_efficientnet_b4": _net(efficientnets.b(1.4, 1.8), **TF),
    "tf_efficientnet_b5": _net(efficientnets.b(1.6, 2.2), **TF),
    "tf_efficientnet_b6": _net(efficientnets.b(1.8, 2.6), **TF),
    "tf_efficientnet_b7": _net(efficientnets.b(2.0, 3.1), **TF),
    "tf_efficientnet_b8": _net(efficientnets.b(2.2, 3.6), **TF),
    "tf_efficientnet_l2": _net(efficientnets.b(4.3, 5.3), **TF),
    "tf_efficientnet_es": _net(efficientnets.edge(1.0, 1.0), **TF),
    "tf_efficientnet_em": _net(efficientnets.edge(1.0, 1.1), **TF),
    "tf_efficientnet_el": _net(efficientnets.edge(1.2, 1.4), **TF),
    "tf_efficientnet_cc_b0_4e": _net(efficientnets.condconv(1.0, 4), **TF),
    "tf_efficientnet_cc_b0_8e": _net(efficientnets.condconv(1.0, 8), **TF),
    "tf_efficientnet_cc_b1_8e": _net(efficientnets.condconv(1.1, 8), **TF),
    "tf_efficientnet_lite0": _net(efficientnets.lite(1.0, 1.0), **TF),
    "tf_efficientnet_lite1": _net(efficientnets.lite(1.0, 1.1), **TF),
    "tf_efficientnet_lite2": _net(efficientnets.lite(1.1, 1.2), **TF),
    "tf_efficientnet_lite3": _net(efficientnets.lite(1.2, 1.4), **TF),
    "tf_efficientnet_lite4": _net(efficientnets.lite(1.4, 1.8), **TF),
    "tf_efficientnetv2_s": _net(efficientnets.v2(**_V2_S), **TF),
    "tf_efficientnetv2_m": _net(efficientnets.v2(**_V2_M), **TF),
    "tf_efficientnetv2_l": _net(efficientnets.v2(**_V2_L), **TF),
    "tf_efficientnetv2_xl": _net(efficientnets.v2(**_V2_XL), **TF),
    "tf_efficientnetv2_b0": _net(efficientnets.v2_base(1.0, 1.0), **TF),
    "tf_efficientnetv2_b1": _net(efficientnets.v2_base(1.0, 1.1), **TF),
    "tf_efficientnetv2_b2": _net(efficientnets.v2_base(1.1, 1.2), **TF),
    "tf_efficientnetv2_b3": _net(efficientnets.v2_base(1.2, 1.4), **TF),
    "efficientnet_x_b3": _net(efficientnets.x(1.2, 1.4, expand=6)),
    "efficientnet_x_b5": _net(efficientnets.x(1.6, 2.2, expand=6)),
    "efficientnet_h_b5": _net(efficientnets.x(1.92, 2.2, expand=4)),
    "mixnet_s": _net(before_v3.mixnet_s()),
    "mixnet_m": _net(before_v3.mixnet_m(1.0)),
    "mixnet_l": _net(before_v3.mixnet_m(1.3)),
    "mixnet_xl": _net(before_v3.mixnet_m(1.6, 1.2)),
    "mixnet_xxl": _net(before_v3.mixnet_m(2.4, 1.3)),
    "tf_mixnet_s": _net(before_v3.mixnet_s(), **TF),
    "tf_mixnet_m": _net(before_v3.mixnet_m(1.0), **TF),
    "tf_mixnet_l": _net(before_v3.mixnet_m(1.3), **TF),
    "tinynet_a": _net(efficientnets.tinynet(1.0, 1.2)),
    "tinynet_b": _net(efficientnets.tinynet(0.75, 1.1)),
    "tinynet_c": _net(efficientnets.tinynet(0.54, 0.85)),
    "tinynet_d": _net(efficientnets.tinynet(0.54, 0.695)),
    "tinynet_e": _net(efficientnets.tinynet(0.51, 0.6)),
    "mobilenet_edgetpu_100": _net(before_v3.edgetpu()),
    "mobilenet_edgetpu_v2_xs": _net(before_v3.edgetpu_v2(**before_v3.EDGETPU_V2_XS)),
    "mobilenet_edgetpu_v2_s": _net(before_v3.edgetpu_v2((24, 48, 64, 128, 160, 192, 256))),
    "mobilenet_edgetpu_v2_m": _net(before_v3.edgetpu_v2(**before_v3.EDGETPU_V2_M)),
    "mobilenet_edgetpu_v2_l": _net(before_v3.edgetpu_v2(**before_v3.EDGETPU_V2_L)),
    "test_efficientnet": _net(efficientnets.v2_test()),
    "test_efficientnet_gn": _net(efficientnets.v2_test(), **_group_norm(8)),
    "test_efficientnet_ln": _net(efficientnets.v2_test(), **_LAYER_NORM),
    "test_efficientnet_evos": _net(
        efficientnets.v2_test(), norm=functools.partial(evo_norm, group_size=8)
    ),
}
