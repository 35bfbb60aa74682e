"""The data settings of a config."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from ktjax.settings.record import (
    NUMBER,
    Count,
    Cropped,
    Name,
    NotNegative,
    OtherWorkers,
    Part,
    Positive,
    Record,
    Share,
    Side,
    Template,
    Workers,
    filled,
)

# Names from tables that would be slow to import; settings_test.py checks that they match.
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Robustness = Literal[
    "imagenet_v2", "imagenet2012_real", "imagenet_a", "imagenet_r", "imagenet_sketch"
]
Augment = Literal["none", "shift_colour", "minimal", "very_weak", "weak", "default", "vicreg"]


def following(data: Any) -> dict[str, Any]:
    """The data set's defaults for fields that are None in a config."""
    imagenet, glyphs = data == "imagenet2012", str(data).startswith("glyphs")
    return {
        "image_size": 24 if glyphs else None,
        "minival": 0.01 if imagenet else 0.1,
        "train_fraction": 0.1 if imagenet else 1.0,
        "augment": "shift_colour" if glyphs else "default",
    }


class Data(Record):
    """The fields that all jobs read."""

    data: Name
    data_dir: Name | None
    max_examples: Count | None
    on_bad_image: Literal["error", "skip", "pad"]
    classes: Literal["names", "position"]
    templates: Annotated[tuple[Template, ...], Field(min_length=1)]
    image_size: Side | None
    crop_pct: Cropped | None
    interpolation: Interpolation | None
    upright: bool
    cache_gb: Annotated[float, NUMBER, Field(ge=0, le=2**20)]
    decode_threads: Workers
    eval_batch_size: Count

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds the data set's defaults, however the data set was given."""
        return filled(raw, following(raw.get("data")))

    def datasets(self) -> dict[str, str]:
        """The names of the data sets, by field."""
        return {"data": self.data}


class TrainingData(Data):
    """The fields of jobs that train."""

    eval_data: Name | None
    minival: Part
    train_fraction: Share
    subset_seed: NotNegative
    crop_scale: tuple[Positive, Positive] | None
    decode_processes: OtherWorkers
    augment: Augment

    @pydantic.model_validator(mode="after")
    def _crops(self) -> Self:
        scale = self.crop_scale
        if scale is not None and not scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"config.crop_scale={scale} must be the smallest and largest fraction of an "
                "image's area, or None for no crop."
            )
        return self

    def datasets(self) -> dict[str, str]:
        """The names of the data sets, by field."""
        more = {} if self.eval_data is None else {"eval_data": self.eval_data}
        return super().datasets() | more
