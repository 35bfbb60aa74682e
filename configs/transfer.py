"""Transfers knowledge from one or more teachers to a student (paper sections 4 and 5).

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=glyphs/tiny_resnet,teachers=glyphs/tiny_vit

Several teachers, one after another (or strategy=parallel, soup, mutual), by several objectives:

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:teachers=glyphs/tiny_vit+glyphs/tiny_mixer,strategy=sequential,\
objectives=kl+kl_dp+xe_kl_mcl

Without objectives= it is kl_dp, the paper's, and kl_pool, which gained as much or more wherever
both were measured (configs/study.py). What objectives=kl+kl_dp+xe_kl_mcl picks from, each with its
options, is spelled out below: ktjax.objectives has more about each. The target, per image, and
whether it needs labels:

  kl_dp               who gives the label the largest probability, of the initial          labels
                      student and the teachers (the paper's; one target, KL to it)
  kl_dp_unsupervised  who has the largest maximum probability                              none
  kl_dp_flip          where only one is right, teacher or initial student; else as         labels
                      `neutral` says: retain, teach, average, average_student
  kl_dp_corrected     as kl_dp; where the label does not lead by `lead`, it is moved       labels
  kl_pool             initial student and teachers together: a log-linear pool, with       none
                      weights that are fitted on tune, at temperature 2
  kl_pool_corrected   the same, corrected                                                  labels
  kl, hinton          the teacher (several: the mean), as a KL or as a cross-entropy       none
  xe_kl               `alpha` times the teacher, 1 - alpha times the label; xe_kl_mcl:     labels
                      with slow weights and without negative flips, as the paper has it
  adaptconf           teacher or own answer, by how sure the student is of each            none
  cd, crd             how the images of a batch resemble each other in the teacher's       labels
                      features; contrastive representation distillation; and the label
  mutual              of several students the one that is surest of the label (Bi-KD)      labels
  self, self_pool     the initial student, plain or at the temperature that suits it       none
  self_corrected      the same, corrected                                                  labels
  xe, xe_self         the label; half label, half initial student                          labels

The last five are controls: trainings without a teacher, which config.controls runs for each student
and seed at every learning rate of the objectives, and of which the best on tune, or none, is
subtracted: net. Without labels those that need them are left out; self is run only where
batch_norm=train moves a student that nobody teaches. A sequential run of three teachers is compared
with three such trainings, one after another; a soup has no net.

On your own images, one directory per class, with models that configs/pretrain.py has trained:

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=FOLDER,teachers=FOLDER+FOLDER,data=folder:PATH

With data=imagenet2012 the defaults are the paper's protocol: SGD at a constant learning rate, the
same for every pair, 20 epochs, temperature 1, its views. On other images nobody knows a rate: each
run tries config.learning_rates and takes the best on tune, with a schedule that falls to zero and
with gradients clipped, or the larger rates would diverge (one that does is left out, and said);
find_rates does so on ImageNet. For the embedded zoo the rate is what configs/study.py found.

One thing differs: the authors train with the batches' statistics in BatchNorm, here the running
ones stay (config.batch_norm). Beside each other, from tiny_mixer with the schedule of
configs/study.py, 5 epochs at 0.1, seed 1, change in points on tune and on validation:

                              kl_dp         xe_self       self (nobody teaches)
  tiny_resnet_narrow  frozen  +0.17 +0.13   +0.18 +0.39   +0.01 +0.03
                      train   +0.04 +0.09   +0.08 +0.14    0.00 +0.03
  tiny_resnet         frozen  +0.12 +0.10   +0.06 +0.13   +0.02 +0.08
                      train   +0.35 +0.24   +0.05 +0.11   -0.04 +0.05
  tiny_resnet_wide    frozen  +0.02 +0.13   -0.18 -0.16   -0.02 +0.21
                      train   +0.05 +0.21   -0.09 +0.18   -0.03 +0.01

(errors +- 0.12 on tune, +- 0.05 for self.) In the mean of the three, kl_dp gives +0.10 on tune with
frozen and +0.15 with train: not distinguishable. And half an epoch of train at a learning rate of
1e-12, where all that changes is statistics: +0.05, -0.03, -0.02 on tune, -0.10, -0.07, +0.06 on
validation. So frozen is the default: no worse beyond the error, and a batch of any size is the
same. (With frozen statistics self has no gradient but rounding, 2e-6; at this rate it grows until
half a percent of the answers change, as many for the better as for the worse: churn of its own.)
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: student, teachers, data, objectives, controls, strategy, order,
    find_rates, runlocal.
    """
    arg = config_lib.parse_arg(
        arg,
        student="glyphs/tiny_resnet",
        teachers=("glyphs/tiny_vit",),
        data="glyphs",
        objectives=(),
        controls=("xe", "xe_self", "self"),
        strategy="single",
        order="given",
        find_rates=False,
        runlocal=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "transfer"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them.
    config.student = arg.student
    config.teachers = tuple(arg.teachers)
    # How several teachers are used (ktjax.jobs.transfer.plan.STRATEGIES). single: each alone;
    # parallel: all at once; sequential: one after another; soup: each alone, then the average of
    # the students; mutual: nobody is frozen, student and teachers teach each other.
    config.strategy = arg.strategy
    config.order = arg.order  # sequential: ascending or descending by accuracy, given, random
    # soup: BatchNorm's statistics are the average of the students' (the authors'), or an estimate
    # from train's views (ktjax.experiment.statistics, which has a measurement).
    config.soup_batch_norm = "average"
    # Of order and views, a run for each. The zoo was trained with seed 0, whose views it has seen.
    config.seeds = (1,)

    def rate() -> Any:
        return config_dict.placeholder(float)

    def kl(top_k: int | None = None, temperature: float = 1.0) -> dict[str, Any]:
        placeholder = config_dict.placeholder(int)  # its own for each: shared ones change together
        placeholder.set(top_k)
        return dict(temperature=temperature, top_k=placeholder, standardized=False)

    # What is minimized, by a name of your choice: the objective (ktjax.objectives.OBJECTIVES, whose
    # docstrings explain the options), and the learning rate per 256 samples. None: the best on tune
    # of config.learning_rates.
    # Which samples are distilled, and whether the loss is the mean over all or (the authors') those
    # that are distilled.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    # With a top_k the classes are the target's, or (the authors') always the teacher's.
    dp = dict(top_k_of="target")
    xe = dict(label_smoothing=0.0)
    soft = 2.0  # the temperature of pools: configs/study.py says why
    objectives = {
        "xe": dict(objective="xe", learning_rate=rate(), **xe),
        "self": dict(objective="self", learning_rate=rate(), **kl()),
        "xe_self": dict(objective="xe_self", learning_rate=rate(), alpha=0.5, **xe, **kl()),
        "kl": dict(objective="kl", learning_rate=rate(), **every, **kl()),
        "xe_kl": dict(objective="xe_kl", learning_rate=rate(), alpha=0.5, **every, **xe, **kl()),
        "xe_kl_mcl": dict(
            # Over the 100 most probable classes, of ImageNet's 1,000; no negative flips, where the
            # student alone is right.
            objective="xe_kl",
            learning_rate=1e-2,
            alpha=0.68,
            flips=("positive", "neutral"),
            mean_over="all",
            **xe,
            **kl(top_k=100),
        ),
        "hinton": dict(objective="hinton", learning_rate=rate(), **every, **kl()),
        "adaptconf": dict(objective="adaptconf", learning_rate=rate(), sharpness=0.5, **kl()),
        "kl_dp": dict(objective="kl_dp", learning_rate=rate(), **dp, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=rate(), **dp, **kl()
        ),
        "kl_dp_retain": dict(
            objective="kl_dp_flip", learning_rate=rate(), neutral="retain", **dp, **kl()
        ),
        "kl_dp_teach": dict(
            objective="kl_dp_flip", learning_rate=rate(), neutral="teach", **dp, **kl()
        ),
        # The authors' is neutral="average_student": with the student of the moment.
        "kl_dp_average": dict(
            objective="kl_dp_flip", learning_rate=rate(), neutral="average", **dp, **kl()
        ),
        # Targets in which the label leads by `lead` of probability.
        "kl_dp_corrected": dict(
            objective="kl_dp_corrected", learning_rate=rate(), lead=0.2, **dp, **kl()
        ),
        # Initial student and teachers together, each with a weight that is fitted on tune.
        "kl_pool": dict(objective="kl_pool", learning_rate=rate(), **kl(temperature=soft)),
        "kl_pool_corrected": dict(
            objective="kl_pool_corrected", learning_rate=rate(), lead=0.2, **kl(temperature=soft)
        ),
        # The same without a teacher: the initial student, as sure as it should be.
        "self_pool": dict(objective="self_pool", learning_rate=rate(), **kl(temperature=soft)),
        "self_corrected": dict(
            objective="self_corrected", learning_rate=rate(), lead=0.2, **kl(temperature=soft)
        ),
        # The weight is of a sum over the batch: 640 times the mean of 64 samples.
        "cd": dict(objective="cd", learning_rate=rate(), weight=10.0, gamma=0.1, **xe),
        "crd": dict(
            objective="crd",
            learning_rate=rate(),
            weight=0.8,
            gamma=1.0,
            projection=128,  # width that features are projected to
            negatives=4096,  # for each sample
            same_class_negatives=False,  # of its own class, too; the authors': no
            contrast_temperature=0.07,
            momentum=0.5,  # share of the memory that stays
            **xe,
        ),
        # The authors' gradient flows into who teaches, too: detach_teacher=False.
        "mutual": dict(objective="mutual", learning_rate=1e-4, detach_teacher=True, **xe, **kl()),
    }
    if arg.find_rates:
        for entry in objectives.values():
            entry["learning_rate"] = rate()
    chosen = arg.objectives or (("mutual",) if arg.strategy == "mutual" else ("kl_dp", "kl_pool"))
    for name in chosen:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in chosen}  # of those above
    # What a transfer is compared with: the same training without a teacher. Each of these has a run
    # for every seed and every learning rate of the objectives, with their steps, schedule and slow
    # weights. The one that gained most on tune, in the mean over seeds, or none, is subtracted:
    # net. What asks for labels is left out where there are none, and self unless batch_norm=train
    # moves the student. controls=xe+self picks from these; controls= is none.
    controls = {
        "xe": dict(objective="xe", **xe),  # labels only
        "xe_self": dict(objective="xe_self", alpha=0.5, **xe, **kl()),  # alpha: of the student
        "self": dict(objective="self", **kl()),  # nobody teaches
        # The initial student, as sure as it should be; and with the label in the lead.
        "self_pool": dict(objective="self_pool", **kl(temperature=soft)),
        "self_corrected": dict(objective="self_corrected", lead=0.2, **kl(temperature=soft)),
    }
    for name in arg.controls:
        config_lib.check_choice("controls", name, tuple(controls))
    config.controls = {name: controls[name] for name in arg.controls}  # of those above
    # From these the best on tune is taken, for each run, where a learning rate is None: all are
    # tried with all steps, which takes as many times as long. None: of ImageNet the paper's 1e-4
    # alone, of glyphs 0.1; of other data, where nobody knows one, 0.001, 0.01, 0.1 and 1.
    config.learning_rates = config_dict.placeholder(tuple)
    if arg.find_rates:
        config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights: tau of them stays every so many steps. What is evaluated and exported, then.
    # None: every 512 samples, as in the paper: 2 * 256 / batch_size steps, at least one.
    mcl = {"xe_kl_mcl": dict(tau=0.9999, every=config_dict.placeholder(int))}
    config.mcl = {name: mcl[name] for name in chosen if name in mcl}
    # Who is surer is asked at the temperature that suits each model, fitted on tune: by partitions
    # and by ensembles.
    config.calibrate = False

    config.data = arg.data  # of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
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
    # ktjax.augment.RECIPES. The paper's: default (mirrored, colors distorted, some gray),
    # weak, very_weak, vicreg, minimal (mirrored), none. shift_colour suits letters: no mirror.
    # None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)
    # What frozen models say: live: asked in every step; stored: computed once for all runs.
    config.targets = "live"
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
    # Passes over train, each of which sees other views; or steps. Neither: 20 passes, and of few
    # images as many more as make 200 steps.
    config.total_epochs = config_dict.placeholder(float)
    config.total_steps = config_dict.placeholder(int)
    # How often to evaluate on tune and save a checkpoint. Neither: after every pass, and 20 times
    # at most.
    config.eval_every_epochs = config_dict.placeholder(float)
    config.eval_every_steps = config_dict.placeholder(int)
    config.log_every = 50  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.weight_decay = 1e-4  # as ktjax.optim says, for each optimizer
    # How the learning rate goes on (constant, or cosine: to zero), the share of all steps in which
    # it begins, and what the gradient's norm is clipped to. All None: on ImageNet as in the paper,
    # constant, 0 and not clipped; else cosine, 0.05 and 1. With a schedule None is not clipped.
    config.schedule = config_dict.placeholder(str)
    config.warmup = config_dict.placeholder(float)
    config.clip_norm = config_dict.placeholder(float)

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models that fit on no device
    config.microbatches = 1  # parts of a batch, one after another: less memory, more time
    config.remat = False  # compute activations again rather than keep them: likewise
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
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
        config.learning_rates = (0.01,)
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
