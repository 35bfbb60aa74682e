"""How often a transfer helps, and by how much: all pairs of a zoo (paper section 5.1).

  ktjax --config=study --workdir=/tmp/study

runs the embedded zoo, students x teachers x objectives x seeds, each with a folder of its own, and
makes of these folders one table, pairs.csv, with results.json and report.html: the success rate per
student and its median, the mean change, net of controls without a teacher, and what the intervals
allow to say of them. Some of it, in a few minutes:

  ktjax --workdir=/tmp/study --config=study:students=glyphs/tiny_mlp_narrow+glyphs/tiny_mlp,\
teachers=glyphs/tiny_mixer+glyphs/tiny_vit,objectives=kl_dp+xe,runlocal

The same command goes on where it was. Lists may grow: with one more student, teacher, objective or
seed it runs what is new only, and a finished run keeps its row, but for `net` where a new learning
rate has brought a better control. Any number of processes may work in one workdir, on one machine
or on many that share its disk, now or later: each run has a lease (ktjax.experiment.lease, which
says what holds on NFS and in buckets), and who dies is replaced.

  ktjax --config=study --workdir=W --config.processes=2                     on 2 cores, no GPU
  ktjax --config=study --workdir=W --config.shard=$SLURM_ARRAY_TASK_ID/8    of a SLURM array
  ktjax --config=study --workdir=W --config.engine=ray                      pip install ktjax[study]
  ktjax --config=study --workdir=W --config.only_failed                     what has failed, again

A shard does its part and ends; a start without one does what is left, and makes the table whole.

Without a GPU a process for each core is 1.7 times as fast as one on both, for the zoo (2 CPU cores,
jax 0.10.2, steps of batch 64 a second): resnet_narrow 1.6, mixer 1.4, convnext 1.5, resnet_gn 1.6,
resnet 2.0, vit 1.5, resnet_wide 1.7.

The learning rates, per 256 samples, are those of configs/showcase.py, one for each objective and
none for a pair; that of xe_kl is kl's. With other images each run tries config.learning_rates and
takes the best on tune, and so do the controls: four trainings for one.

The paper's method over the zoo, chosen before it was run: all pairs, seed 1, 10 epochs, 4 views,
kl_dp and the controls xe and xe_self at 0.1, config.export=no_regret, with which last_delta says
what the weights at the end of training change:

  ktjax --workdir=W --config=study:objectives=kl_dp,controls=xe+xe_self --config.processes=2 \
      --config.views=4 --config.export=no_regret --config.keep=none

48 of the 72 pairs are done, in an hour and a half of 2 CPU cores; tiny_vit, tiny_resnet and
tiny_resnet_wide are still to learn. On validation, in points:

                      weights at the end                   exported                       xe_self
                      improved  mean   worst  best    improved  abstained  mean   best    at the end
  tiny_mlp_narrow      8 of  8  +0.30  +0.06  +0.54       2         6      +0.07  +0.33      +0.17
  tiny_mlp             5 of  8  +0.14  -0.24  +0.46       5         3      +0.19  +0.36      -0.03
  tiny_resnet_narrow   7 of  8  +0.57  -0.07  +0.97       5         3      +0.52  +0.97      +0.61
  tiny_mixer           4 of  8  -0.03  -0.23  +0.12       6         2      +0.14  +0.26      -0.12
  tiny_convnext        8 of  8  +0.22  +0.16  +0.36       4         4      +0.15  +0.36      +0.01
  tiny_resnet_gn       6 of  8  +0.10  -0.06  +0.24       4         4      +0.09  +0.21      +0.05
  all                 38 of 48  +0.22  -0.24  +0.97      26        22      +0.19  +0.97

79 % of the pairs improve by their last weights (the paper: 73.8 % of pairs), by little, and 9 lose.
Of what is exported none loses: 26 improve (5 of them surely, by Holm's test of all), 22 abstain, 15
of which would have improved (by less than the 0.3 that the decision sees). 21 of the 26 are not the
last weights but 25 to 75 % of the way there: gain and loss 1.25 and 1.01 %, where the last weights
have 2.12 and 2.08 on tune: loss is halved, and of the gain 59 % stays. Net of the controls, which
have the same export, +0.09 [-0.01, +0.19]: what tiny_resnet_narrow gains it gains alone.

Temperature. At 1 a pool, or a partition, says little beside its answer of images that all models
were trained on. With seed 1 and 4 views, change on tune and on validation, by temperature:

                                                      1             2             4
  tiny_mlp <- tiny_mixer, kl_pool, 40 epochs at 1.0   +1.20 +1.72   +2.33 +2.59   +2.14 +2.35
                          kl_dp                       +1.08 +1.70   +2.02 +2.27
                          xe_self (no teacher)        +0.64 +0.99   +0.67 +0.98
  from tiny_resnet_wide, kl_pool, 10 epochs at 0.1:
                          tiny_vit                    +0.48 +0.60   +0.96 +1.03
                          tiny_convnext               +0.15 +0.38   +0.51 +0.52
                          tiny_resnet                 +0.29 +0.31   +0.46 +0.49
                          tiny_mixer                  +0.03 -0.06   +0.38 +0.36
                          tiny_resnet_gn              -0.02 +0.04   +0.14 +0.42
  tiny_resnet_narrow <- tiny_convnext, the same       +0.53 +0.63   +0.21 +0.37
  tiny_convnext, xe_self, the same                    -0.11 +0.01   -0.04 +0.02

(at 0.3: tiny_mixer +0.08 +0.16 with 2, -0.13 +0.06 with 4; tiny_convnext +0.26 +0.64,
tiny_resnet_narrow -0.66 -0.76 with 4; tiny_convnext from the weaker tiny_mlp, at 0.1 with 2, +0.10
+0.30.) So the temperature of pools is 2: six of seven networks gain more by it, the smallest, of
13,696 parameters, less.

On models that nothing was chosen on, of the zoo of the other seed (configs/pretrain.py), the same
10 epochs with config.export=no_regret and seed 1, change on validation, and what the last weights
would have given:

  tiny_convnext <- tiny_resnet_wide   kl_pool        +0.77 +- 0.14   last +0.77
                                      kl_dp          +0.29 +- 0.12   last -0.06
                                      xe_self        abstains        last -0.13

Both perceptrons from their eight teachers, by pools of temperature 2, one seed:

  ktjax --workdir=W --config=study:students=glyphs/tiny_mlp+glyphs/tiny_mlp_narrow,\
objectives=kl_pool,controls=xe_self --config.objectives.kl_pool.learning_rate=1.0 \
      --config.controls.xe_self.temperature=2.0 --config.total_epochs=40.0 \
      --config.eval_every_epochs=40.0 --config.views=4 --config.export=no_regret \
      --config.steps_per_dispatch=10

                      improved  abstained  mean   worst  best   xe_self  net
  tiny_mlp_narrow      8 of 8      0       +1.89  +1.61  +2.38   +1.00   +0.89
  tiny_mlp             7 of 8      1       +1.96   0.00  +2.59   +0.98   +0.98

All 15 that do not abstain are surely better (Holm); the one that does has the only weaker teacher.
With temperature 1 the same gave 15 of 16, too, but +1.29 in the mean and net of xe_self +0.20; xe
and self_pool abstained. (Intervals clustered by two students say nothing.)

What follows has temperature 1. For one student, tiny_mlp (61.5 %), from the eight others, with seed
1, config.views=4 and config.steps_per_dispatch=10, 35 seconds a run on 2 CPU cores (intervals are
clustered by teacher; the control that tune chose is xe_self at 0.03, -0.04 on validation):

                      improved  mean change           net                   best   worst
  kl                    6 of 8  -0.23 [-1.26, +0.79]  -0.20 [-1.22, +0.83]  +0.37  -3.24
  kl_dp                 5 of 8  +0.14 [-0.06, +0.35]  +0.18 [-0.02, +0.38]  +0.46  -0.24
  kl_dp_unsupervised    6 of 8  +0.19 [+0.06, +0.33]  +0.23 [+0.10, +0.37]  +0.38  -0.06
  kl_pool               6 of 8  +0.21 [-0.01, +0.43]  +0.25 [+0.03, +0.47]  +0.52  -0.19

Seven of the eight teachers are better than this student by 12 to 24 points, and give 0.2 points,
1 % of the headroom; kl loses from the eighth, which is weaker, more than it gains from them.

Patience gives more than the objective does. From tiny_mixer (79.1 %), seed 1, config.views=4, the
change in points on tune and on validation, by epochs and learning rate:

              10: 0.1       0.3          1.0           40: 0.1       0.3          1.0
  kl_pool     +0.07 +0.44  -0.40 -0.06  -1.91 -1.07    +0.58 +0.83  +1.03 +1.48  +1.20 +1.72
  kl                                                                +0.95 +1.37  +1.01 +1.72
  kl_dp                    -0.39 -0.04                                           +1.08 +1.70
  xe_self                                              +0.19 +0.02  +0.45 +0.31  +0.64 +0.99
  xe                                                                -0.22 -0.18
  self_pool                                            -0.03 -0.08  -0.08 -0.05  -0.03 +0.08

(AdamW, kl_pool, 10 epochs: +0.15 +0.52 at 0.001, +0.22 +0.47 at 0.003, -0.47 -0.19 at 0.01.) What
10 epochs say of a learning rate is wrong for 40. And half of what the teacher seems to give, the
student gives itself at the same rate and length: net of xe_self it is +0.6 on tune and +0.7 on
validation. From the weaker tiny_mlp_narrow, 40 epochs at 1.0: kl_pool -0.11 +0.17, kl_dp -0.09
+0.13.

More patience, and more views: 120 epochs at 1.0, config.views=16, seed 1, tiny_mlp, 7 to 10 minutes
a run beside other work, tune and validation:

  kl_pool from tiny_mixer +3.93 +4.37, tiny_vit +3.83 +3.88, tiny_mlp_narrow (weaker) +0.09 +0.19
  xe_self                 +1.76 +1.86

so the teacher's share grows with patience: from +0.7 (40 epochs, 4 views) to +2.5 points net of the
control.

Tried with 40 epochs at 1.0 and not better than kl_pool's +1.20 +1.72 from tiny_mixer:
kl_pool_corrected +1.20 +1.74, xe_kl +0.84 +1.41 (from tiny_resnet_wide +0.45 +1.08, -0.45 +0.19).
Mixup, which this package has not (targets mixed as the images are): -2.09 -1.64 with alpha=1 and
-0.17 +0.18 with 0.2. A router that predicts who is right from both models' log-odds, margins and
classes, fitted on half of 12,000 images of tune: its choice is more often right than that of the
larger maximum probability by 0.44 points in the median over the 72 pairs, the pool by 0.78: so the
pool is here and the router is not. Other pools, fitted on 6,000 images of tune and asked on 6,000
others, over 18 pairs, in points of their own accuracy against one weight a model: weights for each
class, shrunk to these, -0.03 to -0.13 in the median, weights by the models' margins +0.02, a bias
for each class -0.05, a mixture of probabilities -0.63: so a pool has one weight a model.

A convolutional student, tiny_resnet_narrow from tiny_mixer, 20 epochs: kl_pool +0.48 +0.52 at 0.1,
+0.11 +0.20 at 0.5; xe_self +0.47 +0.71, +0.12 +0.26: nothing of it is the teacher's.

A store pays: five objectives from the eight others to tiny_mlp, one epoch, config.keep=none, in one
go on 2 CPU cores (beside other work, more of it in the second half), evaluation included: 234 s
with config.targets=stored, which has one view of nine models to make first, and 656 s with live.
All 100 logits are kept as float32; what the largest alone take is in ktjax.targets.

On paper, 466 students x 466 teachers of ImageNet, one objective, the paper's 128,117 images and 20
epochs, with a GPU that trains on 1,000 images of a mean model a second and asks it about 3,000 (an
assumption; put in what `python -m ktjax.bench` or a first run says of yours):

  stores            466 of 0.23 GB (top-16): 105 GB, against 4,800 GB of all logits. 1.2 billion
                    images are asked about: 110 GPU hours, once for all pairs, objectives and seeds
  216,690 pairs     154,000 GPU hours of training; asked live, teacher and initial student would
                    take 103,000 more, for every objective anew
  compiled steps    466, and not 216,690: at a minute each 8 GPU hours instead of 3,600

so a study of this size is one of `pairs=400`: 285 GPU hours, and 110 for all stores.
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
    # model does not teach itself.
    config.students = arg.students or ("zoo:glyphs",)
    config.teachers = arg.teachers or ("zoo:glyphs",)
    # So many pairs, drawn from them with pairs_seed (pairs=18). None: all.
    config.pairs = config_dict.placeholder(int)
    config.pairs_seed = 0
    # Of order and views, a run for each. The zoo was trained with seed 0, whose views it has seen.
    config.seeds = tuple(arg.seeds)

    def kl(temperature: float = 1.0) -> dict[str, Any]:
        return dict(temperature=temperature, top_k=config_dict.placeholder(int), standardized=False)

    def tuned(rate: float) -> Any:
        found = config_dict.placeholder(float)
        if arg.data.startswith("glyphs"):
            found.set(rate)
        return found

    # What is minimized, by a name of your choice: the objective (ktjax.objectives.OBJECTIVES, whose
    # docstrings explain the options), and the learning rate per 256 samples: for glyphs what was
    # tuned there, else None: the best on tune of config.learning_rates. One that asks no teacher
    # has a run for each student and seed.
    every = dict(flips=("positive", "negative", "neutral"), mean_over="all")
    dp = dict(top_k_of="target")
    xe = dict(label_smoothing=0.0)
    soft = 2.0  # the temperature of pools, which says more of improbable classes: see the docstring
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
        "kl_pool": dict(objective="kl_pool", learning_rate=tuned(0.1), **kl(soft)),
        "kl_pool_corrected": dict(
            objective="kl_pool_corrected", learning_rate=tuned(0.1), lead=0.2, **kl(soft)
        ),
    }
    for name in arg.objectives:
        config_lib.check_choice("objectives", name, tuple(objectives))
    config.objectives = {name: objectives[name] for name in arg.objectives}  # of those above
    # What pairs are compared with: the same training without a teacher. Each has a run for every
    # student, seed and learning rate of the objectives above, which all of its pairs share; the one
    # that gained most on tune, or none, is subtracted: net. controls=xe+self picks from these.
    controls = {
        "xe": dict(objective="xe", **xe),  # labels only
        "xe_self": dict(objective="xe_self", alpha=0.5, **xe, **kl()),  # alpha: of the student
        "self": dict(objective="self", **kl()),  # nobody teaches; only where batch_norm=train
        # The initial student, as sure as it should be; and with the label in the lead.
        "self_pool": dict(objective="self_pool", **kl(soft)),
        "self_corrected": dict(objective="self_corrected", lead=0.2, **kl(soft)),
    }
    for name in arg.controls:
        config_lib.check_choice("controls", name, tuple(controls))
    config.controls = {name: controls[name] for name in arg.controls}  # of those above
    # From these the best on tune is taken, for each run, where a learning rate is None: all are
    # tried with all steps, which takes as many times as long. None: of ImageNet the paper's 1e-4
    # alone, of glyphs 0.1; of other data, where nobody knows one, 0.001, 0.01, 0.1 and 1.
    config.learning_rates = config_dict.placeholder(tuple)
    # Slow weights, by name of an objective: {"kl": dict(tau=0.999, every=1)}.
    config.mcl = {}
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
    # Models' classes are found by name. position: those without names are the data's, in order
    config.classes = "names"
    # What zeroshot:NAME takes the classes for: the mean of these texts, {} being a class's name.
    config.templates = ("a photo of a {}.",)

    # One batch for all models of all pairs, so that one more model changes no view: its side in
    # pixels, the share of the image's center that it shows, and the filter. None: 24, 1 and
    # bilinear for glyphs, else 224, 0.875 and bicubic.
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
    # Where stored answers are kept, for this study and others; None: below the workdir.
    config.store = config_dict.placeholder(str)
    # How many of the largest logits are kept, with what ktjax.targets says of the others; None: all
    # of them. ktjax.objectives.OBJECTIVES has which objectives that serves.
    config.store_top_k = config_dict.placeholder(int)
    # How many views of an image there are, which passes over train see in turn; None: each pass has
    # its own. Fewer are cheaper to store.
    config.views = config_dict.placeholder(int)

    config.batch_size = 64  # over all devices
    config.eval_batch_size = 512  # over all devices
    config.total_epochs = 10.0  # passes over train; each sees other views
    config.total_steps = config_dict.placeholder(int)  # instead of total_epochs
    config.eval_every_epochs = 5.0  # evaluate on tune and save a checkpoint
    config.eval_every_steps = config_dict.placeholder(int)  # instead of eval_every_epochs
    config.log_every = 500  # steps

    config.optimizer = "sgd"  # ktjax.optim.OPTIMIZERS
    config.schedule = "cosine"  # to zero; or constant
    config.warmup = 0.05  # share of all steps
    config.weight_decay = 0.0  # as ktjax.optim says, for each optimizer
    config.clip_norm = 1.0  # of the gradient; None: not clipped

    config.parallel = "pmap"  # ktjax.parallel.LAYOUTS: fsdp for models that fit on no device
    config.microbatches = 1  # parts of a batch, one after another: less memory, more time
    config.remat = False  # compute activations again rather than keep them: likewise
    # More for students without convolutions, which wait for the host: on a CPU 10 doubles the speed
    # of an MLP, and makes convolutions four times as slow.
    config.steps_per_dispatch = 1
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

    # How it is started. None of the following says what is found, and each may change.
    # Exported students: all; best: of each student the one that gained most on tune; none.
    config.keep = "best"
    config.engine = "local"  # this machine; or ray
    # With local: how many processes, each on its share of the cores. On a CPU as many as cores.
    config.processes = 1
    # i/n: this process does the i-th of n parts, from 0 on, of runs that others do not. None: all.
    config.shard = config_dict.placeholder(str)
    config.only_failed = False  # runs those that failed once more, and nothing else
    # Seconds without a sign of life after which the process that is at a run is taken for dead. On
    # its own machine that is seen at once.
    config.lease_expiry = 120.0
    # What a task, which does the runs of one student, asks Ray for, and how often it is started
    # again where a worker dies. RAY_ADDRESS names a cluster; without it one is made here.
    config.ray = dict(cpus=1.0, gpus=0.0, retries=3)

    if arg.pairs:
        config.pairs = arg.pairs
    if arg.runlocal:
        if not arg.students:
            config.students = ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mlp")
        if not arg.teachers:
            config.teachers = ("glyphs/tiny_mlp_narrow", "glyphs/tiny_mixer")
        config.max_examples = 128
        config.batch_size = 16
        config.eval_batch_size = 64
        config.total_epochs = 2.0
        config.eval_every_epochs = 1.0
        config.log_every = 2
    return config.lock()
