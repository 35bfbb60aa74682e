"""The rows of results.json: one function makes each kind, whoever asks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax import evaluate
from ktjax.analysis import measures
from ktjax.analysis.rows import Run, TransferModel, from_json
from ktjax.classifier import Classifier
from ktjax.experiment import evaluation
from ktjax.experiment.evaluation import Evaluated


def of_run(
    *,
    run: str,
    student: str,
    objective: str,
    seed: int,
    before: Evaluated,
    after: Evaluated,
    teachers: Mapping[str, Evaluated],
    label_N: np.ndarray,
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    taught: float | None = None,
    supervised: bool | None = None,
    temperatures_S: Sequence[float] | None = None,
    weights_S: Sequence[float] | None = None,
    tune_delta: float | None = None,
    abstained: bool = False,
    exported: str | None = None,
    least_gain: float | None = None,
    last_delta: float | None = None,
    stages: Sequence[Run] = (),
    checkpoint: Mapping[str, str] | None = None,
    learning_rate: float | None = None,
) -> Run:
    """A run, a stage of one, a soup, or a model that trained with others.

    Args:
      run: its name.
      student: who learned.
      objective: as config.objectives calls it.
      seed: of order and views.
      before: the student at its beginning.
      after: the student at its end.
      teachers: who taught, by name; none for a control.
      label_N: of the validation images.
      history: an entry for each evaluation, see `training.fit`.
      seconds: that it took.
      taught: the share of samples whose target was a teacher's, in percent; None without a choice.
      supervised: which confidence its partition compared; None: there was none.
      temperatures_S: that the partition divided the logits of student and teachers by.
      weights_S: of student and teachers in the pool that taught; None: there was none.
      tune_delta, abstained, exported, least_gain, last_delta: what is exported, as
        `analysis.rows.Run` has it.
      stages: their rows, if there were several.
      checkpoint: of its end, see `training.Fitted`.
      learning_rate: that it was trained with, per 256 samples; None: of a soup.
    """
    of_models = {
        "before_NxC": before.validation_NxC,
        "teachers_KxNxC": evaluation.known([model.validation_NxC for model in teachers.values()]),
        "label_N": label_N,
    }
    temperatures_of_all = evaluation.temperatures((before, *teachers.values()))
    robustness = {
        name: {"before": old, "after": new, "delta": new - old}
        for (name, old), new in zip(
            before.robustness.items(), after.robustness.values(), strict=True
        )
    }
    row = {
        "run": run,
        "student": student,
        "teachers": list(teachers),
        "objective": objective,
        "seed": seed,
        **measures.of_transfer(
            **of_models, after_NxC=after.validation_NxC, temperatures_S=temperatures_of_all
        ),
        **measures.of_partition(**of_models, supervised=supervised, temperatures_S=temperatures_S),
        "temperatures": temperatures_S,
        "weights": weights_S,
        "tune_delta": tune_delta,
        "abstained": abstained,
        "exported": exported,
        "least_gain": least_gain,
        "last_delta": last_delta,
        "robustness": robustness,
        "taught": taught,
        "seconds": seconds,
        "history": history,
        "stages": stages,
        "checkpoint": checkpoint,
        "learning_rate": learning_rate,
    }
    return from_json(Run, row)


def of_model(model: Evaluated, label_N: np.ndarray) -> TransferModel:
    """A model as it was before any run."""
    has_weights, answers_NxC = isinstance(model.model, Classifier), model.validation_NxC
    return TransferModel(
        accuracy=None if answers_NxC is None else evaluate.accuracy(answers_NxC, label_N),
        parameters=model.model.num_parameters() if has_weights else None,
        origin=model.model.origin,
        temperature=model.temperature,
        robustness=dict(model.robustness),
    )


def on_tune(
    before_NxC: np.ndarray,
    after_NxC: np.ndarray,
    teachers_KxNxC: np.ndarray,
    label_N: np.ndarray,
    temperatures_S: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What a history keeps of an evaluation on tune."""
    measured = measures.of_transfer(
        before_NxC=before_NxC,
        after_NxC=after_NxC,
        teachers_KxNxC=teachers_KxNxC,
        label_N=label_N,
        temperatures_S=temperatures_S,
    )
    return {"accuracy": measured["accuracy_after"]} | measures.of_history(measured)
