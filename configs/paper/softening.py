"""Appendix: does softness help? Temperature and label smoothing against data partitioning.

Softer targets are the usual remedy when a teacher does harm; this tests whether they do what data
partitioning does.

  ktjax --config=paper/softening:students=A+B,teachers=C+D,data=imagenet2012 --workdir=W

and on the embedded zoo:

  ktjax --config=paper/softening --workdir=W
"""

import ml_collections

from ktjax.configs import paper, study


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, seeds, controls, data, pairs, runlocal."""
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
