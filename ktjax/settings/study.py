"""The settings of a study."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from ktjax.settings.data import Interpolation
from ktjax.settings.objective import Entry, SlowWeights
from ktjax.settings.record import (
    NUMBER,
    Amount,
    Count,
    Cropped,
    Name,
    NotNegative,
    Record,
    Seed,
    Side,
    check_once,
    filled,
)
from ktjax.settings.transfer import Methods, Transfer

# How a study is started, which is no part of what it finds.
STARTED = ("keep", "engine", "processes", "shard", "only_failed", "lease_expiry", "ray", "store")
# What may differ from the last start, as it only says which runs are asked for.
ASKED = ("students", "teachers", "seeds", "objectives", "controls", "mcl", "pairs", "pairs_seed")


# How images are read where a config leaves that open.
OF_GLYPHS = {"image_size": 24, "crop_pct": 1.0, "interpolation": "bilinear"}
OF_OTHERS = {"image_size": 224, "crop_pct": 0.875, "interpolation": "bicubic"}
_SHARED = frozenset(Methods.model_fields)


class Ray(Record):
    """What a task of Ray, which does the runs of one student, asks for."""

    cpus: Amount
    gpus: Amount
    retries: NotNegative


class Study(Methods):
    """What configs/study.py holds."""

    job: Literal["study"]
    students: Annotated[tuple[Name, ...], Field(min_length=1)]
    teachers: tuple[Name, ...]
    pairs: Count | None
    pairs_seed: Seed

    # One batch for all pairs: one more model must not change what the others see.
    image_size: Side
    crop_pct: Cropped
    interpolation: Interpolation

    keep: Literal["all", "best", "none"]
    engine: Literal["local", "ray"]
    processes: Count
    shard: Name | None
    only_failed: bool
    lease_expiry: Annotated[float, NUMBER, Field(gt=0, le=86400)]  # seconds
    ray: Ray

    @classmethod
    def resolved(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the batch that follows from the data set, whichever models there are."""
        raw = super().resolved(raw)
        batch = OF_GLYPHS if str(raw.get("data")).startswith("glyphs") else OF_OTHERS
        return filled(raw, batch)

    @pydantic.model_validator(mode="after")
    def _shard(self) -> Self:
        for name in ("students", "teachers"):
            check_once(name, getattr(self, name))
        if self.processes > 1 and self.engine != "local":
            raise ValueError("config.processes: only with config.engine=local.")
        if self.shard is None:
            return self
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not match or int(match[1]) >= int(match[2]):
            raise ValueError(
                f"config.shard='{self.shard}' has to be i/n, where i is from 0 to n - 1: 0/4."
            )
        if self.engine != "local":
            raise ValueError("config.shard: only with config.engine=local.")
        return self

    def identity(self) -> dict[str, Any]:
        """What config.json holds: all but how it is started."""
        return {name: value for name, value in self.to_json().items() if name not in STARTED}

    def transfer(
        self,
        student: str,
        teachers: Sequence[str],
        objectives: Mapping[str, Entry],
        *,
        seeds: Sequence[int],
        mcl: Mapping[str, SlowWeights],
    ) -> Transfer:
        """The settings of a transfer of this study, from each of the teachers alone."""
        fields = {name: value for name, value in self.to_json().items() if name in _SHARED}
        return Transfer.read(
            fields
            | {"job": "transfer", "student": student, "teachers": tuple(teachers)}
            | {"strategy": "single", "order": "given", "soup_batch_norm": "average"}
            | {"seeds": tuple(seeds), "controls": {}}
            | {"objectives": {name: entry.to_json() for name, entry in objectives.items()}}
            | {"mcl": {name: slow.to_json() for name, slow in mcl.items()}}
        )
