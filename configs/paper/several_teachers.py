"""Table 3: three teachers, one after another, at once, or as a soup.

The paper: one after another gains most, more than the best single teacher; a soup of single-teacher
students gains least.

  ktjax --config=paper/several_teachers:student=A,teachers=B+C+D,data=imagenet2012 --workdir=W

and on the embedded zoo; likewise with strategy=parallel, soup and single:

  ktjax --config=paper/several_teachers:strategy=sequential,controls=xe_self --workdir=W \
      --config.total_epochs=10.0 --config.views=4 --config.steps_per_dispatch=10

which gave (seed 1, change of tiny_mlp on validation in points, and net of equally long xe_self;
84 to 189 seconds each on 2 CPU cores):

  single      tiny_resnet_narrow +0.46 +- 0.20   tiny_mixer +0.33 +- 0.18   tiny_vit 0.00 +- 0.18
  sequential  +0.30 +- 0.22  net +0.30   after each teacher +0.46, +0.54, +0.30
  parallel    +0.03 +- 0.18  net +0.05
  soup        +0.46 +- 0.18

Here one after another gains no more than the best single teacher: the third, which alone teaches
nothing in so few epochs, undoes part of the gain. The soup is as good as the best.

All eight others of the zoo at once, by a pool at temperature 2, with the settings of the studies of
kl_pool in configs/pools.py (10 epochs at 0.1, the MLPs 40 at 1.0; 4 views; seed 1), for instance

  ktjax --workdir=W --config=transfer:student=glyphs/tiny_vit,strategy=parallel,controls=,\
objectives=kl_pool,teachers=glyphs/tiny_mlp_narrow+glyphs/tiny_mlp+glyphs/tiny_resnet_narrow\
+glyphs/tiny_mixer+glyphs/tiny_resnet_gn+glyphs/tiny_resnet+glyphs/tiny_convnext\
+glyphs/tiny_resnet_wide --config.objectives.kl_pool.learning_rate=0.1 \
      --config.total_epochs=10.0 --config.eval_every_epochs=5.0 --config.weight_decay=0.0 \
      --config.targets=stored --config.views=4

gave the following changes on validation (2 to 5 minutes each, with stored targets as fast as one
teacher), beside those of the eight pairs: the teacher that the confidence ensemble names first
(last), the best of all in hindsight, and their mean.

                      exported   last    one teacher:  named first   best    mean (exported)
  tiny_mlp_narrow      +1.67   +1.67                             +2.38    +1.89
  tiny_mlp             +2.01   +2.01                             +2.59    +1.96
  tiny_resnet_narrow    0.00   +0.62                   +0.47     +0.78    +0.21
  tiny_mixer           +0.48   +0.29                   +0.36     +0.72    +0.33
  tiny_convnext        +0.61   +0.61                   +0.52     +0.71    +0.34
  tiny_resnet_gn       +0.46   +0.39                   +0.42     +0.42    +0.25
  tiny_resnet          +0.42   +0.42                   +0.49     +0.49    +0.18
  tiny_vit             +1.18   +1.18                   +1.03     +1.03    +0.62
  tiny_resnet_wide     +1.08   +1.08                   +0.82     +0.96    +0.71

(errors 0.12 to 0.17, for the MLPs 0.3; rows: .github/results/zoo_eight_teachers.csv.) So all at
once gives about what the best single teacher gives, and nobody has to choose: the seven students
that are no MLPs gain +0.60 in the mean, +0.38 from one teacher, and net of xe_self (+0.26 for
tiny_resnet_narrow, else 0) +0.57. Three gain more than from any single teacher. One abstains
although its final weights improve: the test has seen too little of it.

Patiently, forty epochs at 0.3 with 16 views as in configs/pools.py, for the six students that were
tried, beside the single teachers there (of tiny_vit three):

                      exported   last    net     one teacher:  best   mean (exported)
  tiny_mlp_narrow      +1.74   +1.74   +1.09                  +1.99    +1.80
  tiny_mlp             +2.18   +2.18   +1.58                  +2.32    +1.84
  tiny_mixer           +1.64   +1.64   +1.64                  +1.31    +0.67
  tiny_convnext        +1.40   +1.40   +1.40                  +1.18    +0.63
  tiny_resnet_gn       +1.06   +1.06   +0.92                  +0.99    +0.42
  tiny_vit             +1.69   +1.69   +1.69                  +1.02    +0.34

(errors 0.18 to 0.27; rows in the same file.) So the better students learn more from all teachers at
once than from the best of them, in the same number of steps; both MLPs, about as much.
"""

import ml_collections

from ktjax.configs import paper, showcase, transfer


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: student, teachers, data, objectives, controls, strategy, order, runlocal."""
    given = "student=glyphs/tiny_mlp,objectives=kl_dp,strategy=sequential,order=ascending,"
    given += "data=glyphs,teachers=glyphs/tiny_resnet_narrow+glyphs/tiny_mixer+glyphs/tiny_vit"
    config = transfer.get_config(",".join(filter(None, (given, arg))))
    with config.unlocked():
        if config.data == "imagenet2012":
            paper.as_published(config)
        elif config.data == "glyphs":
            ours = showcase.get_config()  # its learning rates, schedule and stored targets
            for name, entry in config.objectives.items():
                known = name if name in ours.objectives else "kl"
                entry.learning_rate = ours.objectives[known].learning_rate
            for field in ("schedule", "warmup", "weight_decay", "clip_norm", "targets", "export"):
                config[field] = ours[field]
    return config
