"""The settings of a transfer job."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from ktjax.settings import objective
from ktjax.settings.data import Robustness
from ktjax.settings.record import (
    FROZEN,
    AtLeastTwo,
    BelowOne,
    Count,
    Name,
    Positive,
    Seed,
    check_once,
    filled,
)
from ktjax.settings.training import Training


def rates_of(data: Any) -> tuple[float, ...]:
    """The learning rates to choose from if a config says None: a single one if it is known."""
    if data == "imagenet2012":
        return (1e-4,)  # the paper's
    return (0.1,) if str(data).startswith("glyphs") else (0.001, 0.01, 0.1, 1.0)


# How a transfer trains if its config leaves the schedule open: on ImageNet as in the paper,
# otherwise so that the larger of several learning rates can be tried.
PUBLISHED = {"schedule": "constant", "warmup": 0.0, "clip_norm": None}
OTHERWISE = {"schedule": "cosine", "warmup": 0.05, "clip_norm": 1.0}


# Where stored answers are kept, and what for, which does not affect them.
STORES = ("store", "store_softenings")


class Methods(Training):
    """The objectives of transfers, and their controls: the same for all pairs."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    robustness: tuple[Robustness, ...]
    objectives: Annotated[Mapping[str, objective.Objective], Field(min_length=1), FROZEN]
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    controls: Annotated[Mapping[str, objective.Control], FROZEN]
    mcl: Annotated[Mapping[str, objective.SlowWeights], FROZEN]
    calibrate: bool
    own_transform: bool
    drop_path_rate: BelowOne | None
    export: Literal["last", "best", "no_regret"]
    targets: Literal["live", "stored"]
    store: Name | None
    store_top_k: AtLeastTwo | None
    store_softenings: tuple[tuple[Positive, bool], ...]
    views: Count | None

    def identity(self) -> dict[str, Any]:
        """All fields but those on stored answers that do not affect them."""
        return {name: value for name, value in super().identity().items() if name not in STORES}

    def softenings(self) -> tuple[tuple[float, bool], ...]:
        """Those for which its objectives compare all classes, as (temperature, standardized).

        Temperature 1 is always one.
        """
        entries = (*self.objectives.values(), *self.controls.values())
        asked = (one for entry in entries for one in entry.softenings())
        return tuple(sorted({(1.0, False), *asked}))

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds defaults that depend on the data set and the batch size."""
        raw = super().resolved(raw)
        if "learning_rates" in raw and raw["learning_rates"] is None:
            raw = {**raw, "learning_rates": rates_of(raw.get("data"))}
        if "mcl" not in raw:
            return raw
        return {**raw, "mcl": objective.every_resolved(raw["mcl"], raw.get("batch_size"))}

    @pydantic.model_validator(mode="after")
    def _fields_that_go_together(self) -> Self:
        check_once("learning_rates", self.learning_rates)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"config.seeds={self.seeds}: seeds must be different.")
        for field in ("objectives", "controls"):
            for label in getattr(self, field):
                if not re.fullmatch(r"[\w.+-]+", label):
                    raise ValueError(
                        f"config.{field}: '{label}' names files; use letters and digits."
                    )
        for field in ("store", "store_top_k"):
            value = getattr(self, field)
            if value is not None and self.targets == "live":
                raise ValueError(f"config.{field}={value}: only with config.targets='stored'.")
        if unknown := objective.unknown_labels(self.mcl, self.objectives):
            raise ValueError(
                f"config.mcl='{unknown[0]}' is not known. Known: {', '.join(self.objectives)}."
            )
        return self


class Transfer(Methods):
    """The fields of configs/transfer.py and configs/quickstart.py."""

    job: Literal["transfer"]
    classes: Literal["names", "position", "shared"]
    student: Name
    teachers: tuple[Name, ...]
    strategy: Literal["single", "parallel", "sequential", "soup", "mutual"]
    order: Literal["ascending", "descending", "given", "random"]
    soup_batch_norm: Literal["average", "estimate"]

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds the data set's training protocol if the schedule is left open, and the export."""
        raw = super().resolved(raw)
        as_published = raw.get("data") == "imagenet2012"
        decides = not as_published and raw.get("strategy") != "mutual"
        raw = filled(raw, {"export": "no_regret" if decides else "last"})
        protocol = dict(PUBLISHED if as_published else OTHERWISE)
        if raw.get("schedule", "") is not None:
            del protocol["clip_norm"]  # None means what it says
        return filled(raw, protocol)
