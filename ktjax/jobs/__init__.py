"""What a user launches. The only place where data, models, training and files meet."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("complementarity", "pretrain", "transfer"):
        return importlib.import_module(f"ktjax.jobs.{name}")
    raise AttributeError(f"module 'ktjax.jobs' has no attribute '{name}'")
