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
