"""Decisions about a student, on images used for nothing else: is it better than before?

Exporting only what is better does no harm, up to the level of this test, which is that of a run, of
one decision or several. All runs of a job decide on the same images: of many whose student is no
better, some are exported. The candidate is chosen elsewhere.
"""

import math

import numpy as np
from scipy import special

LEVEL = 0.05  # how often a student that is no better is exported
POWER = 0.9  # how often one that is better by `least_gain` is exported


def p_value(gained: int, lost: int) -> float:
    """The one-sided p-value of McNemar's exact test against the student before.

    If the student were no better, each changed image would be gained with probability 1/2 at most.
    1 if no image changed.
    """
    return float(special.bdtrc(gained - 1, gained + lost, 0.5))


def fewest(*, decisions: int = 1) -> int:
    """How few images can show that a student is better: all of them must become right.

    `decisions`: as for `is_better`.
    """
    return math.ceil(-math.log2(LEVEL / decisions))


def is_better(
    before_N: np.ndarray, after_N: np.ndarray, label_N: np.ndarray, *, decisions: int = 1
) -> bool:
    """Whether the student is better than before.

    Args:
      before_N: its answers before, int [N].
      after_N: its answers now.
      label_N: the labels.
      decisions: how many decisions a run makes on the same images; LEVEL is divided by it
        (Bonferroni), so that it holds for the whole run.
    """
    was_N, is_N = before_N == label_N, after_N == label_N
    p = p_value(int(np.sum(is_N & ~was_N)), int(np.sum(was_N & ~is_N)))
    return p <= LEVEL / decisions


def least_gain(changed: int, size: int, *, decisions: int = 1) -> float | None:
    """The smallest gain, in points, that `is_better` detects with POWER.

    None if so few images changed that even gaining all of them would not pass.

    Args:
      changed: how many images were gained or lost.
      size: how many images there are.
      decisions: as for `is_better`.
    """
    if p_value(changed, 0) > LEVEL / decisions:
        return None
    # The fewest gained images that pass, and the share of gains that reaches it with POWER.
    p_of_gained = special.bdtrc(np.arange(changed), changed, 0.5)  # of 1, 2 and so on
    critical = int(np.argmax(p_of_gained <= LEVEL / decisions)) + 1
    share = float(special.betaincinv(critical, changed - critical + 1, POWER))
    return 100 * (2 * share - 1) * changed / size
