"""What the models of a zoo know of each other's mistakes (paper section 3), before any training.

The embedded zoo, in a minute on 2 CPU cores:

  python -m ktjax.main --config=configs/complementarity.py --workdir=/tmp/complementarity

It runs every model over the validation split, measures every ordered pair (the positive flips that
a teacher could teach a student, their classes, how surely they are no accident), and ranks the
teachers of each student. Your own models and images, and how their transfers turned out:

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
    arg = config_lib.parse_arg(arg, models=ZOO, data="glyphs", runlocal=False)
    config = ml_collections.ConfigDict()
    config.job = "complementarity"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them; each is student and teacher of all others.
    config.models = tuple(arg.models)
    # Control: architectures of ktjax.models.MODELS that have learned nothing, as students.
    config.random_students = ("tiny_mlp", "tiny_mixer", "tiny_resnet", "tiny_convnext", "tiny_vit")
    config.seed = 0  # of the controls: random weights, and the order of shuffled samples

    # How alike two classes are: groups: 1 in the same group of the data set, else 0; prototypes:
    # cosine of their mean features in the most accurate model; clip:NAME, such as
    # clip:openai/clip-vit-base-patch32: cosine of CLIP's embeddings of their names.
    config.similarity = "groups"
    config.clip_template = "{}"  # what CLIP reads, {} a class's name; the paper's: the name alone
    # Who is surer is asked at the temperature that suits each model, fitted on the tune split: of
    # ensembles, partition gains and ranks. As the transfers have it that are compared with.
    config.calibrate = False
    # Share of each class of train that is tune, where there is none; for calibrate alone. None:
    # 0.01 of ImageNet, else 0.1.
    config.minival = config_dict.placeholder(float)
    config.transfers = ()  # workdirs of transfers between these models, to compare with

    config.data = arg.data  # of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
    config.data_dir = config_dict.placeholder(str)  # of prepared data sets; None: TFDS's default
    config.max_examples = config_dict.placeholder(int)  # of the validation split; None: all
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
    # Each model's accuracy by its own transform as well, beside that on the batch of all: another
    # pass over validation for every model whose transform is another.
    config.own_transform = False
    config.cache_gb = 2.0  # a split up to this size, decoded, stays in memory
    config.decode_threads = 16  # of each process that decodes
    config.eval_batch_size = 512  # over all devices

    if arg.runlocal:
        config.models = config.models[:3]
        config.random_students = config.random_students[:1]
        config.max_examples = 128
        config.eval_batch_size = 64
    return config.lock()
