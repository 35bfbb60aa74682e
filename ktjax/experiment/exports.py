"""Exports a job's models: one folder each, with a model card on how it was trained."""

from pathlib import Path

from ktjax.analysis.rows import Run
from ktjax.classifier import Classifier
from ktjax.data.pipeline import Split
from ktjax.experiment import logs
from ktjax.models.checkpoints import card, weights


def write(model: Classifier, folder: Path, row: Run, *, data: str, validation: Split) -> None:
    """Writes a trained model, with a card made from its row.

    Args:
      model: the trained model.
      folder: the model's folder.
      row: the row of its training.
      data: the name of its training data.
      validation: the images it was evaluated on.
    """
    # Of a sequence or a soup, those of stages that abstained have taught nothing.
    stages = [stage for stage in row.stages if not stage.abstained]
    taught = tuple(teacher for stage in stages for teacher in stage.teachers)
    training = card.Training(
        student=row.student,
        teachers=taught if stages and not row.abstained else row.teachers,
        data=data,
        images=len(validation),
        before=row.accuracy_before,
        after=row.accuracy_after,
        delta_se=row.delta_se,
        command=card.command(logs.STARTED_BY.get()),
        abstained=row.abstained,
    )
    weights.export(model, folder, training=training, accuracy=row.accuracy_after)
