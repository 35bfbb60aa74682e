"""Trains classifiers from labels, from scratch or from a checkpoint.

One model on a folder of images (one directory per class):

  python -m ktjax.main --config=configs/pretrain.py:model=tiny_resnet,data=folder:PATH --workdir=...

The embedded zoo, in half an hour on 2 CPU cores; its folders `models/*` are what the package ships
in ktjax/models/glyphs:

  python -m ktjax.main --config=configs/pretrain.py:zoo --workdir=/tmp/zoo
"""

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib

ZOO = (
    "tiny_mlp_narrow",
    "tiny_mlp",
    "tiny_mixer",
    "tiny_resnet_narrow",
    "tiny_resnet",
    "tiny_resnet_wide",
    "tiny_resnet_gn",
    "tiny_convnext",
    "tiny_vit",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: model, data, zoo, runlocal."""
    arg = config_lib.parse_arg(arg, model="tiny_resnet", data="glyphs", zoo=False, runlocal=False)
    config = ml_collections.ConfigDict()
    config.job = "pretrain"  # ktjax.main.JOBS

    # Architectures of ktjax.models.MODELS (from scratch), or pretrained models to go on from.
    config.models = ZOO if arg.zoo else (arg.model,)
    config.seed = 0  # of weights, order and views

    config.data = arg.data  # glyphs, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    config.image_size = 24  # side in pixels of the uint8 images; each model resizes for itself
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    config.augment = "shift_colour"  # ktjax.data.augment.RECIPES

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 80.0  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 100  # steps

    config.optimizer = "adamw"  # ktjax.optim.OPTIMIZERS
    config.learning_rate = 0.012  # per 256 samples
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.05  # as ktjax.optim says, for each optimiser
    config.clip_norm = 1.0  # of the gradient; None: not clipped
    config.label_smoothing = 0.0  # towards the uniform distribution

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models that fit on no device
    config.microbatches = 1  # parts of a batch, one after another: less memory, more time
    config.remat = False  # compute activations again rather than keep them: likewise
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # of training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "train"  # train: the batch's statistics; frozen: the running ones

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 1.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config
