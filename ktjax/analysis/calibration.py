"""Calibration: one temperature per model, fitted to labeled predictions.

Models of a zoo differ in the scale of their logits, and a partition that compares probabilities
favors the overconfident. Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
section 4.2.
"""

import numpy as np
from scipy import special

BOUNDS = (0.01, 100.0)


def temperature(logits_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """The temperature, within BOUNDS, that minimizes the cross-entropy of logits / temperature.

    The cross-entropy is convex in 1 / temperature, so there is one minimum. It lies at a bound if
    every answer is right or the logits carry no information.
    """
    from scipy import optimize  # takes long to import, and most jobs calibrate nothing

    logits_NxC = np.asarray(logits_NxC, np.float64)
    right_N = np.take_along_axis(logits_NxC, label_N[:, None], axis=1)[:, 0]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(
            np.mean(special.logsumexp(scale * logits_NxC, axis=1)) - scale * right_N.mean()
        )

    found = optimize.minimize_scalar(
        loss, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))
