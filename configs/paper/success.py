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

This has not been run in full on the zoo: cd, crd and xe_kl_mcl are missing. The paper's method,
kl_dp, over all 72 pairs, with settings chosen in advance: seed 1, 10 epochs, 4 views, learning rate
0.1, the controls xe and xe_self, config.export=no_regret:

  ktjax --workdir=W --config=study:objectives=kl_dp,controls=xe+xe_self --config.processes=2 \
      --config.views=4 --config.export=no_regret --config.keep=none

Half a minute to six minutes a run on one CPU core, student by student (rows, with controls:
.github/results/zoo_kl_dp_72_pairs.csv). On validation, in points:

                      weights at the end                   exported                       xe_self
                      improved  mean   worst  best    improved  abstained  mean   net    at the end
  tiny_mlp_narrow      8 of  8  +0.30  +0.06  +0.54       2         6      +0.07  +0.07      +0.17
  tiny_mlp             5 of  8  +0.14  -0.24  +0.46       5         3      +0.19  +0.19      -0.03
  tiny_resnet_narrow   7 of  8  +0.56  -0.04  +0.98       5         3      +0.52  -0.08      +0.61
  tiny_mixer           4 of  8  -0.03  -0.23  +0.12       6         2      +0.14  +0.14      -0.12
  tiny_convnext        8 of  8  +0.22  +0.16  +0.36       4         4      +0.15  +0.15      +0.01
  tiny_vit             8 of  8  +0.42  +0.09  +0.69       8         0      +0.45  +0.45      +0.19
  tiny_resnet          8 of  8  +0.24  +0.11  +0.41       7         1      +0.18  -0.02      +0.19
  tiny_resnet_gn       7 of  8  +0.10  -0.01  +0.16       3         5      +0.07  +0.07      -0.05
  tiny_resnet_wide     8 of  8  +0.25  +0.11  +0.36       6         2      +0.21  +0.21      -0.08
  all                 63 of 72  +0.25  -0.24  +0.98      46        26      +0.22  +0.13

With their final weights 88 % of the pairs improve, slightly, and 100 % in the median over students
(the paper: 73.8 and 92.5 %); of the pairs with convolutional students 38 of 40. No export loses: 46
improve, 9 significantly (Holm), 26 abstain, 20 of which would have improved (by up to 0.54, 16 by
less than 0.3). Exports gain 1.78 and lose 1.44 %. Delta +0.22 [+0.09, +0.35]; net of the
controls, which use the same export, +0.13 [0.00, +0.26]: +0.09 from weaker teachers, +0.17 from
stronger ones, +0.06 for convolutional students. Only two controls do not abstain, xe_self of
tiny_resnet_narrow and of tiny_resnet: these two gain as much without a teacher.

kl, xe_kl and kl_dp_unsupervised by the same schedule, all 72 pairs, student by student (18 pairs
were drawn before any was run, pairs=18, and came first). Rows, with controls:
.github/results/zoo_kl_72_pairs.csv; one to six minutes a run on one CPU core, 20 s for the MLPs.
The learning rates are those of configs/study.py, 0.01, 0.01 and 0.03, and those of the controls,
too:

  ktjax --workdir=W --config=study:objectives=kl+xe_kl+kl_dp_unsupervised,controls=xe+xe_self \
      --config.processes=2 --config.views=4 --config.export=no_regret --config.keep=none

Half of the pairs have a weaker teacher. Success of the final weights is the paper's: the median
over students, the mean over pairs, and pairs of convolutional students:

                      weights at the end
                      success        conv.    mean: all  weaker  stronger   worst   best
  kl                   50 %   53 %   16/40     -3.25     -6.75    +0.24    -24.60  +0.40
  xe_kl                63 %   65 %   23/40     -0.53     -1.28    +0.23     -5.75  +0.61
  kl_dp_unsupervised  100 %   90 %   35/40     +0.23     +0.15    +0.31     -0.24  +0.65

                      exported
                      improved  abstained  worse   mean                    best    surely better
  kl                    26         46        0     +0.11 [+0.03, +0.20]   +0.66     4 (Holm)
  xe_kl                 25         47        0     +0.09 [+0.02, +0.15]   +0.48     4
  kl_dp_unsupervised    42         28        2     +0.17 [+0.06, +0.29]   +0.65    13

                      net of the best control                  conv.
  kl                    +0.08 [-0.02, +0.18]   29 positive     +0.03
  xe_kl                 +0.05 [-0.03, +0.13]   26              +0.02
  kl_dp_unsupervised    +0.14 [+0.03, +0.25]   44              +0.10

  mean at the end      kl      xe_kl   kl_dp_unsupervised, and net of its export
  tiny_mlp_narrow     +0.23    +0.16    +0.22   +0.07
  tiny_mlp            -0.23    +0.11    +0.19   +0.15
  tiny_resnet_narrow  -2.42    -0.30    +0.32   -0.02
  tiny_mixer          -3.28    -0.54    +0.23   +0.16
  tiny_convnext       -4.30    -0.68    +0.29   +0.10
  tiny_vit            -4.19    -0.73    +0.36   +0.36
  tiny_resnet         -3.88    -0.69    +0.05   +0.05
  tiny_resnet_gn      -5.79    -1.35    +0.13   +0.12
  tiny_resnet_wide    -5.40    -0.72    +0.27   +0.27

As in the paper plain distillation harms from weaker teachers (tiny_resnet_gn loses 25 points to
tiny_mlp_narrow), the more the better the student is, and the partition does not, without labels
either. From stronger teachers the three hardly differ. config.export=no_regret exports none of that
harm: the two exports that are worse lose 0.03 and 0.06 +- 0.13 (tiny_resnet). Of the controls, at
both learning rates, only those of tiny_resnet_narrow (+0.09 to +0.39) and one of tiny_resnet
(-0.01) do not abstain: at these rates training without a teacher gives the others nothing that can
be shown, by their final weights at most +0.16. Only kl_dp_unsupervised has a net above zero. (Of
tiny_resnet, pairs that abstain count as positive, too: its control lost 0.01.)

The authors train BatchNorm with batch statistics, these runs of the zoo freeze running statistics
(config.batch_norm). A comparison, from tiny_mixer with the schedule of configs/study.py, 5 epochs
at 0.1, seed 1, change in points on tune and on validation:

                              kl_dp         xe_self       self (no teacher)
  tiny_resnet_narrow  frozen  +0.17 +0.13   +0.18 +0.39   +0.01 +0.03
                      train   +0.04 +0.09   +0.08 +0.14    0.00 +0.03
  tiny_resnet         frozen  +0.12 +0.10   +0.06 +0.13   +0.02 +0.08
                      train   +0.35 +0.24   +0.05 +0.11   -0.04 +0.05
  tiny_resnet_wide    frozen  +0.02 +0.13   -0.18 -0.16   -0.02 +0.21
                      train   +0.05 +0.21   -0.09 +0.18   -0.03 +0.01

(errors +- 0.12 on tune, +- 0.05 for self.) Averaged over the three, kl_dp gives +0.10 on tune with
frozen and +0.15 with train: not distinguishable. Half an epoch of train at a learning rate of
1e-12, where only the statistics change: +0.05, -0.03, -0.02 on tune, -0.10, -0.07, +0.06 on
validation. So frozen is the default: no worse within the error, and independent of the batch size.
The same on the drawn pairs of these students, chosen before it was run: 10 epochs, 4 views,
config.export=no_regret, seed 1 (rows: .github/results/zoo_kl_dp_batch_norm_train.csv), change on
validation by the final weights and, in brackets, by the export:

                                           kl_dp: train     frozen           train: xe_self, self
  tiny_resnet_narrow <- tiny_convnext      +0.59 (+0.59)    mean of eight    +0.44       +0.14
                     <- tiny_resnet_gn     +0.48 (+0.44)    +0.57 (+0.52)
  tiny_resnet        <- tiny_mlp_narrow    +0.28 (+0.36)    +0.16 (+0.19)    +0.13       +0.18
  tiny_resnet_wide   <- tiny_mlp_narrow    +0.13 (+0.24)    +0.11 ( 0.00)    not run
                     <- tiny_resnet_gn     +0.39 (+0.33)    +0.36 (+0.33)

for instance by

  ktjax --workdir=W --config=study:students=glyphs/tiny_resnet_narrow,objectives=kl_dp,\
teachers=glyphs/tiny_convnext+glyphs/tiny_resnet_gn,controls=xe_self+self \
      --config.batch_norm=train --config.views=4 --config.export=no_regret --config.keep=none

All five improve with batch statistics, about as much as with frozen ones: these alone do not make
convolutional students fail. (With frozen statistics the only gradient of self is rounding, 2e-6; at
this rate it grows until half a percent of the answers change, as many for the better as for the
worse: pure churn.)
"""

import ml_collections

from ktjax.configs import paper, study, transfer

_PUBLISHED = "kl+xe_kl+cd+crd+xe_kl_mcl+kl_dp+kl_dp_unsupervised"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    paper.check_arg(arg)
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
