"""Appendix: does softness help? Temperature and label smoothing against data partitioning.

Softer targets are the usual remedy when a teacher does harm; this tests whether they do what data
partitioning does. (The paper has the numbers.)

  ktjax --config=paper/softening:students=A+B,teachers=C+D,data=imagenet2012 --workdir=W

and on the embedded zoo:

  ktjax --config=paper/softening --workdir=W

which has run for one student: the following, in half an hour on one of 2 CPU cores beside other
work, gave these changes of tiny_mlp on validation by the final weights (seed 1, standard errors of
0.15 to 0.3; at other temperatures than 1 with the rates that were tuned at 1):

  ktjax --workdir=W --config=paper/softening:students=glyphs/tiny_mlp,controls=,\
teachers=glyphs/tiny_mlp_narrow+glyphs/tiny_mixer+glyphs/tiny_vit --config.total_epochs=10.0 \
      --config.views=4 --config.export=no_regret --config.steps_per_dispatch=10

                                         kl                           kl_dp               xe_kl
  temperature                  0.5     1     2     4       0.5     1     2     4       1   smoothed
  from tiny_mlp_narrow, weaker -3.48 -3.24 -3.65 -4.09    -0.33 -0.07 +0.06 +0.01    -0.18  -0.35
       tiny_mixer              -0.41 +0.37 +0.05 -0.82    +0.16 +0.33 +0.33 -0.69    +0.19  -0.09
       tiny_vit                -0.54 +0.23 -0.16 -1.28     0.00  0.00 +0.01 -1.29    +0.23  -0.27

So no temperature and no smoothing does what the partition does: from the weaker teacher kl loses 3
to 4 points at each of them, kl_dp nothing from 1 on. Of the 30 exports one is worse, by 0.03.
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    paper.check_arg(arg)
    config = study.get_config(",".join(filter(None, ("objectives=kl+xe_kl+kl_dp", arg))))
    with config.unlocked():
        for name in ("kl", "kl_dp"):
            for temperature in (0.5, 2.0, 4.0):
                entry = config.objectives[name].copy_and_resolve_references()
                entry.temperature = temperature  # that logits are divided by
                config.objectives[f"{name}_T{temperature:g}".replace(".", "_")] = entry
        smoothed = config.objectives.xe_kl.copy_and_resolve_references()
        smoothed.label_smoothing = 0.1  # toward the uniform distribution
        config.objectives.xe_kl_smoothed = smoothed
        if config.data == "imagenet2012":
            paper.as_published(config)
    return config
