"""A model's answers on a split in 19 bytes per sample: all that is needed to measure pairs.

The logits of 466 models on 50,000 images of 1,000 classes would take 93 GB; this takes 443 MB. One
safetensors file per model, written atomically, so that a killed job resumes with the next model.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from ktjax import files
from ktjax.analysis import flips

_TOP = 5
_ROWS_AT_ONCE = 4096  # copies of all logits would take 200 MB


class Predictions(NamedTuple):
    """One model's answers on N samples; K = 5, or C if there are fewer classes.

    Its confidence is kept as log-odds, log p / (1 - p), from `flips.confidence` of its logits
    divided by `temperature`: they still differ where a good model's probabilities would all be 1.
    """

    top_NxK: np.ndarray  # classes with the largest logits, largest first; ties by class number
    correct_N: np.ndarray  # bool: the first of them is the label
    label_log_odds_N: np.ndarray  # float32, of the label
    max_log_odds_N: np.ndarray  # float32, of the first class
    temperature: np.ndarray = np.ones((), np.float32)  # a scalar


def of_logits(
    logits_NxC: np.ndarray, label_N: np.ndarray, *, temperature: float | None = None
) -> Predictions:
    """The predictions of a model's logits, with its confidence at a temperature; None: 1.

    ValueError if the logits are not [N, C] or not finite.
    """
    logits_NxC = np.asarray(logits_NxC)
    if logits_NxC.ndim != 2 or len(logits_NxC) != len(label_N):
        shape = list(logits_NxC.shape)
        raise ValueError(f"logits_NxC must have shape [{len(label_N)}, C], not {shape}.")
    if not np.isfinite(logits_NxC).all():
        raise ValueError("the model gives logits that are not finite.")
    num_classes = logits_NxC.shape[1]
    scale = None if temperature is None else [temperature]
    parts = []
    for start in range(0, len(label_N), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        sure_1xRxC = flips.calibrated(logits_NxC[None, rows], scale)
        top = np.asarray(jax.lax.top_k(logits_NxC[rows], min(_TOP, num_classes))[1])
        parts.append(
            Predictions(
                top_NxK=top.astype(np.int16 if num_classes < 2**15 else np.int32),
                correct_N=top[:, 0] == label_N[rows],
                label_log_odds_N=flips.confidence(sure_1xRxC, label_N[rows])[0],
                max_log_odds_N=flips.confidence(sure_1xRxC)[0],
            )
        )
    *per_sample, _ = zip(*parts, strict=True)
    found = Predictions(*(np.concatenate(columns) for columns in per_sample))
    return found if scale is None else found._replace(temperature=np.asarray(scale[0], np.float32))


def save(path: Path, predictions: Predictions) -> None:
    """Writes the file atomically."""
    files.write_whole(path, safetensors_numpy.save(predictions._asdict()))


def load(path: Path) -> Predictions:
    """Reads what `save` wrote; ValueError if it is not such a file."""
    try:
        found = Predictions(**safetensors_numpy.load(path.read_bytes()))
    except (safetensors.SafetensorError, TypeError) as error:
        raise ValueError(f"{path} was not written by ktjax: {error}.") from error
    if found.label_log_odds_N.dtype != np.float32 or found.max_log_odds_N.dtype != np.float32:
        raise ValueError(
            f"{path} was written by an earlier ktjax with less precise log-odds: delete it, and "
            "the model is run again."
        )
    return found
