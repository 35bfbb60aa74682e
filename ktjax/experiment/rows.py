"""The rows of results.json: one function for each kind, used by all jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax import evaluate
from ktjax.analysis import measures
from ktjax.analysis.records import from_json
from ktjax.analysis.rows import Run, TransferModel
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
    passes: int = 0,
) -> Run:
    """The row of a run, a stage of one, a soup, or a jointly trained model.

    Args:
      run: its name.
      student: the model that learned.
      objective: its name in config.objectives.
      seed: of order and views.
      before: the student before training.
      after: the student after training.
      teachers: the teachers by name; none for a control.
      label_N: labels of the validation images.
      history: one entry per evaluation, see `training.fit`.
      seconds: duration of the run.
      taught: percentage of samples whose target was a teacher's; None without a choice.
      supervised: which confidence its partition compared; None: there was no partition.
      temperatures_S: divided the logits of student and teachers in the partition.
      weights_S: of student and teachers in the pool that taught; None: there was no pool.
      tune_delta, abstained, exported, least_gain, last_delta: about the exported model, see
        `analysis.rows.Run`.
      stages: rows of the stages, if there were several.
      checkpoint: the final checkpoint, see `training.Fitted`.
      learning_rate: used in training, per 256 samples; None: a soup.
      passes: images that teachers and initial student had to answer.
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
        "steps": history[-1]["step"] if history else 0,
        "passes": passes,
        "history": history,
        "stages": stages,
        "checkpoint": checkpoint,
        "learning_rate": learning_rate,
    }
    return from_json(Run, row)


def of_model(model: Evaluated, label_N: np.ndarray) -> TransferModel:
    """The row of a model before any run."""
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
    """The entry of an evaluation on tune in a history."""
    measured = measures.of_transfer(
        before_NxC=before_NxC,
        after_NxC=after_NxC,
        teachers_KxNxC=teachers_KxNxC,
        label_N=label_N,
        temperatures_S=temperatures_S,
    )
    return {"accuracy": measured["accuracy_after"]} | measures.of_history(measured)
