"""The weight of each model in a pool, fitted to labeled predictions.

A log-linear pool answers with softmax(sum_s w_s z_s) of its models' logits z_s: a product of their
distributions, each raised to a power. Unlike picking the most confident model, it uses all of them.
With one model it is temperature scaling, w = 1 / T (analysis/calibration.py). Source: Genest and
Zidek, "Combining Probability Distributions", Statistical Science 1986.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

_STEPS = 100
_AT_ONCE = 4096  # samples whose float64 logits are in memory together
_RIDGE = 1e-9  # of the Hessian, which is singular if two models agree everywhere
# How much a prior counts, in samples: that weighted logits vary over classes by 1 / sqrt(0.03), or
# about 6. Of 0 to 1, values from 0.01 to 0.1 gave held-out samples the lowest cross-entropy with 20
# to 1,000 samples (made-up models, 10 and 100 classes, 67 to 99.7 % right); without a prior it was
# up to 100 times as high. With 40,000, as of glyphs, it moves a weight by 1e-5 or less.
_PRIOR = 0.03


def weights(logits_SxNxC: Sequence[np.ndarray], label_N: np.ndarray) -> np.ndarray:
    """The weights, float64 [S], that minimize the cross-entropy of the pool with the labels.

    It is convex in the weights, and the minimum is found by Newton's method with steps that are
    halved until they help. Weights may be negative, for models wrong where another is confident. A
    weak normal prior (_PRIOR) keeps them finite where a pool gets every sample right, as with few
    samples of accurate models it often does.

    Args:
      logits_SxNxC: of S models, float [N, C] each.
      label_N: the labels.

    Raises:
      ValueError: there is no model or no sample, or a logit is not finite.
    """
    if not len(logits_SxNxC) or not len(label_N):
        raise ValueError("The weights of a pool are fitted on predictions, but there are none.")
    if not all(np.isfinite(logits_NxC).all() for logits_NxC in logits_SxNxC):
        raise ValueError("The weights of a pool are fitted on logits, which must be finite.")
    weight_S = np.zeros(len(logits_SxNxC))  # where no overconfident model spoils the first step
    prior_S = _PRIOR * np.array([_spread(logits_NxC) for logits_NxC in logits_SxNxC]) / len(label_N)
    loss, gradient_S, hessian_SxS = _expansion(weight_S, prior_S, logits_SxNxC, label_N)
    for _ in range(_STEPS):
        ridge_SxS = _RIDGE * (1 + np.trace(hessian_SxS)) * np.eye(len(weight_S))
        step_S = -np.linalg.solve(hessian_SxS + ridge_SxS, gradient_S)
        size = 1.0
        while True:
            tried_S = weight_S + size * step_S
            found = _expansion(tried_S, prior_S, logits_SxNxC, label_N)
            if found[0] <= loss or size < 1e-6:
                break
            size /= 2
        gained = loss - found[0]
        if gained < 0:
            break
        weight_S, (loss, gradient_S, hessian_SxS) = tried_S, found
        if gained < 1e-10:
            break
    return weight_S


def _spread(logits_NxC: np.ndarray) -> float:
    """How much a model's logits vary over classes: the mean variance."""
    parts = range(0, len(logits_NxC), _AT_ONCE)
    of_parts = (np.asarray(logits_NxC[i : i + _AT_ONCE], np.float64).var(axis=1) for i in parts)
    return sum(variance_B.sum() for variance_B in of_parts) / len(logits_NxC)


def _expansion(
    weight_S: np.ndarray,
    prior_S: np.ndarray,
    logits_SxNxC: Sequence[np.ndarray],
    label_N: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean cross-entropy plus the prior, its gradient [S] and Hessian [S, S] at the weights."""
    count, models = len(label_N), len(weight_S)
    loss, gradient_S, hessian_SxS = 0.0, np.zeros(models), np.zeros((models, models))
    for start in range(0, count, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        z_SxBxC = np.stack([np.asarray(logits[part], np.float64) for logits in logits_SxNxC])
        label_B = label_N[part]
        pool_BxC = np.tensordot(weight_S, z_SxBxC, axes=1)
        log_p_BxC = special.log_softmax(pool_BxC, axis=1)
        p_BxC = np.exp(log_p_BxC)
        rows = np.arange(len(label_B))
        loss -= log_p_BxC[rows, label_B].sum()
        mean_SxB = np.einsum("sbc,bc->sb", z_SxBxC, p_BxC)
        gradient_S += (mean_SxB - z_SxBxC[:, rows, label_B]).sum(axis=1)
        centered_SxBxC = z_SxBxC - mean_SxB[..., None]
        weighted_SxM = (centered_SxBxC * np.sqrt(p_BxC)).reshape(models, -1)
        hessian_SxS += weighted_SxM @ weighted_SxM.T
    return (
        loss / count + prior_S @ weight_S**2 / 2,
        gradient_S / count + prior_S * weight_S,
        hessian_SxS / count + np.diag(prior_S),
    )
