"""Contrastive losses: between the features of a whole batch, or of a memory of the data set.

They need the batch of all devices, and gather it over the train step's named axis.
Student and teacher features may differ in width. The objectives built on them are at the end.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ktjax.objective import Objective, label_loss, mean, stateless
from ktjax.parallel import AXIS

_EPSILON = 1e-7  # as in the published implementation of CRD


def _gather(value_B: jax.Array) -> jax.Array:
    """The value for the whole batch, in device order."""
    return jax.lax.all_gather(value_B, AXIS, tiled=True)


def _normalize(x_BxD: jax.Array) -> jax.Array:
    x_BxD = x_BxD.astype(jnp.float32)
    # The norm has no gradient at zero: bound it away, with no effect otherwise.
    return x_BxD * jax.lax.rsqrt(jnp.maximum(jnp.sum(x_BxD**2, -1, keepdims=True), 1e-12))


def similarity_kl(student_BxD: jax.Array, teacher_BxE: jax.Array) -> jax.Array:
    """Matches the similarities within a batch: the paper's `cd`, per sample.

    Args:
      student_BxD: features of the student.
      teacher_BxE: features of the teacher; no gradient flows to them.

    Returns:
      [B]: KL between the teacher's and the student's softmax over the cosine similarities of each
      sample with all samples of the batch (on all devices).
    """

    def log_rows(features: jax.Array) -> jax.Array:
        features = _normalize(features)
        return jax.nn.log_softmax(jnp.matmul(features, _gather(features).T, precision="highest"))

    teacher_BxG = log_rows(jax.lax.stop_gradient(teacher_BxE))
    return optax.losses.kl_divergence_with_log_targets(log_rows(student_BxD), teacher_BxG)


class Memory(NamedTuple):
    """CRD's state for one teacher: the same on every device."""

    student_NxP: jax.Array  # running projections of each sample, of unit length
    teacher_NxP: jax.Array
    student_z: jax.Array  # normalizer of the scores; -1 until the first batch sets it
    teacher_z: jax.Array


def init_crd(
    key: jax.Array, *, student_width: int, teacher_width: int, examples: int, projection: int
) -> tuple[Any, Memory]:
    """Projections of student and teacher features, and a memory of every sample.

    Both are initialized as in the published implementation: torch's default for linear layers, and
    uniform numbers with the variance of unit vectors.
    """
    keys = jax.random.split(key, 4)

    def linear(key: jax.Array, width: int) -> dict[str, jax.Array]:
        kernel_key, bias_key = jax.random.split(key)
        bound = width**-0.5
        shape = (width, projection)
        return {
            "kernel": jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound),
            "bias": jax.random.uniform(bias_key, (projection,), minval=-bound, maxval=bound),
        }

    def memory(key: jax.Array) -> jax.Array:
        bound = (projection / 3) ** -0.5
        shape = (examples, projection)
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    params = {"student": linear(keys[0], student_width), "teacher": linear(keys[1], teacher_width)}
    # Separate arrays, as steps donate the state.
    return params, Memory(memory(keys[2]), memory(keys[3]), -jnp.ones(()), -jnp.ones(()))


def crd(
    params: Any,
    memory: Memory,
    student_BxD: jax.Array,
    teacher_BxE: jax.Array,
    *,
    index_B: jax.Array,
    key: jax.Array,
    draw: Callable[[jax.Array], jax.Array],
    temperature: float,
    momentum: float,
) -> tuple[jax.Array, Memory]:
    """Contrastive representation distillation (Tian et al. 2020, eq. 17 to 19), per sample.

    Args:
      params: the projections of init_crd.
      memory: the memory of init_crd.
      student_BxD: features of the student.
      teacher_BxE: features of the teacher; gradients flow to its projection, but not to them.
      index_B: positions of the samples in the data set.
      draw: keys [B] -> the negatives of each sample, positions [B, K].
      key: sample i uses a key made from (key, i), whichever device it is on.
      temperature: divides the scores.
      momentum: fraction of a sample's memory that is kept when the sample is seen.

    Returns:
      ([B], the memory after this batch). The constants that normalize the scores are set on the
      first batch, over all devices, and then stay fixed.
    """
    size = len(memory.student_NxP)
    student_BxP = _project(params["student"], student_BxD)
    teacher_BxP = _project(params["teacher"], jax.lax.stop_gradient(teacher_BxE))

    negative_BxK = draw(jax.vmap(functools.partial(jax.random.fold_in, key))(index_B))
    drawn_BxK = jnp.concatenate([index_B[:, None], negative_BxK], axis=1)  # the positive first

    def scores(memory_NxP: jax.Array, anchor_BxP: jax.Array, z: jax.Array) -> Any:
        drawn_BxKxP = memory_NxP[drawn_BxK]
        dots_BxK = jnp.einsum("bkp,bp->bk", drawn_BxKxP, anchor_BxP, precision="highest")
        scores_BxK = jnp.exp(dots_BxK / temperature)
        mean = jax.lax.pmean(jax.lax.stop_gradient(scores_BxK.mean()), AXIS)
        z = jnp.where(z < 0, mean * size, z)
        return scores_BxK / z, z

    student_scores, student_z = scores(memory.teacher_NxP, student_BxP, memory.student_z)
    teacher_scores, teacher_z = scores(memory.student_NxP, teacher_BxP, memory.teacher_z)
    noise = negative_BxK.shape[1] / size

    def nce(scores_BxK: jax.Array) -> jax.Array:
        positive_B, negative_BxK = scores_BxK[:, 0], scores_BxK[:, 1:]
        log_positive_B = jnp.log(positive_B / (positive_B + noise + _EPSILON))
        log_negative_B = jnp.log(noise / (negative_BxK + noise + _EPSILON)).sum(axis=1)
        return -(log_positive_B + log_negative_B)

    loss_B = nce(student_scores) + nce(teacher_scores)
    index_G = _gather(index_B)

    def remember(memory_NxP: jax.Array, seen_BxP: jax.Array) -> jax.Array:
        seen_GxP = _gather(jax.lax.stop_gradient(seen_BxP))
        mixed = momentum * memory_NxP[index_G] + (1 - momentum) * seen_GxP
        return memory_NxP.at[index_G].set(_normalize(mixed))

    return loss_B, Memory(
        remember(memory.student_NxP, student_BxP),
        remember(memory.teacher_NxP, teacher_BxP),
        student_z,
        teacher_z,
    )


def draw_others(key_B: jax.Array, index_B: jax.Array, *, size: int, count: int) -> jax.Array:
    """Draws `count` of the other `size` - 1 samples, with replacement, for each: int32 [B, K]."""

    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
        step = jax.random.randint(key, (count,), 1, size)
        return (index + step) % size

    return jax.vmap(draw)(key_B, index_B)


class ByClass(NamedTuple):
    """The samples of a training split, sorted by class."""

    index_N: jax.Array  # int32, positions in the split
    begin_C: jax.Array  # int32, where each class begins in `index_N`, and then the end


def by_class(label_N: np.ndarray, classes: int) -> ByClass:
    """Sorts a training split by its labels.

    Raises:
      ValueError: all samples have the same class, so there are no negatives of another.
    """
    count_C = np.bincount(label_N, minlength=classes)
    if np.count_nonzero(count_C) < 2:
        raise ValueError(
            "All train images have the same class, but crd draws negatives from other classes: set "
            "same_class_negatives=True."
        )
    begin_C = np.concatenate([[0], np.cumsum(count_C)])
    index_N = np.argsort(label_N, kind="stable")
    return ByClass(jnp.asarray(index_N, jnp.int32), jnp.asarray(begin_C, jnp.int32))


def draw_of_other_classes(
    key_B: jax.Array, label_B: jax.Array, samples: ByClass, *, count: int
) -> jax.Array:
    """Draws `count` samples of other classes per label, uniformly, with replacement: [B, K]."""

    def draw(key: jax.Array, label: jax.Array) -> jax.Array:
        begin, end = samples.begin_C[label], samples.begin_C[label + 1]
        others = len(samples.index_N) - (end - begin)
        at_K = jax.random.randint(key, (count,), 0, others)
        return samples.index_N[jnp.where(at_K < begin, at_K, at_K + end - begin)]

    return jax.vmap(draw)(key_B, label_B)


def _project(linear: Any, features: jax.Array) -> jax.Array:
    features = features.astype(jnp.float32)
    projected = jnp.matmul(features, linear["kernel"], precision="highest")
    return _normalize(projected + linear["bias"][None])


# Objectives.


def make_cd(*, weight: float, gamma: float, label_smoothing: float) -> Objective:
    """`weight` * similarity_kl + gamma * cross-entropy with the labels (section 4.1).

    As in the authors' code, the loss of a batch is `weight` times the sum of its samples' KLs plus
    `gamma` times the mean of their cross-entropies: with B samples in a batch, over all devices, a
    sample's KL counts `weight` * B. (Each microbatch is a batch of its own.) Several teachers: the
    mean of their KLs.
    """

    def loss(outputs, batch):
        student_BxD = outputs.student.features
        kl_B = mean([similarity_kl(student_BxD, t.features) for t in outputs.teachers])
        size = jax.lax.psum(len(kl_B), AXIS)
        loss_B = weight * size * kl_B + gamma * label_loss(outputs, batch, label_smoothing)
        return loss_B, {"taught": jnp.ones(loss_B.shape)}

    return stateless(loss)


def make_crd(
    *,
    weight: float,
    gamma: float,
    label_smoothing: float,
    projection: int,
    negatives: int,
    same_class_negatives: bool,
    contrast_temperature: float,
    momentum: float,
) -> Objective:
    """`weight` * crd + gamma * cross-entropy with the labels (section 4.1).

    The projections are the objective's parameters and the memories its state, one set per teacher;
    several teachers: the mean of their losses.

    Args:
      weight: of the contrastive loss.
      gamma: of the cross-entropy.
      label_smoothing: of the cross-entropy.
      projection: the width that features are projected to.
      negatives: how many are drawn for each sample, with replacement.
      same_class_negatives: whether negatives may have the sample's own class (i != j, what Tian et
        al. do without labels). False: only other classes (y_i != y_j), what they do with labels,
        and what the authors of the paper do.
      contrast_temperature: divides the scores.
      momentum: fraction of a sample's memory that is kept when the sample is seen.
    """

    def init(key, outputs, label_N):
        pairs = [
            init_crd(
                jax.random.fold_in(key, i),
                student_width=outputs.student.features.shape[-1],
                teacher_width=teacher.features.shape[-1],
                examples=len(label_N),
                projection=projection,
            )
            for i, teacher in enumerate(outputs.teachers)
        ]
        params, memories = zip(*pairs, strict=True)
        classes = outputs.student.logits.shape[-1]
        return params, (memories, () if same_class_negatives else by_class(label_N, classes))

    def apply(params, state, outputs, batch, key):
        memories, samples = state

        def draw(key_B):
            if same_class_negatives:
                size = len(memories[0].student_NxP)
                return draw_others(key_B, batch["index"], size=size, count=negatives)
            return draw_of_other_classes(key_B, batch["label"], samples, count=negatives)

        pairs = [
            crd(
                projections,
                memory,
                outputs.student.features,
                teacher.features,
                index_B=batch["index"],
                key=jax.random.fold_in(key, i),
                draw=draw,
                temperature=contrast_temperature,
                momentum=momentum,
            )
            for i, (projections, memory, teacher) in enumerate(
                zip(params, memories, outputs.teachers, strict=True)
            )
        ]
        crd_KxB, memories = zip(*pairs, strict=True)
        loss_B = weight * mean(crd_KxB) + gamma * label_loss(outputs, batch, label_smoothing)
        return loss_B, ((memories, samples), {"taught": jnp.ones(loss_B.shape)})

    return Objective(init, apply)
