"""The settings of a pretrain job."""

from typing import Annotated, Literal

from pydantic import Field

from ktjax.settings.record import BelowOne, Name, Positive, Seed
from ktjax.settings.training import Training


class Pretrain(Training):
    """What configs/pretrain.py holds."""

    job: Literal["pretrain"]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    train: Literal["all", "head"]
    head: Literal["keep", "zero", "random"]
    seed: Seed
    learning_rate: Positive
    label_smoothing: BelowOne
