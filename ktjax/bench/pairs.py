"""Every ordered pair of a synthetic zoo: seconds and memory, compared to a NumPy loop over pairs.

The time depends only on the number of models, not on their predictions.
"""

import resource
import sys
import time
from typing import Any

import jax
import numpy as np

from ktjax.analysis import flips, pairs
from ktjax.experiment import workdir

_MACHINE = ("platform", "cpu_cores", "python", "jax", "numpy")


def run(*, models: int, samples: int, classes: int, naive_pairs: int, seed: int = 0) -> dict:
    """Measures `pairs.measure`, `flips_per_class` and `flip_entropy`, and a loop over some pairs.

    Returns:
      Seconds for all pairs and for one; the process's peak memory up to then, in MB; how many times
      longer the loop takes per pair; and the largest difference between the results of both, in
      percent of the samples or in points, which must be 0 up to rounding.
    """
    zoo, label_N = _make_zoo(models, samples, classes, seed)
    num_pairs = models * (models - 1)
    found: dict[str, Any] = {
        **{"models": models, "ordered_pairs": num_pairs, "samples": samples},
        **{"classes": classes, "memory_before_mb": _peak_mb()},
    }
    for call in ("first", "second"):  # the first one compiles
        start = time.perf_counter()
        matrices = pairs.measure(**zoo)
        found[f"scalars_{call}_s"] = time.perf_counter() - start
    found["memory_scalars_mb"] = _peak_mb()
    start = time.perf_counter()
    flips_MxMxC = pairs.flips_per_class(zoo["correct_MxN"], label_N, num_classes=classes)
    found["per_class_s"] = time.perf_counter() - start
    found["per_class_mb"] = flips_MxMxC.nbytes / 1e6
    start = time.perf_counter()
    pairs.flip_entropy(flips_MxMxC)
    found["entropy_s"] = time.perf_counter() - start
    found["memory_all_mb"] = _peak_mb()

    some = np.random.default_rng(seed).integers(0, models, (naive_pairs, 2)).tolist()
    start = time.perf_counter()
    naive = [_naive(zoo, t, s) for t, s in some]
    naive_s = (time.perf_counter() - start) / naive_pairs
    start = time.perf_counter()
    naive_flips = [_naive_per_class(zoo, label_N, classes, t, s) for t, s in some]
    naive_class_s = (time.perf_counter() - start) / naive_pairs
    pair_s, pair_class_s = (found[name] / num_pairs for name in ("scalars_second_s", "per_class_s"))
    environment = workdir.environment()
    return found | {
        "scalars_pair_us": 1e6 * pair_s,
        "naive_pair_us": 1e6 * naive_s,
        "naive_times_as_long": naive_s / pair_s,
        "per_class_pair_us": 1e6 * pair_class_s,
        "naive_per_class_pair_us": 1e6 * naive_class_s,
        "naive_per_class_times_as_long": naive_class_s / pair_class_s,
        "naive_all_pairs_s": naive_s * num_pairs,  # extrapolated from the timed ones
        "largest_difference": max(
            abs(of[name] - matrices[name][t, s])
            for of, (t, s) in zip(naive, some, strict=True)
            for name in of
        ),
        "flips_differ": sum(
            int(np.abs(of_C - flips_MxMxC[t, s].astype(np.int64)).sum())
            for of_C, (t, s) in zip(naive_flips, some, strict=True)
        ),
        "devices": ", ".join(device.device_kind for device in jax.local_devices()),
        **{name: environment[name] for name in _MACHINE},
    }


def _make_zoo(models, samples, classes, seed):
    """The arguments of `pairs.measure`, and the labels. Made row by row to save memory."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, classes, samples)
    correct_MxN = np.empty((models, samples), bool)
    answer_MxN = np.empty((models, samples), np.int16 if classes < 2**15 else np.int32)
    odds_2xMxN = np.empty((2, models, samples), np.float32)
    for m, accuracy in enumerate(rng.uniform(0.6, 0.9, models)):
        right_N = rng.random(samples) < accuracy
        answer_MxN[m] = np.where(right_N, label_N, rng.integers(0, classes, samples))
        correct_MxN[m] = answer_MxN[m] == label_N
        odds_2xMxN[:, m] = rng.normal(2, 3, (2, samples))
    zoo = {"correct_MxN": correct_MxN, "answer_MxN": answer_MxN}
    return zoo | {"label_log_odds_MxN": odds_2xMxN[0], "max_log_odds_MxN": odds_2xMxN[1]}, label_N


def _naive(zoo, t, s):
    """The measures of one pair, written out as defined."""
    teacher_N, student_N = (zoo["correct_MxN"][m] for m in (t, s))
    rho = flips.rho(teacher_correct_N=teacher_N, student_correct_N=student_N)
    accuracy = student_N.mean()
    surer, partitioned = (
        np.where(zoo[name][t] > zoo[name][s], teacher_N, student_N).mean()
        for name in ("max_log_odds_MxN", "label_log_odds_MxN")
    )
    spread = np.sqrt(teacher_N.mean() * (1 - teacher_N.mean()) * accuracy * (1 - accuracy))
    above = (teacher_N & student_N).mean() - teacher_N.mean() * accuracy
    found = {
        "rho_pos": 100 * rho[0],
        "rho_neg": 100 * rho[1],
        "agreement": 100 * (zoo["answer_MxN"][t] == zoo["answer_MxN"][s]).mean(),
        "oracle_accuracy": 100 * (teacher_N | student_N).mean(),
        "ensemble_accuracy": 100 * surer,
        "partition_gain": 100 * (partitioned - accuracy),
        "partition_gain_unsupervised": 100 * (surer - accuracy),
    }
    return found | ({"error_correlation": above / spread} if spread > 0 else {})


def _naive_per_class(zoo, label_N, classes, t, s):
    positive_N = zoo["correct_MxN"][t] & ~zoo["correct_MxN"][s]
    return np.bincount(label_N[positive_N], minlength=classes)


def _peak_mb():
    """The peak memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # in kilobytes, except on macOS
