"""Many images and few labels: what teachers know beside what the few labels teach.

As for somebody who has trained models and a pile of photographs: 32,000 new images of the embedded
data set without labels, which a student is taught on by models that were trained on others:

  python -m ktjax.main --config=configs/scarce.py --workdir=/tmp/scarce

and, to compare with, the same student on 1,000 new images with labels, in as many steps without a
teacher:

  python -m ktjax.main --config=configs/scarce.py:few --workdir=/tmp/few

The learning rates, per 256 samples, are the best of these on tune, by the mean of both teachers,
with seed 100; fixed before validation was read. Change on tune in points, from the weaker teacher
and from the stronger (standard error 0.1, of kl from the weaker 0.2); without a teacher on the few:

                            0.01           0.03            0.1
  kl                 -3.50 +0.38    -5.33 +0.45    -7.58 +0.25
  kl_dp_unsupervised +0.02 +0.43    -0.19 +0.58    -0.54 +0.35

                           0.001          0.003           0.01           0.03
  xe                       -1.28          -3.48          -8.63         -14.84
  xe_self                  -0.45          -1.35          -2.81          -3.69

It gave on validation, with --config.seeds="(1,2,3)", in points (the control: none, as nothing is
trained without labels or a teacher; 2 CPU cores, jax 0.10.2, half a minute a run):

                     weaker teacher     stronger teacher
  kl                 -3.40 +- 0.28      +0.57 +- 0.17
  kl_dp_unsupervised +0.05 +- 0.15      +0.43 +- 0.16

and without a teacher, on the few labels, xe -1.23 +- 0.21 and xe_self -0.52 +- 0.17: 1,000 labels,
seen 640 times, cost a student that has seen 64,000, whichever rate is taken. Unlabeled images and
one stronger teacher give what no label here does; data partitioning makes the weaker harmless, and
from the stronger gives no more than distillation.
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
    unlabeled = {
        "kl": dict(objective="kl", learning_rate=0.01, **every, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=0.01, **dp, **kl()
        ),
    }
    few = {  # they ask no teacher
        "xe": dict(objective="xe", learning_rate=0.001, label_smoothing=0.0),
        "xe_self": dict(
            objective="xe_self", learning_rate=0.001, alpha=0.5, label_smoothing=0.0, **kl()
        ),
    }
    config.objectives = few if arg.few else unlabeled  # of those above
    # What a transfer is compared with: the same training without a teacher. Labels there are none,
    # so what is left is a student that nobody teaches; only where batch_norm=train does it move.
    config.controls = {"self": dict(objective="self", **kl())}
    # From these the best on tune is taken, for each run, where a learning rate is None: all are
    # tried with all steps, which takes as many times as long.
    config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, by name of an objective: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
    # Who is surer is asked at the temperature that suits each model, fitted on tune: by partitions
    # and by ensembles.
    config.calibrate = False

    # Of 32,000 images, or 1,000. folder:PATH takes your own, with tune and validation of eval_data.
    config.data = "glyphs_few" if arg.few else "glyphs_unlabeled"
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
    config.total_epochs = config_dict.placeholder(float)  # passes over train; other views in each
    config.total_steps = 10_000  # instead of total_epochs: 20 passes, or 640 over the few
    config.eval_every_epochs = config_dict.placeholder(float)  # instead of eval_every_steps
    config.eval_every_steps = 2_500  # evaluate on tune and save a checkpoint
    config.log_every = 500  # steps

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
        config.total_steps = 16
        config.eval_every_steps = 8
        config.log_every = 2
    return config.lock()
