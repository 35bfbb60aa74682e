"""The networks of the embedded zoo in PyTorch, as a PyTorch user would write them.

`ktjax.bench.step` compares the Flax networks to them: the same layers and sizes, and so the same
number of parameters, which its test checks; PyTorch initializes the weights. Images are float
[B, 3, H, W] here. Needs torch, and is imported only if it is installed.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

_LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


def _mlp(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def perceptron(classes: int, *, size: int, widths: Sequence[int]) -> nn.Module:
    """`networks.tiny.Perceptron`."""
    layers, inputs = [nn.Flatten()], 3 * size * size
    for width in widths:
        layers += [nn.Linear(inputs, width), _LayerNorm(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class _Tokens(nn.Module):
    """[B, D, H, W] -> [B, H * W, D]."""

    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


class _MeanHead(nn.Module):
    """LayerNorm, the mean over the tokens, a linear layer."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm, self.head = _LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.norm(x).mean(1))


class _MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int, tokens_hidden: int, channels_hidden: int):
        super().__init__()
        self.norm1, self.norm2 = _LayerNorm(width), _LayerNorm(width)
        self.tokens, self.channels = _mlp(tokens, tokens_hidden), _mlp(width, channels_hidden)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


def mixer(
    classes: int,
    *,
    size: int,
    patch: int,
    width: int,
    depth: int,
    tokens_hidden: int,
    channels_hidden: int,
) -> nn.Module:
    """`networks.tiny.MlpMixer`."""
    tokens = (size // patch) ** 2
    blocks = [_MixerBlock(tokens, width, tokens_hidden, channels_hidden) for _ in range(depth)]
    stem = nn.Conv2d(3, width, patch, patch)
    return nn.Sequential(stem, _Tokens(), *blocks, _MeanHead(width, classes))


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = norm(width), norm(width)
        shorten = nn.Conv2d(inputs, width, 1, stride, bias=False)
        same = inputs == width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(shorten, norm(width))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(
    classes: int, *, size: int, widths: Sequence[int], norm: Callable[[int], nn.Module]
) -> nn.Module:
    """`networks.tiny.ResNet`, one block per stage."""
    del size
    stem = [nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), norm(widths[0]), nn.ReLU()]
    blocks = [
        _BasicBlock(widths[max(i - 1, 0)], width, 2 if i else 1, norm)
        for i, width in enumerate(widths)
    ]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, *blocks, *pool, nn.Linear(widths[-1], classes))


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


_channel_norm = functools.partial(_ChannelNorm, eps=1e-6)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm, self.mlp = _LayerNorm(width), _mlp(width, 4 * width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        y = self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


def convnext(
    classes: int,
    *,
    size: int,
    depths: Sequence[int],
    widths: Sequence[int],
    stem: int,
    kernel: int,
) -> nn.Module:
    """`networks.tiny.ConvNeXt`."""
    del size
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], stem, stem), _channel_norm(widths[0])]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if i:
            layers += [_channel_norm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
        layers += [_ConvNeXtBlock(width, kernel) for _ in range(depth)]
    head = [nn.Flatten(), _LayerNorm(widths[-1]), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head)


class _AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = _LayerNorm(width), _LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = _mlp(width, mlp_ratio * width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class _Position(nn.Module):
    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(1, tokens, width) * 0.02)

    def forward(self, x):
        return x + self.embedding


def vit(
    classes: int,
    *,
    size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: int,
    stem: int,
    patch: int,
) -> nn.Module:
    """`networks.tiny.VisionTransformer`, with one convolution in its stem."""
    tokens = (size // 2 // patch) ** 2
    begin = [nn.Conv2d(3, stem, 3, 2, 1), _channel_norm(stem), nn.ReLU()]
    embed = [nn.Conv2d(stem, width, patch, patch), _Tokens(), _Position(tokens, width)]
    blocks = [_AttentionBlock(width, heads, mlp_ratio) for _ in range(depth)]
    return nn.Sequential(*begin, *embed, *blocks, _MeanHead(width, classes))


_group_norm = functools.partial(nn.GroupNorm, 8)
_resnet = functools.partial(resnet, norm=nn.BatchNorm2d)

# The sizes of `networks.tiny`: build(classes, size=...).
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "tiny_mlp_narrow": functools.partial(perceptron, widths=(96, 96)),
    "tiny_mlp": functools.partial(perceptron, widths=(192, 192)),
    "tiny_mixer": functools.partial(
        mixer, patch=6, width=64, depth=3, tokens_hidden=32, channels_hidden=128
    ),
    "tiny_resnet_narrow": functools.partial(_resnet, widths=(12, 24)),
    "tiny_resnet": functools.partial(_resnet, widths=(24, 48)),
    "tiny_resnet_wide": functools.partial(_resnet, widths=(32, 64, 96)),
    "tiny_resnet_gn": functools.partial(resnet, widths=(16, 32, 64), norm=_group_norm),
    "tiny_convnext": functools.partial(convnext, depths=(2, 2), widths=(24, 48), stem=4, kernel=3),
    "tiny_vit": functools.partial(vit, width=64, depth=3, heads=4, mlp_ratio=2, stem=32, patch=3),
}
