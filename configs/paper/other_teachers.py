"""Section 5: teachers trained on other data teach ImageNet students.

The paper uses teachers trained on DomainNet's Infograph (the paper has the numbers). First fit
their heads to ImageNet's classes:

  ktjax --config=pretrain:model=INFOGRAPH_MODEL,data=imagenet2012,train=head --workdir=B
  ktjax --config=paper/other_teachers:students=A,teachers=B,data=imagenet2012 --workdir=W

On the embedded zoo the weakest model, which sees 12-pixel images, plays such a teacher:

  ktjax --config=paper/other_teachers --workdir=W
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
