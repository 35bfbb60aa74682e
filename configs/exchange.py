"""Parties that share neither weights nor data exchange answers on an unlabeled pool.

Each party keeps its model and its labeled images to itself. All see a common pool of unlabeled
images and share their models' answers. Each then learns from the others' answers by data
partitioning without labels: the target for each image is the most confident answer, from the others
or from its own initial model.

1. One party writes the pool IMAGES, a folder of images without labels, once, exactly as runs see it
(images of one size, three views):

  python -m ktjax.targets views --workdir=POOL \
      --config=configs/exchange.py:data=folder:IMAGES --config.eval_data=folder:OWN

OWN are labeled images of this party, as each has some to measure its model on. Only the names of
their classes get into POOL, which is for all. (Common images to measure all models on are splits of
IMAGES: train without labels, beside validation with them.)

2. Each party runs its model on the images view-*.npy of POOL, in any framework, and sends logits:
arrays named like those of the images, and classes.txt. These are checked and packed into a store:

  python -m ktjax.targets pack POOL ANSWERS STORE_A --name=A --k=16

3. Each party trains its own model, whose answers are stored during the run, on IMAGES, and measures
it on its own OWN:

  python -m ktjax.main --workdir=/tmp/exchange \
      --config=configs/exchange.py:student=MODEL,teachers=store:STORE_A+store:STORE_B,\
data=folder:IMAGES --config.eval_data=folder:OWN

Without arguments, two models of the embedded zoo play the other parties and are run here. No model
of the zoo has seen an image of glyphs_unlabeled. Result: tiny_mlp 61.53 -> 61.74 % on validation
(+0.21 +- 0.14 points, one run; 1.6 % of the images became right and 1.4 % wrong).
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: student, teachers, data, runlocal."""
    arg = config_lib.parse_arg(
        arg,
        student="glyphs/tiny_mlp",
        teachers=("glyphs/tiny_mlp_narrow", "glyphs/tiny_mixer"),
        data="glyphs_unlabeled",
        runlocal=False,
    )
    of_glyphs = arg.data.startswith("glyphs")
    config = ml_collections.ConfigDict()
    config.job = "transfer"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them; store:FOLDER is a party's answers.
    config.student = arg.student
    config.teachers = tuple(arg.teachers)
    # How to use several teachers: ktjax.jobs.transfer.plan.STRATEGIES. parallel: all at once.
    config.strategy = "parallel"
    config.order = "given"  # of teachers, if sequential: ktjax.jobs.transfer.plan.ORDERS
    config.soup_batch_norm = "average"  # for soups: average, as the authors do; or estimate
    # Of data order and views, one run each. The zoo was trained on the views of seed 0.
    config.seeds = (1,)

    def kl() -> dict[str, Any]:
        return dict(temperature=1.0, top_k=config_dict.placeholder(int), standardized=False)

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples: for glyphs one that was
    # tuned, else None: the best of config.learning_rates on tune.
    rate = config_dict.placeholder(float)
    if of_glyphs:
        rate.set(0.01)
    config.objectives = {
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=rate, top_k_of="target", **kl()
        ),
    }
    # Baseline for a transfer: the same training without a teacher. Without labels that is the
    # initial student alone, and only if it answers differently in training; else there is no net.
    # (self_pool needs all logits: config.store_top_k=None.)
    config.controls = {"self": dict(objective="self", **kl())}
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune.
    config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, by objective name: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # partitions and ensembles.
    config.calibrate = False

    config.data = arg.data  # the pool: glyphs_unlabeled, or folder:PATH of images without labels
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

    # All models share one batch: side in pixels, center-crop fraction and resize filter. Fixed, so
    # that no party's model changes what the others see.
    config.image_size = 24 if of_glyphs else 224
    config.crop_pct = 1.0
    config.interpolation = "bicubic"
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
    config.store_top_k = 16
    # Further (temperature, standardized) that such a store must serve, for other runs that share
    # it, such as ((4.0, False),).
    config.store_softenings = ()
    # Number of views of an image, which epochs cycle through. None: every epoch has its own. Fewer
    # are cheaper to store.
    config.views = 3

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 6.0  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 3.0  # evaluate on tune and save a checkpoint
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
    config.export = "last" if of_glyphs else "no_regret"

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
