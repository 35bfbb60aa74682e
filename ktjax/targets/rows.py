"""How answers are stored: one row per image, with all logits or the k largest.

Written with NumPy and read in steps: `Form` describes the rows, `to_rows` makes them from logits,
`arrays` prepares them for a step, and `look_up` gets those of a batch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import compress
from ktjax.classifier import Output
from ktjax.topk import TopK, Way

_AT_ONCE = 8192  # images whose logits are compressed together


class Form(NamedTuple):
    """What is kept of a model's answers.

    Attributes:
      classes: number of classes.
      k: how many of the largest logits; None: all.
      ways: the softenings for which the other classes are summed; empty if all are kept.
    """

    classes: int
    k: int | None = None
    ways: tuple[Way, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a row: float32 [C], or a record of the top k, see targets/__init__.py."""
        if self.k is None:
            return np.dtype((np.float32, (self.classes,)))
        index = np.int16 if self.classes <= np.iinfo(np.int16).max else np.int32
        return np.dtype(
            [
                ("class", index, (self.k,)),
                ("logit", np.float16, (self.k,)),
                ("rest", np.float32, (len(self.ways),)),
                *((name, np.float32) for name in ("largest", "mean", "variance")),
                *((name, np.float32) for name in ("label_odds", "largest_odds")),
            ]
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The field names of a record."""
        return self.dtype.names or ()

    def size(self, examples: int, views: int, measured: int = 0) -> int:
        """The bytes of so many answers, and of all logits for the images of tune and validation."""
        return examples * views * self.dtype.itemsize + measured * self.classes * 4

    def told(self, examples: int, views: int, measured: int = 0) -> str:
        """The memory or disk that `size` counts, in words."""
        size = self.size(examples, views)
        whole = examples * views * self.classes * 4
        what = "all" if self.k is None else f"the {self.k} largest"
        text = f"{what} of {self.classes:,} logits for {views} x {examples:,} images: {_told(size)}"
        text = text if self.k is None else f"{text} (all in float32: {_told(whole)})"
        if not measured:
            return text
        more = _told(self.size(0, 0, measured))
        return f"{text}, and all logits for the {measured:,} images of tune and validation: {more}"


def form(classes: int, k: int | None, ways: tuple[Way, ...]) -> Form:
    """The form with the k largest of so many logits; all if there are no more than k."""
    return Form(classes) if k is None or k >= classes else Form(classes, k, ways)


def to_rows(logits_NxC: np.ndarray, label_N: np.ndarray, form: Form) -> np.ndarray:
    """The rows of these answers: float32 [N, C], or records [N]."""
    if form.k is None:
        return np.asarray(logits_NxC, np.float32)
    rows_N = np.empty(len(logits_NxC), form.dtype)
    for start in range(0, len(rows_N), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        kept = jax.device_get(_compressed(logits_NxC[part], label_N[part], form.k, form.ways))
        for name in form.fields:
            rows_N[name][part] = getattr(kept, _field(name))
    return rows_N


@functools.partial(jax.jit, static_argnums=(2, 3))
def _compressed(logits_BxC: jax.Array, label_B: jax.Array, k: int, ways: tuple[Way, ...]) -> TopK:
    return compress.compress(logits_BxC, label_B=label_B, k=k, ways=ways)


def arrays(rows_VxN: np.ndarray, form: Form) -> Any:
    """Rows of views [V, N] as arrays with these axes first: one array, or a TopK of arrays."""
    if form.k is None:
        return rows_VxN
    columns = {_field(name): np.ascontiguousarray(rows_VxN[name]) for name in form.fields}
    return TopK(**columns, ways=form.ways)


def look_up(kept: Any, view: jax.Array, index_B: jax.Array) -> Output:
    """The answers for a batch at a view; if only one view is kept, at that one."""
    at = jax.tree.map(lambda x_VxN: x_VxN[view % len(x_VxN), index_B], kept)
    if isinstance(at, TopK):
        at = at.replace(
            class_BxK=at.class_BxK.astype(jnp.int32), logit_BxK=at.logit_BxK.astype(jnp.float32)
        )
    return Output(logits=at, features=None)


def _field(name: str) -> str:
    """The name of a TopK's field, from its name in a row."""
    axes = {"class": "BxK", "logit": "BxK", "rest": "BxR"}
    return f"{name}_{axes.get(name, 'B')}"


def _told(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
