"""MobileNetV3 and its like as in timm's mobilenetv3.py, with its names.

MobileNetV3 (Howard et al. 2019), FBNetV3 (Dai et al. 2021), PP-LCNet (Cui et al. 2021), MobileNetV4
(Qin et al. 2024). Networks called `tf_...` were trained with TensorFlow: its "SAME" padding, and a
larger epsilon in BatchNorm.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from ktjax.classifier import Output
from ktjax.models.networks.layers import avg_pool
from ktjax.models.networks.mobile import mobilenetv3s
from ktjax.models.networks.mobile.blocks import blur_pool_zeros, convolve, tf_norm
from ktjax.models.networks.mobile.stages import Trunk


class MobileNetV3(Trunk):
    """Trunk, global average pooling, a dense layer, a linear head.

    Attributes:
      head_bias: whether the dense layer has one.
      head_norm: whether it is normalized.
    """

    head_bias: bool = True
    head_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Output:
        x = self._trunk(x, train=train).mean(axis=(1, 2), keepdims=True)
        x = convolve(x, self.num_features, 1, bias=self.head_bias, name="conv_head")
        if self.head_norm:
            x = self.norm(x, self.activation, name="norm_head")
        else:
            x = self.activation(x)
        x = x[:, 0, 0]
        return Output(logits=self._classify(x, train=train), features=x)


def _net(definition: mobilenetv3s.Definition, **options: object) -> Callable[..., MobileNetV3]:
    return functools.partial(MobileNetV3, **definition, **options)


TF = {"norm": tf_norm, "same": True}
_AVERAGE = {"pool": functools.partial(avg_pool, kernel=2)}
_BLUR = {"pool": blur_pool_zeros}

VARIANTS = {
    "mobilenetv3_large_075": _net(mobilenetv3s.large(0.75)),
    "mobilenetv3_large_100": _net(mobilenetv3s.large(1.0)),
    "mobilenetv3_large_150d": _net(mobilenetv3s.large(1.5, 1.2)),
    "mobilenetv3_small_050": _net(mobilenetv3s.small(0.5)),
    "mobilenetv3_small_075": _net(mobilenetv3s.small(0.75)),
    "mobilenetv3_small_100": _net(mobilenetv3s.small(1.0)),
    "mobilenetv3_rw": _net(mobilenetv3s.rw(), norm=tf_norm),
    "tf_mobilenetv3_large_075": _net(mobilenetv3s.large(0.75), **TF),
    "tf_mobilenetv3_large_100": _net(mobilenetv3s.large(1.0), **TF),
    "tf_mobilenetv3_large_minimal_100": _net(mobilenetv3s.large_minimal(), **TF),
    "tf_mobilenetv3_small_075": _net(mobilenetv3s.small(0.75), **TF),
    "tf_mobilenetv3_small_100": _net(mobilenetv3s.small(1.0), **TF),
    "tf_mobilenetv3_small_minimal_100": _net(mobilenetv3s.small_minimal(), **TF),
    "fbnetv3_b": _net(mobilenetv3s.fbnetv3_b()),
    "fbnetv3_d": _net(mobilenetv3s.fbnetv3_d()),
    "fbnetv3_g": _net(mobilenetv3s.fbnetv3_g()),
    "lcnet_035": _net(mobilenetv3s.lcnet(0.35)),
    "lcnet_050": _net(mobilenetv3s.lcnet(0.5)),
    "lcnet_075": _net(mobilenetv3s.lcnet(0.75)),
    "lcnet_100": _net(mobilenetv3s.lcnet(1.0)),
    "lcnet_150": _net(mobilenetv3s.lcnet(1.5)),
    "mobilenetv4_conv_small_035": _net(mobilenetv3s.v4_small(0.35)),
    "mobilenetv4_conv_small_050": _net(mobilenetv3s.v4_small(0.5)),
    "mobilenetv4_conv_small": _net(mobilenetv3s.v4_small(1.0)),
    "mobilenetv4_conv_medium": _net(mobilenetv3s.v4_medium()),
    "mobilenetv4_conv_large": _net(mobilenetv3s.v4_large()),
    "mobilenetv4_hybrid_medium": _net(mobilenetv3s.v4_hybrid_medium(1.0)),
    "mobilenetv4_hybrid_large": _net(mobilenetv3s.v4_hybrid_large(1.0)),
    "mobilenetv4_conv_aa_medium": _net(mobilenetv3s.v4_medium(), **_AVERAGE),
    "mobilenetv4_conv_blur_medium": _net(mobilenetv3s.v4_medium(), **_BLUR),
    "mobilenetv4_conv_aa_large": _net(mobilenetv3s.v4_large(), **_AVERAGE),
    "mobilenetv4_hybrid_medium_075": _net(mobilenetv3s.v4_hybrid_medium(0.75)),
    "mobilenetv4_hybrid_large_075": _net(mobilenetv3s.v4_hybrid_large(0.75)),
}
