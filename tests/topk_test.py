"""The k largest logits and all others as one: by hand, and beside all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ktjax import compress, losses, objectives, partition
from ktjax.classifier import Output
from ktjax.losses import Softening
from ktjax.objective import Outputs
from ktjax.targets import rows, served

CLASSES = 12
WAYS = ((1.0, False), (2.0, False), (2.0, True))
LABEL = np.array([0, 3, -1, 7, 2, 11, 5, 1], np.int32)


def logits(seed):
    return np.random.default_rng(seed).normal(0, 3, (len(LABEL), CLASSES)).astype(np.float32)


def kept(logits_BxC, k=4, ways=WAYS):
    return compress.compress(jnp.asarray(logits_BxC), label_B=jnp.asarray(LABEL), k=k, ways=ways)


def test_by_hand():
    found = compress.compress(
        jnp.asarray([[0.0, 2.0, -1.0, 1.0], [3.0, 3.0, 0.0, 0.0]]),
        label_B=jnp.asarray([3, -1]),
        k=2,
        ways=((1.0, False), (2.0, False), (1.0, True)),
    )
    np.testing.assert_array_equal(found.class_BxK, [[1, 3], [0, 1]])
    np.testing.assert_array_equal(found.logit_BxK, [[0, -1], [0, 0]])
    sd = 1.25**0.5  # of 0, 2, -1, 1
    expected = [
        np.log(np.exp(-2) + np.exp(-3)),
        np.log(np.exp(-1) + np.exp(-1.5)),
        np.log(np.exp(-2 / sd) + np.exp(-3 / sd)),
    ]
    np.testing.assert_allclose(found.rest_BxR[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found.rest_BxR[1], [np.log(2) - 3, np.log(2) - 1.5, np.log(2) - 2])
    np.testing.assert_array_equal(found.largest_B, [2, 3])
    np.testing.assert_allclose(found.mean_B, [-1.5, -1.5])
    np.testing.assert_allclose(found.variance_B, [1.25, 2.25])
    odds = [1 - np.log(1 + np.exp(2) + np.exp(-1)), -np.inf]
    np.testing.assert_allclose(found.label_odds_B, odds, rtol=1e-6)
    odds = [2 - np.log(1 + np.exp(1) + np.exp(-1)), 3 - np.log(np.exp(3) + 2)]
    np.testing.assert_allclose(found.largest_odds_B, odds, rtol=1e-6)


def coarse(probabilities_BxC, class_BxK):
    """The kept classes, and the others as one: float64 [B, k + 1]."""
    top_BxK = np.take_along_axis(probabilities_BxC, np.asarray(class_BxK), axis=1)
    return np.concatenate([top_BxK, 1 - top_BxK.sum(axis=1, keepdims=True)], axis=1)


@pytest.mark.parametrize("way", WAYS)
def test_kl_is_over_the_kept_and_one_rest(way):
    temperature, standardized = way
    student_BxC, target_BxC = logits(0), logits(1)
    softening = Softening(temperature, None, standardized)
    found_B = losses.kl(jnp.asarray(student_BxC), kept(target_BxC), softening)
    p, q = (
        coarse(
            special.softmax(
                (z.astype(np.float64) / (z.std(axis=1, keepdims=True) if standardized else 1))
                / temperature,
                axis=1,
            ),
            kept(target_BxC).class_BxK,
        )
        for z in (target_BxC, student_BxC)
    )
    np.testing.assert_allclose(found_B, temperature**2 * (p * np.log(p / q)).sum(1), rtol=1e-4)
    whole_B = losses.kl(jnp.asarray(student_BxC), jnp.asarray(target_BxC), softening)
    assert (found_B <= whole_B + 1e-6).all() and (found_B < 0.99 * whole_B).any()
    gradient = jax.grad(lambda z: losses.kl(z, kept(target_BxC), softening).sum())
    assert np.isfinite(gradient(jnp.asarray(student_BxC))).all()
    cross_B = losses.soft_cross_entropy(jnp.asarray(student_BxC), kept(target_BxC), softening)
    np.testing.assert_allclose(cross_B, -(temperature**2) * (p * np.log(q)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("standardized", [False, True])
def test_over_the_kept_alone_nothing_is_lost(standardized):
    softening = Softening(2.0, 3, standardized)
    student_BxC, target_BxC = jnp.asarray(logits(0)), jnp.asarray(logits(1))
    np.testing.assert_allclose(
        losses.kl(student_BxC, kept(target_BxC, ways=()), softening),
        losses.kl(student_BxC, target_BxC, softening),
        rtol=1e-5,
    )


def test_what_is_cut_off_is_among_the_rest():
    short, expected = compress.shorten(kept(logits(1), k=6), k=3, ways=WAYS), kept(logits(1), k=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), short, expected)
    a, b, c = compress.alike(
        [jnp.asarray(logits(0)), kept(logits(1)), kept(logits(2), k=3)],
        label_B=jnp.asarray(LABEL),
        ways=WAYS[:1],
    )
    assert a.k == b.k == c.k == 3 and a.ways == b.ways == c.ways == WAYS[:1]
    with pytest.raises(ValueError, match=r"summed at temperature 1.0, not at temperature 3.0\."):
        kept(logits(1), ways=WAYS[:1]).rest_B((3.0, False))


@pytest.mark.parametrize("label_B", [LABEL, None], ids=["supervised", "unsupervised"])
def test_the_partition_decides_as_with_all_logits(label_B):
    whole_SxBxC = jnp.asarray(np.stack([logits(i) for i in range(3)]))
    top_S = partition.stack([kept(z) for z in whole_SxBxC])
    source_B = partition.most_confident(whole_SxBxC, label_B=label_B)
    np.testing.assert_array_equal(partition.most_confident(top_S, label_B=label_B), source_B)
    assert len(set(source_B.tolist())) == 3
    taken = partition.take(top_S, source_B)
    expected = kept(partition.take(whole_SxBxC, source_B))
    jax.tree.map(np.testing.assert_array_equal, taken, expected)


def test_flips_are_those_of_all_logits():
    pair = jnp.asarray(logits(0)), jnp.asarray(logits(1))
    label_B = pair[1].argmax(axis=1).at[:3].set(0)
    found = partition.flips(pair[0], kept(pair[1]), label_B=label_B)
    expected = partition.flips(*pair, label_B=label_B)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found["positive"].any()


FLIPS = dict(flips=("positive", "negative", "neutral"), mean_over="all")
SOFT = dict(temperature=2.0, top_k=None, standardized=False)
OPTIONS = {
    "self": SOFT,
    "xe_self": SOFT | dict(alpha=0.5, label_smoothing=0.0),
    "kl": SOFT | FLIPS,
    "xe_kl": SOFT | FLIPS | dict(alpha=0.5, label_smoothing=0.0),
    "hinton": SOFT | FLIPS,
    "adaptconf": SOFT | dict(sharpness=0.5),
    "kl_dp": SOFT | dict(top_k_of="target"),
    "kl_dp_unsupervised": SOFT | dict(top_k_of="target"),
    "kl_dp_flip": SOFT | dict(top_k_of="target", neutral="teach"),
}


def loss(name, options, said):
    student, initial, *teachers = (Output(z, None) for z in said)
    outputs = Outputs(student, initial, tuple(teachers))
    batch = {"label": jnp.abs(jnp.asarray(LABEL))}
    return objectives.make(name, options).apply((), (), outputs, batch, None)


@pytest.mark.parametrize("name", OPTIONS)
def test_objectives_are_served(name):
    """All classes but one kept: that is the rest, and nothing is lost but float16's digits."""
    student_BxC, *frozen = (jnp.asarray(logits(i)) for i in range(4))
    form = rows.form(CLASSES, CLASSES - 1, WAYS)
    label_B = np.abs(LABEL)

    def through_rows(z):
        arrays = rows.arrays(rows.to_rows(np.asarray(z), label_B, form)[None], form)
        return rows.look_up(arrays, jnp.asarray(5), jnp.arange(len(LABEL))).logits

    run = jax.jit(lambda said: loss(name, OPTIONS[name], said)[0])
    expected_B = run([student_BxC, *frozen])
    found_B = run([student_BxC, *map(through_rows, frozen)])
    np.testing.assert_allclose(found_B, expected_B, rtol=2e-3, atol=2e-3)
    if name == "kl_dp":  # an initial student that is asked, and teachers that are stored
        one_live = [student_BxC, frozen[0], *map(through_rows, frozen[1:])]
        np.testing.assert_allclose(run(one_live), expected_B, rtol=2e-3, atol=2e-3)


def test_the_table_says_what_is_served():
    for name, entry in objectives.OBJECTIVES.items():
        if entry.top_k == objectives.NOT:
            with pytest.raises(ValueError, match=f"'{name}' needs .*config.store_top_k=None"):
                served.of_top_k(name, {}, 16)
        elif name != "xe":
            options = OPTIONS[name]
            assert served.of_top_k(name, options, 16) == objectives.APPROXIMATE
            assert served.of_top_k(name, options | dict(top_k=16), 16) == objectives.EXACT
            with pytest.raises(ValueError, match="top_k=17 classes, but only the 16 largest"):
                served.of_top_k(name, options | dict(top_k=17), 16)
    assert served.of_top_k("xe", {}, 16) == objectives.EXACT
    for neutral in ("average", "average_student"):
        with pytest.raises(ValueError, match="an average of two models"):
            served.of_top_k("kl_dp_flip", OPTIONS["kl_dp_flip"] | dict(neutral=neutral), 16)
    with pytest.raises(ValueError, match="teacher's classes, which may not be among"):
        served.of_top_k("kl_dp", OPTIONS["kl_dp"] | dict(top_k=3, top_k_of="teacher"), 16)


def test_size_of_the_papers():
    examples, views = 128_117, 20
    top, whole = rows.form(1000, 16, WAYS[:1]), rows.form(1000, None, WAYS)
    assert top.dtype.itemsize * examples * views < 0.25e9
    assert whole.dtype.itemsize * examples * views > 10e9
    text = top.told(examples, views)
    assert text.startswith("the 16 largest of 1,000 logits for 20 x 128,117 images: 0.23 GB")
    assert text.endswith("(all in float32: 10.25 GB)")
    more = 12_812 + 50_000  # of tune and validation
    told = "(all in float32: 10.25 GB), and all logits for the 62,812 images of tune and validation"
    assert top.told(examples, views, more).endswith(f"{told}: 0.25 GB")
    assert top.size(examples, views, more) == top.size(examples, views) + 251_248_000
    assert rows.form(16, 16, WAYS).k is None  # no rest: all are kept
