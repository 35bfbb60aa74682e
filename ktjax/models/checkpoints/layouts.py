"""Where a file has each parameter of a network: ktjax's names, timm's, transformers'.

Modules have timm's names, so ktjax's and timm's names are both the path of the Flax parameter.
transformers has its own names for each type of model, which are in hf_names.py.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Names of leaves: Flax's -> torch's. All others are the same.
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Number of a kernel's axes -> the argument of np.transpose that turns Flax's into torch's.
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
# Suffixes of torch's entries that a network computes for itself or does not need.
IGNORED = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "position_ids",
    "mask_token",
)


class Entry(NamedTuple):
    """Where a file has a parameter."""

    names: tuple[str, ...]  # the file's entries; several: the parameter is these, stacked
    axes: tuple[int, ...] | None = None  # its transposition in the file; None: none
    lead: int = 0  # the number of axes of length 1 that the file has before the others

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each of the file's entries, for a parameter of this shape."""
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
            name: np.asarray(part.reshape(lead + part.shape), order="C")
            for name, part in zip(self.names, parts, strict=True)
        }


# layout(path of a leaf in `variables`, its number of axes) -> Entry
Layout = Callable[[tuple[str, ...], int], Entry]


def ktjax(path: tuple[str, ...], ndim: int) -> Entry:
    """Names are the path, joined by "/"; arrays are as Flax has them."""
    del ndim
    return Entry(("/".join(path),))


def timm(path: tuple[str, ...], ndim: int) -> Entry:
    """Names are the path without its collection, joined by "."; leaves and axes are torch's."""
    _, *modules, leaf = path
    axes = AXES.get(ndim) if leaf == "kernel" else None
    return Entry((".".join([*modules, LEAVES.get(leaf, leaf)]),), axes)


class Renamed(NamedTuple):
    """transformers' name for one of timm's modules or parameters."""

    names: tuple[str, ...]  # several: timm has one where transformers has these
    lead: int = 0  # as in Entry


def transformers(renames: Mapping[str, Renamed]) -> Layout:
    """timm's layout with other names for parameters, or for the modules that have them."""

    def layout(path: tuple[str, ...], ndim: int) -> Entry:
        (name,), axes, _ = timm(path, ndim)
        if name in renames:
            return Entry(renames[name].names, axes, renames[name].lead)
        module, _, leaf = name.rpartition(".")
        names, lead = renames[module]
        return Entry(tuple(f"{module}.{leaf}" for module in names), axes, lead)

    return layout
