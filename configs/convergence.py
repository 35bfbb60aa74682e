"""Have models converged? Measures what more training on labels alone would still give.

The embedded zoo, in two hours on 2 CPU cores:

  python -m ktjax.main --config=configs/convergence.py --workdir=/tmp/convergence

If a student would have gained as much from its labels, the gain is not the teacher's. So each model
trains for 20 more epochs with labels and no teacher, at each of four learning rates and with three
seeds. The learning rate with the largest mean gain over seeds is picked on one half of tune; its
gain is then measured on the other half. A model has converged if the upper end of that gain's
one-sided 95 % interval is below `most_gain`. Validation is read once, for the picked rate, and
decides nothing.

Results (gains in points; 20 epochs of a quarter of the images; trained on one NVIDIA H100 with
jax 0.11.2, one job per model with --config.steps_per_dispatch=250, three minutes each, nine at a
time):

                  gain at 0.03   0.1   0.3     1   judged at 0.03  upper end   on validation
  tiny_mlp_narrow        -0.56 -1.62 -4.05 -8.11    -0.76 +- 0.17      -0.48   -0.67 +- 0.18
  tiny_mlp               -0.65 -1.73 -3.91 -8.52    -0.69 +- 0.15      -0.44   -0.69 +- 0.17
  tiny_mixer             -1.02 -2.05 -3.66 -6.47    -0.68 +- 0.16      -0.42   -0.83 +- 0.17
  tiny_resnet_narrow     -0.39 -1.01 -2.04 -6.81    -0.19 +- 0.16      +0.07   -0.25 +- 0.19
  tiny_resnet            -0.36 -0.99 -2.39 -4.96    -0.63 +- 0.15      -0.39   -0.53 +- 0.14
  tiny_resnet_wide       -0.34 -0.85 -1.73 -3.55    -0.25 +- 0.10      -0.08   -0.22 +- 0.13
  tiny_resnet_gn         -0.66 -1.30 -2.38 -4.25    -0.67 +- 0.12      -0.48   -0.28 +- 0.14
  tiny_convnext          -0.79 -1.98 -3.48 -5.28    -0.70 +- 0.14      -0.47   -0.60 +- 0.14
  tiny_vit               -0.62 -1.46 -2.76 -4.56    -0.76 +- 0.14      -0.54   -0.55 +- 0.14

For comparison, the first zoo of this package (80 epochs; the same command for its folders, with
--config.seeds="(1,)", on 2 CPU cores): none of the nine had converged, though part of the gain
comes from images that it had not been trained on.

                  gain at 0.03   0.1   0.3     1   judged                    upper end   validation
  tiny_mlp_narrow        +1.24 +1.84 +2.17 +0.48   +2.25 +- 0.27 at 0.3    +2.70   +1.82 +- 0.30
  tiny_mlp               +1.98 +2.76 +2.98 +2.60   +3.23 +- 0.29 at 0.3    +3.70   +3.58 +- 0.32
  tiny_mixer             +1.72 +1.79 +1.64 +0.88   +1.99 +- 0.24 at 0.1    +2.38   +2.23 +- 0.27
  tiny_resnet_narrow     +0.85 +1.79 +1.90 -0.90   +2.77 +- 0.28 at 0.3    +3.24   +2.00 +- 0.32
  tiny_resnet            +1.08 +1.55 +1.87 +0.92   +2.00 +- 0.25 at 0.3    +2.41   +1.34 +- 0.29
  tiny_resnet_wide       +1.47 +1.59 +1.25 +0.03   +1.80 +- 0.20 at 0.1    +2.14   +1.57 +- 0.23
  tiny_resnet_gn         +1.06 +1.16 +0.94 +0.55   +1.49 +- 0.21 at 0.1    +1.83   +1.53 +- 0.24
  tiny_convnext          +1.57 +1.80 +1.39 +0.74   +1.53 +- 0.22 at 0.1    +1.90   +1.62 +- 0.25
  tiny_vit               +1.45 +1.62 +1.44 +0.80   +2.02 +- 0.23 at 0.1    +2.40   +2.44 +- 0.25

Training on the same quarter of the images makes a model forget the other three. All of them
(--config.train_fraction=1.0) have been tried only for tiny_mlp, as the control of
configs/quickstart.py and configs/showcase.py: -0.41 to +0.06 in 5 epochs, +0.1 to +0.2 in 20.

A run's answers are saved when it ends, so a restarted job resumes from there. Runs of several jobs
(say, one per model, on several machines) are combined into one table when their `runs` folders are
put into one workdir. These jobs may differ in models, learning rates and seeds; runs of other
settings or images are refused.
"""

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib

ZOO = (
    "glyphs/tiny_mlp_narrow",
    "glyphs/tiny_mlp",
    "glyphs/tiny_mixer",
    "glyphs/tiny_resnet_narrow",
    "glyphs/tiny_resnet",
    "glyphs/tiny_resnet_wide",
    "glyphs/tiny_resnet_gn",
    "glyphs/tiny_convnext",
    "glyphs/tiny_vit",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    arg = config_lib.parse_arg(arg, models=ZOO, data="glyphs", runlocal=False)
    config = ml_collections.ConfigDict()
    config.job = "convergence"  # ktjax.jobs.JOBS

    config.models = tuple(arg.models)  # names or folders, as ktjax.load_model takes them
    config.learning_rates = (0.03, 0.1, 0.3, 1.0)  # per 256 samples; one is picked for each model
    config.seeds = (1, 2, 3)  # of data order and views; gains are means over them
    config.label_smoothing = 0.0  # toward the uniform distribution
    config.most_gain = 0.3  # points: the most that a converged model may still gain

    config.data = arg.data  # one of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set to take tune and validation from; unlabeled pools need one. None: the data's own.
    config.eval_data = config_dict.placeholder(str)
    # Share of each class of train held out as tune if the data set has none. None: 0.01 for
    # ImageNet, else 0.1.
    config.minival = config_dict.placeholder(float)
    # Share of each class of train to use. None: a tenth for ImageNet, as in the paper, else 1.
    config.train_fraction = config_dict.placeholder(float)
    if arg.data == "glyphs":
        config.train_fraction = 0.25  # four times as fast
    config.subset_seed = 1234  # of that subset
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    # skip: check every image first and leave out the bad ones; pad: fill in truncated ones, as
    # Pillow does.
    config.on_bad_image = "error"
    # Match models' classes to the data's by name. position: unnamed classes are the data's, in
    # order.
    config.classes = "names"
    # Prompts for zeroshot:NAME, with {} for the class name; their embeddings are averaged.
    config.templates = ("a photo of a {}.",)

    # All models share one batch: side in pixels (None: 24 for glyphs), center-crop fraction and
    # resize filter. None: those of the model with the largest input; the other models resize.
    config.image_size = config_dict.placeholder(int)
    config.crop_pct = config_dict.placeholder(float)
    config.interpolation = config_dict.placeholder(str)
    config.upright = False  # apply EXIF orientation; timm, and so its models, do not
    # Smallest and largest area of a random crop, as a share of the image. None: no random crops.
    config.crop_scale = config_dict.placeholder(tuple)
    config.cache_gb = 2.0  # keep decoded splits up to this size in memory (never random crops)
    config.decode_threads = 16  # per decoding process
    config.decode_processes = 0  # that decode for training; 0: the job's own process does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 20.0  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 20.0  # evaluate on tune and save a checkpoint
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
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: batch statistics; frozen: running statistics

    if arg.runlocal:
        config.models = config.models[:2]
        config.learning_rates = config.learning_rates[:2]
        config.seeds = config.seeds[:1]
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 1.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
