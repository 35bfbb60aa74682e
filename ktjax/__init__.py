"""ktjax: general knowledge transfer between any pretrained image classifiers.

`ktjax.load_model(name)` and `ktjax.jobs.transfer.run(config, workdir)` are what `ktjax.main` runs.
`ktjax.predict(model, images)` classifies images.
`ktjax.export_model(classifier, folder, format="timm")` writes the model in the format it came from,
and `ktjax.push_to_hub(folder, "OWNER/NAME")` uploads it to the Hugging Face hub.
`ktjax.import_torch(module, folder, ...)` makes a Classifier from a torch module;
`ktjax.from_linen`, `from_nnx` and `from_function` make one from a JAX model, and `load_weights`
reads these back.
`ktjax.keep_compiled()` keeps compiled programs for later starts, as the command does.
Importing ktjax imports nothing else: JAX starts when a name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see; at run time __getattr__ imports it
    from ktjax import jobs, parallel
    from ktjax.classifier import Classifier, InputSpec
    from ktjax.compiled import keep as keep_compiled
    from ktjax.inference import predict
    from ktjax.models import load as load_model
    from ktjax.models.checkpoints.hub import push as push_to_hub
    from ktjax.models.checkpoints.weights import export as export_model
    from ktjax.models.imported import import_torch
    from ktjax.models.own import (
        from_function,
        from_linen,
        from_nnx,
        load_weights,
        update_nnx,
    )

__all__ = [
    "Classifier",
    "InputSpec",
    "export_model",
    "from_function",
    "from_linen",
    "from_nnx",
    "import_torch",
    "jobs",
    "keep_compiled",
    "load_model",
    "load_weights",
    "parallel",
    "predict",
    "push_to_hub",
    "update_nnx",
]
__version__ = "0.2.0"  # setup.py reads it here


# name -> (module, its name there; None: the module itself)
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
    "Classifier": ("ktjax.classifier", "Classifier"),
    "InputSpec": ("ktjax.classifier", "InputSpec"),
    "jobs": ("ktjax.jobs", None),
    "keep_compiled": ("ktjax.compiled", "keep"),
    "parallel": ("ktjax.parallel", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ktjax' has no attribute '{name}'")
    path, attribute = _LAZY[name]
    module = importlib.import_module(path)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
