"""One decision about a student, on images that nothing else has seen: is it better than before?

Who exports only what is better harms nobody, as far as a test of this level can say. Each split
allows one such decision: the candidate is chosen elsewhere.
"""

import numpy as np
from scipy import stats

LEVEL = 0.05  # how often a student that is no better is exported
POWER = 0.9  # how often one that is better by `least_gain` is


def p_value(gained: int, lost: int) -> float:
    """McNemar's exact test against the student before, one-sided: how likely at least this is.

    If it were no better, a coin at best would decide which images are gained, of those that are
    gained or lost. Without such images: 1.
    """
    return float(stats.binom.sf(gained - 1, gained + lost, 0.5))


def is_better(
    before_N: np.ndarray, after_N: np.ndarray, label_N: np.ndarray, *, stages: int = 1
) -> bool:
    """Whether the student is better than before.

    Args:
      before_N: its answers before, int [N].
      after_N: its answers now.
      label_N: the labels.
      stages: how many such decisions a run makes, on the same images; LEVEL is divided by them
        (Bonferroni), so that it holds for the whole run.
    """
    was_N, is_N = before_N == label_N, after_N == label_N
    p = p_value(int(np.sum(is_N & ~was_N)), int(np.sum(was_N & ~is_N)))
    return p <= LEVEL / stages


def least_gain(churn: float, size: int, *, stages: int = 1) -> float:
    """The least gain, in points, that `is_better` sees with POWER; the normal approximation.

    Args:
      churn: images gained and lost, in percent of all.
      size: how many images there are.
      stages: as above.
    """
    deviations = stats.norm.isf(LEVEL / stages) + stats.norm.ppf(POWER)
    return float(100 * deviations * (churn / 100 / size) ** 0.5)
