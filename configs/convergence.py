"""Are models at the end of their training? What more of it, with labels alone, would still give.

The embedded zoo:

  python -m ktjax.main --config=configs/convergence.py --workdir=/tmp/convergence

A transfer from a teacher to a student that would have gained as much from its labels shows nothing.
So each model trains on for 20 epochs of the images that transfers use, with labels and no teacher,
at each of four learning rates and with three seeds. On one half of tune the learning rate is picked
that gains most in the mean of its seeds; what it gains is then measured on the other half. A model
is at its end where the upper end of that gain's one-sided 95 % interval is below `most_gain`.
Validation is read once, for the picked rate, and decides nothing.

A run's answers are kept as soon as it ends, so a job that is started again goes on from there, and
the runs of several jobs (one for each model, on several machines, say) come together in one table
when their folders `runs` are put into one workdir.
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
    config.seeds = (1, 2, 3)  # of order and views; a gain is the mean over them
    config.label_smoothing = 0.0  # towards the uniform distribution
    config.most_gain = 0.3  # points that a model at its end may still gain, at the very most

    config.data = arg.data  # of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    # The data set that tune and validation come from, where data is a pool without labels.
    config.eval_data = config_dict.placeholder(str)
    # Evaluated too, where the classes are ImageNet's: of ktjax.data.robustness.SETS.
    config.robustness = ()
    # Share of each class of train held out as tune, where there is none. None: 0.01 of ImageNet,
    # else 0.1.
    config.minival = config_dict.placeholder(float)
    # Share of each class of train that is used. None: a tenth of ImageNet, as in the paper, a
    # quarter of glyphs, else 1.
    config.train_fraction = config_dict.placeholder(float)
    config.subset_seed = 1234  # of that subset
    config.max_examples = config_dict.placeholder(int)  # of each split; None: all
    config.on_bad_image = "error"  # that does not decode; skip: decode all first, leave it out

    # One batch for all models: its side in pixels (None: 24 for glyphs), the share of the image's
    # centre that it shows, and the filter. None: as the model with the largest input wants it; the
    # others resize.
    config.image_size = config_dict.placeholder(int)
    config.crop_pct = config_dict.placeholder(float)
    config.interpolation = config_dict.placeholder(str)
    # Least and most share of the area that a view shows, cropped at random; None: as above.
    config.crop_scale = config_dict.placeholder(tuple)
    config.cache_gb = 2.0  # splits up to this size, decoded, stay in memory, unless cropped
    config.decode_threads = 16  # of each process that decodes
    config.decode_processes = 0  # that decode for training; 0: the job's own does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs and folders, else default.
    config.augment = config_dict.placeholder(str)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 20.0  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 20.0  # evaluate on tune and save a checkpoint
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
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # of training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: the batch's statistics; frozen: the running ones

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
