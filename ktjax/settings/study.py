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

# How a study is started, which does not affect its results.
STARTED = ("keep", "engine", "processes", "shard", "only_failed", "lease_expiry", "ray")
# What may differ from the last start, as it only selects the runs.
ASKED = ("students", "teachers", "seeds", "objectives", "controls", "mcl", "pairs", "pairs_seed")


# How images are read if a config leaves that open.
OF_GLYPHS = {"image_size": 24, "crop_pct": 1.0, "interpolation": "bilinear"}
OF_OTHERS = {"image_size": 224, "crop_pct": 0.875, "interpolation": "bicubic"}
_SHARED = frozenset(Methods.model_fields)


class Ray(Record):
    """The resources of a Ray task, which does the runs of one student."""

    cpus: Amount
    gpus: Amount
    retries: NotNegative


class Study(Methods):
    """The fields of configs/study.py."""

    job: Literal["study"]
    students: tuple[Name, ...]
    teachers: tuple[Name, ...]
    pairs: Count | None
    pairs_seed: Seed

    # One batch for all pairs: adding a model must not change what the others see.
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
        """Adds the data set's batch, and its models where none are named."""
        raw = super().resolved(raw)
        of_glyphs = str(raw.get("data")).startswith("glyphs")
        raw = filled(raw, OF_GLYPHS if of_glyphs else OF_OTHERS)
        if of_glyphs:
            return filled(raw, dict.fromkeys(("students", "teachers"), ("zoo:glyphs",)))
        raw = filled(raw, {"students": ()})
        return filled(raw, {"teachers": raw.get("students")})

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
                f"config.shard='{self.shard}' must be i/n with i from 0 to n - 1, such as 0/4."
            )
        if self.engine != "local":
            raise ValueError("config.shard: only with config.engine=local.")
        return self

    def identity(self) -> dict[str, Any]:
        """The content of config.json: all fields but those on how it is started."""
        return {name: value for name, value in super().identity().items() if name not in STARTED}

    def transfer(
        self,
        student: str,
        teachers: Sequence[str],
        objectives: Mapping[str, Entry],
        *,
        seeds: Sequence[int],
        mcl: Mapping[str, SlowWeights],
    ) -> Transfer:
        """The settings of a transfer in this study, from one teacher at a time."""
        fields = {name: value for name, value in self.to_json().items() if name in _SHARED}
        return Transfer.read(
            fields
            | {"job": "transfer", "student": student, "teachers": tuple(teachers)}
            | {"strategy": "single", "order": "given", "soup_batch_norm": "average"}
            | {"seeds": tuple(seeds), "controls": {}}
            # Otherwise each objective's runs would store a model's answers again.
            | {"store_softenings": (*self.store_softenings, *self.softenings())}
            | {"objectives": {name: entry.to_json() for name, entry in objectives.items()}}
            | {"mcl": {name: slow.to_json() for name, slow in mcl.items()}}
        )
