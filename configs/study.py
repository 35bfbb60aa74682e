"""How often a transfer helps, and by how much: all pairs of a zoo (paper section 5.1).

  ktjax --config=study --workdir=/tmp/study

runs the embedded zoo, students x teachers x objectives x seeds, each run in its own folder, and
combines these into one table, pairs.csv, with results.json and report.html: the success rate per
student and its median, the mean change, net of controls without a teacher, and what the intervals
support. A part of it, in a few minutes:

  ktjax --workdir=/tmp/study --config=study:students=glyphs/tiny_mlp_narrow+glyphs/tiny_mlp,\
teachers=glyphs/tiny_mixer+glyphs/tiny_vit,objectives=kl_dp+xe,runlocal

The same command resumes. Lists may grow: with one more student, teacher, objective or seed it runs
only what is new, and a finished run keeps its row, except for `net` if a new learning rate has
brought a better control. Any number of processes may work in one workdir, on one machine or on many
that share its disk, now or later: each run has a lease (ktjax.experiment.lease, which says what
holds on NFS and in buckets), and a process that dies is replaced.

  ktjax --config=study --workdir=W --config.processes=2                     on 2 cores, no GPU
  ktjax --config=study --workdir=W --config.shard=$SLURM_ARRAY_TASK_ID/8    of a SLURM array
  ktjax --config=study --workdir=W --config.engine=ray                      pip install ktjax[study]
  ktjax --config=study --workdir=W --config.only_failed                     failed runs, again

A shard does its part and exits; a start without one does what is left and completes the table.

Without a GPU, one process per core is 1.7 times as fast as one on both, for the zoo (2 CPU cores,
jax 0.10.2, steps per second at batch size 64): resnet_narrow 1.6, mixer 1.4, convnext 1.5,
resnet_gn 1.6, resnet 2.0, vit 1.5, resnet_wide 1.7.

The learning rates, per 256 samples, are those of configs/showcase.py, one per objective, none
specific to a pair; xe_kl uses that of kl. With other images each run tries config.learning_rates
and keeps the best on tune, and so do the controls: four trainings instead of one.

The paper's method over the zoo, with settings chosen in advance: all pairs, seed 1, 10 epochs, 4
views, kl_dp and the controls xe and xe_self at 0.1, config.export=no_regret, where last_delta is
the change by the final weights:

  ktjax --workdir=W --config=study:objectives=kl_dp,controls=xe+xe_self --config.processes=2 \
      --config.views=4 --config.export=no_regret --config.keep=none

Run in two parts, six students in an hour and a half on 2 CPU cores and three in two hours and a
quarter beside other work (their rows: .github/results/zoo_kl_dp_3_students.csv). On validation, in
points:

                      weights at the end                   exported                       xe_self
                      improved  mean   worst  best    improved  abstained  mean   best    at the end
  tiny_mlp_narrow      8 of  8  +0.30  +0.06  +0.54       2         6      +0.07  +0.33      +0.17
  tiny_mlp             5 of  8  +0.14  -0.24  +0.46       5         3      +0.19  +0.36      -0.03
  tiny_resnet_narrow   7 of  8  +0.57  -0.07  +0.97       5         3      +0.52  +0.97      +0.61
  tiny_mixer           4 of  8  -0.03  -0.23  +0.12       6         2      +0.14  +0.26      -0.12
  tiny_convnext        8 of  8  +0.22  +0.16  +0.36       4         4      +0.15  +0.36      +0.01
  tiny_resnet_gn       6 of  8  +0.10  -0.06  +0.24       4         4      +0.09  +0.21      +0.05
  tiny_vit             8 of  8  +0.42  +0.09  +0.69       8         0      +0.45  +0.74      +0.19
  tiny_resnet          8 of  8  +0.24  +0.11  +0.41       7         1      +0.18  +0.33      +0.19
  tiny_resnet_wide     8 of  8  +0.25  +0.11  +0.36       6         2      +0.21  +0.34      -0.08
  all                 62 of 72  +0.25  -0.24  +0.97      47        25      +0.22  +0.97

With their final weights 86 % of the pairs improve, slightly, and 100 % in the median over students
(the paper: 73.8 and 92.5 %); of the pairs with convolutional students 37 of 40. No export loses: 47
improve (5 of 48 and 7 of 24 significantly, by Holm's test of each part), 25 abstain, 18 of which
would have improved (by less than the 0.3 that the test detects). Of the first part's 26 exports 21
are not the final weights but 25 to 75 % of the way there: gain and loss 1.25 and 1.01 %, where the
final weights have 2.12 and 2.08 on tune: loss is halved, and 59 % of the gain remains. Of the
second part's 21 eleven are the mean of the last half of training, with gain 1.47 and loss 1.20 %.
Net of the controls, which use the same export, +0.13 on average: +0.09 [-0.01, +0.19] and +0.21
[-0.37, +0.80] (by student +0.45, -0.02, +0.21). tiny_resnet_narrow and tiny_resnet gain as much
without a teacher.

Temperature. At 1, a pool or a partition says little beyond the top class on images that all models
were trained on. With seed 1 and 4 views, change on tune and on validation, by temperature:

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
13,696 parameters, less. A pool divided by the weight that the initial student has alone, so that a
target without a teacher would be its own logits: tiny_vit +0.76 +0.83, tiny_resnet_gn +0.15 +0.40:
no better.

On models of the second zoo (configs/pretrain.py), on which nothing was tuned, the same 10 epochs
with config.export=no_regret and seed 1: change on validation, and what the final weights would have
given:

  tiny_convnext <- tiny_resnet_wide   kl_pool        +0.77 +- 0.14   last +0.77
                                      kl_dp          +0.29 +- 0.12   last -0.06
                                      xe_self        abstains        last -0.13

The pool at temperature 2 under the settings of the table above, all 72 pairs (rows:
.github/results/zoo_kl_pool_72_pairs.csv; under three hours on 2 CPU cores beside other work):

  ktjax --workdir=W --config=study:objectives=kl_pool,controls=xe_self --config.processes=2 \
      --config.controls.xe_self.temperature=2.0 --config.views=4 --config.export=no_regret \
      --config.keep=none

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
for all students but the smallest convolutional one. Ten epochs at this rate are too few for the
MLPs (40 at 1.0: below). The confidence ensemble ranks a student's teachers as the transfers do:
rank correlation 0.64 to 0.95 for the seven, median 0.86, but 0.24 and -0.24 for the MLPs, which
learn little here (kl_dp, for three students: 0.50, 0.62, 0.75). That is of its accuracy on
validation; on tune, which is known before, -0.30 to 0.95, median 0.76 over all nine, 0.90 over the
seven. The teacher's own accuracy on tune does as well: 0.86 and 0.87.

Beside what was hoped for (seed 1; all 72 pairs in 10 epochs, and the 18 drawn ones in 40, below):

                                                hoped for   72 pairs, 10 epochs    18 pairs, 40
  exports that improved, of those that do not
      abstain                                   97 %        98 % (51 of 52)        100 % (14 of 14)
      of convolutional students                 95 %        97 % (31 of 32)        100 % (8 of 8)
  harmed pairs (Holm)                           none        none                   none
  abstentions                                   few         20 of 72               4 of 18
  mean net of the control                       +0.6        +0.29                  +0.65
  pairs with a positive net                     90 %        71 %                   72 %
  share of the headroom, median, weaker /
      stronger                                  100 / 20 %  34 / 3 %               43 / 9 %
  lost for what is gained                       42 %        75 % (1.27, 0.95)      71 % (4.02, 2.87)

(Hoped for: the loss halved, from 85 % of the gain.) What helps further costs more: 40 epochs for
the MLPs give them +0.9 net, eight teachers at once give the others +0.57 (configs/paper/
several_teachers.py). And so do more epochs and more views for the others. From tiny_resnet_wide,
seed 1, tune and validation by the final weights:

                      10 epochs at 0.1   20 at 0.3, 16 views   40 at 0.3: 4 views    16 views
  tiny_mixer             +0.38 +0.36         +0.58 +0.94         +0.67 +1.01       +0.92 +1.31
  tiny_convnext          +0.51 +0.52                             +0.97 +1.11

So the drawn pairs (configs/paper/success.py), with 40 epochs at 0.3 and 16 views, seed 1, chosen
before they were run but for tiny_mixer from tiny_resnet_wide (40,000 steps and 2 million stored
answers a run: 5 to 25 minutes, 1 to 2 for the MLPs, on one core beside other work; rows:
.github/results/zoo_kl_pool_40_epochs_18_pairs.csv):

  ktjax --workdir=W --config=study:pairs=18,objectives=kl_pool,controls=xe_self \
      --config.processes=2 --config.objectives.kl_pool.learning_rate=0.3 \
      --config.controls.xe_self.temperature=2.0 --config.total_epochs=40.0 \
      --config.eval_every_epochs=40.0 --config.views=16 --config.export=no_regret \
      --config.keep=none

                     40 epochs: at the end   exported  net      xe_self   10 epochs: exported  net
  tiny_mlp_narrow       +1.86                +1.86    +1.21      +0.65          0.00           0.00
  tiny_mlp              +2.14                +2.14    +1.54      +0.59         +0.28          +0.28
  tiny_resnet_narrow    +1.03                +1.03    +0.63      +0.39          0.00          -0.27
  tiny_mixer            +0.75                +0.66    +0.66      +0.31         +0.34          +0.34
  tiny_convnext         +0.53                +0.33    +0.33      +0.12         +0.32          +0.32
  tiny_vit (three)      +0.54                +0.34    +0.34      +0.06         +0.40          +0.40
  tiny_resnet_gn        +0.64                +0.66    +0.52      +0.12         +0.27          +0.27
  tiny_resnet (one)     +0.08                +0.08    -0.30      +0.33         +0.02          +0.02
  tiny_resnet_wide      +0.80                +0.82    +0.56      +0.05         +0.57          +0.57
  mean of 18 pairs      +0.96                +0.90    +0.65                    +0.27          +0.24

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

Three seeds, the 18 drawn pairs of configs/paper/success.py, chosen before they were run (rows:
.github/results/zoo_kl_pool_18_pairs_3_seeds.csv): ten epochs, the command of the 72 pairs with
pairs=18,seeds=1+2+3. No export is worse with any seed; 36 of 54 runs improve, 18 abstain.

                      weights at the end, by seed              exported    net      control
  mean of 18 pairs    +0.28  +0.34  +0.33, mean +0.32          +0.29      +0.24   abstains, but for
  improved pairs      15 of 18 in the mean, 9 of 9 with        14 of 18           tiny_resnet_narrow
                      convolutional students                                      and tiny_resnet

The standard deviation over seeds is 0.10 points for a pair's final weights, 0.12 for its export
(which may abstain); errors over the validation images are 0.12 to 0.17. Delta [+0.14, +0.44], net
[+0.02, +0.46]. So seeds change little: tiny_resnet_wide gains 0.93 from tiny_resnet_gn (0.82, 1.04,
0.93), tiny_vit 0.79 from tiny_convnext (0.78, 0.81, 0.77), tiny_mlp_narrow never.

Both MLPs from their eight teachers, with pools at temperature 2, one seed:

  ktjax --workdir=W --config=study:students=glyphs/tiny_mlp+glyphs/tiny_mlp_narrow,\
objectives=kl_pool,controls=xe_self --config.objectives.kl_pool.learning_rate=1.0 \
      --config.controls.xe_self.temperature=2.0 --config.total_epochs=40.0 \
      --config.eval_every_epochs=40.0 --config.views=4 --config.export=no_regret \
      --config.steps_per_dispatch=10

                      improved  abstained  mean   worst  best   xe_self  net
  tiny_mlp_narrow      8 of 8      0       +1.89  +1.61  +2.38   +1.00   +0.89
  tiny_mlp             7 of 8      1       +1.96   0.00  +2.59   +0.98   +0.98

All 15 that do not abstain are significantly better (Holm); the one that does has the only weaker
teacher. Temperature 1 gave 15 of 16, too, but a mean of +1.29 and, net of xe_self, +0.20; xe and
self_pool abstained. (Intervals clustered by two students say nothing.)

What follows uses temperature 1. For one student, tiny_mlp (61.5 %), from the eight others, with
seed 1, config.views=4 and config.steps_per_dispatch=10, 35 seconds per run on 2 CPU cores
(intervals are clustered by teacher; the control chosen on tune is xe_self at 0.03, -0.04 on
validation):

                      improved  mean change           net                   best   worst
  kl                    6 of 8  -0.23 [-1.26, +0.79]  -0.20 [-1.22, +0.83]  +0.37  -3.24
  kl_dp                 5 of 8  +0.14 [-0.06, +0.35]  +0.18 [-0.02, +0.38]  +0.46  -0.24
  kl_dp_unsupervised    6 of 8  +0.19 [+0.06, +0.33]  +0.23 [+0.10, +0.37]  +0.38  -0.06
  kl_pool               6 of 8  +0.21 [-0.01, +0.43]  +0.25 [+0.03, +0.47]  +0.52  -0.19

Seven of the eight teachers are better than this student by 12 to 24 points, and give 0.2 points,
1 % of the headroom; kl loses more from the eighth, which is weaker, than it gains from the others.

Longer training helps more than the objective does. From tiny_mixer (79.1 %), seed 1,
config.views=4, the change in points on tune and on validation, by epochs and learning rate:

              10: 0.1       0.3          1.0           40: 0.1       0.3          1.0
  kl_pool     +0.07 +0.44  -0.40 -0.06  -1.91 -1.07    +0.58 +0.83  +1.03 +1.48  +1.20 +1.72
  kl                                                                +0.95 +1.37  +1.01 +1.72
  kl_dp                    -0.39 -0.04                                           +1.08 +1.70
  xe_self                                              +0.19 +0.02  +0.45 +0.31  +0.64 +0.99
  xe                                                                -0.22 -0.18
  self_pool                                            -0.03 -0.08  -0.08 -0.05  -0.03 +0.08

(AdamW, kl_pool, 10 epochs: +0.15 +0.52 at 0.001, +0.22 +0.47 at 0.003, -0.47 -0.19 at 0.01.) The
learning rate that is best at 10 epochs is wrong at 40. And half of what the teacher seems to give,
the student gains alone at the same rate and length: net of xe_self it is +0.6 on tune and +0.7 on
validation. From the weaker tiny_mlp_narrow, 40 epochs at 1.0: kl_pool -0.11 +0.17, kl_dp -0.09
+0.13.

Even longer, with more views: 120 epochs at 1.0, config.views=16, seed 1, tiny_mlp, 7 to 10 minutes
per run alongside other work, tune and validation:

  kl_pool from tiny_mixer +3.93 +4.37, tiny_vit +3.83 +3.88, tiny_mlp_narrow (weaker) +0.09 +0.19
  xe_self                 +1.76 +1.86

so the teacher's share grows with training: from +0.7 (40 epochs, 4 views) to +2.5 points net of the
control.

Tried with 40 epochs at 1.0 and not better than kl_pool's +1.20 +1.72 from tiny_mixer:
kl_pool_corrected +1.20 +1.74, xe_kl +0.84 +1.41 (from tiny_resnet_wide +0.45 +1.08, -0.45 +0.19).
Mixup, which this package does not have (targets mixed like the images): -2.09 -1.64 with alpha=1
and -0.17 +0.18 with 0.2. Cutmix, with student, teacher and initial student asked on the mixed
image, from tiny_resnet_wide at temperature 2, 10 epochs at 0.1: tiny_vit +0.67 +0.98 (without +0.96
+1.03), tiny_resnet_gn -0.22 +0.11 (+0.14 +0.42). A router that predicts which model is right from
both models' log-odds, margins and classes, fitted on half of 12,000 tune images: its choice beats
the larger maximum probability by 0.44 points in the median over the 72 pairs, the pool does by
0.78: so the pool is here and the router is not. Other pools, fitted on 6,000 tune images and
evaluated on 6,000 others, over 18 pairs, in points of their own accuracy against one weight per
model: weights per class, shrunk to these, -0.03 to -0.13 in the median, weights by the models'
margins +0.02, a bias per class -0.05, a mixture of probabilities -0.63: so a pool has one weight
per model.

A soft partition (logits weighted by softmax of the log-odds of the label, temperature 2), from
tiny_resnet_wide, 10 epochs at 0.1: tiny_mixer +0.12 +0.04, tiny_convnext +0.43 +0.40: not better
than the pool (+0.38 +0.36, +0.51 +0.52).

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
final weights: +0.21 in the mean, +0.14 without; exported +0.16 and +0.23. So under a hold fewer
answers change: fewer become wrong, at 0.3 half to three quarters as many, and fewer become right;
accuracy gains about the same. It is for where every new error costs, and so the entry has 0.3.

A convolutional student, tiny_resnet_narrow from tiny_mixer, 20 epochs: kl_pool +0.48 +0.52 at 0.1,
+0.11 +0.20 at 0.5; xe_self +0.47 +0.71, +0.12 +0.26: none of it comes from the teacher.

A store pays off: five objectives from the eight others to tiny_mlp, one epoch, config.keep=none, in
one go on 2 CPU cores (alongside other work, more of it in the second half), including evaluation:
234 s with config.targets=stored, which first computes one view of nine models, and 656 s with live.
All 100 logits are stored as float32; ktjax.targets has the size of the largest alone.

An estimate: 466 students x 466 teachers on ImageNet, one objective, the paper's 128,117 images and
20 epochs, with a GPU that processes 1,000 images per second in training an average model and 3,000
in inference (an assumption; use what `python -m ktjax.bench` or a first run reports for yours):

  stores            466 of 0.48 GB (top-16, and all logits on tune and validation): 222 GB, against
                    4,900 GB of all logits. Inference on 1.2 billion images: 110 GPU hours, once for
                    all pairs, objectives and seeds
  216,690 pairs     154,000 GPU hours of training; run live, teacher and initial student would take
                    103,000 more, again for every objective
  compiled steps    466 instead of 216,690: at a minute each 8 GPU hours instead of 3,600

so a study of this size should use `pairs=400`: 285 GPU hours, and 110 for all stores.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, objectives, seeds, controls, data, pairs, runlocal."""
    arg = config_lib.parse_arg(
        arg,
        students=(),
        teachers=(),
        objectives=("kl", "xe_kl", "kl_dp", "kl_dp_unsupervised"),
        seeds=(1,),
        controls=("xe", "xe_self", "self"),
        data="glyphs",
        pairs=0,
        runlocal=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "study"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them; zoo:glyphs is the whole embedded zoo. A
    # model does not teach itself. None: that zoo for glyphs; else students must be named, and are
    # each other's teachers.
    config.students = config_dict.placeholder(tuple)
    config.teachers = config_dict.placeholder(tuple)
    config.update({k: arg[k] for k in ("students", "teachers") if arg[k]})
    # How many pairs to draw from them, with pairs_seed (pairs=18). None: all.
    config.pairs = config_dict.placeholder(int)
    config.pairs_seed = 0
    # Of data order and views, one run each. The zoo was trained on the views of seed 0.
    config.seeds = tuple(arg.seeds)

    def kl(temperature: float = 1.0) -> dict[str, Any]:
        return dict(temperature=temperature, top_k=config_dict.placeholder(int), standardized=False)

    def tuned(rate: float) -> Any:
        found = config_dict.placeholder(float)
        if arg.data.startswith("glyphs"):
            found.set(rate)
        return found

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples: for glyphs the tuned
    # one, else None: the best of config.learning_rates on tune. An objective without a teacher runs
    # once per student and seed.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    xe = dict(label_smoothing=0.0)
    soft = 2.0  # the temperature of pools, to show more of improbable classes: see the docstring
    objectives = {
        "xe": dict(objective="xe", learning_rate=tuned(0.1), **xe),
        "xe_self": dict(objective="xe_self", learning_rate=tuned(0.1), alpha=0.5, **xe, **kl()),
        "kl": dict(objective="kl", learning_rate=tuned(0.01), **every, **kl()),
        "xe_kl": dict(
            objective="xe_kl", learning_rate=tuned(0.01), alpha=0.5, **every, **xe, **kl()
        ),
        "hinton": dict(objective="hinton", learning_rate=tuned(0.01), **every, **kl()),
        "kl_dp": dict(objective="kl_dp", learning_rate=tuned(0.1), **dp, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=tuned(0.03), **dp, **kl()
        ),
        "kl_dp_corrected": dict(
            objective="kl_dp_corrected", learning_rate=tuned(0.1), lead=0.2, **dp, **kl()
        ),
        "kl_pool": dict(objective="kl_pool", learning_rate=tuned(0.1), hold=0.0, **kl(soft)),
        # The same, and holding on to the initial student's largest logits (ktjax.losses.drift).
        "kl_pool_hold": dict(objective="kl_pool", learning_rate=tuned(0.1), hold=0.3, **kl(soft)),
        "kl_pool_corrected": dict(
            objective="kl_pool_corrected", learning_rate=tuned(0.1), lead=0.2, **kl(soft)
        ),
    }
    for name in arg.objectives:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in arg.objectives}  # from those above
    # Baselines for pairs: the same training without a teacher, run for every student, seed and
    # learning rate of the objectives above, and shared by all pairs of a student. net subtracts the
    # control that gained most on tune, or none. controls=xe+self picks from these.
    controls = {
        "xe": dict(objective="xe", **xe),  # labels only
        "xe_self": dict(objective="xe_self", alpha=0.5, **xe, **kl()),  # alpha: student's weight
        "self": dict(objective="self", **kl()),  # no teacher; only if training changes answers
        # The calibrated initial student; and the same, corrected so that the label leads.
        "self_pool": dict(objective="self_pool", **kl(soft)),
        "self_corrected": dict(objective="self_corrected", lead=0.2, **kl(soft)),
    }
    for name in arg.controls:
        config_lib.check_choice("controls", name, tuple(controls))
    config.controls = {name: controls[name] for name in arg.controls}  # from those above
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune. None: the paper's 1e-4 for ImageNet, 0.1 for
    # glyphs, and 0.001, 0.01, 0.1 and 1 for other data, where no good rate is known.
    config.learning_rates = config_dict.placeholder(tuple)
    # Slow weights, by objective name: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # partitions and ensembles.
    config.calibrate = False

    config.data = arg.data  # one of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set to take tune and validation from; unlabeled pools need one. None: the data's own.
    config.eval_data = config_dict.placeholder(str)
    # Also evaluate on these of ktjax.data.robustness.SETS, if the classes are ImageNet's.
    config.robustness = ()
    # Share of each class of train held out as tune if the data set has none. None: 0.01 for
    # ImageNet, else 0.1.
    config.minival = config_dict.placeholder(float)
    # Share of each class of train to use. None: a tenth for ImageNet, as in the paper, else 1.
    config.train_fraction = config_dict.placeholder(float)
    config.subset_seed = 1234  # of that subset
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    # skip: check every image first and leave out the bad ones; pad: fill in truncated ones, as
    # Pillow does.
    config.on_bad_image = "error"
    # Match models' classes to the data's by name. position: unnamed classes are the data's, in
    # order.
    config.classes = "names"
    # Prompts for zeroshot:NAME, with {} for the class name; their embeddings are averaged.
    config.templates = ("a photo of a {}.",)

    # All models of all pairs share one batch, so that adding a model changes no view: side in
    # pixels, center-crop fraction and resize filter. None: 24, 1 and bilinear for glyphs, else 224,
    # 0.875 and bicubic.
    config.image_size = config_dict.placeholder(int)
    config.crop_pct = config_dict.placeholder(float)
    config.interpolation = config_dict.placeholder(str)
    config.upright = False  # apply EXIF orientation; timm, and so its models, do not
    # Also measure each model's accuracy with its own transform, not only on the shared batch: one
    # more pass over validation for every model whose transform differs.
    config.own_transform = False
    # Smallest and largest area of a random crop, as a share of the image. None: no random crops.
    config.crop_scale = config_dict.placeholder(tuple)
    # Keep a decoded split in host memory if it is no larger than this (never when crops are
    # random), and a model's stored answers on the devices; if these are larger, only the current
    # view.
    config.cache_gb = 2.0
    config.decode_threads = 16  # per decoding process
    config.decode_processes = 0  # that decode for training; 0: the job's own process does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)
    # Answers of frozen models. live: computed in every step; stored: computed once for all runs.
    config.targets = "stored"
    # Where to keep stored answers, for this and other studies. None: in the workdir.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits to store, plus what ktjax.targets keeps of the others. None:
    # all. ktjax.objectives.OBJECTIVES says which objectives this works for.
    config.store_top_k = config_dict.placeholder(int)
    # Further (temperature, standardized) that such a store must serve, for other runs that share
    # it, such as ((4.0, False),). All objectives of the study are served in any case.
    config.store_softenings = ()
    # Number of views of an image, which epochs cycle through. None: every epoch has its own. Fewer
    # are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 10.0  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 500  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.0  # see ktjax.optim; it differs by optimizer
    config.clip_norm = 1.0  # of the gradient; None: no clipping

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models too large for one device
    config.microbatches = 1  # gradient accumulation over parts of a batch: less memory, more time
    config.remat = False  # recompute activations instead of keeping them: likewise
    # More for students without convolutions, which wait for the host: on a CPU, 10 doubles the
    # speed of an MLP but makes convolutions four times as slow.
    config.steps_per_dispatch = 1
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: batch statistics; frozen: running statistics
    # Stochastic depth of the student: the rate at its last block. None: as its checkpoint was
    # trained, if model_args in its config.json says so, else 0.
    config.drop_path_rate = config_dict.placeholder(float)
    # What to export. last: the final weights; best: the checkpoint that was best on tune;
    # no_regret: the best on tune of these, the mean over the last half of training, and
    # interpolations between old and new weights, if a test on separate images (split accept, or
    # else half of tune) shows that it improved. Otherwise the student stays as it was: the run
    # abstains.
    config.export = "last"

    # How to launch the study. None of the following affects the results, and each may change.
    # Exported students to keep. all; best: for each student, the one that gained most on tune;
    # none.
    config.keep = "best"
    config.engine = "local"  # this machine; or ray
    # With local: number of processes, each on its share of the cores. On a CPU, one per core.
    config.processes = 1
    # i/n: this process does part i of n, counted from 0, of the runs. None: all.
    config.shard = config_dict.placeholder(str)
    config.only_failed = False  # rerun those that failed, and nothing else
    # Seconds without a heartbeat after which the process of a run is considered dead. On its own
    # machine this is detected at once.
    config.lease_expiry = 120.0
    # Resources of a Ray task, which does the runs of one student, and how often to retry it if a
    # worker dies. RAY_ADDRESS names a cluster; without it, one is started here.
    config.ray = dict(cpus=1.0, gpus=0.0, retries=3)

    if arg.pairs:
        config.pairs = arg.pairs
    if arg.runlocal:
        if arg.data.startswith("glyphs"):
            config.students = arg.students or ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mlp")
            config.teachers = arg.teachers or ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mixer")
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
