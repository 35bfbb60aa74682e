"""name -> Classifier: architectures, pretrained models, the embedded zoo, exported folders."""

from ktjax.models.classes import HasClasses, check_classes, has_classes
from ktjax.models.heads import HEADS, head_of, replace_head
from ktjax.models.labels import fitted, places, select
from ktjax.models.loading import ZOO, blank, identity, load, locate, protocol, zoo
from ktjax.models.registry import (
    FAMILIES,
    MODELS,
    TESTING,
    check_architecture,
    create,
    family,
    inductive_bias,
    skeleton,
)
from ktjax.models.zero_shot import TEMPLATES, named

__all__ = [
    "FAMILIES",
    "HEADS",
    "MODELS",
    "TEMPLATES",
    "TESTING",
    "ZOO",
    "HasClasses",
    "blank",
    "check_architecture",
    "check_classes",
    "create",
    "family",
    "fitted",
    "has_classes",
    "head_of",
    "identity",
    "inductive_bias",
    "load",
    "locate",
    "named",
    "places",
    "protocol",
    "replace_head",
    "select",
    "skeleton",
    "zoo",
]
