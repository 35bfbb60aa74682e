"""The main job on the embedded data set: two pretrained classifiers in, a better one out.

  python -m ktjax.main --config=configs/quickstart.py --workdir=/tmp/ktjax

One student, a weaker and a stronger teacher, each transferred by plain KL distillation, by KL with
data partitioning, with and without labels, and from a pool of student and teacher, plus controls
without a teacher. Takes under three minutes on 2 CPU cores and ends with a table and a report.

It shows that everything works, and what 5 epochs give; configs/showcase.py has 20. All models were
trained to convergence on the same 64,000 images, and the transfer uses these again, in new views:
nothing is learned here that a label could not have taught before.

The learning rates, per 256 samples, are for each objective the best of three on tune, averaged over
both teachers, with seed 100; fixed before validation was read. Change on tune in points, from the
weaker and the stronger teacher (standard error 0.1; for kl from the weaker, 0.2):

                            0.01           0.03            0.1
  kl                 -2.66 +0.14    -4.06 +0.15    -6.06 -0.01
  kl_dp              +0.08 +0.19    +0.09 +0.29    -0.15 +0.05
  kl_dp_unsupervised -0.01 +0.20    -0.10 +0.24    -0.35 +0.11
  kl_pool            +0.00 -0.03    -0.07 +0.06    -0.16 +0.07
  xe (no teacher)          +0.06          +0.02          -0.41

kl_pool at temperature 2, which gains most in longer trainings (configs/pools.py), does not in 5
epochs (at 0.3: -0.36 -0.63): its softer targets change 2 % of the images for the better and as many
for the worse, even at 0.01.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: runlocal."""
    arg = config_lib.parse_arg(arg, runlocal=False)
    config = ml_collections.ConfigDict()
    config.job = "transfer"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them.
    config.student = "glyphs/tiny_mlp"
    config.teachers = ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mixer")
    config.strategy = "single"  # how to use several teachers: ktjax.jobs.transfer.plan.STRATEGIES
    config.order = "given"  # of teachers, if sequential: ktjax.jobs.transfer.plan.ORDERS
    config.soup_batch_norm = "average"  # for soups: average, as the authors do; or estimate
    # Of data order and views, one run each. The zoo was trained on the views of seed 0.
    config.seeds = (1,)

    def kl(temperature: float = 1.0) -> dict[str, Any]:
        return dict(temperature=temperature, top_k=config_dict.placeholder(int), standardized=False)

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    config.objectives = {
        "kl": dict(objective="kl", learning_rate=0.01, **every, **kl()),
        "kl_dp": dict(objective="kl_dp", learning_rate=0.03, **dp, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=0.01, **dp, **kl()
        ),
        "kl_pool": dict(objective="kl_pool", learning_rate=0.03, hold=0.0, **kl(2.0)),
    }
    # Baselines for a transfer: the same training without a teacher, run for every seed and every
    # learning rate above. net subtracts the control that gained most on tune, or none.
    config.controls = {
        "xe": dict(objective="xe", label_smoothing=0.0),  # labels only
        # Half the label, half the initial student.
        "xe_self": dict(objective="xe_self", alpha=0.5, label_smoothing=0.0, **kl()),
        "self": dict(objective="self", **kl()),  # no teacher; only if training changes answers
    }
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune.
    config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, by objective name: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # partitions and ensembles.
    config.calibrate = False

    config.data = "glyphs"  # glyphs, or folder:PATH
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
    # order; shared: use only those classes of the data that all models have.
    config.classes = "names"
    # Prompts for zeroshot:NAME, with {} for the class name; their embeddings are averaged.
    config.templates = ("a photo of a {}.",)

    # All models share one batch: side in pixels (None: 24 for glyphs), center-crop fraction and
    # resize filter. None: those of the model with the largest input; the other models resize.
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
    # Where to keep stored answers, for this and other runs. None: in memory, seed by seed.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits to store, plus what ktjax.targets keeps of the others. None:
    # all. ktjax.objectives.OBJECTIVES says which objectives this works for.
    config.store_top_k = config_dict.placeholder(int)
    # Further (temperature, standardized) that such a store must serve, for other runs that share
    # it, such as ((4.0, False),).
    config.store_softenings = ()
    # Number of views of an image, which epochs cycle through. None: every epoch has its own. Fewer
    # are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 5.0  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 2.5  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 250  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.0  # see ktjax.optim; it differs by optimizer
    config.clip_norm = 1.0  # of the gradient; None: no clipping

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models too large for one device
    config.microbatches = 1  # gradient accumulation over parts of a batch: less memory, more time
    config.remat = False  # recompute activations instead of keeping them: likewise
    config.steps_per_dispatch = 10  # more for small models, which wait for the host
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: batch statistics; frozen: running statistics
    # Stochastic depth of the student: the rate at its last block. None: as its checkpoint was
    # trained, if model_args in its config.json says so, else 0.
    config.drop_path_rate = config_dict.placeholder(float)
    # What to export. last: the final weights; best: the checkpoint that was best on tune;
    # no_regret: the best on tune of these, the mean over the last half of training, and
    # interpolations between old and new weights, if a test on separate images (split accept, a
    # folder beside train; or half of tune) shows that it improved. Otherwise the student stays as
    # it was: the run abstains.
    config.export = "last"

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
