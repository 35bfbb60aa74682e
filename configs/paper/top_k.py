"""Appendix: KL over only the k most probable classes.

The paper uses 100 of ImageNet's 1,000 classes when it combines XE-KL with slow weights, and tests
how few are enough. Here they are the target's, whichever model provides it; top_k_of=teacher in the
config always takes the teacher's, as the authors do.

  ktjax --config=paper/top_k:students=A+B,teachers=C+D,data=imagenet2012 --workdir=W

and on the embedded zoo, with 2, 5 and 20 of 100 classes:

  ktjax --config=paper/top_k --workdir=W
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
    config = study.get_config(",".join(filter(None, ("objectives=kl_dp", arg))))
    with config.unlocked():
        for k in (2, 5, 20) if config.data == "glyphs" else (10, 100):
            entry = config.objectives.kl_dp.copy_and_resolve_references()
            entry.top_k = k  # of the target
            config.objectives[f"kl_dp_top_{k}"] = entry
        if config.data == "imagenet2012":
            paper.as_published(config)
    return config
