"""What a transfer minimizes (paper sections 4.1, 4.2), per example and without reduction.

An objective is a pair of functions, like an optax transformation: see objective.py. Most have no
parameters and no state. Targets carry no gradients. The losses themselves are in losses.py; those
on features are in contrastive.py, averages of several models in pools.py, jointly trained students
in mutual.py.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ktjax import compress, contrastive, losses, mutual, partition, pools
from ktjax.losses import Softening
from ktjax.objective import Objective, Outputs, label_loss, mean, stateless
from ktjax.parallel import AXIS

FLIPS = ("positive", "negative", "neutral")
NEUTRAL = ("retain", "teach", "average", "average_student")
AVERAGES = NEUTRAL[2:]


# From labels, from the initial student, from teachers.


def make_xe(*, label_smoothing: float) -> Objective:
    """Cross-entropy with the labels only: plain (pre)training, and the control of a transfer."""
    return stateless(lambda outputs, batch: (label_loss(outputs, batch, label_smoothing), {}))


def make_self(*, softening: Softening) -> Objective:
    """KL(T) to the initial student: the control without a teacher."""
    kl = functools.partial(losses.kl, softening=softening)

    def loss(outputs, batch):
        del batch
        loss_B = kl(outputs.student.logits, outputs.initial.logits)
        return loss_B, {"taught": jnp.zeros(loss_B.shape)}

    return stateless(loss)


def make_xe_self(*, alpha: float, label_smoothing: float, softening: Softening) -> Objective:
    """`alpha` times `self` plus 1 - alpha times the cross-entropy with the labels.

    The control that learns from the label and stays close to the initial student: `xe_kl` with the
    initial student as the teacher.
    """
    own = make_self(softening=softening)

    def loss(outputs, batch):
        own_B, (_, aux) = own.apply((), (), outputs, batch, None)
        return alpha * own_B + (1 - alpha) * label_loss(outputs, batch, label_smoothing), aux

    return stateless(loss)


def _distil(
    divergence: Callable[[jax.Array, jax.Array], jax.Array], flips: Sequence[str], mean_over: str
) -> Objective:
    """The mean over teachers of a divergence, on the samples whose flips are in the list."""

    def share(distilled_B):
        """Fraction of samples that are distilled, over all devices."""
        count, size = distilled_B.sum(dtype=jnp.float32), jnp.float32(distilled_B.size)
        count, size = jax.lax.psum((count, size), AXIS)
        return jnp.maximum(count, 1) / size  # avoids dividing by 0

    def loss(outputs, batch):
        student_BxC = outputs.student.logits

        def of_teacher(teacher_BxC):
            loss_B = divergence(student_BxC, teacher_BxC)
            if set(flips) == set(FLIPS):  # needs no labels
                return loss_B, jnp.ones(loss_B.shape)
            kinds = partition.flips(student_BxC, teacher_BxC, label_B=batch["label"])
            distilled_B = functools.reduce(jnp.logical_or, [kinds[name] for name in flips])
            loss_B = jnp.where(distilled_B, loss_B, 0)
            if mean_over == "distilled":
                loss_B /= share(distilled_B)
            return loss_B, distilled_B.astype(jnp.float32)

        pairs = [of_teacher(teacher.logits) for teacher in outputs.teachers]
        loss_KxB, taught_KxB = zip(*pairs, strict=True)
        return mean(loss_KxB), {"taught": mean(taught_KxB)}

    return stateless(loss)


def make_kl(*, softening: Softening, flips: Sequence[str], mean_over: str) -> Objective:
    """KL(T) to the teacher (paper eq. 3); several teachers: the mean of their KLs.

    Args:
      softening: how both are softened.
      flips: which samples are distilled, by whether the current student and the teacher are correct
        on them (FLIPS); the loss of the others is 0. Needs labels unless it lists all three.
      mean_over: `all`: the loss of a batch is the mean over all its samples, so that a sample's
        weight does not depend on its neighbors; `distilled`: the mean over the distilled samples
        only, as in the authors' code (a batch without any: 0). The same if all are distilled.
    """
    kl = functools.partial(losses.kl, softening=softening)
    return _distil(kl, flips, mean_over)


def make_hinton(*, softening: Softening, flips: Sequence[str], mean_over: str) -> Objective:
    """T^2 times the cross-entropy with the teacher's softened probabilities.

    Source: Hinton et al., arXiv 1503.02531, section 2. Takes the arguments of `kl` and has the same
    gradient; the value is larger by the teacher's entropy.
    """
    soft_cross_entropy = functools.partial(losses.soft_cross_entropy, softening=softening)
    return _distil(soft_cross_entropy, flips, mean_over)


def make_xe_kl(
    *,
    alpha: float,
    label_smoothing: float,
    softening: Softening,
    flips: Sequence[str],
    mean_over: str,
) -> Objective:
    """`alpha` times `kl` plus 1 - alpha times the cross-entropy with the labels (paper eq. 4).

    The cross-entropy covers all samples, whichever are distilled. The authors' XE-KL-Dist + MCL
    distills positive and neutral flips, not negative ones.
    """
    kl = make_kl(softening=softening, flips=flips, mean_over=mean_over)

    def loss(outputs, batch):
        kl_B, (_, aux) = kl.apply((), (), outputs, batch, None)
        return alpha * kl_B + (1 - alpha) * label_loss(outputs, batch, label_smoothing), aux

    return stateless(loss)


def make_adaptconf(*, sharpness: float, softening: Softening) -> Objective:
    """The teacher's prediction or the student's own, weighted by the student's confidence in each.

    (1 - b) KL(T) to the teacher + b times the cross-entropy with the student's own prediction.
    Here b = sigmoid((own - theirs) / sharpness), without gradient; `own` and `theirs` are the
    student's cross-entropies with its own and with the teacher's prediction. Several teachers: the
    mean of their losses.

    Source: Guo et al., "Vision Superalignment: Weak-to-Strong Generalization for Vision Foundation
    Models", arXiv 2402.03749, eq. 3 and 4.
    """
    kl = functools.partial(losses.kl, softening=softening)

    def loss(outputs, batch):
        del batch
        student_BxC = outputs.student.logits

        def answer_loss(logits_BxC):
            answer_B = partition.answer(logits_BxC)
            return losses.cross_entropy(student_BxC, label_B=answer_B, smoothing=0.0)

        own_B = answer_loss(student_BxC)

        def of_teacher(teacher_BxC):
            difference_B = own_B - answer_loss(teacher_BxC)
            own_share_B = jax.lax.stop_gradient(jax.nn.sigmoid(difference_B / sharpness))
            loss_B = (1 - own_share_B) * kl(student_BxC, teacher_BxC) + own_share_B * own_B
            return loss_B, 1 - own_share_B

        pairs = [of_teacher(teacher.logits) for teacher in outputs.teachers]
        loss_KxB, taught_KxB = zip(*pairs, strict=True)
        return mean(loss_KxB), {"taught": mean(taught_KxB)}

    return stateless(loss)


# By partition: the most confident model on each sample.


def _surest(
    teachers: Sequence[partition.Said], outputs: Outputs, label_B: jax.Array | None
) -> partition.Said:
    """The logits [B, C] of the most confident teacher on each sample."""
    teachers_KxBxC = partition.stack(teachers)
    calibration = outputs.temperatures_S
    best_B = partition.most_confident(
        teachers_KxBxC,
        label_B=label_B,
        temperatures_S=None if calibration is None else calibration[1:],
    )
    return partition.take(teachers_KxBxC, best_B)


def _candidates(outputs: Outputs, batch: Mapping, softening: Softening) -> list[partition.Said]:
    """The outputs of the initial student and the teachers, all in one form."""
    said = [candidate.logits for candidate in (outputs.initial, *outputs.teachers)]
    return compress.alike(said, label_B=batch["label"], ways=softening.ways)


def _make_kl_dp(
    *, softening: Softening, top_k_of: str, supervised: bool, lead: float | None = None
) -> Objective:
    kl = functools.partial(losses.kl, softening=softening)
    of_teacher = softening.top_k is not None and top_k_of == "teacher"

    def loss(outputs, batch):
        candidates = _candidates(outputs, batch, softening)
        logits_SxBxC = partition.stack(candidates)
        label_B = batch["label"] if supervised else None
        source_B = partition.most_confident(
            logits_SxBxC, label_B=label_B, temperatures_S=outputs.temperatures_S
        )
        target_BxC = partition.take(logits_SxBxC, source_B)
        if lead is not None:
            target_BxC = losses.corrected(target_BxC, label_B=batch["label"], lead=lead)
        loss_B = kl(
            outputs.student.logits,
            target_BxC,
            top_of_BxC=_surest(candidates[1:], outputs, label_B) if of_teacher else None,
        )
        aux = {f"taught_{i}": source_B == i for i in range(1, len(candidates))}
        return loss_B, {"taught": source_B > 0} | aux

    return stateless(loss)


def make_kl_dp(*, softening: Softening, top_k_of: str) -> Objective:
    """KL + data partitioning: each sample's target is the model with the largest probability of
    its label, among the initial student and the teachers (paper eq. 5).

    Args:
      softening: how student and target are softened.
      top_k_of: whose most probable classes `top_k` selects: the `target`'s, whichever model that
        is, so that its own prediction is never cut off; or always the `teacher`'s (the most
        confident one's), as in the authors' code. It matters only with a top_k.
    """
    return _make_kl_dp(softening=softening, top_k_of=top_k_of, supervised=True)


def make_kl_dp_unsupervised(*, softening: Softening, top_k_of: str) -> Objective:
    """KL + data partitioning without labels: the largest maximum probability (paper eq. 6).

    The arguments are those of `make_kl_dp`.
    """
    return _make_kl_dp(softening=softening, top_k_of=top_k_of, supervised=False)


def make_kl_dp_corrected(*, lead: float, softening: Softening, top_k_of: str) -> Objective:
    """`kl_dp` with correct targets: `losses.corrected` fixes those that no model gets right.

    The other arguments are those of `make_kl_dp`; `top_k_of` is `target`, among whose classes the
    label is.
    """
    return _make_kl_dp(softening=softening, top_k_of=top_k_of, supervised=True, lead=lead)


def make_kl_dp_flip(*, neutral: str, softening: Softening, top_k_of: str) -> Objective:
    """KL + data partitioning by flips between the current student and the teacher.

    The teacher teaches positive flips, the initial student negative ones. Several teachers count as
    one: on each sample, the one that gives the label the largest probability. (Paper section 4.2,
    appendix.)

    Args:
      neutral: who teaches the neutral ones: `retain`: the initial student; `teach`: the teacher;
        `average`: the mean of both models' logits, a fixed target; `average_student`: the mean of
        the teacher's and the current student's logits, with gradients flowing through the latter,
        as in the authors' code: that target follows the student, so it does not anchor it.
      softening: how student and target are softened.
      top_k_of: as in `make_kl_dp`.
    """
    kl = functools.partial(losses.kl, softening=softening)
    of_teacher = softening.top_k is not None and top_k_of == "teacher"

    def loss(outputs, batch):
        label_B, student_BxC = batch["label"], outputs.student.logits
        initial_BxC, *teachers = _candidates(outputs, batch, softening)
        teacher_BxC = _surest(teachers, outputs, label_B)
        kinds = partition.flips(student_BxC, teacher_BxC, label_B=label_B)
        targets = [initial_BxC, teacher_BxC]  # in the order of NEUTRAL
        if neutral in AVERAGES:
            partner_BxC = student_BxC if neutral == "average_student" else initial_BxC
            targets.append(partner_BxC / 2 + teacher_BxC / 2)
        source_B = jnp.select(
            [kinds["positive"], kinds["negative"]], [1, 0], default=min(NEUTRAL.index(neutral), 2)
        )
        loss_B = kl(
            student_BxC,
            partition.take(partition.stack(targets), source_B),
            top_of_BxC=teacher_BxC if of_teacher else None,
        )
        return loss_B, {"taught": jnp.asarray([0.0, 1.0, 0.5])[source_B]}

    return stateless(loss)


# How well the k largest logits (topk.py) serve an objective. EXACT: like all logits, to float16
# precision. APPROXIMATE: the same teachers, all other classes count as one. NOT: it needs more.
EXACT, APPROXIMATE, NOT = "exact", "approximate", "not"


class Entry(NamedTuple):
    """A row of OBJECTIVES: the builder, and what it requires."""

    make: Callable[..., Objective]
    labels: bool
    initial: bool
    teachers: bool
    features: bool = False  # of student and teachers
    joint: bool = False  # the student is several models
    supervised: bool | None = None  # whether its partition uses labels; None: no fixed partition
    without_labels: str = "kl_dp_unsupervised"  # what to use instead without labels
    top_k: str = APPROXIMATE  # how well top-k logits serve it; `of_top_k` considers its options
    pool: bool = False  # the models have weights, fitted on tune: `analysis.pool`


OBJECTIVES = {
    "xe": Entry(
        make_xe, labels=True, initial=False, teachers=False, without_labels="self", top_k=EXACT
    ),
    "self": Entry(make_self, labels=False, initial=True, teachers=False),
    "xe_self": Entry(
        make_xe_self, labels=True, initial=True, teachers=False, without_labels="self"
    ),
    "kl": Entry(make_kl, labels=False, initial=False, teachers=True),
    "xe_kl": Entry(make_xe_kl, labels=True, initial=False, teachers=True, without_labels="kl"),
    "hinton": Entry(make_hinton, labels=False, initial=False, teachers=True),
    "adaptconf": Entry(make_adaptconf, labels=False, initial=False, teachers=True),
    "kl_dp": Entry(make_kl_dp, labels=True, initial=True, teachers=True, supervised=True),
    "kl_dp_unsupervised": Entry(
        make_kl_dp_unsupervised, labels=False, initial=True, teachers=True, supervised=False
    ),
    "kl_dp_flip": Entry(make_kl_dp_flip, labels=True, initial=True, teachers=True),
    "kl_dp_corrected": Entry(
        make_kl_dp_corrected, labels=True, initial=True, teachers=True, supervised=True, top_k=NOT
    ),
    "kl_pool": Entry(
        pools.make_kl_pool, labels=False, initial=True, teachers=True, top_k=NOT, pool=True
    ),
    "kl_pool_corrected": Entry(
        pools.make_kl_pool_corrected,
        labels=True,
        initial=True,
        teachers=True,
        without_labels="kl_pool",
        top_k=NOT,
        pool=True,
    ),
    "self_pool": Entry(
        pools.make_self_pool, labels=False, initial=True, teachers=False, top_k=NOT, pool=True
    ),
    "self_corrected": Entry(
        pools.make_kl_pool_corrected,
        labels=True,
        initial=True,
        teachers=False,
        without_labels="self_pool",
        top_k=NOT,
        pool=True,
    ),
    "cd": Entry(
        contrastive.make_cd, labels=True, initial=False, teachers=True, features=True, top_k=NOT
    ),
    "crd": Entry(
        contrastive.make_crd, labels=True, initial=False, teachers=True, features=True, top_k=NOT
    ),
    "mutual": Entry(
        mutual.make_mutual, labels=True, initial=False, teachers=False, joint=True, top_k=NOT
    ),
}


def make(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective of OBJECTIVES with that name.

    Args:
      name: its key.
      options: its builder's arguments by name, with the fields of a Softening in its place, as in
        configs.
    """
    arguments = dict(options)
    if "softening" in inspect.signature(OBJECTIVES[name].make).parameters:
        arguments["softening"] = Softening(**{k: arguments.pop(k) for k in Softening._fields})
    return OBJECTIVES[name].make(**arguments)


def options_of(name: str) -> frozenset[str]:
    """The names of an objective's options, as `make` takes them."""
    arguments = frozenset(inspect.signature(OBJECTIVES[name].make).parameters)
    if "softening" not in arguments:
        return arguments
    return arguments - {"softening"} | set(Softening._fields)


def needs_labels(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an objective with these options needs labels."""
    chooses = "flips" in options and set(options["flips"]) != set(FLIPS)
    return OBJECTIVES[name].labels or chooses
