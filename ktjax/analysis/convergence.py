"""Has a model converged? The gain of more training on labels alone; NumPy, no models."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special


class Gain(NamedTuple):
    """A change in accuracy in points, the mean over seeds."""

    mean: float
    se: float  # standard error, over draws of the images and the seeds


def gain(before_N: np.ndarray, after_SxN: np.ndarray) -> Gain:
    """What training gained, from correctness before it and after it with each of S seeds.

    The standard error adds the variance over images of a sample's gain (the mean over seeds) to
    the variance over seeds of the whole gain. The second includes part of the first, so it errs on
    the large side.

    Args:
      before_N: bool.
      after_SxN: bool.

    ValueError if there is no image or no seed, or the shapes do not match.
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
    """The result for one model."""

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
    """Picks a learning rate on some images and measures its gain on others.

    Args:
      before_N: bool, which images are right before training.
      after: learning rate -> bool [S, N], which are right after training with each of S seeds.
      pick_N: positions of the images on which the rate is picked; ties go to the smaller rate.
      judge_N: positions of those on which its gain is measured.
      level: of the interval.
    """
    picked_on = {rate: gain(before_N[pick_N], after[rate][:, pick_N]) for rate in sorted(after)}
    rate = max(picked_on, key=lambda rate: picked_on[rate].mean)
    found = gain(before_N[judge_N], after[rate][:, judge_N])
    return Check(rate, picked_on, found, found.mean + float(special.ndtri(level)) * found.se)
