"""The experiments of the paper, one file each: another config plus what the experiment changes.

Each gives the paper's claims and numbers, the command for ImageNet, and that for the embedded zoo.
What they share is here.
"""

import ml_collections


def as_published(config: ml_collections.ConfigDict) -> None:
    """The paper's protocol (section 5, appendix), for ImageNet models and images.

    20 epochs of a tenth of the images, SGD at 1e-4 per 256 samples for every objective and pair
    except slow weights (1e-2), and BatchNorm with batch statistics, as the authors train.
    """
    for name, entry in config.objectives.items():
        entry.learning_rate = 1e-2 if name in config.mcl else 1e-4
    config.total_epochs = 20.0
    config.batch_size = 64
    config.optimizer = "sgd"
    config.schedule = "constant"
    config.warmup = 0.0
    config.weight_decay = 1e-4
    config.clip_norm = None
    config.batch_norm = "train"
    config.export = "last"


def check_arg(arg: str | None) -> None:
    """Raises ValueError if the argument names objectives: an experiment has its own."""
    names = [part.partition("=")[0] for part in (arg or "").split(",")]
    if "objectives" in names:
        raise ValueError(
            "Config argument 'objectives': this experiment has its own. For others there is "
            "--config=study:objectives=..."
        )
