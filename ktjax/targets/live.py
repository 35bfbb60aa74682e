"""Outputs of frozen models on a training split: computed in every step, or once for all runs.

Both provide a `teach` for train.py and its `frozen`, so that the step is the same for both.

Stored answers are looked up by a batch's index, on the devices. These hold all views or, if a store
is too large for that, one at a time (`one_at_a_time`), which is read and copied once per epoch,
when the view changes, while the one before is still there. Nothing is added to a batch, and steps
never wait for the host.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import batches, evaluate, interruption, parallel, progress
from ktjax.augment import Augment
from ktjax.classifier import Classifier, cast
from ktjax.objective import Outputs
from ktjax.targets import rows
from ktjax.targets.rows import Form
from ktjax.train import Teach

# of(view) -> a model's part of `frozen` while training sees this view
OfView = Callable[[int], Any]


class Frozen(NamedTuple):
    """A step's `frozen`: each model's variables, or its stored answers.

    Which entries are set depends on the objective: `initial` may be None, `teachers` empty.
    """

    initial: Any
    teachers: tuple[Any, ...]
    temperatures_S: Any = None  # calibrate initial and teachers; None: uncalibrated
    weights_S: Any = None  # of initial and teachers in a pool; None: there is no pool


def make_ask(initial: Classifier, teachers: Sequence[Classifier | None]) -> Teach:
    """The `teach` that runs the models in every step; `frozen` holds their variables.

    For teachers that are None, it holds their stored answers.
    """

    def teach(frozen, image, index_B, view):
        def ask(model, of_model):
            if model is None:
                return rows.look_up(of_model, view, index_B)
            return model.apply(of_model, image)[0]

        first = None if frozen.initial is None else ask(initial, frozen.initial)
        others = tuple(map(ask, teachers, frozen.teachers))
        return Outputs(None, first, others, frozen.temperatures_S, frozen.weights_S)

    return teach


def frozen_variables(model: Classifier, *, dtype: jnp.dtype, layout: str = "pmap") -> Any:
    """A model's variables in the layout, with the parameters in `dtype`.

    BatchNorm's statistics stay float32, like the student's: the initial student must match it.
    """
    params = cast(model.variables["params"], dtype)
    return parallel.place(dict(model.variables) | {"params": params}, layout)


def replay(frozen: Frozen, image: jax.Array, index_B: jax.Array, view: jax.Array) -> Outputs:
    """The `teach` of stored answers: `frozen` holds `rows.arrays` of [views, N]."""
    del image

    def look_up(kept):
        return rows.look_up(kept, view, index_B)

    first = None if frozen.initial is None else look_up(frozen.initial)
    others = tuple(map(look_up, frozen.teachers))
    return Outputs(None, first, others, frozen.temperatures_S, frozen.weights_S)


def make_answers(
    model: Classifier,
    images: batches.Split,
    *,
    augment: Augment,
    seed: int,
    batch_size: int,
    dtype: jnp.dtype,
    layout: str,
    form: Form,
) -> Callable[[int], np.ndarray]:
    """`answers(view)`: a model's outputs, as rows, on a split as training with `seed` sees it."""
    predict = evaluate.make_predict(model, batch_size=batch_size, augment=augment, seed=seed)

    @functools.cache
    def variables() -> Any:  # placed on first use only
        return frozen_variables(model, dtype=dtype, layout=layout)

    def answers(view: int) -> np.ndarray:
        logits_NxC = predict(variables(), images, view)
        if not np.isfinite(logits_NxC).all():
            raise ValueError(f"{model.name} gives logits for view {view} that are not finite.")
        return rows.to_rows(logits_NxC, images.label_N, form)

    return answers


def all_at_once(rows_VxN: np.ndarray, form: Form, layout: str) -> OfView:
    """All views of a model, on the devices."""
    kept = parallel.place(rows.arrays(rows_VxN, form), layout)
    return lambda view: kept


def one_at_a_time(read: Callable[[int], np.ndarray], form: Form, layout: str) -> OfView:
    """The view that training sees, on the devices; `read(view)` gives its rows [N]."""

    @functools.lru_cache(maxsize=1)
    def kept(view: int) -> Any:
        return parallel.place(rows.arrays(read(view)[None], form), layout)

    return kept


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
    form: Form | None = None,
) -> Any:
    """A model's answers to each of the first `views` views of a seed, on the devices.

    All logits, float32 [views, N, C]; with a `form`, what it keeps, as `rows.arrays`.
    Cheaper than running the model in every step as soon as two runs see the same views.
    """
    form = Form(len(model.classes)) if form is None else form
    answers = make_answers(
        model,
        images,
        augment=augment,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        layout=layout,
        form=form,
    )
    rows_VxN = np.empty((views, len(images)), form.dtype)
    told = f"targets of {model.name}"
    for view in progress.bar(range(views), desc=told, unit="view", leave=False):
        interruption.stop_if_asked()
        rows_VxN[view] = answers(view)
    return parallel.place(rows.arrays(rows_VxN, form), layout)
