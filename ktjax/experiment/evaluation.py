"""Evaluates a model on tune, validation and the robustness sets."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ktjax import evaluate as evaluate_lib
from ktjax import interruption, parallel
from ktjax.analysis import calibration
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.data.sources import Source
from ktjax.experiment import transform
from ktjax.experiment.inputs import Splits


class Answers(NamedTuple):
    """Logits [N, C], or [N, M, C] for jointly trained models."""

    tune: np.ndarray
    validation: np.ndarray
    robustness: Mapping[str, np.ndarray]

    def member(self, number: int) -> "Answers":
        """The logits of one of several models."""
        return Answers(
            self.tune[:, number],
            self.validation[:, number],
            {name: logits[:, number] for name, logits in self.robustness.items()},
        )


class Evaluated(NamedTuple):
    """A model at some point in time, and its logits.

    For a teacher that is only a store, `model` is the store, and missing logits are None.
    """

    model: Any
    tune_NxC: Any  # logits
    validation_NxC: Any  # logits
    temperature: float | None  # that calibrates it; None: it is not calibrated
    robustness: Mapping[str, float]  # accuracy in percent on each set of config.robustness


def temperatures(models: Sequence[Evaluated]) -> list[float] | None:
    """The temperatures of a student and its teachers; None if they are not calibrated."""
    found = [model.temperature for model in models]
    return None if None in found else [float(t) for t in found if t is not None]


def known(logits: Sequence[np.ndarray | None]) -> np.ndarray:
    """The logits of K models, float32 [K, N, C]; of no models if any model's are unknown."""
    found = [logits_NxC for logits_NxC in logits if logits_NxC is not None]
    return np.asarray(found if len(found) == len(logits) else [])


def ask(
    predict: evaluate_lib.Predict,
    variables: Mapping[str, Any],
    splits: Splits,
    *,
    layout: str,
    tune: np.ndarray | None = None,
) -> Answers:
    """A model's logits on all splits but train; uses `tune` if its logits there are known."""
    interruption.stop_if_asked()
    placed = parallel.place(dict(variables), layout)
    return Answers(
        tune=predict(placed, splits.tune) if tune is None else tune,
        validation=predict(placed, splits.validation),
        robustness={
            name: predict(placed, robust.images) for name, robust in splits.robustness.items()
        },
    )


def judge(
    model: Classifier, answers: Answers, splits: Splits, *, calibrate: bool, trained: bool = False
) -> Evaluated:
    """The model with its logits, and with `calibrate` the temperature that calibrates it on tune.

    Raises:
      ValueError: logits are not finite.
      FloatingPointError: likewise, if it was just `trained`: its training diverged.
    """
    if not (np.isfinite(answers.tune).all() and np.isfinite(answers.validation).all()):
        said = f"{model.name} ({model.origin}) gives logits that are not finite."
        if trained:
            raise FloatingPointError(f"{said} A lower learning rate, or clipping, may help.")
        raise ValueError(said)
    temperature = None
    if calibrate:
        temperature = calibration.temperature(answers.tune, splits.tune.label_N)
    robust = {
        name: splits.robustness[name].accuracy(logits)
        for name, logits in answers.robustness.items()
    }
    return Evaluated(model, answers.tune, answers.validation, temperature, robust)


def evaluate(
    model: Classifier,
    predict: evaluate_lib.Predict,
    splits: Splits,
    *,
    layout: str,
    calibrate: bool = False,
    placed: Mapping[str, Any] | None = None,
    tune: np.ndarray | None = None,
) -> Evaluated:
    """Evaluates a model on all splits but train.

    For a model that was just trained, `placed` are its variables on the devices, and `tune` its
    logits on tune: neither is computed again. Errors are those of `judge`.
    """
    variables = model.variables if placed is None else placed
    answers = ask(predict, variables, splits, layout=layout, tune=tune)
    return judge(model, answers, splits, calibrate=calibrate, trained=placed is not None)


def own_accuracy(
    model: Classifier,
    predict: evaluate_lib.Predict,
    source: Source,
    how: pipeline.Reading,
    *,
    shared: float | None,
) -> float | None:
    """Accuracy in percent with the model's own transform, bit-identical to timm's.

    Args:
      model: a model with any input size.
      predict: its predict function.
      source: the encoded images.
      how: the shared way in which all models read images.
      shared: the model's accuracy when images are read that way.

    Returns:
      `shared` if the shared way is the model's own. None if its input is not square, as only
      squares are read.
    """
    spec = model.input
    if spec.size[0] != spec.size[1]:
        return None
    own = transform.as_made_for(spec, how)
    if own == how:
        return shared
    # No other model reads them this way: they are not cached.
    logits_NxC = predict(parallel.replicate(dict(model.variables)), pipeline.Stream(source, own))
    return evaluate_lib.accuracy(logits_NxC, source.label_N)
