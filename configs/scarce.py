"""Many images and few labels: what teachers add to what the few labels teach.

For anyone with trained models and a pile of photographs. A student learns on 32,000 new, unlabeled
images of the embedded data set, from teachers that were trained on other images:

  python -m ktjax.main --config=configs/scarce.py --workdir=/tmp/scarce

and, for comparison, the same student on 1,000 new labeled images, for as many steps without a
teacher:

  python -m ktjax.main --config=configs/scarce.py:few --workdir=/tmp/few

The learning rates, per 256 samples, are the best of these on tune, averaged over both teachers,
with seed 100; fixed before validation was read. Change on tune in points, from the weaker and the
stronger teacher (standard error 0.1; for kl from the weaker, 0.2); without a teacher on the few:

                            0.01           0.03            0.1
  kl                 -3.50 +0.38    -5.33 +0.45    -7.58 +0.25
  kl_dp_unsupervised +0.02 +0.43    -0.19 +0.58    -0.54 +0.35

                           0.001          0.003           0.01           0.03
  xe                       -1.28          -3.48          -8.63         -14.84
  xe_self                  -0.45          -1.35          -2.81          -3.69

Results on validation, with --config.seeds="(1,2,3)", in points (change, and net of self_pool, whose
target is the calibrated initial student: +0.04 +- 0.03; 2 CPU cores, jax 0.10.2, half a minute per
run):

                     weaker teacher                stronger teacher
  kl                 -3.40 +- 0.28  net -3.44      +0.57 +- 0.17  net +0.53
  kl_dp_unsupervised +0.05 +- 0.14  net +0.01      +0.43 +- 0.15  net +0.39

and without a teacher, on the few labels, xe -1.23 +- 0.21 and xe_self -0.52 +- 0.17: 1,000 labels,
seen 640 times, hurt a student that has seen 64,000, at any of these rates. Unlabeled images and one
stronger teacher give what no label here does; data partitioning makes the weaker teacher harmless,
and with the stronger one gains no more than distillation.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: few, runlocal."""
    arg = config_lib.parse_arg(arg, few=False, runlocal=False)
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

    def kl() -> dict[str, Any]:
        return dict(temperature=1.0, top_k=config_dict.placeholder(int), standardized=False)

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    unlabeled = {
        "kl": dict(objective="kl", learning_rate=0.01, **every, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=0.01, **dp, **kl()
        ),
    }
    few = {  # these need no teacher
        "xe": dict(objective="xe", learning_rate=0.001, label_smoothing=0.0),
        "xe_self": dict(
            objective="xe_self", learning_rate=0.001, alpha=0.5, label_smoothing=0.0, **kl()
        ),
    }
    config.objectives = few if arg.few else unlabeled  # from those above
    # Baseline for a transfer: the same training without a teacher. Without labels its target is the
    # initial student, calibrated on tune.
    config.controls = {"self_pool": dict(objective="self_pool", **kl())}
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune.
    config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, by objective name: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # partitions and ensembles.
    config.calibrate = False

    # 32,000 images, or 1,000. folder:PATH takes your own, with tune and validation from eval_data.
    config.data = "glyphs_few" if arg.few else "glyphs_unlabeled"
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
    config.total_epochs = config_dict.placeholder(float)  # each epoch sees new views
    config.total_steps = 10_000  # instead of total_epochs: 20 epochs, or 640 of the few
    config.eval_every_epochs = config_dict.placeholder(float)  # instead of eval_every_steps
    config.eval_every_steps = 2_500  # evaluate on tune and save a checkpoint
    config.log_every = 500  # steps

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
        config.total_steps = 16
        config.eval_every_steps = 8
        config.log_every = 2
    return config.lock()
