"""The contents of results.json as types: accessed by attribute, and checked on reading.

A field with a default may be missing in the file; any other missing field, and any unknown one, is
an error.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ktjax.analysis import records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One evaluation in the history of a run."""

    step: int
    epoch: float
    accuracy: float  # on tune
    loss: float
    # Share of the samples whose target came from a teacher, or of a pool's weights, in percent.
    taught: float | None
    seconds: float
    tune: Mapping[str, Any]  # what was measured on tune
    # Only in some runs: `stage`, from 1, and the shares `taught_1` and so on.
    rest: Mapping[str, float] = dataclasses.field(
        default_factory=dict, metadata={"names": r"stage|taught_\w+"}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: its models, what it changed (`measures.of_transfer`), and how it went."""

    run: str
    student: str
    teachers: tuple[str, ...]
    objective: str
    seed: int
    accuracy_before: float
    accuracy_after: float
    delta: float
    delta_se: float
    gain: float
    loss: float
    class_gain: tuple[int, ...]
    class_loss: tuple[int, ...]
    # This and all up to `ensemble_accuracy` are None without a teacher, or if the teacher is only a
    # store that has no answers to the validation images.
    rho_pos: float | None
    rho_neg: float | None
    rho_pos_after: float | None
    rho_neg_after: float | None
    transfer_rate: float | None
    transfer_rate_top: Mapping[str, float | None] | None
    ensemble_accuracy: float | None
    taught_by: tuple[float, ...] | None = None  # this and the next two: `measures.of_partition`
    taught_positive_flips: float | None = None
    taught_negative_flips: float | None = None
    temperatures: tuple[float, ...] | None = None  # at which the partition compares models
    weights: tuple[float, ...] | None = None  # of student and teachers, if a pool taught
    # This and the next four depend on config.export: the change on tune of what is exported;
    # whether that is the unchanged student; which weights these are (jobs/transfer/export.py); the
    # smallest gain that the decision would have detected (None: none, as too few answers changed,
    # or nothing was decided); and, if other weights are exported, the change on validation by the
    # weights at the end of training. In points. A sequence of stages has the first two and the
    # last; its stages have all of them.
    tune_delta: float | None = None
    abstained: bool = False
    exported: str | None = None
    least_gain: float | None = None
    last_delta: float | None = None
    robustness: Mapping[str, Mapping[str, float]]  # before, after, delta on each set
    taught: float | None
    seconds: float
    # What it cost, at all learning rates that did not diverge: training steps; and `passes`, the
    # images that teachers and initial student had to answer (`stages.count_passes`). A soup costs
    # nothing but its members, which are runs of their own. None: a run by an earlier version.
    steps: int | None = None
    passes: int | None = None
    history: tuple[Entry, ...]
    stages: tuple["Run", ...] = ()  # one per teacher, if teachers are sequential
    checkpoint: Mapping[str, str] | None = None  # at its end, as in `training.Fitted`
    learning_rate: float | None = None  # per 256 samples; None if nothing was trained
    # The gain on tune at each learning rate tried; None: training diverged.
    rates: Mapping[str, float | None] | None = None
    # This and the next two are from `controls.with_net`: the control without a teacher
    # (controls.NONE if none was better), and delta minus that control's. None if no control ran.
    control: str | None = None
    net: float | None = None
    net_se: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """An objective with the same teachers, averaged over seeds: `controls.outcomes`."""

    student: str
    teachers: tuple[str, ...]
    objective: str
    runs: int  # one for each seed
    delta: float
    delta_se: float
    control: str | None
    net: float | None
    net_se: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a job trained; the models of all jobs have these fields."""

    accuracy: float
    parameters: int
    origin: str
    own_accuracy: float | None = None  # with its own transform, if config.own_transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferModel(Model):
    """A model before a transfer; None: unknown, for a teacher that is only a store."""

    accuracy: float | None
    parameters: int | None
    temperature: float | None
    robustness: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZooModel(Model):
    """A model that is compared with others."""

    family: str
    inductive_bias: str | None = None  # `models.inductive_bias`
    protocol: str | None = None  # `models.protocol`
    temperature: float | None = None  # that calibrates it; None: not calibrated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Complementary knowledge of a teacher and its student: `measures.of_pair`."""

    teacher: str
    student: str
    rho_pos: float
    rho_neg: float
    ensemble_accuracy: float
    class_flips: tuple[int, ...]
    flip_entropy: float
    top_classes: Mapping[str, tuple[str, ...]]
    top_classes_alike: Mapping[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZooPair:
    """Complementary knowledge of two models: `complementarity.pair_rows`."""

    teacher: str
    student: str
    rho_pos: float
    rho_neg: float
    agreement: float
    error_correlation: float | None
    oracle_accuracy: float
    ensemble_accuracy: float
    partition_gain: float
    partition_gain_unsupervised: float
    rho_pos_low: float
    rho_pos_high: float
    rho_pos_independent: float
    accuracy_difference: float
    mcnemar_p: float
    flip_entropy: float
    rank_rho_pos: int
    rank_partition_gain: int
    rank_partition_gain_unsupervised: int
    top_classes_similarity: Mapping[str, tuple[float | None, ...]] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The images of a job."""

    name: str
    measured: str  # the data set of tune and validation
    train: int
    validation: int
    skipped: Mapping[str, int]  # images that do not decode, by split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The results of all jobs; those of a pretrain job have no other fields."""

    job: str
    runs: tuple[Run, ...]
    objectives: Mapping[str, Mapping[str, float | None]]  # `measures.of_objectives`
    models: Mapping[str, Model]
    pairs: tuple[Any, ...]  # facts about pairs of models; each job has its own kind
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    data: Data
    environment: Mapping[str, Any]
    config: Mapping[str, Any]
    tracked: Mapping[str, str] = dataclasses.field(default_factory=dict)  # run -> link or path


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferResults(Results):
    """The results of a transfer."""

    models: Mapping[str, TransferModel]
    pairs: tuple[Pair, ...]
    controls: tuple[Run, ...] = ()  # without a teacher, at each learning rate of the objectives
    outcomes: tuple[Outcome, ...] = ()
    # objective -> how stored answers serve it, see `objectives.EXACT`; empty: with all logits.
    served: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComplementarityResults(Results):
    """The results of a complementarity job, from analysis/complementarity.py and transfers.py."""

    models: Mapping[str, ZooModel]
    pairs: tuple[ZooPair, ...]
    similarity_of_all: float | None
    expertise: Mapping[str, Any]
    controls: Mapping[str, Any]
    transfers: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a model has converged (`convergence.check`); gains in points."""

    model: str
    accuracy: float  # on validation, in percent, as on tune
    tune_accuracy: float
    learning_rate: float  # the picked one
    # learning rate -> gain on the half of tune that picks; None: training diverged
    picked_on: Mapping[str, float | None]
    gain: float  # of the picked one, on the other half
    gain_se: float
    upper: float  # end of its one-sided interval
    validation_gain: float
    validation_gain_se: float
    at_its_end: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvergenceResults(Results):
    """The results of a convergence job."""

    checks: tuple[Check, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A run of a study, a row of pairs.csv; in percent and points. A failed one has only an error.

    `net`, `net_se`, `steps`, `passes`, `least_gain`, `learning_rate`, `tune_delta` and `exported`
    are those of `Run`, `ensemble` is its `ensemble_accuracy`; `last_delta` is `delta` if the
    weights at the end of training are exported.
    """

    student: str
    teacher: str | None  # None: no teacher
    objective: str
    seed: int
    status: str  # done, abstained (the student is unchanged) or failed
    before: float | None = None
    after: float | None = None
    delta: float | None = None
    se: float | None = None  # of delta, over the validation images
    control: str | None = None
    net: float | None = None
    net_se: float | None = None
    gain: float | None = None
    loss: float | None = None
    taught: float | None = None
    ensemble: float | None = None
    headroom_share: float | None = None  # of ensemble - before, in percent
    last_delta: float | None = None
    seconds: float | None = None
    steps: int | None = None
    passes: int | None = None
    least_gain: float | None = None
    learning_rate: float | None = None
    tune_delta: float | None = None
    exported: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyPair:
    """A student, a teacher and an objective: the mean over `runs` seeds (`study.pairs`)."""

    student: str
    teacher: str
    objective: str
    runs: int
    delta: float
    delta_se: float
    control: str | None
    net: float | None
    net_se: float | None
    gain: float
    loss: float
    before: float
    ensemble: float | None
    headroom_share: float | None
    accuracy_difference: float | None  # teacher minus student; None: unknown
    abstained: int  # of the runs
    last_delta: float  # delta of the weights at the end of training, whatever is exported
    steps: float | None = None  # per run; this and
    passes: float | None = None  # as in `Run`
    least_gain: float | None = None  # as in `Run`; None: it is for one of the runs
    ensemble_on_tune: float | None = None  # known before training; None: unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults(Results):
    """The results of a study, from analysis/study.py. Each run has a results.json of its own."""

    models: Mapping[str, TransferModel]
    pairs: tuple[StudyPair, ...]
    rows: tuple[StudyRow, ...]
    chosen: Mapping[str, str]  # student -> control, by tune
    success: Mapping[str, Mapping[str, Any]]  # by objective
    compared: tuple[Mapping[str, Any], ...]
    served: Mapping[str, str] = dataclasses.field(default_factory=dict)  # as in TransferResults

    @property
    def transfers(self) -> dict[str, Any]:
        """As in ComplementarityResults, for the figures of both."""
        known = (pair for pair in self.pairs if pair.accuracy_difference is not None)
        return {"rows": list(map(vars, known)), "success": self.success}


RESULTS = {
    "pretrain": Results,
    "convergence": ConvergenceResults,
    "study": StudyResults,
    "transfer": TransferResults,
    "complementarity": ComplementarityResults,
}


def read(data: Mapping[str, Any] | Results) -> Results:
    """The contents of results.json as the record of its job; a record is returned as it is.

    ValueError if the job is not in RESULTS, or a field is missing or unknown.
    """
    if isinstance(data, Results):
        return data
    if data.get("job") not in RESULTS:
        raise ValueError(f"results.json is of the job '{data.get('job')}', not {list(RESULTS)}.")
    return records.from_json(RESULTS[data["job"]], data)
