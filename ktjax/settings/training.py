"""What the jobs that train have in common: data to train on, and a run."""

from ktjax.settings.data import TrainingData
from ktjax.settings.run import Run


class Training(TrainingData, Run):
    """The fields of every job that trains."""

    @property
    def trains_all(self) -> bool:
        """Whether all weights train, and not the head alone."""
        return True
