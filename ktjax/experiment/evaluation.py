"""A model, and what it says of tune, validation and the robustness sets."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ktjax import evaluate as evaluate_lib
from ktjax import interruption, parallel
from ktjax.analysis import calibration
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.data.sources import Source
from ktjax.experiment import inputs
from ktjax.experiment.inputs import Splits


class Answers(NamedTuple):
    """Logits [N, C], or of models that train at once [N, M, C]."""

    tune: np.ndarray
    validation: np.ndarray
    robustness: Mapping[str, np.ndarray]

    def member(self, number: int) -> "Answers":
        """What one of several models says."""
        return Answers(
            self.tune[:, number],
            self.validation[:, number],
            {name: logits[:, number] for name, logits in self.robustness.items()},
        )


class Evaluated(NamedTuple):
    """A model at some time, and what it says.

    Of a teacher that is only a store the model is this, and its logits are None where it has none.
    """

    model: Any
    tune_NxC: Any  # logits
    validation_NxC: Any  # logits
    temperature: float | None  # that calibrates it; None: it is taken as it is
    robustness: Mapping[str, float]  # accuracy in percent on each set of config.robustness


def temperatures(models: Sequence[Evaluated]) -> list[float] | None:
    """The temperatures of a student and its teachers; None where they are taken as they are."""
    found = [model.temperature for model in models]
    return None if None in found else [float(t) for t in found if t is not None]


def known(logits: Sequence[np.ndarray | None]) -> np.ndarray:
    """What K models say, float32 [K, N, C]; as of no model where one of them is not known."""
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
    """What a model with these variables says of all but train; of tune only if it is not known."""
    interruption.stop_if_asked()
    placed = parallel.place(dict(variables), layout)
    return Answers(
        tune=predict(placed, splits.tune) if tune is None else tune,
        validation=predict(placed, splits.validation),
        robustness={
            name: predict(placed, robust.images) for name, robust in splits.robustness.items()
        },
    )


def judge(model: Classifier, answers: Answers, splits: Splits, *, calibrate: bool) -> Evaluated:
    """The model with its answers, and the temperature that calibrates it on tune if asked for.

    ValueError: logits are not finite.
    """
    if not (np.isfinite(answers.tune).all() and np.isfinite(answers.validation).all()):
        raise ValueError(f"{model.name} ({model.origin}) gives logits that are not finite.")
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
    """Asks a model about all but train.

    Of a model that has just been trained `placed` are its variables on the devices, and `tune` its
    logits on tune: neither is made again.
    """
    variables = model.variables if placed is None else placed
    answers = ask(predict, variables, splits, layout=layout, tune=tune)
    return judge(model, answers, splits, calibrate=calibrate)


def own_accuracy(
    model: Classifier,
    predict: evaluate_lib.Predict,
    source: Source,
    how: pipeline.Reading,
    *,
    shared: float | None,
) -> float | None:
    """Accuracy in percent on images as the model's own transform reads them, timm's to the bit.

    Args:
      model: of any input.
      predict: of this model.
      source: the encoded images.
      how: the way in which all models read them.
      shared: the model's accuracy when they are read so.

    Returns:
      `shared` where that is the model's own way. None where its input is no square, as what is read
      is one.
    """
    spec = model.input
    if spec.size[0] != spec.size[1]:
        return None
    own = inputs.as_made_for(spec, how)
    if own == how:
        return shared
    # Nobody else reads them so: they are not kept.
    logits_NxC = predict(parallel.replicate(dict(model.variables)), pipeline.Stream(source, own))
    return evaluate_lib.accuracy(logits_NxC, source.label_N)
