"""The settings of a convergence job."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from ktjax.settings.record import Amount, BelowOne, Name, Positive, Seed, check_once
from ktjax.settings.training import Training


class Convergence(Training):
    """The fields of configs/convergence.py."""

    job: Literal["convergence"]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    label_smoothing: BelowOne
    most_gain: Amount

    @pydantic.model_validator(mode="after")
    def _once(self) -> Self:
        for name in ("models", "learning_rates", "seeds"):
            check_once(name, getattr(self, name))
        return self
