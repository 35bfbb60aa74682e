"""Makes imported/: graphs of small torch modules, and what torch computes with them.

  PYTHONPATH=. python tests/goldens/make_imported.py [NAME ...]

pip install torch; the tests do not need it. Weights are those of rule.py, so that only graphs,
constants and numbers are kept. Between them the modules have an operation of each kind of
ktjax/models/imported/operations; models of timm are in sweep_timm.py.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from goldens import rule

import ktjax

FOLDER = Path(__file__).parent / "imported"
SIZE = 16


class Convolutional(nn.Module):
    """Convolutions, BatchNorm, GroupNorm, activations, pooling, padding, resizing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 5, 1, 4, groups=12, dilation=2)
        self.bn2 = nn.BatchNorm2d(12, momentum=0.3, eps=1e-3)
        self.grouped = nn.Conv2d(12, 16, 3, padding="same", groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.prelu = nn.PReLU(16)
        self.up = nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1, groups=2)
        self.mix = nn.Conv1d(8, 8, 3, padding=1)
        self.bn3 = nn.BatchNorm1d(8, affine=False)
        self.fc = nn.Conv2d(8, rule.CLASSES, 1)

    def forward(self, x):
        x = F.hardswish(self.bn1(self.stem(x)))
        x = x + F.gelu(self.bn2(self.depthwise(x)))
        x = self.prelu(self.norm(self.grouped(x)))
        x = x + F.interpolate(F.max_pool2d(x, 3, 2, 1, ceil_mode=True), size=8, mode="bilinear")
        x = x + F.interpolate(F.avg_pool2d(x, 3, 2, 0, True, False), scale_factor=2)
        x = F.relu6(F.pad(x, (1, 1, 1, 1), "reflect")[:, :, 1:-1, 1:-1])
        x = F.interpolate(x, size=(4, 4), mode="bicubic", antialias=True)
        x = F.leaky_relu(self.up(F.pad(x, (0, 1, -1, 0), value=0.5)), 0.1)
        x = F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)
        x = F.channel_shuffle(x, 4) + F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)
        x = F.adaptive_avg_pool2d(x, (3, 4)) + F.adaptive_max_pool2d(x, (3, 4)) * 0.1
        x = self.bn3(F.elu(self.mix(F.mish(x.flatten(2))))).unflatten(2, (3, 4))
        return self.fc(F.adaptive_avg_pool2d(F.softplus(x), 1)).flatten(1)


class Attentive(nn.Module):
    """Tokens: attention whole and in parts, masks, tables of positions, windows, two heads."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.norm = nn.LayerNorm(16)
        self.rms = nn.RMSNorm(16, eps=1e-5)
        self.qkv = nn.Linear(16, 48)
        self.qkv2 = nn.Linear(16, 48, bias=False)
        self.proj = nn.Linear(16, 16)
        self.proj2 = self.proj  # a layer that has two names
        self.table = nn.Parameter(torch.zeros(31, 2))
        places = torch.arange(16)
        self.register_buffer("index", places[:, None] - places[None] + 15, persistent=False)
        self.register_buffer("idle", places, persistent=False)  # that nothing reads
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.head = nn.Linear(16, rule.CLASSES)
        self.head_dist = nn.Linear(16, rule.CLASSES)
        self.unused = nn.Linear(3, 3)

    def attend(self, x, qkv, **options):
        heads = qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads.unbind(0), **options)
        return y.transpose(1, 2).flatten(2)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        windows = torch.roll(x.unflatten(1, (4, 4)), (-1, 1), (1, 2))
        windows = windows.reshape(-1, 2, 2, 2, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 16)
        windows = self.attend(self.norm(windows), self.qkv2, is_causal=True)
        x = x + windows.reshape(-1, 16, 16)
        bias = self.table[self.index].permute(2, 0, 1) * self.scale[:, None, None]
        x = x + self.proj(self.attend(self.rms(x), self.qkv, attn_mask=bias))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = torch.einsum("bid,bjd->bij", q, k) / 4
        seen = torch.ones(16, 16, dtype=torch.bool, device=x.device).tril(3)
        x = x + self.proj2(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v)
        sines = torch.arange(16).float()[:, None] / torch.pow(100, torch.arange(8) / 8)
        x = x + torch.cat((sines.sin(), sines.cos()), 1)
        x = self.norm(torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1))
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1:].mean(1))) / 2


class Arithmetic(nn.Module):
    """Elementwise functions, reductions, orders, indices, Fourier transforms."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(48, 12)
        self.complex = nn.Parameter(torch.zeros(4, 3, 12, 2))
        self.fc = nn.Linear(12, rule.CLASSES)

    def forward(self, x):
        x = F.pixel_unshuffle(x, 4).permute(0, 2, 3, 1)
        x = torch.tanh(self.embed(x))  # B, 4, 4, 12
        y = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(self.complex)
        x = x + torch.fft.irfft2(y, s=(4, 4), dim=(1, 2), norm="ortho")
        x = x.flatten(1, 2)  # B, 16, 12
        x = x + torch.log1p(x.square()) - torch.expm1(-x.abs()) + torch.erf(x)
        x = x + torch.atan2(x, x * x + 1) + torch.rsqrt(x.pow(2) + 1) + torch.reciprocal(2 + x**2)
        x = x + torch.where(x > 0.5, torch.sqrt(x.clamp(min=0.1)), torch.exp(x.clamp(max=0.3)))
        x = x + torch.floor(3 * x) / 9 + torch.round(2 * x) / 9 + torch.remainder(x, 0.7)
        x = x + torch.fmod(x, 0.9) + torch.sign(x) / 9 + torch.trunc(x) / 9 + torch.ceil(x) / 9
        values, places = torch.topk(x, 3, dim=1)
        x = x + values.mean(1, keepdim=True) + places.float().mean(1, keepdim=True) / 16
        best, place = x.max(-1, keepdim=True)
        x = x + best + place / 12 - x.amin(1, keepdim=True) + x.argmin(1, keepdim=True) / 16
        x = x / (
            1 + x.norm(dim=-1, keepdim=True) + x.std(1, keepdim=True) + x.var((1, 2))[:, None, None]
        )
        x = x + torch.cumsum(x, 1) / 16 + x.logsumexp((1,), keepdim=True) + x.prod(-1, keepdim=True)
        order = torch.argsort(x[:, :, 0], dim=1)
        x = x.gather(1, order[:, :, None].expand(-1, -1, 12))
        x = x.index_select(2, torch.tensor([11, *range(11)])).sort(-1, descending=True)[0]
        x = torch.scatter(x, 1, torch.zeros(x.shape[0], 1, 12, dtype=torch.long), x[:, 3:4])
        x = x.unfold(1, 4, 4).flip(-1).sum(-1)  # B, 4, 12
        grid = torch.stack(
            torch.meshgrid(torch.linspace(0, 1, 4), torch.arange(12) / 12, indexing="ij"), 0
        )
        x = torch.lerp(x, x * grid[0] + grid[1], 0.25) + torch.addcmul(x, x, x, value=0.1)
        x = (
            x.log_softmax(-1)
            + F.hardsigmoid(x).cumsum(-1)
            + torch.minimum(x, 0.3 - x)
            + (x == x.amax())
        )
        return self.fc(x.repeat(1, 2, 1).diagonal(0, 1, 2).repeat_interleave(2, 1)[:, :12])


class Dropping(nn.Module):
    """Dropout of all kinds; logits are linear in all that is dropped."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop2d = nn.Dropout2d(0.2)
        self.places = nn.Embedding(16, 8)
        self.qkv = nn.Linear(8, 24)
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(8, rule.CLASSES)
        self.drop_rate = 0.3

    def forward(self, x):
        y = self.bn(self.patch(x))
        q, k, v = self.qkv(y.flatten(2).transpose(1, 2)).chunk(3, -1)
        x = self.drop2d(y).flatten(2).transpose(1, 2) + self.places(torch.arange(16))
        rate = self.drop_rate if self.training else 0.0
        x = x + F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        if self.training:  # stochastic depth, timm's and transformers'
            kept = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - rate) / (1 - rate)
            x = x + kept * y.flatten(2).transpose(1, 2)
            x = x.div(1 - rate) * (1 - rate + torch.rand(x.shape[0], 1, 1)).floor()
        else:
            x = x + y.flatten(2).transpose(1, 2)
        return self.fc(self.drop(x.mean(1)))


MODULES = {
    "convolutional": Convolutional,
    "attentive": Attentive,
    "arithmetic": Arithmetic,
    "dropping": Dropping,
}


def drawn(module: nn.Module) -> nn.Module:
    """The module with the weights of the rule."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(rule.weight(name, tuple(value.shape))))
    return module.eval()


def golden(module: nn.Module) -> dict[str, np.ndarray]:
    """Logits, the gradients of their square, and a forward pass in training mode.

    In that nothing is dropped.
    """
    x = torch.from_numpy(rule.images(SIZE)).permute(0, 3, 1, 2)
    logits = module(x)
    logits.square().mean().backward()
    found = {"logits": logits.detach().numpy()}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = rule.projection(name, parameter.grad.numpy())
    for part in module.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
        if hasattr(part, "drop_rate"):
            part.drop_rate = 0.0
    with torch.no_grad():
        found["train/logits"] = module.train()(x).numpy()
    for name, value in module.named_buffers():
        if "running" in name:
            found[f"train/{name}"] = value.numpy().copy()
    return found


def make(name: str) -> None:
    """Writes a folder, without its weights."""
    module = drawn(MODULES[name]())
    with tempfile.TemporaryDirectory() as folder:
        ktjax.import_torch(
            module,
            folder,
            size=(SIZE, SIZE),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            classes=rule.CLASSES,
        )
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        for path in Path(folder).iterdir():
            if path.name != "model.safetensors":
                shutil.copy(path, FOLDER / name / path.name)
    np.savez_compressed(FOLDER / name / "golden.npz", **golden(module))
    print(name, sum(path.stat().st_size for path in (FOLDER / name).iterdir()), "bytes")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODULES:
        make(name)
