"""ktjax: general knowledge transfer between any pretrained image classifiers.

`ktjax.load_model(name)` and `ktjax.jobs.transfer.run(config, workdir)` are what `ktjax.main` runs;
`ktjax.predict(model, images)` says what a model sees in images, and
`ktjax.export_model(classifier, folder, format="timm")` brings it back to where it came from, and
`ktjax.push_to_hub(folder, "OWNER/NAME")` to the Hugging Face hub.
`ktjax.import_torch(module, folder, ...)` makes a Classifier of a torch module, `ktjax.from_linen`,
`from_nnx` and `from_function` of what is JAX already; `load_weights` reads these back.
Importing ktjax imports nothing else: JAX starts when a name is first used.
"""

import importlib
from typing import Any

__version__ = "0.2.0"  # setup.py reads it here


# name -> (module, what it is called there; None: the module itself)
_LAZY = {
    "load_model": ("ktjax.models", "load"),
    "from_linen": ("ktjax.models.own", "from_linen"),
    "from_nnx": ("ktjax.models.own", "from_nnx"),
    "from_function": ("ktjax.models.own", "from_function"),
    "load_weights": ("ktjax.models.own", "load_weights"),
    "update_nnx": ("ktjax.models.own", "update_nnx"),
    "import_torch": ("ktjax.models.imported", "import_torch"),
    "export_model": ("ktjax.models.checkpoints.weights", "export"),
    "push_to_hub": ("ktjax.models.checkpoints.hub", "push"),
    "predict": ("ktjax.inference", "predict"),
    "jobs": ("ktjax.jobs", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ktjax' has no attribute '{name}'")
    path, attribute = _LAZY[name]
    module = importlib.import_module(path)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
