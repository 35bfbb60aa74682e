"""Section 5, fine-grained data: CUB-200-2011, Caltech-256 and Stanford Cars.

The paper transfers between models first fine-tuned on one of these data sets, with a linear head or
all weights (the paper has the numbers). First fine-tune the models, then run the study on them:

  ktjax --config=pretrain:model=timm/resnet50.a1_in1k,data=caltech_birds2011,train=all --workdir=A
  ktjax --config=paper/fine_grained:students=A,teachers=B+C,data=caltech_birds2011 --workdir=W

The embedded zoo has no such data; use a folder of your own images and models instead:

  ktjax --config=paper/fine_grained:students=A,teachers=B,data=folder:PATH --workdir=W
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
