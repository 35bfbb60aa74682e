"""Weights and images that timm and ktjax are both fed with: functions of names and shapes.

Drawn so that every parameter matters: no zero heads, gains or layer scales, and statistics of
BatchNorm that neither explode nor vanish.
"""

import math
import zlib

import numpy as np

CLASSES = 10
IMAGES = 4
_LAYER_SCALES = (
    *("gamma", "gamma1", "gamma2", "gamma_1", "gamma_2", "gamma3", "ls1", "ls2"),
    *("layer_scale_parameter", "lambda1", "lambda_1", "lambda_2"),
)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The entry of this name (timm's) in torch's shape, float32."""
    z = _generator(name).standard_normal(shape).astype(np.float32)
    leaf = name.split(".")[-1]
    if leaf == "running_var":
        return np.float32(0.75) + np.abs(z) / 2
    if len(shape) >= 2 and leaf == "weight":
        return z * np.float32(math.sqrt(_gain(name) / _fan_in(name, shape)))
    if leaf in ("weight", "temperature"):  # gains
        return 1 + z / 5
    if leaf in _LAYER_SCALES:
        return np.float32(0.5) + z / 10
    if name.endswith("se.conv_expand.bias"):  # opens the gates, of which mobile networks have many
        return 2 + z / 4
    return z / 4  # biases, embeddings, tokens, means


def _gain(name: str) -> float:
    """How much louder a layer makes its input.

    In blocks of mobile networks two activations and a gate make signals quieter. The first block of
    a stage (`blocks.3.0`) has no shortcut and must make up for it; the others add to theirs.
    """
    first = name.split(".")[2:3] == ["0"]
    if name.startswith("blocks.") and name.endswith(("conv_dw.weight", "dw_mid.conv.weight")):
        return 3.0
    if name.startswith("blocks.") and name.endswith(("conv_pwl.weight", "pw_proj.conv.weight")):
        return 3.0 if first else 0.75
    return 1.5


def _fan_in(name: str, shape: tuple[int, ...]) -> float:
    if len(shape) == 2 and name.split(".")[-2].startswith("conv_"):
        return math.sqrt(shape[1])  # mixtures of kernels, which are flat: a guess
    return math.prod(shape[1:])


def images(size: int, *, seed: int = 0) -> np.ndarray:
    """Smooth images, as a network takes them: float32 [IMAGES, size, size, 3], about -3 to 3.

    They differ in colour and coarseness, lest a network that averages over all of an image finds
    them alike.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    at = np.linspace(0, 1, size)
    pictures = np.zeros((IMAGES, size, size, 3))
    for n, finest in enumerate(np.geomspace(2, size / 8, IMAGES)):
        pictures[n] += generator.uniform(-1.5, 1.5, 3)
        for c, _ in np.ndindex(3, 6):
            u, v = generator.uniform(-finest, finest, 2)
            phase = 2 * np.pi * (u * at[:, None] + v * at[None, :] + generator.random())
            pictures[n, :, :, c] += np.cos(phase) / 2
    return pictures.astype(np.float32)


def projection(name: str, value: np.ndarray) -> np.ndarray:
    """A large array in two numbers: its norm, and how much of it lies along a direction."""
    value = np.asarray(value, np.float64).ravel()
    direction = _generator(f"{name} direction").standard_normal(value.shape)
    return np.asarray([np.linalg.norm(value), value @ direction / math.sqrt(value.size)])


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
