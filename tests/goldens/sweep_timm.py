"""Compares imported models of timm with torch: the smallest of each file that is not native.

  PYTHONPATH=. nice -n 15 python tests/goldens/sweep_timm.py [FILE ...]

pip install 'ktjax[torch]'; no network: weights are timm's random ones, with noise on top, lest
heads and gains that begin at zero hide what is before them. It writes timm_imported.json of
ktjax/models/checkpoints, which `python -m ktjax.models coverage` reads, after each model, and
leaves out those that it has already: delete a row, or name files, to compare again. A model takes
about a minute of a busy core, most of it in torch.export and in XLA.

Of each file: how many ImageNet-1k checkpoints timm lists, and of its smallest model
  nodes: of its graph
  logits: the largest difference, of the spread of torch's
  gradients: the norm of the difference, of the norm of torch's, over all parameters at once
  step: the same in training mode, where BatchNorm trains: by that a step of SGD goes elsewhere
  statistics: likewise BatchNorm's running statistics after it
  torch: where a number is above its limit, how far torch's float32 is from its float64
  settled: BatchNorm's running statistics are those of the images; with torch's 0 and 1 the numbers
    grow so, from block to block, that torch's own float32 is above a limit
  refused: why it cannot be imported
Stochastic depth and dropout are off on both sides.
"""

import functools
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch
from timm.models import _registry

import ktjax
from ktjax import models
from ktjax.models.coverage import LIMITS

TABLE = Path(ktjax.__file__).parent / "models" / "checkpoints" / "timm_imported.json"
BATCH = 4
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def smallest() -> dict[str, dict[str, Any]]:
    """Of each file of timm its checkpoints for ImageNet-1k, and its smallest model with a head."""
    checkpoints: dict[str, int] = {}
    for name in timm.list_models(pretrained=True):
        if timm.get_pretrained_cfg(name).num_classes == 1000:
            file = _registry._model_to_module[name.partition(".")[0]]
            checkpoints[file] = checkpoints.get(file, 0) + 1
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(set(_registry._model_to_module.values())):
        sizes = {}
        for name in timm.list_models(module=file) if file not in models.FAMILIES else ():
            with torch.device("meta"):
                try:
                    model = timm.create_model(name, num_classes=1000)
                except Exception as error:  # one that needs what is not installed
                    print(f"{name}: {error}")
                    continue
            head = model.get_classifier() if hasattr(model, "get_classifier") else None
            if isinstance(head, torch.nn.Module | tuple):  # several heads
                sizes[name] = sum(p.numel() for p in model.parameters())
        found[file] = {"checkpoints": checkpoints.get(file, 0)}
        if sizes:
            found[file]["model"] = min(sizes, key=lambda name: sizes[name])
            found[file]["parameters"] = min(sizes.values())
    return found


def drawn(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The model with random weights."""
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0
    return module.eval()


def of_torch(module: torch.nn.Module, x: torch.Tensor, *, train: bool) -> dict[str, Any]:
    """Logits, gradients, and statistics of BatchNorm afterwards."""
    module.train(train)
    module.zero_grad()
    logits = module(x)
    logits = getattr(logits, "logits", logits)  # transformers'
    logits = getattr(logits, "last_hidden_state", logits)  # and PPLCNet's
    (logits * weights_of(logits.shape, x.dtype)).mean().backward()
    return {
        "logits": logits.detach().numpy(),
        "gradients": {
            name: np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy()
            for name, p in module.named_parameters()
        },
        "statistics": {n: b.numpy().copy() for n, b in module.named_buffers() if "running_" in n},
    }


def weights_of(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """How much each logit counts."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tuple(shape), generator=generator).to(dtype)


def of_ktjax(folder: str, x: np.ndarray) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The same in JAX, in evaluation and in training mode; and how many nodes the graph has."""
    model = models.load(folder)
    weights = jnp.asarray(weights_of((BATCH, len(model.classes)), torch.float32).numpy())

    def run(variables: Any, image: jax.Array) -> Any:
        def loss(params: Any, train: bool) -> Any:
            at = {**variables, "params": params}
            output, stats = model.forward(at, image, train=train, rngs=None, freeze_stats=False)
            return (output.logits * weights).mean(), (output.logits, stats)

        gradient = jax.grad(loss, has_aux=True)
        modes = (False, True) if model.variables.get("batch_stats") else (False,)
        return [gradient(variables["params"], train) for train in modes]

    variables, image = dict(model.variables), jnp.asarray(x.transpose(0, 2, 3, 1))
    found = jax.jit(run).lower(variables, image).compile(compiler_options=QUICK)(variables, image)
    answers = [
        {"logits": np.asarray(logits), "gradients": gradients, "statistics": stats}
        for gradients, (logits, stats) in jax.device_get(found)
    ]
    return answers[0], answers[-1], len(model.definition.graph.calls)


def distance(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The norm of the difference of two trees, of the norm of the second."""
    names = found.keys() & expected.keys()
    apart = sum(float(np.sum(np.square(np.float64(found[n]) - expected[n]))) for n in names)
    return (apart / sum(float(np.sum(np.square(np.float64(expected[n])))) for n in names)) ** 0.5


def apart(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest difference of logits, of their spread."""
    return float(np.abs(found["logits"] - expected["logits"]).max() / expected["logits"].std())


def compared(evaluated: Any, trained: Any, of_eval: Any, of_train: Any) -> dict[str, float]:
    """What a row of the table says."""
    found = {
        "logits": apart(evaluated, of_eval),
        "gradients": distance(evaluated["gradients"], of_eval["gradients"]),
    }
    if of_train is not None:
        found["step"] = distance(trained["gradients"], of_train["gradients"])
        found["statistics"] = distance(trained["statistics"], of_train["statistics"])
    return found


def row(
    name: str, module: torch.nn.Module, size: tuple[int, int], classes: int = 1000
) -> dict[str, Any]:
    """Compares a model."""
    x = np.random.default_rng(0).standard_normal((BATCH, 3, *size), np.float32)
    found = compared_on(x, name, module, classes)
    if {"logits", "gradients"} & found.get("torch", {}).keys():
        settle(module, x)
        found = compared_on(x, name, module, classes) | {"settled": True}
    return {"size": list(size), **found}


def settle(module: torch.nn.Module, x: np.ndarray) -> None:
    """Sets BatchNorm's running statistics to those of the images."""
    module.float().train()
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    with torch.no_grad():
        module(torch.from_numpy(x))
    module.eval()


def compared_on(x: np.ndarray, name: str, module: torch.nn.Module, classes: int) -> dict[str, Any]:
    """Compares a model on images [B, 3, H, W]."""
    size = x.shape[2:]
    with tempfile.TemporaryDirectory() as folder:
        plain = dict(mean=(0, 0, 0), std=(1, 1, 1))
        ktjax.import_torch(module, folder, size=size, classes=classes, **plain)
        evaluated, trained, nodes = of_ktjax(folder, x)
    has_stats = bool(trained["statistics"])
    state = {key: value.clone() for key, value in module.state_dict().items()}

    def answers(dtype: torch.dtype) -> tuple[Any, Any]:
        module.load_state_dict(state)
        module.to(dtype)
        image = torch.from_numpy(x).to(dtype)
        evaluated = of_torch(module, image, train=False)
        return evaluated, of_torch(module, image, train=True) if has_stats else None

    of_eval, of_train = answers(torch.float32)
    found = compared(evaluated, trained, of_eval, of_train)
    if any(value > LIMITS[key] for key, value in found.items()):
        try:
            exact = answers(torch.float64)
            own = compared(of_eval, of_train, *exact)
            found["torch"] = {k: v for k, v in own.items() if found[k] > LIMITS[k]}
        except (RuntimeError, TypeError) as error:  # a module that insists on float32
            print(f"{name}: {error}")
    rounded = {k: v if isinstance(v, dict) else float(f"{v:.1e}") for k, v in found.items()}
    if "torch" in rounded:
        rounded["torch"] = {k: float(f"{v:.1e}") for k, v in rounded["torch"].items()}
    module.load_state_dict(state)
    return {"nodes": nodes, **rounded}


def main(files: list[str]) -> None:
    """Adds rows to the table."""
    versions = {"timm": timm.__version__, "torch": torch.__version__.partition("+")[0]}
    versions["jax"] = jax.__version__
    table = json.loads(TABLE.read_text()) if TABLE.is_file() else {"files": {}}
    table |= versions
    if not table["files"]:
        table["files"] = smallest()
    with_model = [file for file, entry in table["files"].items() if "model" in entry]
    for file in sorted(with_model, key=lambda file: table["files"][file]["parameters"]):
        if file not in files if files else {"logits", "refused"} & table["files"][file].keys():
            continue
        start = {k: table["files"][file][k] for k in ("checkpoints", "model", "parameters")}
        name = start["model"]
        try:
            module = drawn(functools.partial(timm.create_model, name, num_classes=1000))
            size = module.pretrained_cfg["input_size"][1:]
            table["files"][file] = start | row(name, module, size)
        except ValueError as error:
            table["files"][file] = start | {"refused": str(error).splitlines()[0][:300]}
        print(file, table["files"][file], flush=True)
        write(table)
        jax.clear_caches()
        gc.collect()


def write(table: Mapping[str, Any], path: Path = TABLE) -> None:
    """A line for each file."""
    head = {key: value for key, value in table.items() if key != "files"}
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(table["files"].items())]
    text = json.dumps(head)[:-1] + ', "files": {\n' + ",\n".join(lines) + "\n}}\n"
    path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
