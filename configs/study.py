"""How often a transfer helps, and by how much: all pairs of a zoo (paper section 5.1).

  ktjax --config=study --workdir=/tmp/study

runs the embedded zoo, students x teachers x objectives x seeds, each run in its own folder, and
combines these into one table, pairs.csv, with results.json and report.html: the success rate per
student and its median, the mean change, net of controls without a teacher, and what the intervals
support. A part of it, in a few minutes:

  ktjax --workdir=/tmp/study --config=study:students=glyphs/tiny_mlp_narrow+glyphs/tiny_mlp,\
teachers=glyphs/tiny_mixer+glyphs/tiny_vit,objectives=kl_dp+xe,runlocal

The same command resumes. Lists may grow: with one more student, teacher, objective or seed it runs
only what is new, and a finished run keeps its row, except for `net` if a new learning rate has
brought a better control. Any number of processes may work in one workdir, on one machine or on many
that share its disk, now or later: each run has a lease (ktjax.experiment.lease, which says what
holds on NFS and in buckets), and a process that dies is replaced.

  ktjax --config=study --workdir=W --config.processes=2                     on 2 cores, no GPU
  ktjax --config=study --workdir=W --config.shard=$SLURM_ARRAY_TASK_ID/8    of a SLURM array
  ktjax --config=study --workdir=W --config.engine=ray                      pip install ktjax[study]
  ktjax --config=study --workdir=W --config.only_failed                     failed runs, again

A shard does its part and exits; a start without one does what is left and completes the table.

Without a GPU, one process per core is 1.7 times as fast as one on both, for the zoo (2 CPU cores,
jax 0.10.2, steps per second at batch size 64): resnet_narrow 1.6, mixer 1.4, convnext 1.5,
resnet_gn 1.6, resnet 2.0, vit 1.5, resnet_wide 1.7.

The learning rates, per 256 samples, are those of configs/showcase.py, one per objective, none
specific to a pair; xe_kl uses that of kl. With other images each run tries config.learning_rates
and keeps the best on tune, and so do the controls: four trainings instead of one.

What it gave over the embedded zoo: configs/paper/success.py for the paper's objectives, and
configs/pools.py for pools and for what was tried beside them.

A store pays off: five objectives from the eight others to tiny_mlp, one epoch, config.keep=none, in
one go on 2 CPU cores (alongside other work, more of it in the second half), including evaluation:
234 s with config.targets=stored, which first computes one view of nine models, and 656 s with live.
All 100 logits are stored as float32; ktjax.targets has the size of the largest alone.

An estimate: 466 students x 466 teachers on ImageNet, one objective, the paper's 128,117 images and
20 epochs, with a GPU that processes 1,000 images per second in training an average model and 3,000
in inference (an assumption; use what `python -m ktjax.bench` or a first run reports for yours):

  stores            466 of 0.48 GB (top-16, and all logits on tune and validation): 222 GB, against
                    4,900 GB of all logits. Inference on 1.2 billion images: 110 GPU hours, once for
                    all pairs, objectives and seeds
  216,690 pairs     154,000 GPU hours of training; run live, teacher and initial student would take
                    103,000 more, again for every objective
  compiled steps    466 instead of 216,690: at a minute each 8 GPU hours instead of 3,600

so a study of this size should use `pairs=400`: 285 GPU hours, and 110 for all stores.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from ktjax import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: students, teachers, objectives, seeds, controls, data, pairs, runlocal."""
    arg = config_lib.parse_arg(
        arg,
        students=(),
        teachers=(),
        objectives=("kl", "xe_kl", "kl_dp", "kl_dp_unsupervised"),
        seeds=(1,),
        controls=("xe", "xe_self", "self"),
        data="glyphs",
        pairs=0,
        runlocal=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "study"  # ktjax.jobs.JOBS

    # Names or folders, as ktjax.load_model takes them; zoo:glyphs is the whole embedded zoo. A
    # model does not teach itself. None: that zoo for glyphs; else students must be named, and are
    # each other's teachers.
    config.students = config_dict.placeholder(tuple)
    config.teachers = config_dict.placeholder(tuple)
    config.update({k: arg[k] for k in ("students", "teachers") if arg[k]})
    # How many pairs to draw from them, with pairs_seed (pairs=18). None: all.
    config.pairs = config_dict.placeholder(int)
    config.pairs_seed = 0
    # Of data order and views, one run each. The zoo was trained on the views of seed 0.
    config.seeds = tuple(arg.seeds)

    def kl(temperature: float = 1.0) -> dict[str, Any]:
        return dict(temperature=temperature, top_k=config_dict.placeholder(int), standardized=False)

    def tuned(rate: float) -> Any:
        found = config_dict.placeholder(float)
        if arg.data.startswith("glyphs"):
            found.set(rate)
        return found

    # Losses, each under a name of your choice: the objective (ktjax.objectives.OBJECTIVES; the
    # docstrings explain the options) and the learning rate per 256 samples: for glyphs the tuned
    # one, else None: the best of config.learning_rates on tune. An objective without a teacher runs
    # once per student and seed.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    xe = dict(label_smoothing=0.0)
    soft = 2.0  # the temperature of pools, to show more of improbable classes: configs/pools.py
    objectives = {
        "xe": dict(objective="xe", learning_rate=tuned(0.1), **xe),
        "xe_self": dict(objective="xe_self", learning_rate=tuned(0.1), alpha=0.5, **xe, **kl()),
        "kl": dict(objective="kl", learning_rate=tuned(0.01), **every, **kl()),
        "xe_kl": dict(
            objective="xe_kl", learning_rate=tuned(0.01), alpha=0.5, **every, **xe, **kl()
        ),
        "hinton": dict(objective="hinton", learning_rate=tuned(0.01), **every, **kl()),
        "kl_dp": dict(objective="kl_dp", learning_rate=tuned(0.1), **dp, **kl()),
        "kl_dp_unsupervised": dict(
            objective="kl_dp_unsupervised", learning_rate=tuned(0.03), **dp, **kl()
        ),
        "kl_dp_corrected": dict(
            objective="kl_dp_corrected", learning_rate=tuned(0.1), lead=0.2, **dp, **kl()
        ),
        "kl_pool": dict(objective="kl_pool", learning_rate=tuned(0.1), hold=0.0, **kl(soft)),
        # The same, and holding on to the initial student's largest logits (ktjax.losses.drift).
        "kl_pool_hold": dict(objective="kl_pool", learning_rate=tuned(0.1), hold=0.3, **kl(soft)),
        "kl_pool_corrected": dict(
            objective="kl_pool_corrected", learning_rate=tuned(0.1), lead=0.2, **kl(soft)
        ),
    }
    for name in arg.objectives:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in arg.objectives}  # from those above
    # Baselines for pairs: the same training without a teacher, run for every student, seed and
    # learning rate of the objectives above, and shared by all pairs of a student. net subtracts the
    # control that gained most on tune, or none. controls=xe+self picks from these.
    controls = {
        "xe": dict(objective="xe", **xe),  # labels only
        "xe_self": dict(objective="xe_self", alpha=0.5, **xe, **kl()),  # alpha: student's weight
        "self": dict(objective="self", **kl()),  # no teacher; only if training changes answers
        # The calibrated initial student; and the same, corrected so that the label leads.
        "self_pool": dict(objective="self_pool", **kl(soft)),
        "self_corrected": dict(objective="self_corrected", lead=0.2, **kl(soft)),
    }
    for name in arg.controls:
        config_lib.check_choice("controls", name, tuple(controls))
    config.controls = {name: controls[name] for name in arg.controls}  # from those above
    # Where a learning rate is None, each run tries all of these at full length, which takes that
    # many times as long, and keeps the best on tune. None: the paper's 1e-4 for ImageNet, 0.1 for
    # glyphs, and 0.001, 0.01, 0.1 and 1 for other data, where no good rate is known.
    config.learning_rates = config_dict.placeholder(tuple)
    # Slow weights, by objective name: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
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
    # order.
    config.classes = "names"
    # Prompts for zeroshot:NAME, with {} for the class name; their embeddings are averaged.
    config.templates = ("a photo of a {}.",)

    # All models of all pairs share one batch, so that adding a model changes no view: side in
    # pixels, center-crop fraction and resize filter. None: 24, 1 and bilinear for glyphs, else 224,
    # 0.875 and bicubic.
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
    # view. Likewise, each process keeps weights and logits of the models that it used last.
    config.cache_gb = 2.0
    config.decode_threads = 16  # per decoding process
    config.decode_processes = 0  # that decode for training; 0: the job's own process does
    # ktjax.augment.RECIPES. None: shift_colour for glyphs, else default.
    config.augment = config_dict.placeholder(str)
    # Answers of frozen models. live: computed in every step; stored: computed once for all runs.
    config.targets = "stored"
    # Where to keep stored answers, for this and other studies. None: in the workdir.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits to store, plus what ktjax.targets keeps of the others. None:
    # all. ktjax.objectives.OBJECTIVES says which objectives this works for.
    config.store_top_k = config_dict.placeholder(int)
    # Further (temperature, standardized) that such a store must serve, for other runs that share
    # it, such as ((4.0, False),). All objectives of the study are served in any case.
    config.store_softenings = ()
    # Number of views of an image, which epochs cycle through. None: every epoch has its own. Fewer
    # are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 10.0  # each epoch sees new views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 500  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.0  # see ktjax.optim; it differs by optimizer
    config.clip_norm = 1.0  # of the gradient; None: no clipping

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models too large for one device
    config.microbatches = 1  # gradient accumulation over parts of a batch: less memory, more time
    config.remat = False  # recompute activations instead of keeping them: likewise
    # More for students without convolutions, which wait for the host: on a CPU, 10 doubles the
    # speed of an MLP but makes convolutions four times as slow.
    config.steps_per_dispatch = 1
    config.dtype = "float32"  # for training; bfloat16 suits TPU and GPU. Evaluation is in float32
    config.batch_norm = "frozen"  # train: batch statistics; frozen: running statistics
    # Stochastic depth of the student: the rate at its last block. None: as its checkpoint was
    # trained, if model_args in its config.json says so, else 0.
    config.drop_path_rate = config_dict.placeholder(float)
    # What to export. last: the final weights; best: the checkpoint that was best on tune;
    # no_regret: the best on tune of these, the mean over the last half of training, and
    # interpolations between old and new weights, if a test on separate images (split accept, a
    # folder beside train; or half of tune) shows that it improved. Otherwise the student stays as
    # it was: the run abstains.
    config.export = "last"

    # How to launch the study. None of the following affects the results, and each may change.
    # Exported students to keep. all; best: for each student, the one that gained most on tune;
    # none.
    config.keep = "best"
    config.engine = "local"  # this machine; or ray
    # With local: number of processes, each on its share of the cores. On a CPU, one per core.
    config.processes = 1
    # i/n: this process does part i of n, counted from 0, of the runs. None: all.
    config.shard = config_dict.placeholder(str)
    config.only_failed = False  # rerun those that failed, and nothing else
    # Seconds without a heartbeat after which the process of a run is considered dead. On its own
    # machine this is detected at once.
    config.lease_expiry = 120.0
    # Resources of a Ray task, which does the runs of one student, and how often to retry it if a
    # worker dies. RAY_ADDRESS names a cluster; without it, one is started here.
    config.ray = dict(cpus=1.0, gpus=0.0, retries=3)

    if arg.pairs:
        config.pairs = arg.pairs
    if arg.runlocal:
        if arg.data.startswith("glyphs"):
            config.students = arg.students or ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mlp")
            config.teachers = arg.teachers or ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mixer")
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
