"""Trains classifiers from labels, from scratch or from a checkpoint.

One model on a folder of images (one directory per class):

  python -m ktjax.main --config=configs/pretrain.py:model=tiny_resnet,data=folder:PATH --workdir=...

A pretrained model, fine-tuned on other images before a transfer there: a new head, or all weights:

  python -m ktjax.main --workdir=... \
      --config=configs/pretrain.py:model=timm/resnet50.a1_in1k,data=folder:PATH,train=head

The embedded zoo; its folders `models/*` are what the package ships in ktjax/models/glyphs:

  python -m ktjax.main --config=configs/pretrain.py:zoo --workdir=/tmp/zoo

One rule for all nine, fixed before training: 100 epochs of 64,000 images, or twice as many, from
scratch, for a model that has not converged according to configs/convergence.py. After 100 epochs
all nine had. With --config.seed=100 the same command makes a second zoo, used to check what was
tuned on the first.

Final accuracy in percent, and seconds, with nine jobs of one model each (--config.models,
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

(Three models of the second zoo were trained on one CPU core each, alongside other work:
tiny_convnext in 50 minutes, tiny_vit in 70, tiny_resnet_wide in 100; jax 0.10.2.)
"""

from pathlib import Path

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


# Training recipes. Learning rates are per 256 samples.
RECIPES = {
    # From scratch, as the embedded zoo.
    "scratch": dict(optimizer="adamw", learning_rate=0.012, weight_decay=0.05, total_epochs=80.0),
    "zoo": dict(optimizer="adamw", learning_rate=0.006, weight_decay=0.05, total_epochs=100.0),
    # From a checkpoint, on images it has not seen.
    "all": dict(optimizer="adamw", learning_rate=3e-4, weight_decay=0.05, total_epochs=30.0),
    "head": dict(optimizer="adamw", learning_rate=0.003, weight_decay=0.0, total_epochs=30.0),
}


def _is_pretrained(model: str) -> bool:
    """Whether it names a checkpoint, as the job will see it, and not an architecture."""
    if "/" in model or ":" in model or not Path(model).exists():
        return "/" in model or ":" in model
    from ktjax import models  # only here, as it imports jax

    return model not in models.MODELS


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: model, data, train, zoo, runlocal."""
    arg = config_lib.parse_arg(
        arg, model="tiny_resnet", data="glyphs", train="all", zoo=False, runlocal=False
    )
    config_lib.check_choice("train", arg.train, ("all", "head"))
    pretrained = _is_pretrained(arg.model)
    recipe = RECIPES[arg.train if pretrained else "zoo" if arg.zoo else "scratch"]
    config = ml_collections.ConfigDict()
    config.job = "pretrain"  # ktjax.jobs.JOBS

    # Architectures of ktjax.models.MODELS (from scratch), or pretrained models to start from.
    config.models = ZOO if arg.zoo else (arg.model,)
    config.train = arg.train  # all weights, or the head: the last layer
    # Last layer of a pretrained model whose classes differ from the data set's. zero, random: a new
    # one, initialized so; keep: refuse such a model.
    config.head = "zero"
    config.seed = 0  # of weights, data order and views

    config.data = arg.data  # one of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set to take tune and validation from; unlabeled pools need one. None: the data's own.
    config.eval_data = config_dict.placeholder(str)
    # Also evaluate on these of ktjax.data.robustness.SETS, if the classes are ImageNet's.
    config.robustness = ()
    # Share of each class of train held out as tune if the data set has none. None: 0.01 for
    # ImageNet, else 0.1.
    config.minival = config_dict.placeholder(float)
    config.train_fraction = 1.0  # share of each class of train to use
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
    if pretrained:
        config.crop_scale = (0.08, 1.0)
    config.cache_gb = 2.0  # keep decoded splits up to this size in memory (never random crops)
    config.decode_threads = 16  # per decoding process
    config.decode_processes = 0  # that decode for training; 0: the job's own process does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else minimal (mirrored).
    config.augment = config_dict.placeholder(str)

    config.batch_size = 256 if arg.zoo else 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = recipe["total_epochs"]  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 100  # steps

    config.optimizer = recipe["optimizer"]  # ktjax.optim.OPTIMIZERS
    config.learning_rate = recipe["learning_rate"]  # per 256 samples
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = recipe["weight_decay"]  # see ktjax.optim; it differs by optimizer
    config.clip_norm = 1.0  # of the gradient; None: no clipping
    config.label_smoothing = 0.0  # toward the uniform distribution

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models too large for one device
    config.microbatches = 1  # gradient accumulation over parts of a batch: less memory, more time
    config.remat = False  # recompute activations instead of keeping them: likewise
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    # train: batch statistics; frozen: running statistics
    config.batch_norm = "frozen" if arg.train == "head" else "train"

    if arg.runlocal:
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 1.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
