"""The images of one decision about each run: the accept split, or half of tune."""

import logging
from collections.abc import Collection

import numpy as np

from ktjax import parallel
from ktjax.analysis import decision
from ktjax.data import Dataset, sources
from ktjax.experiment.inputs import Loaded, check_halves
from ktjax.settings.data import TrainingData

_LOG = logging.getLogger(__name__)


def with_accept(settings: TrainingData, loaded: Loaded) -> Loaded:
    """Adds images for a decision about each run: the data set's accept split, or half of tune.

    ValueError if tune is too small for that.
    """
    dataset = loaded.dataset
    if dataset.accept is not None:
        count = settings.max_examples
        return loaded._replace(
            accept=dataset.accept if count is None else dataset.accept.take(count)
        )
    kept, held = sources.halves(dataset.tune.label_N, seed=settings.subset_seed)
    check_halves(dataset.name, kept, held)
    accept = dataset.tune.select(held)
    return loaded._replace(dataset=dataset._replace(tune=dataset.tune.select(kept)), accept=accept)


def say_what_it_shows(loaded: Loaded, decisions: Collection[int]) -> None:
    """Says, if half of tune decides, which gains that can show, and if the halves lack classes.

    Args:
      loaded: the data, with the classes that the job uses.
      decisions: how many dependent decisions its runs make: a number for each kind of run.
    """
    if loaded.accept is None or loaded.dataset.accept is not None or not parallel.is_first():
        return
    more = _more(loaded.dataset)
    _LOG.warning(
        "%s has no accept split: using half of tune, %d images, instead. %s",
        loaded.dataset.name,
        len(loaded.accept),
        _can_show(len(loaded.accept), decisions, more),
    )
    chosen_N, decided_N = loaded.dataset.tune.label_N, loaded.accept.label_N
    if len(apart := np.setxor1d(chosen_N, decided_N)):
        _LOG.warning(
            "%d of the %d classes in tune are in one of its halves only, so what is chosen on one "
            "half is decided on other classes: %s.",
            len(apart),
            len(np.union1d(chosen_N, decided_N)),
            more,
        )


def _more(dataset: Dataset) -> str:
    """What to do for more images that decide."""
    if dataset.held_out:
        return "raise config.minival (in pretrain, too) or add a tune or accept split"
    return "add an accept split (a folder accept/ beside train/) or more images to tune"


def _can_show(count: int, decisions: Collection[int], more: str) -> str:
    """Which gains so many images can show to the runs that make the fewest decisions."""
    fewest = decision.fewest(decisions=min(decisions))
    if count < fewest:
        return (
            f"They are too few to show any gain, and every run will abstain: {more}, or set "
            "config.export to last."
        )
    text = f"They can show gains of {100 * fewest / count:.3g} points at best."
    needed = decision.fewest(decisions=max(decisions))
    if count < needed:
        text += (
            f" Runs that make {max(decisions)} decisions need {needed} images, and will abstain."
        )
    return text
