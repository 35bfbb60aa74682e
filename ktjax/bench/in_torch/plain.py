"""A step of cross-entropy and SGD in PyTorch, for `ktjax.bench.imported`."""

from collections.abc import Callable

import numpy as np
import timm
import torch
import torch.nn.functional as F


def network(architecture: str, classes: int) -> torch.nn.Module:
    """A timm network with random weights, in evaluation mode."""
    return timm.create_model(architecture, num_classes=classes).eval()


def make(
    module: torch.nn.Module, image_BxHxWx3: np.ndarray, label_B: np.ndarray, *, learning_rate: float
) -> Callable[[], None]:
    """The step on prepared images."""
    optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate)
    x = torch.from_numpy(image_BxHxWx3).permute(0, 3, 1, 2).contiguous()
    label = torch.from_numpy(label_B).long()

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(x), label).backward()
        optimizer.step()

    return one
