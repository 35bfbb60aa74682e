"""Section 5: teachers trained on other data teach ImageNet students.

The paper uses teachers trained on DomainNet's Infograph (the paper has the numbers). First fit
their heads to ImageNet's classes:

  ktjax --config=pretrain:model=INFOGRAPH_MODEL,data=imagenet2012,train=head --workdir=B
  ktjax --config=paper/other_teachers:students=A,teachers=B,data=imagenet2012 --workdir=W

On the embedded zoo the weakest model, which sees 12-pixel images, plays such a teacher:

  ktjax --config=paper/other_teachers --workdir=W

For three students, seed 1, with 4 views and 10 epochs (about a quarter of an hour on one CPU core),

  ktjax --workdir=W --config=paper/other_teachers:controls=,\
students=glyphs/tiny_mlp+glyphs/tiny_mixer+glyphs/tiny_resnet_narrow \
      --config.views=4 --config.export=no_regret --config.keep=none --config.steps_per_dispatch=10

change on validation in points by the final weights, and the share of images that the teacher
taught:

                      accuracy      kl     kl_dp
  tiny_mlp               61.53   -3.24     -0.07    21 %
  tiny_resnet_narrow     73.33  -14.89     -0.06    16 %
  tiny_mixer             79.06  -17.23     +0.01     8 %

The teacher has 50.11 %, and the confidence ensemble with it is worse than each student. Distilled
from it, a student loses the more, the better it was; by the partition none loses anything to speak
of, and none gains. No export changed a student.
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    given = "objectives=kl+kl_dp,teachers=glyphs/tiny_mlp_narrow"
    config = study.get_config(",".join(filter(None, (given, arg))))
    if config.data == "imagenet2012":
        with config.unlocked():
            paper.as_published(config)
    return config
