"""What more training with labels alone gives a model: is it at its end? NumPy on right answers."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats


class Gain(NamedTuple):
    """A change of accuracy in points, the mean over seeds."""

    mean: float
    se: float  # standard error: another draw of the images and of the seeds


def gain(before_N: np.ndarray, after_SxN: np.ndarray) -> Gain:
    """What training gained, from who was right before it and after it with each of S seeds.

    The standard error adds the variance over images of a sample's gain (the mean over seeds) to
    the variance over seeds of the whole gain. The second holds some of the first again: where it
    errs, it is too large.

    Args:
      before_N: bool.
      after_SxN: bool.

    ValueError: no image, no seed, or not the same images.
    """
    if before_N.shape != after_SxN.shape[1:] or not after_SxN.size:
        raise ValueError(f"Shapes {before_N.shape} and {after_SxN.shape} are not N and SxN.")
    change_SxN = 100.0 * (after_SxN.astype(np.float64) - before_N.astype(np.float64))
    seeds, images = change_SxN.shape
    variance = change_SxN.mean(axis=0).var(ddof=min(1, images - 1)) / images
    if seeds > 1:
        variance += change_SxN.mean(axis=1).var(ddof=1) / seeds
    return Gain(float(change_SxN.mean()), float(np.sqrt(variance)))


class Check(NamedTuple):
    """What was found about a model."""

    learning_rate: float  # the picked one
    picked_on: Mapping[float, Gain]  # learning rate -> gain on the half that picks
    gain: Gain  # of the picked rate, on the other half
    upper: float  # end of the one-sided interval of `gain`, in points


def check(
    before_N: np.ndarray,
    after: Mapping[float, np.ndarray],
    *,
    pick_N: np.ndarray,
    judge_N: np.ndarray,
    level: float = 0.95,
) -> Check:
    """Picks a learning rate on some images, and measures what it gains on others.

    Args:
      before_N: bool, who was right before.
      after: learning rate -> bool [S, N], who is right after training with each of S seeds.
      pick_N: positions of the images on which the rate is picked; of equal ones, the smaller.
      judge_N: positions of those on which its gain is measured.
      level: of the interval.
    """
    picked_on = {rate: gain(before_N[pick_N], after[rate][:, pick_N]) for rate in sorted(after)}
    rate = max(picked_on, key=lambda rate: picked_on[rate].mean)
    found = gain(before_N[judge_N], after[rate][:, judge_N])
    return Check(rate, picked_on, found, found.mean + float(stats.norm.ppf(level)) * found.se)
