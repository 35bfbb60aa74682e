"""What all runs of a transfer share: data, models, and their answers before it."""

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm

from ktjax import evaluate, files, objectives, optim, parallel, spelling, train
from ktjax.analysis.rows import Run
from ktjax.classifier import Classifier
from ktjax.experiment import exports, recipes
from ktjax.experiment.evaluation import Evaluated
from ktjax.experiment.inputs import Splits
from ktjax.experiment.shared import Once
from ktjax.jobs.transfer import plan
from ktjax.joint import Joint
from ktjax.report import verdicts
from ktjax.settings.transfer import Methods, Transfer

_LOG = logging.getLogger(__name__)
_FEW = 500  # images of tune: a standard error of up to 2.2 points
_LONG = 60  # seconds


class Done(NamedTuple):
    """A finished run."""

    row: Run  # of results.json
    validation_NxC: np.ndarray  # the student's logits after it
    control: bool = False  # a control, not a transfer


class Setup(NamedTuple):
    """What a transfer starts with."""

    settings: Transfer
    workdir: Path
    splits: Splits
    models: Mapping[str, Evaluated]  # student and teachers, by name
    student: str  # the model that learns
    predict: evaluate.Predict  # of the student
    one_view: bool  # steps take the frozen answers of one view at a time: all would be too large
    once: Once  # reuses what other transfers of this process have made
    report: bool  # reports the result of each run; else the caller does

    def accuracy(self, name: str) -> float:
        """A model's accuracy on tune: decisions (such as an order) must not use validation.

        NaN for a teacher that is only a store: stores.check_teachers ensures that it is not needed.
        """
        tune_NxC = self.models[name].tune_NxC
        if tune_NxC is None:
            return float("nan")
        return evaluate.accuracy(tune_NxC, self.splits.tune.label_N)


_SEEN = 0.05  # more than images of the same distribution usually differ by


def say_what_chance_decides(settings: Transfer, splits: Splits, once: Once, *, moves: bool) -> None:
    """Warns if tune has so few images that what it decides is largely chance.

    `moves` is the student's `plan.moves_alone`.
    """
    entries = settings.objectives.values()
    decided = {
        "learning rates": len(settings.learning_rates) > 1
        and any(one.learning_rate is None for one in entries),
        "the weights of pools": any(objectives.OBJECTIVES[one.objective].pool for one in entries),
        "the control": bool(plan.controls(settings, labeled=splits.labeled, moves=moves)),
        "the weights to export": settings.export != "last",
    }
    of_tune = [what for what, is_so in decided.items() if is_so]
    images = len(splits.tune)

    def warn() -> None:
        _LOG.warning(
            "tune has %d images, on which the standard error of an accuracy is up to %.1f points: "
            "%s chosen on it %s largely due to chance. %s",
            images,
            50 / images**0.5,
            spelling.listed(of_tune),
            "is" if of_tune == ["the control"] else "are",
            "config.max_examples leaves so few."
            if settings.max_examples is not None and images >= settings.max_examples // 2
            else "A larger config.minival (for pretrain, too) or a tune split helps.",
        )

    if images < _FEW and of_tune and parallel.is_first():
        once(("chance", *of_tune), warn)


def warn_of_no_controls(settings: Transfer, splits: Splits, once: Once, *, moves: bool) -> None:
    """Warns if, without labels, none of the controls that were asked for can train."""
    asked = settings.controls and any(map(plan.asks_teachers, settings.objectives.values()))
    lost = asked and not plan.controls(settings, labeled=splits.labeled, moves=moves)

    if lost and not splits.labeled and parallel.is_first():
        once("no controls", lambda: _LOG.warning("%s", no_controls(settings)))


def no_controls(settings: Methods) -> str:
    """What follows if, without labels, none of the controls can train."""
    return (
        "train has no labels, and without them none of the controls "
        f"({', '.join(settings.controls)}) can train: what a student would learn alone stays "
        "unknown. self_pool (configs/transfer.py) needs none."
    )


def warn_of_seen_images(setup: Setup) -> None:
    """Warns of models that know tune so much better than validation that they have seen it.

    Not of glyphs, whose validation has other fonts than the splits that are trained on.
    """
    tune, validation = setup.splits.tune, setup.splits.validation
    measured = setup.settings.eval_data or setup.settings.data
    if measured.startswith("glyphs") or not parallel.is_first():
        return

    def look(name: str, known: Evaluated) -> None:
        if known.tune_NxC is None or known.validation_NxC is None:
            return
        shares = [
            (evaluate.accuracy(logits_NxC, split.label_N) / 100, len(split))
            for logits_NxC, split in ((known.tune_NxC, tune), (known.validation_NxC, validation))
        ]
        (of_tune, _), (of_validation, _) = shares
        error = sum(share * (1 - share) / size for share, size in shares) ** 0.5
        if of_tune - of_validation > max(_SEEN, 3 * error):
            _LOG.warning(
                "%s is right on %.1f %% of tune and %.1f %% of validation: it has probably been "
                "trained on images of tune, so choices made there mean little. Put images that no "
                "model has seen into tune/ (beside train/), or pretrain with the same "
                "config.minival.",
                name,
                100 * of_tune,
                100 * of_validation,
            )

    for name, known in setup.models.items():
        setup.once(("seen", name), lambda name=name, known=known: look(name, known))


def classifiers(setup: Setup) -> list[Classifier]:
    """The models that have weights here."""
    models = [evaluated.model for evaluated in setup.models.values()]
    return [model for model in models if isinstance(model, Classifier)]


def of_controls(setup: Setup) -> Setup:
    """The setup for the controls of its student, which become the objectives of its settings."""
    settings, model = setup.settings, setup.models[setup.student].model
    found = plan.controls(
        settings,
        labeled=setup.splits.labeled,
        moves=plan.moves_alone(settings, model),
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
    """Exports the student of a finished run, and reports the result."""
    if not parallel.is_first():
        return
    folder, settings = setup.workdir / files.STUDENTS / row.run, setup.settings
    exports.write(model, folder, row, data=settings.data, validation=setup.splits.validation)
    if not setup.report:
        return
    rate = f"learning rate {row.learning_rate:g}, " if row.rates else ""
    if diverged := [rate for rate, gain in (row.rates or {}).items() if gain is None]:
        rate += f"diverged at {spelling.listed(diverged)}, "
    bar.write(f"{row.run}: {verdicts.change(row)}, {rate}{row.seconds:.0f} s{_left(bar)}")


def _left(bar: tqdm.tqdm) -> str:
    """The time left, if it is long, assuming that runs take as long as those before."""
    if bar.disable:
        return ""
    done = bar.n + 1  # with the one that has ended
    seconds = round(bar.format_dict["elapsed"] / done * (bar.total - done))
    return f"; {datetime.timedelta(seconds=seconds)} left" if seconds >= _LONG else ""
