"""The settings of a pretrain job."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ktjax.settings.data import Robustness
from ktjax.settings.record import BelowOne, Name, Positive, Seed
from ktjax.settings.training import Training


class Pretrain(Training):
    """The fields of configs/pretrain.py."""

    job: Literal["pretrain"]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    robustness: tuple[Robustness, ...]
    train: Literal["all", "head"]
    head: Literal["keep", "zero", "random"]
    seed: Seed
    learning_rate: Positive
    label_smoothing: BelowOne

    @property
    def trains_all(self) -> bool:
        """As Training says."""
        return self.train == "all"

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds the data set's defaults; photographs are mirrored, and keep their colors."""
        found = dict(super().resolved(raw))
        if found.get("augment") == "default" and raw.get("augment") is None:
            found["augment"] = "minimal"
        return found
