"""The settings shared by jobs that train: training data, and a run."""

from ktjax.settings.data import TrainingData
from ktjax.settings.run import Run


class Training(TrainingData, Run):
    """The fields of every job that trains."""

    @property
    def trains_all(self) -> bool:
        """Whether all weights train, not only the head."""
        return True
