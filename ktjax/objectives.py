"""What a transfer minimises (paper sections 4.1, 4.2), per example and without reduction.

An objective is a pair of functions, as an optax transformation is. Most have no parameters and no
state. Targets carry no gradients. The losses themselves are in losses.py and contrastive.py.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ktjax import contrastive, losses, partition

FLIPS = ("positive", "negative", "neutral")
NEUTRAL = ("retain", "teach", "average")


class Outputs(NamedTuple):
    """What the models say of one batch; each has `logits` [B, C] and `features` [B, D]."""

    student: Any
    initial: Any  # the frozen copy of the student from before the transfer
    teachers: tuple[Any, ...]
    temperatures_S: Any = None  # of initial and teachers, that calibrate them for a partition


class Objective(NamedTuple):
    """`init(key, outputs, examples) -> (params, state)`.

    For `outputs` of the shapes that the models give, and a training split of so many examples.

    `apply(params, state, outputs, batch, key) -> (loss_B, (state, aux))`. The key is the same on
    all devices; aux: per-example [B] shares that are worth logging, and `accuracy` where the
    student does not answer as one model does.
    """

    init: Callable[[jax.Array, Outputs, int], tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]


def _stateless(loss: Callable[[Outputs, Mapping], tuple[jax.Array, dict]]) -> Objective:
    def apply(params, state, outputs, batch, key):
        del params, key
        outputs = outputs._replace(
            initial=jax.lax.stop_gradient(outputs.initial),
            teachers=jax.lax.stop_gradient(outputs.teachers),
        )
        loss_B, aux = loss(outputs, batch)
        return loss_B, (state, aux)

    return Objective(init=lambda key, outputs, examples: ((), ()), apply=apply)


def _label_loss(outputs: Outputs, batch: Mapping, label_smoothing: float) -> jax.Array:
    return losses.cross_entropy(
        outputs.student.logits, label_B=batch["label"], smoothing=label_smoothing
    )


def _mean(per_teacher: Sequence[jax.Array]) -> jax.Array:
    return jnp.stack(per_teacher).mean(axis=0)


# From labels, from the initial student, from teachers.


def make_xe(*, label_smoothing: float) -> Objective:
    """Cross-entropy with the labels only: plain (pre)training, and the control of a transfer."""
    return _stateless(lambda outputs, batch: (_label_loss(outputs, batch, label_smoothing), {}))


def make_self(*, temperature: float, top_k: int | None, standardised: bool) -> Objective:
    """KL(T) to the initial student: the control in which nobody teaches."""
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )

    def loss(outputs, batch):
        del batch
        loss_B = kl(outputs.student.logits, outputs.initial.logits)
        return loss_B, {"taught": jnp.zeros(loss_B.shape)}

    return _stateless(loss)


def _distil(
    divergence: Callable[[jax.Array, jax.Array], jax.Array], flips: Sequence[str]
) -> Objective:
    """The mean over teachers of a divergence, on those samples whose flips are in the list."""

    def loss(outputs, batch):
        student_BxC = outputs.student.logits

        def of_teacher(teacher_BxC):
            loss_B = divergence(student_BxC, teacher_BxC)
            if set(flips) == set(FLIPS):  # needs no labels
                return loss_B, jnp.ones(loss_B.shape)
            kinds = partition.flips(student_BxC, teacher_BxC, label_B=batch["label"])
            distilled_B = functools.reduce(jnp.logical_or, [kinds[name] for name in flips])
            return jnp.where(distilled_B, loss_B, 0), distilled_B.astype(jnp.float32)

        pairs = [of_teacher(teacher.logits) for teacher in outputs.teachers]
        loss_KxB, taught_KxB = zip(*pairs, strict=True)
        return _mean(loss_KxB), {"taught": _mean(taught_KxB)}

    return _stateless(loss)


def make_kl(
    *, temperature: float, top_k: int | None, standardised: bool, flips: Sequence[str]
) -> Objective:
    """KL(T) to the teacher (paper eq. 3); several teachers: the mean of their KLs.

    `flips`: which samples are distilled, by what the student of the moment and the teacher make of
    them (FLIPS); the loss of the others is 0. Only with all three of them no labels are needed.
    """
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )
    return _distil(kl, flips)


def make_hinton(
    *, temperature: float, top_k: int | None, standardised: bool, flips: Sequence[str]
) -> Objective:
    """T^2 times the cross-entropy with the teacher's softened probabilities.

    Source: Hinton et al., arXiv 1503.02531, section 2. The gradient is that of `kl`; the value is
    larger by the entropy of the teacher.
    """
    soft_cross_entropy = functools.partial(
        losses.soft_cross_entropy, temperature=temperature, top_k=top_k, standardised=standardised
    )
    return _distil(soft_cross_entropy, flips)


def make_xe_kl(
    *,
    alpha: float,
    label_smoothing: float,
    temperature: float,
    top_k: int | None,
    standardised: bool,
    flips: Sequence[str],
) -> Objective:
    """`alpha` times `kl` plus 1 - alpha times the cross-entropy with the labels (paper eq. 4)."""
    kl = make_kl(temperature=temperature, top_k=top_k, standardised=standardised, flips=flips)

    def loss(outputs, batch):
        kl_B, (_, aux) = kl.apply((), (), outputs, batch, None)
        return alpha * kl_B + (1 - alpha) * _label_loss(outputs, batch, label_smoothing), aux

    return _stateless(loss)


def make_adaptconf(
    *, sharpness: float, temperature: float, top_k: int | None, standardised: bool
) -> Objective:
    """The teacher's answer or the student's own, by how sure the student is of each.

    (1 - b) KL(T) to the teacher + b times the cross-entropy with the student's own answer, where
    b = sigmoid((own - theirs) / sharpness), without gradient, of the student's cross-entropies with
    its own and with the teacher's answer. Several teachers: the mean of their losses.

    Source: Guo et al., "Vision Superalignment: Weak-to-Strong Generalization for Vision Foundation
    Models", arXiv 2402.03749, eq. 3 and 4.
    """
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )

    def loss(outputs, batch):
        del batch
        student_BxC = outputs.student.logits

        def answer_loss(logits_BxC):
            answer_B = logits_BxC.argmax(axis=-1)
            return losses.cross_entropy(student_BxC, label_B=answer_B, smoothing=0.0)

        own_B = answer_loss(student_BxC)

        def of_teacher(teacher_BxC):
            difference_B = own_B - answer_loss(teacher_BxC)
            own_share_B = jax.lax.stop_gradient(jax.nn.sigmoid(difference_B / sharpness))
            loss_B = (1 - own_share_B) * kl(student_BxC, teacher_BxC) + own_share_B * own_B
            return loss_B, 1 - own_share_B

        pairs = [of_teacher(teacher.logits) for teacher in outputs.teachers]
        loss_KxB, taught_KxB = zip(*pairs, strict=True)
        return _mean(loss_KxB), {"taught": _mean(taught_KxB)}

    return _stateless(loss)


# By partition.


def _make_kl_dp(
    *, temperature: float, top_k: int | None, standardised: bool, supervised: bool
) -> Objective:
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )

    def loss(outputs, batch):
        candidates = (outputs.initial, *outputs.teachers)
        logits_SxBxC = jnp.stack([candidate.logits for candidate in candidates])
        source_B = partition.most_confident(
            logits_SxBxC,
            label_B=batch["label"] if supervised else None,
            temperatures_S=outputs.temperatures_S,
        )
        loss_B = kl(outputs.student.logits, partition.take(logits_SxBxC, source_B))
        aux = {f"taught_{i}": source_B == i for i in range(1, len(candidates))}
        return loss_B, {"taught": source_B > 0} | aux

    return _stateless(loss)


def make_kl_dp(*, temperature: float, top_k: int | None, standardised: bool) -> Objective:
    """KL + data partitioning: each sample's target is the model with the largest probability of
    its label, among the initial student and the teachers (paper eq. 5).
    """
    return _make_kl_dp(
        temperature=temperature, top_k=top_k, standardised=standardised, supervised=True
    )


def make_kl_dp_unsupervised(
    *, temperature: float, top_k: int | None, standardised: bool
) -> Objective:
    """KL + data partitioning without labels: the largest maximum probability (paper eq. 6)."""
    return _make_kl_dp(
        temperature=temperature, top_k=top_k, standardised=standardised, supervised=False
    )


def make_kl_dp_flip(
    *, neutral: str, temperature: float, top_k: int | None, standardised: bool
) -> Objective:
    """KL + data partitioning by flips between the student of the moment and the teacher.

    Positive flips are taught by the teacher, negative ones by the initial student, and neutral ones
    as `neutral` says: `retain` by the initial student, `teach` by the teacher, `average` by the
    mean of both models' logits. Several teachers count as one, which says of each sample what the
    one that gives its label the largest probability says. (Paper section 4.2, appendix.)
    """
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )

    def loss(outputs, batch):
        label_B, student_BxC = batch["label"], outputs.student.logits
        teachers_KxBxC = jnp.stack([teacher.logits for teacher in outputs.teachers])
        calibration = outputs.temperatures_S
        best_B = partition.most_confident(
            teachers_KxBxC,
            label_B=label_B,
            temperatures_S=None if calibration is None else calibration[1:],
        )
        initial_BxC, teacher_BxC = outputs.initial.logits, partition.take(teachers_KxBxC, best_B)
        kinds = partition.flips(student_BxC, teacher_BxC, label_B=label_B)
        mean_BxC = initial_BxC / 2 + teacher_BxC / 2
        source_B = jnp.select(
            [kinds["positive"], kinds["negative"]], [1, 0], default=NEUTRAL.index(neutral)
        )
        targets_SxBxC = jnp.stack([initial_BxC, teacher_BxC, mean_BxC])  # as NEUTRAL has them
        loss_B = kl(student_BxC, partition.take(targets_SxBxC, source_B))
        return loss_B, {"taught": jnp.asarray([0.0, 1.0, 0.5])[source_B]}

    return _stateless(loss)


# From features.


def make_cd(*, weight: float, gamma: float, label_smoothing: float) -> Objective:
    """`weight` * contrastive.similarity_kl + gamma * cross-entropy with the labels (section 4.1).

    Several teachers: the mean of their KLs.
    """

    def loss(outputs, batch):
        student_BxD = outputs.student.features
        kl_B = _mean([contrastive.similarity_kl(student_BxD, t.features) for t in outputs.teachers])
        loss_B = weight * kl_B + gamma * _label_loss(outputs, batch, label_smoothing)
        return loss_B, {"taught": jnp.ones(loss_B.shape)}

    return _stateless(loss)


def make_crd(
    *,
    weight: float,
    gamma: float,
    label_smoothing: float,
    projection: int,
    negatives: int,
    contrast_temperature: float,
    momentum: float,
) -> Objective:
    """`weight` * contrastive.crd + gamma * cross-entropy with the labels (section 4.1).

    Projections are the objective's parameters and memories its state, one set per teacher; several
    teachers: the mean of their losses.
    """

    def init(key, outputs, examples):
        pairs = [
            contrastive.init_crd(
                jax.random.fold_in(key, i),
                student_width=outputs.student.features.shape[-1],
                teacher_width=teacher.features.shape[-1],
                examples=examples,
                projection=projection,
            )
            for i, teacher in enumerate(outputs.teachers)
        ]
        params, memories = zip(*pairs, strict=True)
        return params, memories

    def apply(params, state, outputs, batch, key):
        pairs = [
            contrastive.crd(
                projections,
                memory,
                outputs.student.features,
                teacher.features,
                index_B=batch["index"],
                key=jax.random.fold_in(key, i),
                negatives=negatives,
                temperature=contrast_temperature,
                momentum=momentum,
            )
            for i, (projections, memory, teacher) in enumerate(
                zip(params, state, outputs.teachers, strict=True)
            )
        ]
        crd_KxB, memories = zip(*pairs, strict=True)
        loss_B = weight * _mean(crd_KxB) + gamma * _label_loss(outputs, batch, label_smoothing)
        return loss_B, (memories, {"taught": jnp.ones(loss_B.shape)})

    return Objective(init, apply)


# Of several students at once.


def make_mutual(
    *,
    detach_teacher: bool,
    label_smoothing: float,
    temperature: float,
    top_k: int | None,
    standardised: bool,
) -> Objective:
    """Bi-KD: M models train at once, and of each sample the surest teaches the others.

    Each has the cross-entropy with the labels, plus KL(T) to the model with the largest probability
    of the label where that is larger than its own; the loss of a sample is the sum over models. The
    student's logits are [B, M, C] (models.joint). Unless `detach_teacher`, the gradient of the KL
    flows into the teaching model too.

    Source: "Simplifying Knowledge Transfer in Pretrained Models", TMLR 2025, arXiv 2510.22208.
    """
    kl = functools.partial(
        losses.kl, temperature=temperature, top_k=top_k, standardised=standardised
    )

    def loss(outputs, batch):
        logits_MxBxC = jnp.moveaxis(outputs.student.logits, 1, 0)
        label_B = batch["label"]
        sure_MxB = partition.confidence(jax.lax.stop_gradient(logits_MxBxC), label_B=label_B)
        source_B = sure_MxB.argmax(axis=0)
        target_BxC = partition.take(logits_MxBxC, source_B)
        if detach_teacher:
            target_BxC = jax.lax.stop_gradient(target_BxC)
        label_loss_MxB = jax.vmap(
            lambda logits_BxC: losses.cross_entropy(
                logits_BxC, label_B=label_B, smoothing=label_smoothing
            )
        )(logits_MxBxC)
        kl_MxB = jax.vmap(lambda logits_BxC: kl(logits_BxC, target_BxC))(logits_MxBxC)
        taught_MxB = sure_MxB < sure_MxB.max(axis=0, keepdims=True)
        loss_B = jnp.sum(label_loss_MxB + jnp.where(taught_MxB, kl_MxB, 0), axis=0)
        aux = {f"taught_model_{i}": taught_B for i, taught_B in enumerate(taught_MxB)}
        right_MxB = logits_MxBxC.argmax(axis=-1) == label_B[None]
        return loss_B, aux | {"accuracy": right_MxB.mean(axis=0)}

    return _stateless(loss)


class Entry(NamedTuple):
    """A row of OBJECTIVES: the builder, and what it needs to be there."""

    make: Callable[..., Objective]
    labels: bool
    initial: bool
    teachers: bool
    features: bool = False  # of student and teachers
    joint: bool = False  # the student is several models
    supervised: bool | None = None  # who a partition asks; None: it makes none that stays
    without_labels: str = "kl_dp_unsupervised"  # what to take instead where there are none


OBJECTIVES = {
    "xe": Entry(make_xe, labels=True, initial=False, teachers=False),
    "self": Entry(make_self, labels=False, initial=True, teachers=False),
    "kl": Entry(make_kl, labels=False, initial=False, teachers=True),
    "xe_kl": Entry(make_xe_kl, labels=True, initial=False, teachers=True, without_labels="kl"),
    "hinton": Entry(make_hinton, labels=False, initial=False, teachers=True),
    "adaptconf": Entry(make_adaptconf, labels=False, initial=False, teachers=True),
    "kl_dp": Entry(make_kl_dp, labels=True, initial=True, teachers=True, supervised=True),
    "kl_dp_unsupervised": Entry(
        make_kl_dp_unsupervised, labels=False, initial=True, teachers=True, supervised=False
    ),
    "kl_dp_flip": Entry(make_kl_dp_flip, labels=True, initial=True, teachers=True),
    "cd": Entry(make_cd, labels=True, initial=False, teachers=True, features=True),
    "crd": Entry(make_crd, labels=True, initial=False, teachers=True, features=True),
    "mutual": Entry(make_mutual, labels=True, initial=False, teachers=False, joint=True),
}

# What an option may be, and in words.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda v: 0 < v < math.inf, "above 0"),
    "top_k": (
        lambda v: v is None or (isinstance(v, int) and v >= 2),
        "2 or more classes, or None for all",
    ),
    "standardised": (lambda v: isinstance(v, bool), "True or False"),
    "flips": (
        lambda v: bool(v) and not isinstance(v, str) and set(v) <= set(FLIPS),
        f"some of {', '.join(FLIPS)}",
    ),
    "alpha": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "label_smoothing": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "sharpness": (lambda v: v > 0, "above 0"),
    "neutral": (lambda v: v in NEUTRAL, f"one of {', '.join(NEUTRAL)}"),
    "weight": (lambda v: v >= 0, "0 or more"),
    "gamma": (lambda v: v >= 0, "0 or more"),
    "projection": (lambda v: v >= 1, "1 or more"),
    "negatives": (lambda v: v >= 1, "1 or more"),
    "contrast_temperature": (lambda v: v >= 0.02, "0.02 or more, for exp(1 / it) to be finite"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "detach_teacher": (lambda v: isinstance(v, bool), "True or False"),
}


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError unless OBJECTIVES has the name, with exactly these options in range."""
    if name not in OBJECTIVES:
        raise ValueError(f"No objective '{name}'. Known: {', '.join(sorted(OBJECTIVES))}.")
    wanted = set(inspect.signature(OBJECTIVES[name].make).parameters)
    if set(options) != wanted:
        raise ValueError(
            f"Objective '{name}' takes the options {', '.join(sorted(wanted))}; "
            f"the config gives {', '.join(sorted(options)) or 'none'}."
        )
    for option, value in options.items():
        fits, range_ = _VALUES[option]
        try:
            fit = fits(value)
        except TypeError:  # no number, say
            fit = False
        if not fit:
            raise ValueError(f"Option {option}={value!r} of objective '{name}' has to be {range_}.")


def needs_labels(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an objective with these options asks for labels."""
    chooses = "flips" in options and set(options["flips"]) != set(FLIPS)
    return OBJECTIVES[name].labels or chooses
