"""What frozen models say about a training split: asked in every step, or once for all runs.

Both are a `teach` of train.py and what it takes as `frozen`, so that a step knows neither.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ktjax import batches, evaluate, interruption, parallel
from ktjax.augment import Augment
from ktjax.classifier import Classifier, Output, cast
from ktjax.objective import Outputs
from ktjax.train import Teach


class Frozen(NamedTuple):
    """What a step takes as `frozen`: each model's variables, or its stored logits.

    Which entries are set depends on the objective: `initial` may be None, `teachers` empty.
    """

    initial: Any
    teachers: tuple[Any, ...]
    temperatures_S: Any = None  # these calibrate initial and teachers; None: taken as they are


def make_ask(initial: Classifier, teachers: Sequence[Classifier]) -> Teach:
    """The `teach` that asks the models themselves in every step; `frozen` holds their variables."""

    def teach(frozen, image, index_B, view):
        del index_B, view

        def ask(model, variables):
            return model.apply(variables, image)[0]

        first = None if frozen.initial is None else ask(initial, frozen.initial)
        others = tuple(map(ask, teachers, frozen.teachers))
        return Outputs(None, first, others, frozen.temperatures_S)

    return teach


def frozen_variables(model: Classifier, *, dtype: jnp.dtype, layout: str = "pmap") -> Any:
    """A model's variables as the layout wants them, with the parameters in `dtype`.

    BatchNorm's statistics stay float32, as the student's do: the initial student is the student.
    """
    params = cast(model.variables["params"], dtype)
    return parallel.place(dict(model.variables) | {"params": params}, layout)


def replay(frozen: Frozen, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Outputs:
    """The `teach` of stored logits: `frozen` holds float32 [views, N, C] arrays."""
    del image

    def look_up(logits):
        return Output(logits=logits[view, index_B], features=None)

    first = None if frozen.initial is None else look_up(frozen.initial)
    return Outputs(None, first, tuple(map(look_up, frozen.teachers)), frozen.temperatures_S)


def store(
    model: Classifier,
    images: batches.Split,
    *,
    augment: Augment,
    seed: int,
    views: int,
    batch_size: int,
    dtype: jnp.dtype,
    layout: str = "pmap",
) -> jax.Array:
    """A model's logits for each of the first `views` views of a seed: float32 [views, N, C].

    Cheaper than asking in every step as soon as two runs see the same views.
    """
    predict = evaluate.make_predict(model, batch_size=batch_size, augment=augment, seed=seed)
    variables = frozen_variables(model, dtype=dtype, layout=layout)
    logits = np.empty((views, len(images), len(model.classes)), np.float32)
    for view in tqdm.trange(views, desc=f"targets of {model.name}", unit="view", leave=False):
        interruption.stop_if_asked()
        logits[view] = predict(variables, images, view)
    return parallel.place(logits, layout)
