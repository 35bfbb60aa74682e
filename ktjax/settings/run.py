"""The training-run settings of a config."""

import math
from typing import Literal, NamedTuple, Self

import pydantic

from ktjax.settings.record import MOST, Amount, BelowOne, Count, Positive, Record

# Defaults: the paper's epochs, or more with few images, to make at least LEAST_STEPS; evaluated
# after each epoch, but at most EVALUATIONS times.
EPOCHS = 20
LEAST_STEPS = 200
EVALUATIONS = 20


class Durations(NamedTuple):
    """How long a run is, in steps."""

    epoch: int
    total: int
    eval_every: int


class Run(Record):
    """The fields that all training runs read."""

    batch_size: Count
    total_epochs: Positive | None
    total_steps: Count | None
    eval_every_epochs: Positive | None
    eval_every_steps: Count | None
    log_every: Count

    optimizer: Literal["sgd", "adamw"]
    schedule: Literal["constant", "cosine"]
    warmup: BelowOne
    weight_decay: Amount
    clip_norm: Positive | None

    parallel: Literal["pmap", "fsdp"]
    microbatches: Count
    remat: bool
    steps_per_dispatch: Count
    dtype: Literal["float32", "bfloat16"]
    batch_norm: Literal["train", "frozen"]

    @pydantic.model_validator(mode="after")
    def _one_of_steps_and_epochs(self) -> Self:
        for name in ("total", "eval_every"):
            steps, epochs = self._duration(name)
            if steps is not None and epochs is not None:
                raise ValueError(
                    f"Give one of config.{name}_steps={steps} and config.{name}_epochs={epochs}, "
                    f"and set the other to None, such as --config.{name}_epochs=None."
                )
        return self

    def _duration(self, name: str) -> tuple[int | None, float | None]:
        if name == "total":
            return self.total_steps, self.total_epochs
        return self.eval_every_steps, self.eval_every_epochs

    def durations(self, examples: int) -> Durations:
        """The durations of a run on so many examples.

        Raises:
          ValueError: they do not fill one batch, or a duration is less than a step.
        """
        epoch = examples // self.batch_size
        if not epoch:
            raise ValueError(
                f"The training split has {examples} images, fewer than config.batch_size="
                f"{self.batch_size}: lower it."
            )
        total = self._steps("total", epoch, max(EPOCHS * epoch, LEAST_STEPS))
        every = self._steps("eval_every", epoch, max(epoch, math.ceil(total / EVALUATIONS)))
        return Durations(epoch, total, min(total, every))

    def _steps(self, name: str, steps_per_epoch: int, default: int) -> int:
        steps, epochs = self._duration(name)
        count = default if steps is None else steps
        count = count if epochs is None else epochs * steps_per_epoch
        if not math.isfinite(count) or round(count) < 1:
            raise ValueError(f"config.{name}_steps or config.{name}_epochs comes to {count} steps.")
        if round(count) > MOST:
            raise ValueError(
                f"config.{name}_steps or config.{name}_epochs comes to {count:.3g} steps, more "
                f"than {MOST:,}."
            )
        return round(count)
