"""Pools, trained patiently: what gained most over pairs of the zoo.

The target is a log-linear pool of the initial student and its teacher at temperature 2 (kl_pool),
with weights fitted on tune, so it needs no label of train. Training takes forty epochs of sixteen
views, at three times the learning rate that suits ten. The drawn pairs of configs/paper/success.py:

  ktjax --workdir=W --config=pools:pairs=18 --config.eval_every_epochs=40.0

and your own models and images, where each run trains at each of config.learning_rates, four times
as long, and keeps the best on tune:

  ktjax --workdir=W --config=pools:students=A+B,teachers=C+D,data=folder:PHOTOS

The first, with one process per core, seed 1, chosen before it was run but for tiny_mixer from
tiny_resnet_wide (40,000 steps and 2 million stored answers a run: 5 to 25 minutes, 1 to 2 for the
MLPs, on one core beside other work; rows: .github/results/zoo_kl_pool_40_epochs_60_pairs.csv),
beside the same pairs in ten epochs, in points of validation accuracy:

                      40 epochs                  their xe_self          10 epochs
                      at the end  exported  net  at the end  exported   exported  net
  tiny_mlp_narrow      +1.86       +1.86  +1.21    +0.65      +0.65       0.00    0.00
  tiny_mlp             +2.14       +2.14  +1.54    +0.59      +0.60      +0.28   +0.28
  tiny_resnet_narrow   +1.03       +1.03  +0.63    +0.39      +0.39       0.00   -0.27
  tiny_mixer           +0.75       +0.66  +0.66    +0.31       0.00      +0.34   +0.34
  tiny_convnext        +0.53       +0.33  +0.33    +0.12       0.00      +0.32   +0.32
  tiny_vit (three)     +0.54       +0.34  +0.34    +0.06       0.00      +0.40   +0.40
  tiny_resnet_gn       +0.64       +0.66  +0.52    +0.12      +0.14      +0.27   +0.27
  tiny_resnet (one)    +0.08       +0.08  -0.30    +0.33      +0.38      +0.02   +0.02
  tiny_resnet_wide     +0.80       +0.82  +0.56    +0.05      +0.26      +0.57   +0.57
  mean of 18 pairs     +0.96       +0.90  +0.65                          +0.27   +0.24

(Two pairs of each student but two.) With the final weights 17 of 18 improve, and one loses 0.04; 14
are exported, 13 surely better (Holm), and 4 abstain, three of which would have improved, by up to
0.63. Delta [+0.27, +1.52], net [+0.20, +1.09], positive for 13. Pairs of convolutional students:
all 9 improve at the end, 8 are exported, +0.64, net +0.42. From the 7 stronger teachers +1.63, net
+1.16, and 9 % of the headroom (median); from the 11 weaker ones +0.43, net +0.32, and 43 %. Exports
gain 4.0 and lose 2.9: 71 % of what is gained is lost. With one evaluation the best checkpoint is
the last, so exports choose among the final weights, the mean of the last half and interpolations.
The teacher's part is almost three times that of ten epochs, at four times the steps.
tiny_resnet_narrow, which gained nothing beyond its control in ten epochs, gains 0.63; tiny_resnet
gains more without its teacher, the smallest MLP.

The run over all 72 pairs (without pairs=18) has done 60 of them, of six students with all eight
teachers. Nobody chose which come first; both MLPs, which gain most, are among them. Left: five
pairs of tiny_vit, six of tiny_resnet_wide, and tiny_resnet_narrow from tiny_vit.

                      weights at the end                   exported                       xe_self
                      improved  mean   worst  best    improved  abstained  mean   net    at the end
  tiny_mlp_narrow      8 of  8  +1.80  +1.39  +1.99    8         0        +1.80  +1.15      +0.65
  tiny_mlp             7 of  8  +1.82  -0.13  +2.32    7         1        +1.84  +1.24      +0.59
  tiny_mixer           8 of  8  +0.73  +0.12  +1.31    5         3        +0.67  +0.67      +0.31
  tiny_convnext        8 of  8  +0.76  +0.21  +1.18    5         3        +0.63  +0.63      +0.12
  tiny_resnet          8 of  8  +0.42  +0.07  +0.96    7         1        +0.41  +0.03      +0.33
  tiny_resnet_gn       8 of  8  +0.49  +0.14  +0.99    7         1        +0.42  +0.28      +0.12
  these six           47 of 48  +1.00  -0.13  +2.32   39         9        +0.96  +0.67
  tiny_resnet_narrow   5 of  7  +0.82  -0.23  +1.79    4         3        +0.79  +0.39      +0.39
  tiny_vit             2 of  3  +0.54  -0.04  +1.02    1         2        +0.34  +0.34      +0.06
  tiny_resnet_wide     2 of  2  +0.80  +0.53  +1.08    2         0        +0.82  +0.56      +0.05
  all 60              56 of 60  +0.95  -0.23  +2.32   46        14        +0.91  +0.61

Every export improves, 40 of the 46 surely (Holm); 10 of the 14 that abstain would have improved, by
up to 0.63. Delta [+0.30, +1.51], net [+0.13, +1.10], positive for 43 and negative for 9. From the
32 stronger teachers all improve: +1.46, net +1.08, 13 % of the headroom (median); from the 28
weaker ones +0.27, net +0.09, 32 %. tiny_resnet gains as much without a teacher. Convolutional
students: 31 of 33 improve at the end, all 25 exports, +0.57, net +0.34.

Ten epochs at 0.1 with 4 views, all 72 pairs (rows: .github/results/zoo_kl_pool_72_pairs.csv; under
three hours on 2 CPU cores beside other work):

  ktjax --workdir=W --config=pools --config.processes=2 --config.total_epochs=10.0 \
      --config.eval_every_epochs=5.0 --config.views=4 --config.objectives.kl_pool.learning_rate=0.1

                      weights at the end                   exported                       xe_self
                      improved  mean   worst  best    improved  abstained  mean   net    at the end
  tiny_resnet_narrow   6 of  8  +0.31  -0.29  +0.78       3         5      +0.21  -0.05      +0.27
  tiny_mixer           8 of  8  +0.32  +0.10  +0.72       6         2      +0.33  +0.33      -0.01
  tiny_convnext        8 of  8  +0.42  +0.17  +0.71       6         2      +0.34  +0.34      +0.02
  tiny_vit             7 of  8  +0.61  -0.12  +1.03       7         1      +0.62  +0.62      +0.08
  tiny_resnet          7 of  8  +0.22  -0.01  +0.49       6         1      +0.18  +0.18      +0.24
  tiny_resnet_gn       8 of  8  +0.30  +0.16  +0.42       8         0      +0.25  +0.25      +0.08
  tiny_resnet_wide     8 of  8  +0.71  +0.31  +0.96       8         0      +0.71  +0.71      +0.02
  no MLPs             52 of 56  +0.41  -0.29  +1.03      44        11      +0.38  +0.34
  tiny_mlp             6 of  8  +0.20  -0.08  +0.46       7         1      +0.24  +0.24      +0.16
  tiny_mlp_narrow      1 of  8  -0.23  -0.57  +0.13       0         8       0.00   0.00      +0.28
  all                 59 of 72  +0.32  -0.57  +1.03      51        20      +0.32  +0.29

One export is worse, by 0.06 +- 0.13 (tiny_resnet from tiny_mlp); 22 are surely better (Holm over
72; 24 over the 56 without MLPs) and none surely worse. Exports of the seven that are no MLPs gain
+0.25 on average by kl_dp: more than by the pool only for tiny_resnet_narrow. The control abstains
for all students but the smallest convolutional one. The accuracy on tune of the confidence ensemble
ranks a student's teachers as the transfers do: rank correlation -0.30 to 0.95, median 0.76 over all
nine, 0.90 over those that are no MLPs. The teacher's own accuracy on tune does as well: 0.86, 0.87.

Beside what was hoped for:
                                                hoped for   72 pairs, 10 epochs    60 pairs, 40
  exports that improved, of those that do not
      abstain                                   97 %        98 % (51 of 52)        100 % (46 of 46)
      of convolutional students                 95 %        97 % (31 of 32)        100 % (25 of 25)
  harmed pairs (Holm)                           none        none                   none
  abstentions                                   few         20 of 72               14 of 60
  mean net of the control                       +0.6        +0.29                  +0.61
  pairs with a positive net                     90 %        71 %                   72 %
  share of the headroom, median, weaker /
      stronger                                  100 / 20 %  34 / 3 %               32 / 13 %
  lost for what is gained, all pairs            42 %        75 % (1.27, 0.95)      71 % (3.16, 2.26)

Three seeds of ten epochs, the 18 drawn pairs, chosen before they were run (pairs=18,seeds=1+2+3;
rows: .github/results/zoo_kl_pool_18_pairs_3_seeds.csv). No export is worse with any seed; 36 of 54
runs improve, 18 abstain.

                      weights at the end, by seed              exported    net      control
  mean of 18 pairs    +0.28  +0.34  +0.33, mean +0.32          +0.29      +0.24   abstains, but for
  improved pairs      15 of 18 in the mean, 9 of 9 with        14 of 18           tiny_resnet_narrow
                      convolutional students                                      and tiny_resnet

The standard deviation over seeds is 0.10 points for a pair's final weights, 0.14 for the exports of
the 14 pairs that do not abstain with every seed; errors over the validation images are 0.12 to
0.17. Delta [+0.13, +0.45], net [+0.02, +0.46].

Both MLPs from their eight teachers, which ten epochs at 0.1 teach little: forty at 1.0, 4 views:

  ktjax --workdir=W --config=pools:students=glyphs/tiny_mlp+glyphs/tiny_mlp_narrow \
      --config.objectives.kl_pool.learning_rate=1.0 --config.views=4 \
      --config.eval_every_epochs=40.0 --config.steps_per_dispatch=10

                      improved  abstained  mean   worst  best   xe_self  net
  tiny_mlp_narrow      8 of 8      0       +1.89  +1.61  +2.38   +1.00   +0.89
  tiny_mlp             7 of 8      1       +1.96   0.00  +2.59   +0.98   +0.98

All 15 that do not abstain are significantly better (Holm); the one that does has the only weaker
teacher. At temperature 1: 15 of 16, too, but a mean of +1.29 and, net of xe_self, +0.20.

On models of the second zoo (configs/pretrain.py), on which nothing was tuned, tiny_convnext from
tiny_resnet_wide in ten epochs: kl_pool +0.77 +- 0.14; kl_dp +0.29 +- 0.12, by the final weights
-0.06; xe_self abstains.

Length and learning rate, by the final weights, on tune and validation, seed 1. From
tiny_resnet_wide at temperature 2:

                      10 epochs at 0.1   20 at 0.3, 16 views   40 at 0.3: 4 views    16 views
  tiny_mixer             +0.38 +0.36         +0.58 +0.94         +0.67 +1.01       +0.92 +1.31
  tiny_convnext          +0.51 +0.52                             +0.97 +1.11

and tiny_mlp from tiny_mixer (79.1 %), 4 views, at temperature 1:

              10: 0.1       0.3          1.0           40: 0.1       0.3          1.0
  kl_pool     +0.07 +0.44  -0.40 -0.06  -1.91 -1.07    +0.58 +0.83  +1.03 +1.48  +1.20 +1.72
  kl                                                                +0.95 +1.37  +1.01 +1.72
  kl_dp                    -0.39 -0.04                                           +1.08 +1.70
  xe_self                                              +0.19 +0.02  +0.45 +0.31  +0.64 +0.99
  xe                                                                -0.22 -0.18
  self_pool                                            -0.03 -0.08  -0.08 -0.05  -0.03 +0.08

(AdamW, kl_pool, 10 epochs: +0.15 +0.52 at 0.001, +0.22 +0.47 at 0.003, -0.47 -0.19 at 0.01.) The
learning rate that is best for 10 epochs is wrong for 40. With 120 epochs at 1.0 and 16 views, 7 to
10 minutes per run beside other work:

  kl_pool from tiny_mixer +3.93 +4.37, tiny_vit +3.83 +3.88, tiny_mlp_narrow (weaker) +0.09 +0.19
  xe_self                 +1.76 +1.86

so the teacher's share grows with training: from +0.7 (40 epochs, 4 views) to +2.5 points net of the
control. One student learned nothing from its teacher: tiny_resnet_narrow from tiny_mixer, 20
epochs, kl_pool +0.48 +0.52 at 0.1, +0.11 +0.20 at 0.5; xe_self +0.47 +0.71, +0.12 +0.26.

Temperature. At 1, a pool or a partition says little beyond the top class on images that all models
were trained on. Seed 1, 4 views, tune and validation, by temperature:

                                                      1             2             4
  tiny_mlp <- tiny_mixer, kl_pool, 40 epochs at 1.0   +1.20 +1.72   +2.33 +2.59   +2.14 +2.35
                          kl_dp                       +1.08 +1.70   +2.02 +2.27
                          xe_self (no teacher)        +0.64 +0.99   +0.67 +0.98
  from tiny_resnet_wide, kl_pool, 10 epochs at 0.1:
                          tiny_vit                    +0.48 +0.60   +0.96 +1.03
                          tiny_convnext               +0.15 +0.38   +0.51 +0.52
                          tiny_resnet                 +0.29 +0.31   +0.46 +0.49
                          tiny_mixer                  +0.03 -0.06   +0.38 +0.36
                          tiny_resnet_gn              -0.02 +0.04   +0.14 +0.42
  tiny_resnet_narrow <- tiny_convnext, the same       +0.53 +0.63   +0.21 +0.37
  tiny_convnext, xe_self, the same                    -0.11 +0.01   -0.04 +0.02

(at 0.3: tiny_mixer +0.08 +0.16 with 2, -0.13 +0.06 with 4; tiny_convnext +0.26 +0.64,
tiny_resnet_narrow -0.66 -0.76 with 4; tiny_convnext from the weaker tiny_mlp, at 0.1 with 2, +0.10
+0.30.) So pools use temperature 2: six of seven networks gain more with it, the smallest, with
13,696 parameters, less.

Tried and not better, on tune and validation by the final weights. tiny_mlp, 40 epochs at 1.0 and
temperature 1, from tiny_mixer, where kl_pool has +1.20 +1.72: kl_pool_corrected +1.20 +1.74, xe_kl
+0.84 +1.41; mixup, targets mixed like the images, -2.09 -1.64 with alpha=1 and -0.17 +0.18 with
0.2. From tiny_resnet_wide, 10 epochs at 0.1 and temperature 2:

                                          tiny_vit      tiny_convnext  tiny_mixer   tiny_resnet_gn
  kl_pool                                 +0.96 +1.03   +0.51 +0.52    +0.38 +0.36   +0.14 +0.42
  cutmix, all models asked on the mix     +0.67 +0.98                                -0.22 +0.11
  a pool divided by what the student
      alone would weigh                   +0.76 +0.83                                +0.15 +0.40
  a soft partition (softmax of the
      log-odds of the label as weights)                 +0.43 +0.40    +0.12 +0.04

A router that predicts which model is right from both models' log-odds, margins and classes, fitted
on half of 12,000 tune images: its choice beats the larger maximum probability by 0.44 points in the
median over the 72 pairs, the pool does by 0.78. Other pools, fitted on 6,000 tune images, by their
own accuracy on 6,000 others against one weight per model, over 18 pairs: weights per class, shrunk
to these, -0.03 to -0.13 in the median, weights by the models' margins +0.02, a bias per class
-0.05, a mixture of probabilities -0.63.

Less churn: kl_pool_hold adds `hold` times the variance of the changes of the ten largest logits
(ktjax.losses.drift, after ELODI). From tiny_resnet_wide, 10 epochs at 0.1, seed 1, on tune and
validation by the final weights, and what the exports gain and lose of validation, in points:

  hold    tiny_mixer                            tiny_convnext
  0       +0.38 +0.36   gain 2.03, loss 1.66    +0.51 +0.52   gain 2.11, loss 1.64
  0.05    +0.47 +0.46        1.84       1.42    +0.60 +0.59        1.84       1.25
  0.1     +0.46 +0.41        1.73       1.27
  0.3     +0.47 +0.36        1.63       1.27    +0.51 +0.46        1.23       0.79

(Learning rate 0.3: tiny_mixer +0.37 +0.24 with hold 0.3, +0.23 +0.13 with 1; its 40 epochs with
hold 0.1: +0.70 +0.89, against +0.67 +1.01 without.) Eight of the drawn pairs, hold 0.1, by the
final weights: +0.21 in the mean, +0.14 without; exported +0.16 and +0.23. Fewer answers become
wrong, at 0.3 half to three quarters as many, and fewer become right; accuracy gains about the same.
It is for where every new error costs, and so the entry in configs/study.py has 0.3.
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    paper.check_arg(arg)
    given = "objectives=kl_pool,controls=xe_self"
    config = study.get_config(",".join(filter(None, (given, arg))))
    if config.data.startswith("glyphs"):
        config.objectives.kl_pool.learning_rate = 0.3
    for entry in config.controls.values():
        if "temperature" in entry:
            entry.temperature = config.objectives.kl_pool.temperature
    config.total_epochs *= 4  # 40: patience
    config.eval_every_epochs *= 2  # 10
    config.views = 16
    config.export = "no_regret"
    return config
