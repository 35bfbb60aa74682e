"""Table 1, last row, and appendix: transfers without labels.

The paper: without labels data partitioning succeeds in 82.5 % of the pairs (median over students;
mean 69.0 %, -0.06 points), plain KL in 32.5 %.

  ktjax --config=paper/unsupervised:students=A+B,teachers=C+D,data=folder:POOL \
      --config.eval_data=imagenet2012 --workdir=W

and on the embedded zoo, on 32,000 new images whose labels are not used:

  ktjax --config=paper/unsupervised --workdir=W

Of these, 18 drawn pairs with the pool, 10 epochs (5,000 steps), seed 1, chosen before it was run;
an hour and a half on one CPU core beside other work (rows:
.github/results/zoo_unlabeled_kl_pool_18_pairs.csv):

  ktjax --workdir=W --config=paper/unsupervised:objectives=kl_pool,controls=self_pool,pairs=18 \
      --config.views=4 --config.export=no_regret --config.keep=none

Exports: 11 pairs improve, 7 abstain, none is worse; +0.25 [+0.08, +0.43] on average, best +0.94
(tiny_vit from tiny_convnext), and all of it net, as the control abstains for all students.
tiny_resnet_wide gains 0.4 and 0.9, tiny_mlp_narrow and tiny_resnet_narrow nothing. With the final
weights 12 improve, the mean is +0.13 and the worst -1.19: at this rate the smallest MLP loses.

configs/scarce.py has numbers for one student and two teachers: kl_dp_unsupervised +0.05 and +0.43
points, kl -3.40 and +0.57.
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    given = "data=glyphs_unlabeled,objectives=kl+kl_dp_unsupervised+kl_pool,controls=self+self_pool"
    config = study.get_config(",".join(filter(None, (given, arg))))
    if not config.data.startswith("glyphs"):
        with config.unlocked():
            paper.as_published(config)
    return config
