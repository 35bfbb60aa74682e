"""Table 3: three teachers, one after another, at once, or as a soup.

The paper: one after another gains most, and more than the best single teacher; a soup of the
students of single teachers gains least.

  ktjax --config=paper/several_teachers:student=A,teachers=B+C+D,data=imagenet2012 --workdir=W

and on the embedded zoo; likewise with strategy=parallel, soup and single:

  ktjax --config=paper/several_teachers:strategy=sequential --workdir=W
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
            for field in ("schedule", "warmup", "weight_decay", "clip_norm", "targets"):
                config[field] = ours[field]
    return config
