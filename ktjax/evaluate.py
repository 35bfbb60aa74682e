"""Exact predictions of a model on a split: every image counted once.

On any number of devices and processes, each of which gets all of them.
"""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np

from ktjax import batches, parallel
from ktjax.augment import Augment
from ktjax.train import Student

# predict(variables, images, view=0) -> float32 logits_NxC; NxMxC for M models that train at once
Predict = Callable[..., np.ndarray]

_AHEAD = 2  # batches that are dispatched before the logits of one are fetched


def make_predict(
    classifier: Student, *, batch_size: int, augment: Augment | None = None, seed: int = 0
) -> Predict:
    """Builds the function that gives a classifier's logits for a whole split, compiled once.

    With `augment` these are the logits of the split's `view`, as training with `seed` sees it; else
    of the images as they are evaluated.
    """

    def forward(frozen, batch):
        variables, view = frozen
        image = batch["image"]
        if augment is not None:
            image = augment(image, batch["index"], view)
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
        # Fetched behind what runs: the devices need not hold the logits of a whole split.
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
    """Of a batch, without its axis of devices."""
    return np.asarray(logits).reshape(-1, *logits.shape[2:])


def accuracy(logits_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of samples whose largest logit is the label's, in percent."""
    return 100 * float(np.mean(logits_NxC.argmax(axis=-1) == label_N))


def change(before_NxC: np.ndarray, after_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """How much `accuracy` has changed, in points; exactly 0 where as many samples are right."""
    before, after = (int(np.sum(x.argmax(axis=-1) == label_N)) for x in (before_NxC, after_NxC))
    return 100 * (after - before) / label_N.size
