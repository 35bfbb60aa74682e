"""Section 5, fine-grained data: CUB-200-2011, Caltech-256 and Stanford Cars.

The paper transfers between models first fine-tuned on one of these data sets, with a linear head or
all weights (the paper has the numbers). First fine-tune the models, then run the study on them:

  ktjax --config=pretrain:model=timm/resnet50.a1_in1k,data=caltech_birds2011,train=all --workdir=A
  ktjax --config=paper/fine_grained:students=A,teachers=B+C,data=caltech_birds2011 --workdir=W

A folder of your own images and models instead (there each run finds its learning rate, as none is
known):

  ktjax --config=paper/fine_grained:students=A,teachers=B,data=folder:PATH --workdir=W

The embedded zoo has no such data; scikit-learn's 1,797 digits, written as PNG files, one directory
per digit, take their place. Three models of the zoo, fine-tuned on 1,295 of them,

  ktjax --config=pretrain:model=glyphs/tiny_vit,data=folder:DIGITS,train=all --workdir=A \
      --config.learning_rate=0.006 --config.crop_scale="(0.7, 1.0)" --config.augment=shift_colour

and all pairs of them, four objectives and eight controls per student (a quarter of an hour on one
CPU core beside other work):

  ktjax --workdir=W --config=paper/fine_grained:students=A+B+C,data=folder:DIGITS \
      --config.image_size=24 --config.crop_pct=1.0 --config.augment=shift_colour

Change on the 359 images of validation in points, in the mean of two teachers (one run each, errors
0.3 to 0.8; no control gained on tune):

                      before     kl   xe_kl   kl_dp  kl_dp_unsupervised
  tiny_mlp             98.33  -0.14   -0.28   -0.28               -0.28
  tiny_resnet_narrow   98.33  +0.70   +1.11   +0.84               +0.14
  tiny_vit             98.61  -0.28   -0.14    0.00                0.00

One answer is 0.28 points: models this close to the end show no difference between objectives.
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    given = "objectives=kl+xe_kl+kl_dp+kl_dp_unsupervised,data=caltech_birds2011"
    config = study.get_config(",".join(filter(None, (given, arg))))
    with config.unlocked():
        if not config.data.startswith("folder:"):
            paper.as_published(config)
        config.train_fraction = 1.0  # these data sets are small
    return config
