"""How the models of a zoo complement each other (paper section 3), before any training.

The embedded zoo, in 15 seconds to a minute on 2 CPU cores:

  python -m ktjax.main --config=configs/complementarity.py --workdir=/tmp/complementarity

It runs every model on the validation split, measures every ordered pair (the positive flips that a
teacher could teach a student, their classes, whether they exceed chance), and ranks the teachers of
each student. With your own models and images, compared with how their transfers turned out:

  python -m ktjax.main --workdir=/tmp/complementarity \
      --config=configs/complementarity.py:models=FOLDER+FOLDER,data=folder:PATH \
      --config.transfers="('WORKDIR',)"
"""

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib

ZOO = (
    "glyphs/tiny_mlp_narrow",
    "glyphs/tiny_mlp",
    "glyphs/tiny_mixer",
    "glyphs/tiny_resnet_narrow",
    "glyphs/tiny_vit",
    "glyphs/tiny_convnext",
    "glyphs/tiny_resnet",
    "glyphs/tiny_resnet_gn",
    "glyphs/tiny_resnet_wide",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    arg = config_lib.parse_arg(arg, models=(), data="glyphs", runlocal=False)
    config = ml_collections.ConfigDict()
    config.job = "complementarity"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them; each is student and teacher of all others.
    config.models = tuple(arg.models) or ZOO
    # Control: untrained architectures of ktjax.models.MODELS, as students.
    config.random_students = ("tiny_mlp", "tiny_mixer", "tiny_resnet", "tiny_convnext", "tiny_vit")
    config.seed = 0  # of the controls: random weights and shuffled samples

    # Similarity of two classes. groups: 1 in the same group of the data set, else 0; prototypes:
    # cosine of their mean features in the most accurate model; clip:NAME, such as
    # clip:openai/clip-vit-base-patch32: cosine of the CLIP embeddings of their names.
    config.similarity = "groups"
    config.clip_template = "{}"  # CLIP's prompt, {} for the class name; the paper: the name alone
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # ensembles, partition gains and ranks. Set it as in the transfers to compare with.
    config.calibrate = False
    # Share of each class of train held out as tune if the data set has none; only for calibrate.
    # None: 0.01 for ImageNet, else 0.1.
    config.minival = config_dict.placeholder(float)
    config.transfers = ()  # workdirs of transfers between these models, to compare with

    config.data = arg.data  # one of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    config.max_examples = config_dict.placeholder(int)  # of the validation split; None: all
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
    # Also measure each model's accuracy with its own transform, not only on the shared batch: one
    # more pass over validation for every model whose transform differs.
    config.own_transform = False
    config.cache_gb = 2.0  # keep decoded splits up to this size in memory
    config.decode_threads = 16  # per decoding process
    config.eval_batch_size = 512  # over all devices

    if arg.runlocal:
        config.models = arg.models or config.models[:3]
        config.random_students = config.random_students[:1]
        config.max_examples = 128
        config.eval_batch_size = 64
    return config.lock()
