"""What a user launches. The only place where data, models, training and files meet."""

import importlib
from typing import Any

# config.job -> the module whose `run(config, workdir, overwrite=...)` does it. Imported on first
# use, so that converting a folder or reading --help does not wait for them.
JOBS = {
    "complementarity": "ktjax.jobs.complementarity",
    "convergence": "ktjax.jobs.convergence",
    "pretrain": "ktjax.jobs.pretrain",
    "study": "ktjax.jobs.study",
    "transfer": "ktjax.jobs.transfer",
}


def __getattr__(name: str) -> Any:
    if name in JOBS:
        return importlib.import_module(JOBS[name])
    raise AttributeError(f"module 'ktjax.jobs' has no attribute '{name}'")
