"""What all runs of a transfer share: data, models, and what these say before it."""

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm

from ktjax import evaluate, files, objectives, optim, parallel, train
from ktjax.analysis.rows import Run
from ktjax.classifier import Classifier
from ktjax.experiment import exports, recipes
from ktjax.experiment.evaluation import Evaluated
from ktjax.experiment.inputs import Splits
from ktjax.experiment.shared import Once
from ktjax.jobs.transfer import plan
from ktjax.joint import Joint
from ktjax.settings.transfer import Transfer

_LOG = logging.getLogger(__name__)
_FEW = 500  # images of tune: a standard error of up to 2.2 points
_LONG = 60  # seconds


class Done(NamedTuple):
    """A run at its end."""

    row: Run  # of results.json
    validation_NxC: np.ndarray  # the student's logits after it
    control: bool = False  # it is compared with, and is no transfer


class Setup(NamedTuple):
    """A transfer at its beginning."""

    settings: Transfer
    workdir: Path
    splits: Splits
    models: Mapping[str, Evaluated]  # student and teachers, by name
    student: str  # who learns
    predict: evaluate.Predict  # of the student
    one_view: bool  # what the steps take as frozen is of one view at a time: all would be too large
    once: Once  # what other transfers of this process have made already
    report: bool  # says what becomes of each run; else whoever runs many transfers does

    def accuracy(self, name: str) -> float:
        """A model's accuracy on tune: what decides (an order, say) may not look at validation.

        NaN: a teacher that is only a store does not say; `stores.check` has seen that none asks.
        """
        tune_NxC = self.models[name].tune_NxC
        if tune_NxC is None:
            return float("nan")
        return evaluate.accuracy(tune_NxC, self.splits.tune.label_N)


def say_what_chance_decides(settings: Transfer, images: int) -> None:
    """Warns where tune has so few images that what it decides is drawn by lot."""
    decided = {
        "learning rates": any(one.learning_rate is None for one in settings.objectives.values()),
        "the control": bool(settings.controls),
        "the weights to export": settings.export != "last",
    }
    of_tune = [what for what, is_so in decided.items() if is_so]
    if images < _FEW and of_tune and parallel.is_first():
        _LOG.warning(
            "tune has %d images, on which an accuracy is known to %.1f points (standard error): %s "
            "chosen by it %s chosen by chance. A larger config.minival, or a tune split, helps.",
            *(images, 50 / images**0.5, " and ".join(of_tune)),
            "is" if of_tune == ["the control"] else "are",
        )


def classifiers(setup: Setup) -> list[Classifier]:
    """The models that have weights here."""
    models = [evaluated.model for evaluated in setup.models.values()]
    return [model for model in models if isinstance(model, Classifier)]


def of_controls(setup: Setup) -> Setup:
    """The same for the controls of its student: these are the objectives of its settings."""
    settings, model = setup.settings, setup.models[setup.student].model
    found = plan.controls(
        settings,
        labeled=bool(setup.splits.train.label_N.max() >= 0),
        moves=settings.batch_norm == "train" and bool(model.variables.get("batch_stats")),
    )
    fields = {
        "objectives": {name: control.entry for name, control in found.items()},
        "mcl": {name: control.slow for name, control in found.items() if control.slow},
    }
    return setup._replace(settings=settings.model_copy(update=fields))


def make_recipe(
    setup: Setup,
    label: str,
    *,
    student: Classifier | Joint,
    teachers: Sequence[Classifier],
    learning_rate: float,
    teach: train.Teach,
    seed: int,
    wrap: Callable[[recipes.Optimizer], recipes.Optimizer] | None = None,
) -> recipes.Recipe:
    """The recipe of an entry of config.objectives, with its slow weights if config.mcl has some."""
    settings = setup.settings
    entry = settings.objectives[label]
    slow = settings.mcl.get(label)
    return recipes.make(
        settings,
        student=student,
        teachers=teachers,
        objective=objectives.make(entry.objective, entry.options()),
        teach=teach,
        learning_rate=learning_rate,
        slow=None if slow is None else optim.SlowWeights(slow.tau, slow.every),
        augment=settings.augment,
        label_N=setup.splits.train.label_N,
        seed=seed,
        views=settings.views,
        one_view=setup.one_view,
        tail=settings.export == "no_regret",
        wrap=wrap,
    )


def export(setup: Setup, model: Classifier, row: Run, bar: tqdm.tqdm) -> None:
    """Writes the student of a finished run, and says what became of it."""
    if not parallel.is_first():
        return
    folder, settings = setup.workdir / files.STUDENTS / row.run, setup.settings
    exports.write(model, folder, row, data=settings.data, validation=setup.splits.validation)
    if not setup.report:
        return
    change = f"{row.accuracy_before:.2f} -> {row.accuracy_after:.2f} %"
    change = f"abstains, stays at {row.accuracy_after:.2f} %" if row.abstained else change
    rate = f"learning rate {row.learning_rate:g}, " if row.rates else ""
    if diverged := [rate for rate, gain in (row.rates or {}).items() if gain is None]:
        rate += f"diverged at {' and '.join(diverged)}, "
    bar.write(f"{row.run}: {change}, {rate}{row.seconds:.0f} s{_left(bar)}")


def _left(bar: tqdm.tqdm) -> str:
    """How long the others take, where it is long, if they take as long as those before."""
    if bar.disable:
        return ""
    done = bar.n + 1  # with the one that has ended
    seconds = round(bar.format_dict["elapsed"] / done * (bar.total - done))
    return f"; {datetime.timedelta(seconds=seconds)} left" if seconds >= _LONG else ""
