"""The main job on the embedded data set: two pretrained classifiers in, a better one out.

  python -m ktjax.main --config=configs/quickstart.py --workdir=/tmp/ktjax

One student, a weaker and a stronger teacher, each transferred by plain KL distillation and by KL
with data partitioning, with labels and without, beside controls that no teacher teaches. Takes
under three minutes on 2 CPU cores and ends with a table and a report.

It shows that everything works, and what 5 epochs show; configs/showcase.py has 20. All models saw
the same 64,000 images to the end of their training, and the transfer uses these again, in views
that only it has seen: nothing is learned here that a label could not have taught before.

The learning rates, per 256 samples, are for each objective the best of three on tune, by the mean
of both teachers, with seed 100; fixed before validation was read. Change on tune in points, from
the weaker teacher and from the stronger (standard error 0.1, of kl from the weaker 0.2):

                            0.01           0.03            0.1
  kl                 -2.66 +0.14    -4.06 +0.15    -6.06 -0.01
  kl_dp              +0.08 +0.19    +0.09 +0.29    -0.15 +0.05
  kl_dp_unsupervised -0.01 +0.20    -0.10 +0.24    -0.35 +0.11
  xe (no teacher)          +0.06          +0.02          -0.41
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
    config.strategy = "single"  # ktjax.jobs.transfer.plan.STRATEGIES: how several teachers are used
    config.order = "given"  # ktjax.jobs.transfer.plan.ORDERS: of the teachers, if it is sequential
    config.soup_batch_norm = "average"  # of a soup's students: as the authors; or estimate
    # Of order and views, a run for each. The zoo was trained with seed 0, whose views it has seen.
    config.seeds = (1,)

    def kl() -> dict[str, Any]:
        return dict(temperature=1.0, top_k=config_dict.placeholder(int), standardized=False)

    # What is minimized, by a name of your choice: the objective (ktjax.objectives.OBJECTIVES, whose
    # docstrings explain the options), and the learning rate per 256 samples.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    config.objectives = {
        "kl": dict(objective="kl", learning_rate=0.01, **every, **kl()),
        "kl_dp": dict(objective="kl_dp", learning_rate=0.03, **dp, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=0.01, **dp, **kl()
        ),
    }
    # What a transfer is compared with: the same training without a teacher. Each has a run for
    # every seed and every learning rate above; the one that gained most on tune, or none, is
    # subtracted: net.
    config.controls = {
        "xe": dict(objective="xe", label_smoothing=0.0),  # labels only
        # Half the label, half the initial student.
        "xe_self": dict(objective="xe_self", alpha=0.5, label_smoothing=0.0, **kl()),
        "self": dict(objective="self", **kl()),  # nobody teaches; only where batch_norm=train
    }
    # From these the best on tune is taken, for each run, where a learning rate is None: all are
    # tried with all steps, which takes as many times as long.
    config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, by name of an objective: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Who is surer is asked at the temperature that suits each model, fitted on tune: by partitions
    # and by ensembles.
    config.calibrate = False

    config.data = "glyphs"  # glyphs, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set that tune and validation come from, where data is a pool without labels.
    config.eval_data = config_dict.placeholder(str)
    # Evaluated too, where the classes are ImageNet's: of ktjax.data.robustness.SETS.
    config.robustness = ()
    # Share of each class of train held out as tune, where there is none. None: 0.01 of ImageNet,
    # else 0.1.
    config.minival = config_dict.placeholder(float)
    # Share of each class of train that is used. None: a tenth of ImageNet, as in the paper, else 1.
    config.train_fraction = config_dict.placeholder(float)
    config.subset_seed = 1234  # of that subset
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    config.on_bad_image = "error"  # skip: tries all first; pad: fills what was cut off, as Pillow
    # Models' classes are found by name. position: those without names are the data's, in order;
    # shared: of the data's those alone that all models have.
    config.classes = "names"
    # What zeroshot:NAME takes the classes for: the mean of these texts, {} being a class's name.
    config.templates = ("a photo of a {}.",)

    # One batch for all models: its side in pixels (None: 24 for glyphs), the share of the image's
    # center that it shows, and the filter. None: as the model with the largest input wants it; the
    # others resize.
    config.image_size = config_dict.placeholder(int)
    config.crop_pct = config_dict.placeholder(float)
    config.interpolation = config_dict.placeholder(str)
    config.upright = False  # turn images as their EXIF says; timm, and so its models, do not
    # Each model's accuracy by its own transform as well, beside that on the batch of all: another
    # pass over validation for every model whose transform is another.
    config.own_transform = False
    # Least and most share of the area that a view shows, cropped at random; None: as above.
    config.crop_scale = config_dict.placeholder(tuple)
    # Splits up to this size, decoded, stay in memory, unless cropped; and what is stored of a model
    # on the devices: of more than that one view at a time.
    config.cache_gb = 2.0
    config.decode_threads = 16  # of each process that decodes
    config.decode_processes = 0  # that decode for training; 0: the job's own does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)
    # What frozen models say: live: asked in every step; stored: computed once for all runs.
    config.targets = "stored"
    # Where stored answers are kept, for this run and all others; None: in memory, until it ends.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits are kept, with what ktjax.targets says of the others; None: all
    # of them. ktjax.objectives.OBJECTIVES has which objectives that serves.
    config.store_top_k = config_dict.placeholder(int)
    # How many views of an image there are, which passes over train see in turn; None: each pass has
    # its own. Fewer are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 5.0  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 2.5  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 250  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.0  # as ktjax.optim says, for each optimizer
    config.clip_norm = 1.0  # of the gradient; None: not clipped

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models that fit on no device
    config.microbatches = 1  # parts of a batch, one after another: less memory, more time
    config.remat = False  # compute activations again rather than keep them: likewise
    config.steps_per_dispatch = 10  # more for small models, which wait for the host
    config.dtype = "float32"  # of training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: the batch's statistics; frozen: the running ones
    # Stochastic depth of the student: the rate of its last block. None: as its checkpoint was
    # trained, where the model_args of its config.json say so, else 0.
    config.drop_path_rate = config_dict.placeholder(float)
    # What is exported: last: the weights at the end; best: those of the evaluation that was best on
    # tune; no_regret: the best on tune of these, of others on the way, of the mean over the last
    # half of training and of what lies between before and after, if it is better than before on
    # images of its own (split accept, or else half of tune), and else the student as it was: the
    # run has abstained.
    config.export = "last"

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
