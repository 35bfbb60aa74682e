"""Section 5.2: which students learn, and from whom: size, family, training protocol.

The paper (kl_dp, 20 teachers each: mean change in points, success): mixer_l16 +5.07, 100 %;
mixer_b16 +1.67, 100 %; pit_b +0.62, 100 %; xcit_large_24_p16 +0.43, 100 %; vit_base_p16 +0.19,
95 %; and, where the method is weak, convolutional students: gluon_resnet101_v1c +0.11, 90 %;
gluon_senet154 -0.06, 50 %; wide_resnet50_2 -0.44, 0 %; resnetv2_50 -1.77, 0 %. To relate the study
of configs/paper/success.py to the zoo's measures:

  ktjax --config=paper/properties --config.transfers="('STUDY/runs/A/B/kl_dp-1',)" --workdir=W

This takes the runs of a study, or workdirs of transfers, and correlates their changes with accuracy
difference, complementary knowledge, size and family of student and teacher.
"""

import ml_collections

from ktjax.configs import complementarity


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    return complementarity.get_config(arg)
