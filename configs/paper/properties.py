"""Section 5.2: which students learn, and from whom: size, family, training protocol.

The paper (kl_dp, 20 teachers each: mean change in points, success): mixer_l16 +5.07, 100 %;
mixer_b16 +1.67, 100 %; pit_b +0.62, 100 %; xcit_large_24_p16 +0.43, 100 %; vit_base_p16 +0.19,
95 %; and, where the method is weak, convolutional students: gluon_resnet101_v1c +0.11, 90 %;
gluon_senet154 -0.06, 50 %; wide_resnet50_2 -0.44, 0 %; resnetv2_50 -1.77, 0 %. To relate the study
of configs/paper/success.py to the zoo's measures:

  ktjax --config=paper/properties --config.transfers="('STUDY/runs/A/B/kl_dp-1',)" --workdir=W

This takes the runs of a study, or workdirs of transfers, and correlates their changes with accuracy
difference, complementary knowledge, size and family of student and teacher.

With the 18 drawn pairs of the embedded zoo (configs/paper/success.py; 40 seconds on 2 CPU cores),
changes by the final weights: rank correlation with what was known before, and means by inductive
bias (6 pairs whose student is an MLP, 3 attention, 9 convolution; 5, 2 and 11 teachers):

                      accuracy    rho_pos  ensemble   student: MLP, att., conv.    teacher
                      difference             gain
  kl                    +0.88      +0.85    +0.86     -0.13   -7.62   -6.07   -14.75  +0.24  -0.45
  xe_kl                 +0.70      +0.62    +0.69     +0.14   -1.52   -0.98    -2.86  +0.21  +0.12
  kl_dp_unsupervised    +0.44      +0.42    +0.47     +0.20   +0.27   +0.28    +0.14  +0.19  +0.32

So plain distillation does what the teacher's accuracy says, and harms those whom weak teachers
teach. With the partition convolutional students gain as much as others, unlike in the paper, and
teachers differ little. (Five of the six teachers of MLPs were better than their students.)
"""

import ml_collections

from ktjax.configs import complementarity


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    return complementarity.get_config(arg)
