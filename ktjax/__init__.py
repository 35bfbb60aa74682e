"""ktjax: general knowledge transfer between any pretrained image classifiers.

`ktjax.load_model(name)` and `ktjax.jobs.transfer.run(config, workdir)` are what `ktjax.main` runs;
`ktjax.export_model(classifier, folder, format="timm")` brings a model back to where it came from.
Importing ktjax imports nothing else: JAX starts when a name is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"  # setup.py reads it here


def __getattr__(name: str) -> Any:
    if name == "load_model":
        return importlib.import_module("ktjax.models").load
    if name == "export_model":
        return importlib.import_module("ktjax.models.weights").export
    if name == "jobs":
        return importlib.import_module("ktjax.jobs")
    raise AttributeError(f"module 'ktjax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), "load_model", "export_model", "jobs"})
