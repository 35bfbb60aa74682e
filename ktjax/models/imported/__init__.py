"""Torch modules as graphs: exported once by torch, then run, trained and written without it."""

from ktjax.models.imported.importing import FORCED, cached, import_named, import_torch, obstacle
from ktjax.models.imported.model import GRAPH, Imported, blank, load

__all__ = [
    "FORCED",
    "GRAPH",
    "Imported",
    "blank",
    "cached",
    "import_named",
    "import_torch",
    "load",
    "obstacle",
]
