"""What the jobs that train have in common: data to train on, and a run."""

from ktjax.settings.data import TrainingData
from ktjax.settings.run import Run


class Training(TrainingData, Run):
    """The fields of every job that trains."""
