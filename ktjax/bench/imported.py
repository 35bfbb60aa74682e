"""A training step of an imported model, compared to the same architecture in ktjax and PyTorch.

The cross-entropy of a batch, its gradient and plain SGD, on random weights; BatchNorm's running
statistics are frozen. All take turns, and the ratios are what counts. Needs torch and timm.

Batch 8, 5 rounds on 2 CPU cores (jax 0.10.2, torch 2.14.1), relative to the time of ktjax's own
network and of eager PyTorch:

  resnet18               1.06 and 0.56, with other work running
  vit_tiny_patch16_224   1.24 and 1.45; with dense layers on rows and a plain softmax where nothing
                         is masked 1.07, with other work running that slowed PyTorch more
  convnext_atto          1.21 and 1.56
"""

import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ktjax import models
from ktjax.bench import step
from ktjax.classifier import Classifier
from ktjax.models import imported

_RATE = 0.01


def run(*, architecture: str, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measures an architecture that both ktjax and timm have.

    Args:
      architecture: timm's name for it.
      batch_size: images per step.
      rounds: timed turns of each, after an untimed one.
      seconds: minimum length of a turn, which has at least one step.

    Returns:
      Seconds (medians of the rounds) and ratios (medians of the ratios of each round).
    """
    from ktjax.bench.in_torch import plain  # needs torch and timm

    native = step.drawn(architecture)
    height, width = native.input.size
    rng = np.random.default_rng(0)
    image_BxHxWx3 = rng.standard_normal((batch_size, height, width, 3)).astype(np.float32)
    label_B = rng.integers(0, len(native.classes), batch_size)
    module = plain.network(architecture, len(native.classes))
    with tempfile.TemporaryDirectory() as folder:
        imported.import_torch(
            module,
            folder,
            size=native.input.size,
            mean=native.input.mean,
            std=native.input.std,
            classes=native.classes,
        )
        graph = models.load(folder)
    times = step.turns(
        {
            "native": _step(native, image_BxHxWx3, label_B),
            "imported": _step(graph, image_BxHxWx3, label_B),
            "torch": plain.make(module, image_BxHxWx3, label_B, learning_rate=_RATE),
        },
        rounds,
        seconds,
    )
    found: dict[str, Any] = {"architecture": architecture, "batch_size": batch_size}
    found |= {f"{name}_s": float(np.median(of_rounds)) for name, of_rounds in times.items()}
    for name in ("native", "torch"):
        found[f"ratio_{name}"] = float(np.median(times["imported"] / times[name]))
    return found


def _step(model: Classifier, image_BxHxWx3: np.ndarray, label_B: np.ndarray) -> Callable[[], Any]:
    stats = model.variables.get("batch_stats", {})

    def loss(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
        at = {"params": params, "batch_stats": stats}
        output, _ = model.forward(at, x, train=False, rngs=None, freeze_stats=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, label)
        return losses.mean()

    @jax.jit
    def update(params: Any, x: jax.Array, label: jax.Array) -> Any:
        gradients = jax.grad(loss)(params, x, label)
        return jax.tree.map(lambda p, g: p - _RATE * g, params, gradients)

    held = [model.variables["params"]]
    x, label = jnp.asarray(image_BxHxWx3), jnp.asarray(label_B, jnp.int32)

    def one() -> None:
        held[0] = jax.block_until_ready(update(held[0], x, label))

    return one
