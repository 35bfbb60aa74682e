"""The names of a model's classes, and whether they are those of a data set."""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from ktjax import imagenet

# Some of ImageNet-1k's classes in words, as transformers' configs name them all.
_IN_WORDS = {
    **{0: "tench", 1: "goldfish", 281: "tabby", 388: "giant panda", 817: "sports car"},
    **{954: "banana", 999: "toilet tissue"},
}


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, as far as config.json has them."""
    for place in (config, config["pretrained_cfg"]):
        if place.get("label_names"):
            return tuple(place["label_names"])
    count = config["num_classes"]
    if count == len(imagenet.synsets()):
        return imagenet.synsets()
    if count == len(imagenet.synsets()) + 1:  # as TensorFlow's models count
        return ("background", *imagenet.synsets())
    names = list(numbered(count))
    for synset, place in zip(imagenet.synsets(), _larger().get(str(count), ()), strict=False):
        if place >= 0:
            names[place] = synset
    return tuple(names)


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(f"class {i}" for i in range(count))


def is_nameless(names: Sequence[str]) -> bool:
    """Whether the names are only numbers, ours or those of transformers."""
    starts = ("class ", "LABEL_")
    return any(all(name == f"{s}{i}" for i, name in enumerate(names)) for s in starts)


@functools.cache
def _larger() -> Mapping[str, Sequence[int]]:
    """The positions of ImageNet-1k's classes in larger sets, by the size of the set; -1: missing.

    Google's 21,843, timm's 12k, and the two of MIIL; tests/goldens/make_imagenet_lists.py wrote it.
    """
    file = resources.files("ktjax") / "models" / "imagenet_larger.json"
    return json.loads(file.read_text(encoding="utf-8"))


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are the classes of ImageNet-1k in their order: synsets, words, or no names."""
    if len(classes) != len(imagenet.synsets()):
        return False
    in_words = all(classes[i].lower().startswith(name) for i, name in _IN_WORDS.items())
    nameless = all(name == f"LABEL_{i}" for i, name in enumerate(classes))  # in transformers
    return in_words or nameless or tuple(classes) == imagenet.synsets()


class HasClasses(Protocol):
    """Anything that predicts classes: a Classifier, or a store."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""


def has_classes(classifier: HasClasses, classes: Sequence[str]) -> bool:
    """Whether the classifier predicts these classes; those of ImageNet have several names."""
    same = classifier.classes == tuple(classes)
    return same or (is_imagenet(classifier.classes) and is_imagenet(classes))


def check_classes(classifier: HasClasses, classes: Sequence[str], data: str) -> None:
    """Raises ValueError unless the classifier predicts the classes of the data set."""
    if has_classes(classifier, classes):
        return
    if len(classifier.classes) != len(classes):
        raise ValueError(
            f"{classifier.name} has {len(classifier.classes)} classes, {data} has {len(classes)}."
        )
    at = next(i for i, c in enumerate(classes) if c != classifier.classes[i])
    raise ValueError(
        f"{classifier.name} has different classes from {data}: class {at} is "
        f"'{classifier.classes[at]}' there and '{classes[at]}' here."
    )
