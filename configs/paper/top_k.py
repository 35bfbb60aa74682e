"""Appendix: KL over only the k most probable classes.

The paper uses 100 of ImageNet's 1,000 classes when it combines XE-KL with slow weights, and tests
how few are enough (the paper has the numbers). Here they are the target's, whichever model provides
it; top_k_of=teacher in the config always takes the teacher's, as the authors do.

  ktjax --config=paper/top_k:students=A+B,teachers=C+D,data=imagenet2012 --workdir=W

and on the embedded zoo, with 2, 5 and 20 of 100 classes:

  ktjax --config=paper/top_k --workdir=W

which has run for one student: the following, in 6 minutes on one of 2 CPU cores beside other work,
gave these changes of tiny_mlp on validation by the final weights (seed 1, standard errors of 0.15
to 0.3; of the exports two change the student, kl_dp by +0.36 and k=5 by +0.14):

  ktjax --workdir=W --config=paper/top_k:students=glyphs/tiny_mlp,controls=,\
teachers=glyphs/tiny_mlp_narrow+glyphs/tiny_mixer+glyphs/tiny_vit --config.total_epochs=10.0 \
      --config.views=4 --config.export=no_regret --config.steps_per_dispatch=10

                                all classes   k=20    k=5    k=2
  from tiny_mlp_narrow (weaker)    -0.07     +0.05  -0.29  -0.49
       tiny_mixer                  +0.33     +0.15  -1.52  -4.55
       tiny_vit                     0.00     -0.66  -2.36  -7.16

So here few classes are not enough: the loss says nothing of the others, and they overtake. (A store
of top-k logits differs: its objectives compare all other classes as one, which holds them down.)
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    paper.check_arg(arg)
    config = study.get_config(",".join(filter(None, ("objectives=kl_dp", arg))))
    with config.unlocked():
        for k in (2, 5, 20) if config.data.startswith("glyphs") else (10, 100):
            entry = config.objectives.kl_dp.copy_and_resolve_references()
            entry.top_k = k  # of the target
            config.objectives[f"kl_dp_top_{k}"] = entry
        if config.data == "imagenet2012":
            paper.as_published(config)
    return config
