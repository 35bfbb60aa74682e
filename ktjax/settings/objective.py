"""The objective settings of a config: one record per objective, selected by its name.

The fields other than `objective` and `learning_rate` are the options of its builder in
ktjax.objectives, which explains them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ktjax.settings.record import (
    NUMBER,
    Amount,
    AtLeastTwo,
    BelowOne,
    Count,
    Lead,
    Positive,
    Record,
)

Flips = Annotated[tuple[Literal["positive", "negative", "neutral"], ...], Field(min_length=1)]


class _Named(Record):
    """An objective's name and options."""

    def options(self) -> dict[str, Any]:
        """The options for the objective's builder, without those for the optimizer."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in ("objective", "learning_rate")
        }

    def softenings(self) -> tuple[tuple[float, bool], ...]:
        """The one for which it compares all classes, as (temperature, standardized); or none."""
        options = self.options()
        if "temperature" not in options or options.get("top_k") is not None:
            return ()
        return ((options["temperature"], options["standardized"]),)


class Entry(_Named):
    """An entry of config.objectives."""

    learning_rate: Positive | None  # per 256 samples; None: the best of several on tune


class _Softened(Entry):
    temperature: Positive
    top_k: AtLeastTwo | None
    standardized: bool


class _Labels(Entry):
    label_smoothing: BelowOne


class _Distilled(_Softened):
    flips: Flips
    mean_over: Literal["all", "distilled"]


class _Partitioned(_Softened):
    top_k_of: Literal["target", "teacher"]


class Xe(_Labels):
    """Labels only."""

    objective: Literal["xe"]


class Self_(_Softened):
    """The initial student."""

    objective: Literal["self"]


class XeSelf(_Softened, _Labels):
    """The initial student and the label."""

    objective: Literal["xe_self"]
    alpha: Annotated[float, NUMBER, Field(ge=0, le=1)]


class Kl(_Distilled):
    """The teacher."""

    objective: Literal["kl"]


class Hinton(_Distilled):
    """The teacher, as a cross-entropy."""

    objective: Literal["hinton"]


class XeKl(_Distilled, _Labels):
    """The teacher and the label."""

    objective: Literal["xe_kl"]
    alpha: Annotated[float, NUMBER, Field(ge=0, le=1)]


class AdaptConf(_Softened):
    """The teacher or the student's own prediction."""

    objective: Literal["adaptconf"]
    sharpness: Positive


class KlDp(_Partitioned):
    """Data partitioning, supervised."""

    objective: Literal["kl_dp"]


class KlDpUnsupervised(_Partitioned):
    """Data partitioning without labels."""

    objective: Literal["kl_dp_unsupervised"]


class KlDpFlip(_Partitioned):
    """Data partitioning by flips."""

    objective: Literal["kl_dp_flip"]
    neutral: Literal["retain", "teach", "average", "average_student"]


class KlDpCorrected(_Partitioned):
    """Data partitioning, with corrected targets."""

    objective: Literal["kl_dp_corrected"]
    lead: Lead
    top_k_of: Literal["target"]  # a teacher's classes may lack the label that leads


class KlPool(_Softened):
    """Initial student and teachers, each with a weight."""

    objective: Literal["kl_pool"]
    hold: Amount


class KlPoolCorrected(_Softened):
    """The same, with corrected targets."""

    objective: Literal["kl_pool_corrected"]
    lead: Lead


class SelfPool(_Softened):
    """The initial student, at its fitted temperature."""

    objective: Literal["self_pool"]


class SelfCorrected(_Softened):
    """The same, with corrected targets."""

    objective: Literal["self_corrected"]
    lead: Lead


class Cd(_Labels):
    """Similarities of features within a batch."""

    objective: Literal["cd"]
    weight: Amount
    gamma: Amount


class Crd(_Labels):
    """Contrastive representation distillation."""

    objective: Literal["crd"]
    weight: Amount
    gamma: Amount
    projection: Count
    negatives: Count
    same_class_negatives: bool
    contrast_temperature: Annotated[float, NUMBER, Field(ge=0.02)]  # for exp(1 / it) to be finite
    momentum: BelowOne


class Mutual(_Softened, _Labels):
    """Several jointly trained students."""

    objective: Literal["mutual"]
    detach_teacher: bool


Objective = Annotated[
    Xe
    | Self_
    | XeSelf
    | Kl
    | Hinton
    | XeKl
    | AdaptConf
    | KlDp
    | KlDpUnsupervised
    | KlDpFlip
    | KlDpCorrected
    | KlPool
    | KlPoolCorrected
    | SelfPool
    | SelfCorrected
    | Cd
    | Crd
    | Mutual,
    Field(discriminator="objective"),
]


class _Control(_Named):
    """An entry of config.controls: an objective without a teacher or its own learning rate."""

    def at(self, learning_rate: float) -> Entry:
        """The equivalent entry of config.objectives at a learning rate per 256 samples."""
        options = {name: getattr(self, name) for name in type(self).model_fields}
        return _ENTRIES[options["objective"]](learning_rate=learning_rate, **options)


class XeControl(_Control):
    """Labels only."""

    objective: Literal["xe"]
    label_smoothing: BelowOne


class _SoftenedControl(_Control):
    temperature: Positive
    top_k: AtLeastTwo | None
    standardized: bool


class SelfControl(_SoftenedControl):
    """The initial student."""

    objective: Literal["self"]


class SelfPoolControl(_SoftenedControl):
    """The initial student, at its fitted temperature."""

    objective: Literal["self_pool"]


class SelfCorrectedControl(_SoftenedControl):
    """The same, with corrected targets."""

    objective: Literal["self_corrected"]
    lead: Lead


class XeSelfControl(_SoftenedControl):
    """The initial student and the label."""

    objective: Literal["xe_self"]
    alpha: Annotated[float, NUMBER, Field(ge=0, le=1)]
    label_smoothing: BelowOne


Control = Annotated[
    XeControl | SelfControl | XeSelfControl | SelfPoolControl | SelfCorrectedControl,
    Field(discriminator="objective"),
]
_ENTRIES: Mapping[str, type[Entry]] = {
    "xe": Xe,
    "self": Self_,
    "xe_self": XeSelf,
    "self_pool": SelfPool,
    "self_corrected": SelfCorrected,
}


class SlowWeights(Record):
    """An entry of config.mcl."""

    tau: BelowOne
    every: Count


def every_resolved(slow: Any, batch_size: Any) -> Any:
    """The entries of config.mcl, with `every` set where it is None.

    The paper interpolates every 2 * 256 / batch_size steps (appendix, and `parse_cfg` in the
    authors' code): equally often per sample at any batch size. Here that is rounded to a whole
    number of steps, at least one. Invalid entries are left for validation to reject.
    """
    if not isinstance(slow, Mapping) or not isinstance(batch_size, int) or batch_size < 1:
        return slow
    every = max(1, round(2 * 256 / batch_size))
    return {
        label: {**entry, "every": every}
        if isinstance(entry, Mapping) and "every" in entry and entry["every"] is None
        else entry
        for label, entry in slow.items()
    }


def unknown_labels(slow: Mapping[str, Any], objectives: Mapping[str, Any]) -> list[str]:
    """The entries of config.mcl without an objective of that name."""
    return sorted(set(slow) - set(objectives))
