"""Table 1, last row, and appendix: transfers without labels.

The paper: without labels data partitioning succeeds in 82.5 % of the pairs (median over students;
mean 69.0 %, -0.06 points), plain KL in 32.5 %.

  ktjax --config=paper/unsupervised:students=A+B,teachers=C+D,data=folder:POOL \
      --config.eval_data=imagenet2012 --workdir=W

and on the embedded zoo, on 32,000 new images whose labels are not used:

  ktjax --config=paper/unsupervised --workdir=W

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
