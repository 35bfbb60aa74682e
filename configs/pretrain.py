"""Trains classifiers from labels, from scratch or from a checkpoint.

One model on a folder of images (one directory per class):

  python -m ktjax.main --config=configs/pretrain.py:model=tiny_resnet,data=folder:PATH --workdir=...

A pretrained model, fitted to other images before a transfer there: a new head, or all weights:

  python -m ktjax.main --workdir=... \
      --config=configs/pretrain.py:model=timm/resnet50.a1_in1k,data=folder:PATH,train=head

The embedded zoo; its folders `models/*` are what the package ships in ktjax/models/glyphs:

  python -m ktjax.main --config=configs/pretrain.py:zoo --workdir=/tmp/zoo

One rule for all nine, fixed before they were trained: 100 epochs of 64,000 images, and twice as
many, from the start, for a model of which configs/convergence.py says that it is not at its end.
After the first 100 all nine were. With --config.seed=100 the same command makes a second zoo, on
which what was chosen on the first one is checked.

Percent right at the end, and seconds, with nine jobs of one model each (--config.models,
--config.steps_per_dispatch=250) at a time on one NVIDIA H100 (jax 0.11.2); the whole zoo took six
minutes:

                       train   tune  validation  seconds  second zoo
  tiny_mlp_narrow      55.60  51.62       50.11       33       50.68
  tiny_mlp             69.98  63.11       61.53       36       61.79
  tiny_resnet_narrow   76.76  75.02       73.33      226       74.61
  tiny_mixer           85.51  80.36       79.06      245       80.08
  tiny_convnext        90.34  83.70       82.30      239       82.31
  tiny_vit             92.33  83.97       82.78      290       82.86
  tiny_resnet          88.09  84.00       83.01      258       83.04
  tiny_resnet_gn       92.40  86.08       84.47      296       84.28
  tiny_resnet_wide     98.83  87.29       85.89      310       85.71

(The last three of the second were trained on one CPU core each, beside other work: tiny_convnext in
50 minutes, tiny_vit in 70, tiny_resnet_wide in 100; jax 0.10.2.)
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


# How models are trained. Their learning rates are per 256 samples.
RECIPES = {
    # From scratch: the embedded zoo was.
    "scratch": dict(optimizer="adamw", learning_rate=0.012, weight_decay=0.05, total_epochs=80.0),
    "zoo": dict(optimizer="adamw", learning_rate=0.006, weight_decay=0.05, total_epochs=100.0),
    # From a checkpoint, on other images than it has seen.
    "all": dict(optimizer="adamw", learning_rate=3e-4, weight_decay=0.05, total_epochs=30.0),
    "head": dict(optimizer="adamw", learning_rate=0.003, weight_decay=0.0, total_epochs=30.0),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: model, data, train, zoo, runlocal."""
    arg = config_lib.parse_arg(
        arg, model="tiny_resnet", data="glyphs", train="all", zoo=False, runlocal=False
    )
    config_lib.check_choice("train", arg.train, ("all", "head"))
    pretrained = "/" in arg.model or ":" in arg.model  # no architecture is called so
    recipe = RECIPES[arg.train if pretrained else "zoo" if arg.zoo else "scratch"]
    config = ml_collections.ConfigDict()
    config.job = "pretrain"  # ktjax.jobs.JOBS

    # Architectures of ktjax.models.MODELS (from scratch), or pretrained models to go on from.
    config.models = ZOO if arg.zoo else (arg.model,)
    config.train = arg.train  # all weights, or the head: the last layer
    # The last layer of a pretrained model of other classes than the data set's: a new one, zero or
    # random; keep: such a model is refused.
    config.head = "zero"
    config.seed = 0  # of weights, order and views

    config.data = arg.data  # of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set that tune and validation come from, where data is a pool without labels.
    config.eval_data = config_dict.placeholder(str)
    # Evaluated too, where the classes are ImageNet's: of ktjax.data.robustness.SETS.
    config.robustness = ()
    # Share of each class of train held out as tune, where there is none. None: 0.01 of ImageNet,
    # else 0.1.
    config.minival = config_dict.placeholder(float)
    config.train_fraction = 1.0  # share of each class of train that is used
    config.subset_seed = 1234  # of that subset
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    config.on_bad_image = "error"  # skip: tries all first; pad: fills what was cut off, as Pillow
    # Models' classes are found by name. position: those without names are the data's, in order
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
    # Least and most share of the area that a view shows, cropped at random; None: as above.
    config.crop_scale = config_dict.placeholder(tuple)
    if pretrained:
        config.crop_scale = (0.08, 1.0)
    config.cache_gb = 2.0  # splits up to this size, decoded, stay in memory, unless cropped
    config.decode_threads = 16  # of each process that decodes
    config.decode_processes = 0  # that decode for training; 0: the job's own does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else minimal (mirrored).
    config.augment = config_dict.placeholder(str)

    config.batch_size = 256 if arg.zoo else 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = recipe["total_epochs"]  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 100  # steps

    config.optimizer = recipe["optimizer"]  # ktjax.optim.OPTIMIZERS
    config.learning_rate = recipe["learning_rate"]  # per 256 samples
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = recipe["weight_decay"]  # as ktjax.optim says, for each optimizer
    config.clip_norm = 1.0  # of the gradient; None: not clipped
    config.label_smoothing = 0.0  # towards the uniform distribution

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models that fit on no device
    config.microbatches = 1  # parts of a batch, one after another: less memory, more time
    config.remat = False  # compute activations again rather than keep them: likewise
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # of training; bfloat16 suits TPU and GPU. Evaluation is in float32
    # train: the batch's statistics; frozen: the running ones
    config.batch_norm = "frozen" if arg.train == "head" else "train"

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 1.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
