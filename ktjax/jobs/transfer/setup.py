"""What all runs of a transfer job share: data, models, and what these say before it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tqdm

from ktjax import evaluate, interruption, objectives, optim, parallel, train
from ktjax.analysis import calibration, measures
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.experiment import inputs, training
from ktjax.experiment.inputs import RobustnessSets
from ktjax.joint import Joint
from ktjax.models.checkpoints import weights


class Standing(NamedTuple):
    """A model at some time, and what it says."""

    model: Classifier
    tune_NxC: np.ndarray  # logits
    validation_NxC: np.ndarray  # logits
    temperature: float | None  # that calibrates it; None: it is taken as it is
    robustness: Mapping[str, float]  # accuracy in percent on each set of config.robustness


class Scene(NamedTuple):
    """A transfer job at its beginning."""

    config: ml_collections.ConfigDict
    workdir: Path
    splits: pipeline.Splits
    models: Mapping[str, Standing]  # student and teachers, by name
    predict: evaluate.Predict  # of the student
    robustness: RobustnessSets

    def accuracy(self, name: str) -> float:
        """Of a model on tune: what decides (an order, say) may not look at validation."""
        return evaluate.accuracy(self.models[name].tune_NxC, self.splits.tune.label_N)


def stand(
    model: Classifier,
    predict: evaluate.Predict,
    splits: pipeline.Splits,
    config: ml_collections.ConfigDict,
    robustness: RobustnessSets,
) -> Standing:
    """Asks a model about all but train, and calibrates it on tune if the config says so."""
    interruption.stop_if_asked()
    variables = parallel.place(dict(model.variables), config.parallel)
    tune_NxC, validation_NxC = (predict(variables, s) for s in (splits.tune, splits.validation))
    if not (np.isfinite(tune_NxC).all() and np.isfinite(validation_NxC).all()):
        raise ValueError(f"{model.name} ({model.origin}) gives logits that are not finite.")
    temperature = None
    if config.calibrate:
        temperature = calibration.temperature(tune_NxC, splits.tune.label_N)
    robust = inputs.robust_accuracy(lambda images: predict(variables, images), robustness)
    return Standing(model, tune_NxC, validation_NxC, temperature, robust)


def options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry of config.objectives says to the objective, and not to the optimiser."""
    return {k: v for k, v in entry.items() if k not in ("objective", "learning_rate")}


def make_recipe(
    scene: Scene,
    label: str,
    *,
    student: Classifier | Joint,
    teachers: Sequence[Classifier],
    teach: train.Teach,
    seed: int,
) -> training.Recipe:
    """The recipe of an entry of config.objectives, with its slow weights if config.mcl has some."""
    config = scene.config
    entry = config.objectives[label]
    return training.make_recipe(
        config,
        student=student,
        teachers=teachers,
        objective=objectives.make(entry.objective, options(entry)),
        teach=teach,
        learning_rate=entry.learning_rate,
        slow=optim.SlowWeights(**config.mcl[label]) if label in config.mcl else None,
        examples=len(scene.splits.train),
        seed=seed,
    )


def export(scene: Scene, model: Classifier, row: Mapping[str, Any], bar: tqdm.tqdm) -> None:
    """Writes the student of a finished run, and says what became of it."""
    if not parallel.is_first():
        return
    folder = scene.workdir / "students" / row["run"]
    weights.export(model, folder, accuracy=row["accuracy_after"])
    change = f"{row['accuracy_before']:.2f} -> {row['accuracy_after']:.2f} %"
    bar.write(f"{row['run']}: {change}, {row['seconds']:.0f} s")


def measure_tune(
    before_NxC: np.ndarray, after_NxC: np.ndarray, teachers_KxNxC: np.ndarray, label_N: np.ndarray
) -> dict[str, Any]:
    """What a history keeps of an evaluation on tune."""
    measured = measures.of_transfer(
        before_NxC=before_NxC, after_NxC=after_NxC, teachers_KxNxC=teachers_KxNxC, label_N=label_N
    )
    return {"accuracy": measured["accuracy_after"]} | measures.of_history(measured)
