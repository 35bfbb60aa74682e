"""A training run on labels only, without a teacher."""

from collections.abc import Callable
from pathlib import Path

from ktjax import evaluate, objectives, train
from ktjax.classifier import Classifier
from ktjax.experiment import recipes, training
from ktjax.experiment.inputs import Splits
from ktjax.settings.convergence import Convergence
from ktjax.settings.pretrain import Pretrain


def make_recipe(
    settings: Pretrain | Convergence,
    student: Classifier,
    splits: Splits,
    *,
    learning_rate: float,
    seed: int,
    wrap: Callable[[recipes.Optimizer], recipes.Optimizer] | None = None,
) -> recipes.Recipe:
    """The recipe of cross-entropy on the labels of the splits' train; see `recipes.make`."""
    return recipes.make(
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


def fit(
    recipe: recipes.Recipe,
    student: Classifier,
    splits: Splits,
    predict: evaluate.Predict,
    *,
    run: str,
    workdir: Path,
) -> training.Fitted:
    """Trains a student, as `training.fit` does, on the splits' train and tune."""
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
