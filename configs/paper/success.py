"""Figure 4 and table 1: how often a transfer succeeds, by objective.

The paper, 20 students x 20 teachers of ImageNet (median over students of the success rate, its
mean, mean change in points):

  kl                  32.5 %  32.5 %  -0.30
  xe_kl               42.5 %  42.3 %  -0.02
  cd                   0   %  16.3 %  -1.90
  crd                  0   %  16.8 %  -0.82
  xe_kl_mcl           80.0 %  60.8 %  -6.45 (three students collapse)
  kl_dp               92.5 %  73.8 %  +0.32
  kl_dp_unsupervised  82.5 %  69.0 %  -0.06

  ktjax --config=paper/success:students=A+B,teachers=C+D,data=imagenet2012 --workdir=W

and on the embedded zoo, with the learning rates and the controls of configs/study.py:

  ktjax --config=paper/success --workdir=W

It has not been run in full; configs/study.py has one student from all teachers.
"""

import ml_collections

from ktjax.configs import paper, study, transfer

_PUBLISHED = "kl+xe_kl+cd+crd+xe_kl_mcl+kl_dp+kl_dp_unsupervised"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    config = study.get_config(arg)
    published = transfer.get_config(f"objectives={_PUBLISHED}")
    with config.unlocked():
        ours = config.objectives
        config.objectives = published.objectives  # all that the paper compares
        config.mcl = published.mcl  # slow weights of xe_kl_mcl
        config.targets = "live"  # cd and crd compare features, which are not stored
        if config.data == "imagenet2012":
            paper.as_published(config)
        else:
            for name, entry in config.objectives.items():  # untuned ones use that of kl
                entry.learning_rate = ours.get(name, ours.kl).learning_rate
    return config
