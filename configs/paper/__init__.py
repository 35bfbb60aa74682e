"""The experiments of the paper, a file each: another config with what the experiment changes.

Each says what the paper claims and publishes, the command for ImageNet, and that for the embedded
zoo. What is in common is here.
"""

import ml_collections


def as_published(config: ml_collections.ConfigDict) -> None:
    """The protocol of the paper (section 5, appendix), for models and images of ImageNet.

    20 epochs of a tenth of the images, SGD at 1e-4 per 256 samples for every objective and pair,
    but for the slow weights' 1e-2, and BatchNorm on the batch's statistics, as the authors train.
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
