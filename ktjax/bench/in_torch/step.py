"""A step of `kl_dp` in PyTorch, as a PyTorch user would write it, for `ktjax.bench.step`."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ktjax.bench.in_torch import memory, tiny
from ktjax.classifier import InputSpec

# A model: its name in timm or the embedded zoo, the number of classes, and its input.
Described = tuple[str, int, InputSpec]


class Step(NamedTuple):
    """one() does a step; peak_mb() does two more, and says how much memory the last one takes."""

    one: Callable[[], None]
    peak_mb: Callable[[], float]


def make(
    described: Sequence[Described],
    *,
    image_BxHxWx3: np.ndarray,
    label_B: np.ndarray,
    variant: str,
    bfloat16: bool,
    learning_rate: float,
    on_gpu: bool,
) -> Step:
    """The step of a student, which comes first, and its teachers, with random weights.

    BatchNorm keeps its running statistics, as in `ktjax.bench.step`; models are in evaluation mode.

    Raises:
      ValueError: timm has no such model.
    """
    device = torch.device("cuda" if on_gpu else "cpu")
    student, *teachers = (
        _network(name, classes, spec.size).to(device).eval() for name, classes, spec in described
    )
    frozen = [copy.deepcopy(student), *teachers]
    specs = [described[0][2], *(spec for _, _, spec in described[1:])]
    for network in frozen:
        network.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9)
    image = torch.from_numpy(image_BxHxWx3).to(device)
    label = torch.from_numpy(label_B).long().to(device)
    memory_format = torch.channels_last if variant == "channels_last" else torch.contiguous_format
    if variant == "channels_last":
        for network in (student, *frozen):
            network.to(memory_format=memory_format)

    def prepared(spec: InputSpec) -> torch.Tensor:
        x = image.permute(0, 3, 1, 2).float()
        if x.shape[2:] != tuple(spec.size):
            x = F.interpolate(x, tuple(spec.size), mode="bilinear", antialias=True)
        mean, std = (
            255 * torch.tensor(numbers, device=device)[:, None, None]
            for numbers in (spec.mean, spec.std)
        )
        return ((x - mean) / std).contiguous(memory_format=memory_format)

    def losses() -> torch.Tensor:
        with torch.no_grad():
            said = torch.stack(
                [model(prepared(spec)).float() for model, spec in zip(frozen, specs, strict=True)]
            )
            is_label = F.one_hot(label, said.shape[-1]).bool()
            odds = said[:, is_label] - said.masked_fill(is_label, -torch.inf).logsumexp(-1)
            target = said[odds.argmax(0), torch.arange(len(label), device=device)]
        logits = student(prepared(specs[0])).float()
        return F.kl_div(
            logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="batchmean"
        )

    losses = torch.compile(losses) if variant == "compile" else losses
    computing = (
        torch.autocast(device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    )

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        with computing:
            loss = losses()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()

    def peak_mb() -> float:
        one()  # the first step makes the momentum
        optimizer.zero_grad(set_to_none=True)
        momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
        weights = [x for network in (student, *frozen) for x in network.state_dict().values()]
        return memory.peak_mb(one, [*weights, *momentum, image, label], on_gpu=on_gpu)

    return Step(one, peak_mb)


def _network(name: str, classes: int, size: tuple[int, int]) -> torch.nn.Module:
    if name in tiny.NETWORKS:
        return tiny.NETWORKS[name](classes, size=size[0])
    import timm

    try:
        return timm.create_model(name, num_classes=classes)
    except RuntimeError as error:  # what timm raises for an unknown model
        raise ValueError(str(error)) from None
