"""The settings of a complementarity job."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from ktjax.settings.data import Data
from ktjax.settings.record import Name, Part, Seed, Template

SIMILARITIES = ("groups", "prototypes")
CLIP = "clip:"


class Complementarity(Data):
    """The fields of configs/complementarity.py."""

    job: Literal["complementarity"]
    models: Annotated[tuple[Name, ...], Field(min_length=2)]
    random_students: tuple[Name, ...]
    seed: Seed
    similarity: Name
    clip_template: Template
    calibrate: bool
    own_transform: bool
    minival: Part
    transfers: tuple[Name, ...]

    @pydantic.model_validator(mode="after")
    def _choices(self) -> Self:
        if self.similarity not in SIMILARITIES and not self.similarity.startswith(CLIP):
            raise ValueError(
                f"config.similarity='{self.similarity}' is not known. Known: "
                f"{', '.join(SIMILARITIES)}, clip:NAME."
            )
        if len(set(self.random_students)) < len(self.random_students):
            raise ValueError("config.random_students names an architecture twice.")
        return self
