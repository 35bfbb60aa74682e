"""Exact predictions of a model on a split: every image counted once.

On any number of devices and processes, each of which gets all of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ktjax import batches, parallel
from ktjax.augment import Augment
from ktjax.train import Student

# predict(variables, images, view=0) -> float32 logits_NxC; NxMxC for M models that train at once
Predict = Callable[..., np.ndarray]


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
        logits = [forward((variables, view), batch) for batch in parallel.to_devices(on_host)]
        logits = np.concatenate([np.asarray(x).reshape(-1, *x.shape[2:]) for x in logits])
        return logits[: len(images)]  # the last batch was padded

    return predict


def accuracy(logits_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of samples whose largest logit is the label's, in percent."""
    return 100 * float(np.mean(logits_NxC.argmax(axis=-1) == label_N))


def change(before_NxC: np.ndarray, after_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """How much `accuracy` has changed, in points; exactly 0 where as many samples are right."""
    before, after = (int(np.sum(x.argmax(axis=-1) == label_N)) for x in (before_NxC, after_NxC))
    return 100 * (after - before) / label_N.size
