"""Transfers knowledge from one or more teachers to a student (paper sections 4 and 5).

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=glyphs/tiny_resnet,teachers=glyphs/tiny_vit

On your own images, one directory per class, with models that configs/pretrain.py has trained:

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=FOLDER,teachers=FOLDER+FOLDER,data=folder:PATH

The defaults follow the paper's protocol: SGD, constant learning rate, 20 epochs, temperature 1, the
same hyperparameters for every pair. configs/quickstart.py is tuned for the embedded zoo.
"""

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: student, teachers, data, objectives, strategy, runlocal."""
    arg = config_lib.parse_arg(
        arg,
        student="glyphs/tiny_resnet",
        teachers=("glyphs/tiny_vit",),
        data="glyphs",
        objectives=("kl", "kl_dp"),
        strategy="single",
        runlocal=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "transfer"  # ktjax.main.JOBS

    # Names or folders, as ktjax.load_model takes them.
    config.student = arg.student
    config.teachers = tuple(arg.teachers)
    config.strategy = arg.strategy  # single: each teacher alone; parallel: all at once
    # Of order and views, a run for each. The zoo was trained with seed 0, whose views it has seen.
    config.seeds = (1,)

    # What is minimised (ktjax.objectives.OBJECTIVES), and the learning rate per 256 samples.
    objectives = {
        "xe": dict(learning_rate=1e-4, label_smoothing=0.0),
        "self": dict(learning_rate=1e-4, temperature=1.0),
        "kl": dict(learning_rate=1e-4, temperature=1.0),
        "xe_kl": dict(learning_rate=1e-4, alpha=0.5, temperature=1.0, label_smoothing=0.0),
        "kl_dp": dict(learning_rate=1e-4, temperature=1.0),
        "kl_dp_unsupervised": dict(learning_rate=1e-4, temperature=1.0),
    }
    for name in arg.objectives:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in arg.objectives}

    config.data = arg.data  # glyphs, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    config.image_size = 24  # side in pixels of the uint8 images; each model resizes for itself
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    config.augment = "shift_colour"  # ktjax.data.augment.RECIPES
    # What frozen models say: live: asked in every step; stored: computed once for all runs.
    config.targets = "live"

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 20.0  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 1.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 50  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "constant"  # or cosine, to zero
    config.warmup = 0.0  # share of all steps
    config.weight_decay = 1e-4  # as ktjax.optim says, for each optimiser
    config.clip_norm = config_dict.placeholder(float)  # of the gradient; None: not clipped

    config.dtype = "float32"  # of training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: the batch's statistics; frozen: the running ones

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.log_every = 2
    return config
