"""Transfers knowledge from one or more teachers to a student (paper sections 4 and 5).

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=glyphs/tiny_resnet,teachers=glyphs/tiny_vit

Several teachers, one after another (or strategy=parallel, soup, mutual), with several objectives:

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:teachers=glyphs/tiny_vit+glyphs/tiny_mixer,strategy=sequential,\
objectives=kl+kl_dp+xe_kl_mcl

The default is kl_dp, from the paper, and kl_pool, whose exports gained more over the zoo (+0.32
points against +0.22; configs/pools.py, configs/paper/success.py), though not with the smallest
networks, in five epochs, or on the digits below. What gained most takes forty epochs, each run
twice as long as by default:

  python -m ktjax.main --workdir=/tmp/pools \
      --config=configs/pools.py:students=glyphs/tiny_resnet,teachers=glyphs/tiny_vit

objectives= picks from the entries below, which list their options; ktjax.objectives says more about
each. The target for each image, and whether it needs labels:

  kl_dp               the model that gives the label the highest probability: initial      labels
                      student or a teacher (from the paper; one target, KL to it)
  kl_dp_unsupervised  the model with the highest maximum probability                       none
  kl_dp_flip          the teacher on positive flips, the initial student on negative;      labels
                      else set by `neutral`: retain, teach, average, average_student
  kl_dp_corrected     as kl_dp, adjusted where the label does not lead by `lead`           labels
  kl_pool             a log-linear pool of initial student and teachers, with weights      none
                      fitted on tune, at temperature 2
  kl_pool_hold        the same, and the initial student's largest logits are held          none
  kl_pool_corrected   kl_pool, corrected                                                   labels
  kl, hinton          the teacher (several: the mean), with KL or cross-entropy            none
  xe_kl               `alpha` times the teacher, 1 - alpha times the label; xe_kl_mcl:     labels
                      with slow weights and without negative flips, as in the paper
  adaptconf           teacher or own answer, by the student's confidence in each           none
  cd, crd             similarities between the images of a batch in the teacher's          labels
                      features; contrastive representation distillation; plus the label
  mutual              the most confident in the label among several students (Bi-KD)       labels
  self, self_pool     the initial student, plain or calibrated                             none
  self_corrected      the same, corrected                                                  labels
  xe, xe_self         the label; half label, half initial student                          labels

The last five are controls, trainings without a teacher: config.controls runs them for each student
and seed at every learning rate of the objectives, and net subtracts the best on tune, or none.
Without labels, those that need them are skipped; self runs only if batch_norm=train or stochastic
depth changes a student without a teacher. A sequential run with three teachers is compared with
three such trainings in sequence; a soup has no net.

On your own images, one directory per class, with models trained by configs/pretrain.py:

  python -m ktjax.main --workdir=/tmp/transfer \
      --config=configs/transfer.py:student=FOLDER,teachers=FOLDER+FOLDER,data=folder:PATH

A student is exported only if it is better than before on images that nothing else has seen; else
it stays as it was, and the run abstains. The report says what the final weights would have changed,
and config.export=last exports these.

With data=imagenet2012 the defaults are the paper's protocol: SGD at a constant learning rate, the
same for every pair, 20 epochs, temperature 1, its views, and the final weights exported. On other
images no good rate is known: each run tries config.learning_rates and keeps the best on tune, with
a schedule that decays to zero and with gradients clipped, or the larger rates would diverge (one
that does is dropped and reported); find_rates does so on ImageNet. For the embedded zoo the rate is
from configs/study.py.

On scikit-learn's 1,797 digits, 8 x 8 pixels, for which nothing was tuned: two networks that
pretrain has trained for 6 epochs, each a student of the other by the default command (with
--config.image_size=8 --config.augment=none), also with a fifth of train's labels wrong; change on
359 images in points, exported and by the final weights:

                                          kl_dp            kl_pool          xe_self, xe
  tiny_resnet_narrow  right   94.99 %     +2.79   +2.79     0.00   +2.23     +3.62   +2.79
                      wrong   93.59 %      0.00   +4.74     0.00   +2.79      0.00    0.00
  tiny_mlp            right   97.77 %      0.00    0.00     0.00   +0.28     0.00    0.00
                      wrong   96.94 %      0.00    0.00     0.00   -0.28     0.00    0.00

(final weights of the last two for tiny_resnet_narrow, at the best rate: +3.62 and +4.46 with right
labels, +3.06 and +3.06 with wrong ones.) Each decision has 72 images of tune, and sees gains of 7
points: it lets little through, and no harm. With right labels the labels alone give as much as the
teacher; with wrong ones the better teacher's answers (kl_dp, +4.7) give more than they do.

One thing differs from the paper: the authors train BatchNorm with batch statistics, here running
statistics are frozen (config.batch_norm). On the zoo both give the same within the error
(configs/paper/success.py), and with frozen ones nothing depends on the batch size.
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
    # How to use several teachers (ktjax.jobs.transfer.plan.STRATEGIES). single: each alone;
    # parallel: all at once; sequential: one after another; soup: each alone, then average the
    # students; mutual: no model is frozen, student and teachers teach each other.
    config.strategy = arg.strategy
    config.order = arg.order  # sequential: ascending or descending by accuracy, given, random
    # For soups, BatchNorm statistics: average over the students, as the authors do; or estimate
    # from views of train (ktjax.experiment.statistics, which has a measurement).
    config.soup_batch_norm = "average"
    # Of data order and views, one run each. The zoo was trained on the views of seed 0.
    config.seeds = (1,)

    def rate() -> Any:
        return config_dict.placeholder(float)

    def kl(top_k: int | None = None, temperature: float = 1.0) -> dict[str, Any]:
        placeholder = config_dict.placeholder(int)  # one for each: shared ones change together
        placeholder.set(top_k)
        return dict(temperature=temperature, top_k=placeholder, standardized=False)

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples. None: the best of
    # config.learning_rates on tune.
    # Which samples to distill, and whether to average the loss over all or, as the authors do, only
    # over those that are distilled.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    # With top_k, take the target's classes or, as the authors do, always the teacher's.
    dp = dict(top_k_of="target")
    xe = dict(label_smoothing=0.0)
    soft = 2.0  # the temperature of pools: see configs/pools.py
    objectives = {
        "xe": dict(objective="xe", learning_rate=rate(), **xe),
        "self": dict(objective="self", learning_rate=rate(), **kl()),
        "xe_self": dict(objective="xe_self", learning_rate=rate(), alpha=0.5, **xe, **kl()),
        "kl": dict(objective="kl", learning_rate=rate(), **every, **kl()),
        "xe_kl": dict(objective="xe_kl", learning_rate=rate(), alpha=0.5, **every, **xe, **kl()),
        "xe_kl_mcl": dict(
            # Over the 100 most probable of ImageNet's 1,000 classes; no negative flips, where only
            # the student is right.
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
        # The authors use neutral="average_student": with the current student.
        "kl_dp_average": dict(
            objective="kl_dp_flip", learning_rate=rate(), neutral="average", **dp, **kl()
        ),
        # Targets in which the label's probability leads by `lead`, before they are softened.
        "kl_dp_corrected": dict(
            objective="kl_dp_corrected", learning_rate=rate(), lead=0.2, **dp, **kl()
        ),
        # A pool of initial student and teachers, with weights fitted on tune.
        "kl_pool": dict(
            objective="kl_pool", learning_rate=rate(), hold=0.0, **kl(temperature=soft)
        ),
        # The same, and holding on to the initial student's largest logits (ktjax.losses.drift).
        "kl_pool_hold": dict(
            objective="kl_pool", learning_rate=rate(), hold=0.3, **kl(temperature=soft)
        ),
        "kl_pool_corrected": dict(
            objective="kl_pool_corrected", learning_rate=rate(), lead=0.2, **kl(temperature=soft)
        ),
        # The same without a teacher: the calibrated initial student.
        "self_pool": dict(objective="self_pool", learning_rate=rate(), **kl(temperature=soft)),
        "self_corrected": dict(
            objective="self_corrected", learning_rate=rate(), lead=0.2, **kl(temperature=soft)
        ),
        # The weight is for a sum over the batch: 640 times the mean of 64 samples.
        "cd": dict(objective="cd", learning_rate=rate(), weight=10.0, gamma=0.1, **xe),
        "crd": dict(
            objective="crd",
            learning_rate=rate(),
            weight=0.8,
            gamma=1.0,
            projection=128,  # projection width of features
            negatives=4096,  # per sample
            same_class_negatives=False,  # also from its own class; the authors: no
            contrast_temperature=0.07,
            momentum=0.5,  # share of the memory that is kept
            **xe,
        ),
        # The authors' gradient also flows into the teaching model: detach_teacher=False.
        "mutual": dict(objective="mutual", learning_rate=1e-4, detach_teacher=True, **xe, **kl()),
    }
    if arg.find_rates:
        for entry in objectives.values():
            entry["learning_rate"] = rate()
    chosen = arg.objectives or (("mutual",) if arg.strategy == "mutual" else ("kl_dp", "kl_pool"))
    for name in chosen:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in chosen}  # from those above
    # Baselines for a transfer: the same training without a teacher, run for every seed and every
    # learning rate of the objectives, with their steps, schedule and slow weights. net subtracts
    # the control that gained most on tune, averaged over seeds, or none. Controls that need labels
    # are skipped if there are none (take self_pool), and self unless batch_norm=train or stochastic
    # depth changes the student. controls=xe+self picks from these; controls= is none.
    only_pools = all(name.startswith("kl_pool") for name in chosen)
    own = kl(temperature=soft) if only_pools else kl()  # of the methods
    controls = {
        "xe": dict(objective="xe", **xe),  # labels only
        "xe_self": dict(objective="xe_self", alpha=0.5, **xe, **own),  # alpha: student's weight
        "self": dict(objective="self", **kl()),  # no teacher
        # The calibrated initial student; and the same, corrected so that the label leads.
        "self_pool": dict(objective="self_pool", **kl(temperature=soft)),
        "self_corrected": dict(objective="self_corrected", lead=0.2, **kl(temperature=soft)),
    }
    for name in arg.controls:
        config_lib.check_choice("controls", name, tuple(controls))
    config.controls = {name: controls[name] for name in arg.controls}  # from those above
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune. None: the paper's 1e-4 for ImageNet, 0.1 for
    # glyphs, and 0.001, 0.01, 0.1 and 1 for other data, where no good rate is known.
    config.learning_rates = config_dict.placeholder(tuple)
    if arg.find_rates:
        config.learning_rates = (0.001, 0.01, 0.1, 1.0)
    # Slow weights, updated every `every` steps with a share tau kept; these are evaluated and
    # exported. every=None: every 512 samples, as in the paper: 2 * 256 / batch_size steps, at least
    # one.
    mcl = {"xe_kl_mcl": dict(tau=0.9999, every=config_dict.placeholder(int))}
    config.mcl = {name: mcl[name] for name in chosen if name in mcl}
    # Calibrate each model with a temperature fitted on tune before confidences are compared in
    # partitions and ensembles.
    config.calibrate = False

    config.data = arg.data  # one of ktjax.data.DATASETS, tfds:NAME, or folder:PATH
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

    # All models share one batch: side in pixels (None: 24 for glyphs), center-crop fraction and
    # resize filter. None: those of the model with the largest input; the other models resize.
    config.image_size = config_dict.placeholder(int)
    config.crop_pct = config_dict.placeholder(float)
    config.interpolation = config_dict.placeholder(str)
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
    # ktjax.augment.RECIPES. The paper's: default (mirrored, colors distorted, some gray),
    # weak, very_weak, vicreg, minimal (mirrored), none. shift_colour suits letters: no mirroring.
    # None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)
    # Answers of frozen models. live: computed in every step; stored: computed once for all runs.
    config.targets = "live"
    # Where to keep stored answers, for this and other runs. None: in memory, seed by seed.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits to store, plus what ktjax.targets keeps of the others. None:
    # all. ktjax.objectives.OBJECTIVES says which objectives this works for.
    config.store_top_k = config_dict.placeholder(int)
    # Further (temperature, standardized) that such a store must serve, for other runs that share
    # it, such as ((4.0, False),).
    config.store_softenings = ()
    # Number of views of an image, which epochs cycle through. None: every epoch has its own. Fewer
    # are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    # Length of training in epochs, each of which sees new views; or in steps. Neither: 20 epochs,
    # but at least 200 steps.
    config.total_epochs = config_dict.placeholder(float)
    config.total_steps = config_dict.placeholder(int)
    # How often to evaluate on tune and save a checkpoint. Neither: after every epoch, at most 20
    # times.
    config.eval_every_epochs = config_dict.placeholder(float)
    config.eval_every_steps = config_dict.placeholder(int)
    config.log_every = 50  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.weight_decay = 1e-4  # see ktjax.optim; it differs by optimizer
    # Learning-rate schedule (constant, or cosine: to zero), warmup as a share of all steps, and the
    # norm to clip gradients to. All None: on ImageNet as in the paper, constant, 0 and no clipping;
    # else cosine, 0.05 and 1. If a schedule is set, clip_norm=None means no clipping.
    config.schedule = config_dict.placeholder(str)
    config.warmup = config_dict.placeholder(float)
    config.clip_norm = config_dict.placeholder(float)

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models too large for one device
    config.microbatches = 1  # gradient accumulation over parts of a batch: less memory, more time
    config.remat = False  # recompute activations instead of keeping them: likewise
    config.steps_per_dispatch = 1  # more for small models, which wait for the host
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: batch statistics; frozen: running statistics
    # Stochastic depth of the student: the rate at its last block. None: as its checkpoint was
    # trained, if model_args in its config.json says so, else 0.
    config.drop_path_rate = config_dict.placeholder(float)
    # What to export. last: the final weights; best: the checkpoint that was best on tune;
    # no_regret: the best on tune of these, the mean over the last half of training, and
    # interpolations between old and new weights, if a test on separate images (split accept, a
    # folder beside train; or half of tune) shows that it improved. Otherwise the student stays as
    # it was: the run abstains. None: no_regret; for ImageNet last, as in the paper, and also with
    # strategy=mutual.
    config.export = config_dict.placeholder(str)

    if arg.runlocal:
        config.max_examples = 128
        config.learning_rates = (0.01,)
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
