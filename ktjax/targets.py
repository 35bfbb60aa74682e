"""What frozen models say of a training split: asked in every step, or once for all runs.

Both are a `teach` of train.py and what it takes as `frozen`, so that a step knows neither.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ktjax import parallel
from ktjax.augment import Augment
from ktjax.data import pipeline
from ktjax.models.classifier import Classifier, Output, cast
from ktjax.train import Teach


def make_live(models: Sequence[Classifier]) -> Teach:
    """Asks the models, of which the first is the initial student, in every step.

    `frozen` is the tuple of their variables.
    """

    def teach(frozen, image, index_B, view):
        del index_B, view
        outputs = [m.apply(v, image)[0] for m, v in zip(models, frozen, strict=True)]
        return outputs[0], tuple(outputs[1:])

    return teach


def live(model: Classifier, *, dtype: jnp.dtype) -> Any:
    """A model's variables, once per device and in the dtype that is computed in."""
    return parallel.replicate(cast(dict(model.variables), dtype))


def replay(frozen: Any, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Any:
    """The `teach` of stored logits: `frozen` is a tuple of float32 [views, N, C] arrays."""
    del image
    outputs = [Output(logits=logits[view, index_B], features=None) for logits in frozen]
    return outputs[0], tuple(outputs[1:])


def store(
    model: Classifier,
    images: pipeline.Images,
    *,
    augment: Augment,
    views: int,
    batch_size: int,
    dtype: jnp.dtype,
) -> jax.Array:
    """A model's logits for each of the first `views` views: float32 [views, N, C], on each device.

    Cheaper than asking in every step as soon as two runs see the same views.
    """

    def forward(frozen, batch):
        variables, view = frozen
        image = augment(batch["image"], batch["index"], view)
        return model.apply(variables, image)[0].logits

    forward = parallel.data_parallel_forward(forward)
    variables = live(model, dtype=dtype)
    logits = np.empty((views, len(images), len(model.classes)), np.float32)
    for view in tqdm.trange(views, desc=f"targets of {model.name}", unit="view", leave=False):
        batches = parallel.to_devices(pipeline.eval_batches(images, batch_size=batch_size))
        parts = [forward((variables, view), batch) for batch in batches]
        rows = np.concatenate([np.asarray(part).reshape(batch_size, -1) for part in parts])
        logits[view] = rows[: len(images)]
    return parallel.replicate(logits)
