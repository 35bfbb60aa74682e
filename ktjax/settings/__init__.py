"""Configs as frozen, typed records: one per job, and the parts that jobs share."""

import importlib
from typing import TYPE_CHECKING, Any

from ktjax.config import check_choice

if TYPE_CHECKING:
    from ktjax.settings.data import Data

# config.job -> module and name of its record.
RECORDS = {
    "complementarity": ("ktjax.settings.complementarity", "Complementarity"),
    "convergence": ("ktjax.settings.convergence", "Convergence"),
    "pretrain": ("ktjax.settings.pretrain", "Pretrain"),
    "study": ("ktjax.settings.study", "Study"),
    "transfer": ("ktjax.settings.transfer", "Transfer"),
}


def read(config: Any) -> "Data":
    """The record of a config, by its field `job`. ValueError as `Record.read`, or unknown job."""
    check_choice("job", config["job"], tuple(RECORDS))
    module, name = RECORDS[config["job"]]
    return getattr(importlib.import_module(module), name).read(config)
