"""Exact predictions of a model on a split: every image counted once.

On any number of devices and processes; every process gets all predictions.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ktjax import batches, parallel
from ktjax.augment import Augment
from ktjax.train import Student

# predict(variables, images, view=0) -> float32 logits_NxC; NxMxC for M jointly trained models
Predict = Callable[..., np.ndarray]

_AHEAD = 2  # batches dispatched before the logits of one are fetched


def make_predict(
    classifier: Student, *, batch_size: int, augment: Augment | None = None, seed: int = 0
) -> Predict:
    """Builds a function that computes a classifier's logits on a whole split, compiled once.

    With `augment` these are the logits of the split's `view`, as training with `seed` sees it;
    otherwise of the images as used for evaluation.
    """

    def forward(frozen, batch):
        variables, view = frozen
        image = batch["image"]
        if augment is not None:
            image = augment(image, batch["index"], view)
        # Otherwise TPUs would multiply float32 in bfloat16, and recent GPUs in TF32.
        with jax.default_matmul_precision("float32"):
            return classifier.apply(variables, image)[0].logits

    forward = parallel.compile_forward(forward)
    rows = parallel.local_rows(batch_size)

    def predict(variables: Any, images: batches.Split, view: int = 0) -> np.ndarray:
        on_host = batches.eval_batches(
            images,
            batch_size=batch_size,
            rows=rows,
            view=None if augment is None else view,
            seed=seed,
        )
        # Fetched while later batches run: the devices need not hold a whole split's logits.
        waiting: collections.deque[Any] = collections.deque()
        found = []
        for batch in parallel.to_devices(on_host):
            waiting.append(forward((variables, view), batch))
            if len(waiting) > _AHEAD:
                found.append(_rows(waiting.popleft()))
        logits = np.concatenate([*found, *map(_rows, waiting)])
        return logits[: len(images)]  # the last batch was padded

    return predict


def _rows(logits: Any) -> np.ndarray:
    """The logits of a batch without its device axis."""
    return np.asarray(logits).reshape(-1, *logits.shape[2:])


def accuracy(logits_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """Percentage of samples whose largest logit is the label's."""
    return 100 * float(np.mean(logits_NxC.argmax(axis=-1) == label_N))


def change(before_NxC: np.ndarray, after_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """The change of `accuracy` in points; exactly 0 if equally many samples are correct."""
    before, after = (int(np.sum(x.argmax(axis=-1) == label_N)) for x in (before_NxC, after_NxC))
    return 100 * (after - before) / label_N.size
