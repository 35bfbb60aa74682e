"""Where each parameter of a network lies in a file: ktjax's names, timm's, transformers'.

Modules are named as timm's are, so that ktjax's and timm's names are both the path of the Flax
parameter. transformers has names of its own for each type of model: hf.py has them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Names of leaves: Flax's -> torch's. All others are called the same.
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Axes of a kernel with so many: torch's from Flax's, as np.transpose takes them.
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
# Ends of entries of torch's that a network computes for itself or does not need.
IGNORED = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "position_ids",
    "mask_token",
)


class Entry(NamedTuple):
    """Where a parameter lies in a file."""

    names: tuple[str, ...]  # of the file's entries; several: the parameter is these, one on another
    axes: tuple[int, ...] | None = None  # that the file has it transposed by; None: it is as it is
    lead: int = 0  # axes of length 1 that the file has before the others

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of each of the file's entries, for a parameter of this shape."""
        if self.axes is not None:
            shape = tuple(shape[axis] for axis in self.axes)
        first = shape[:1] and (shape[0] // len(self.names),)
        return (1,) * self.lead + first + shape[1:]

    def read(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """The parameter, from a file's entries."""
        parts = [found[name].reshape(found[name].shape[self.lead :]) for name in self.names]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return array if self.axes is None else array.transpose(np.argsort(self.axes))

    def write(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        """A file's entries, from the parameter."""
        array = leaf if self.axes is None else leaf.transpose(self.axes)
        parts = [array] if len(self.names) == 1 else np.split(array, len(self.names))
        lead = (1,) * self.lead
        return {
            name: np.ascontiguousarray(part.reshape(lead + part.shape))
            for name, part in zip(self.names, parts, strict=True)
        }


# layout(path of a leaf in `variables`, its number of axes) -> Entry
Layout = Callable[[tuple[str, ...], int], Entry]


def ktjax(path: tuple[str, ...], ndim: int) -> Entry:
    """The path, joined by "/"; arrays as Flax has them."""
    del ndim
    return Entry(("/".join(path),))


def timm(path: tuple[str, ...], ndim: int) -> Entry:
    """The path without its collection, joined by "."; leaves and axes are torch's."""
    _, *modules, leaf = path
    axes = AXES.get(ndim) if leaf == "kernel" else None
    return Entry((".".join([*modules, LEAVES.get(leaf, leaf)]),), axes)


class Renamed(NamedTuple):
    """What transformers calls a module, or a parameter, of timm's."""

    names: tuple[str, ...]  # several: timm has one where transformers has these
    lead: int = 0  # as in Entry


def transformers(renames: Mapping[str, Renamed]) -> Layout:
    """timm's layout under other names: of whole parameters, or of the modules that have them."""

    def layout(path: tuple[str, ...], ndim: int) -> Entry:
        (name,), axes, _ = timm(path, ndim)
        if name in renames:
            return Entry(renames[name].names, axes, renames[name].lead)
        module, _, leaf = name.rpartition(".")
        names, lead = renames[module]
        return Entry(tuple(f"{module}.{leaf}" for module in names), axes, lead)

    return layout
