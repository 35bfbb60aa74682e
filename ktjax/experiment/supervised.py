"""A training run on labels only, without a teacher."""

from collections.abc import Callable
from pathlib import Path

from ktjax import evaluate, objectives, train
from ktjax.classifier import Classifier
from ktjax.experiment import recipes, training
from ktjax.experiment.inputs import Splits
from ktjax.settings.convergence import Convergence
from ktjax.settings.pretrain import Pretrain


def fit(
    settings: Pretrain | Convergence,
    student: Classifier,
    splits: Splits,
    predict: evaluate.Predict,
    *,
    learning_rate: float,
    seed: int,
    run: str,
    workdir: Path,
    wrap: Callable[[recipes.Optimizer], recipes.Optimizer] | None = None,
) -> training.Fitted:
    """Trains a student, as `training.fit` does.

    Args:
      settings: the job's settings.
      student: the model that learns.
      splits: train and tune are used.
      predict: gives the student's logits.
      learning_rate: per 256 samples.
      seed: for order, views and the step's randomness.
      run: its name.
      workdir: the job's workdir.
      wrap: wraps the optimizer if not all parameters are trained.
    """
    recipe = recipes.make(
        settings,
        student=student,
        teachers=(),
        objective=objectives.make_xe(label_smoothing=settings.label_smoothing),
        teach=train.teach_nothing,
        learning_rate=learning_rate,
        slow=None,
        augment=settings.augment,
        label_N=splits.train.label_N,
        seed=seed,
        wrap=wrap,
    )
    label_N = splits.tune.label_N
    return training.fit(
        recipe,
        student=student,
        frozen=lambda view: (),
        images=splits.train,
        tune=splits.tune,
        predict=predict,
        measure=lambda logits_NxC: {"accuracy": evaluate.accuracy(logits_NxC, label_N)},
        run=run,
        workdir=workdir,
    )
