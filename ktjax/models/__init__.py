"""name -> Classifier: architectures, pretrained models, the embedded zoo, exported folders."""

from ktjax.models.classes import HasClasses, check_classes, has_classes
from ktjax.models.loading import HEADS, ZOO, blank, head_of, load, locate, replace_head, zoo
from ktjax.models.registry import (
    FAMILIES,
    MODELS,
    TESTING,
    check_architecture,
    create,
    family,
    skeleton,
)

__all__ = [
    "FAMILIES",
    "HEADS",
    "MODELS",
    "TESTING",
    "ZOO",
    "HasClasses",
    "blank",
    "check_architecture",
    "check_classes",
    "create",
    "family",
    "has_classes",
    "head_of",
    "load",
    "locate",
    "replace_head",
    "skeleton",
    "zoo",
]
