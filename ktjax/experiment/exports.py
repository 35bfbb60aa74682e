"""The models that a job hands on: a folder each, with a card that says what made them."""

from pathlib import Path

from ktjax.analysis.rows import Run
from ktjax.classifier import Classifier
from ktjax.data.pipeline import Split
from ktjax.experiment import logs
from ktjax.models.checkpoints import card, weights


def write(model: Classifier, folder: Path, row: Run, *, data: str, validation: Split) -> None:
    """Writes a model that was trained, with a card of what its row says.

    Args:
      model: at its end.
      folder: of the model.
      row: of its training.
      data: the name of the images that it was trained on.
      validation: what it was measured on.
    """
    training = card.Training(
        student=row.student,
        teachers=row.teachers,
        data=data,
        images=len(validation),
        before=row.accuracy_before,
        after=row.accuracy_after,
        delta_se=row.delta_se,
        command=card.command(logs.STARTED_BY.get()),
    )
    weights.export(model, folder, training=training, accuracy=row.accuracy_after)
