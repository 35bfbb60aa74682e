"""The last layer of a classifier: finds it, and makes new ones for other classes."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ktjax.classifier import Classifier, Variables
from ktjax.models import registry, zero_shot

HEADS = ("zero", "random")  # how a new head is initialized


def replace_head(
    classifier: Classifier, classes: Sequence[str], *, head: str, seed: int = 0
) -> Classifier:
    """The classifier with a new last layer for other classes.

    Args:
      classifier: its architecture is in MODELS, or it has a definition.
      classes: the names of the new classes.
      head: `zero`, or `random`, initialized as in timm.
      seed: the seed of a random head.

    Raises:
      ValueError: no such kind of head.
    """
    check_head(head)
    if isinstance(classifier.definition, zero_shot.Unnamed):
        classifier = dataclasses.replace(classifier, definition=None)
    if classifier.definition is not None:
        return classifier.definition.replace_head(classifier, classes, head=head, seed=seed)
    shapes, module = registry.skeleton(
        classifier.architecture, classes, classifier.input.size, classifier.options
    )
    if head == "zero":
        new = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes.variables)
    else:
        new = registry.draw(module, shapes.input, seed=seed)
    variables = jax.tree.map(
        lambda in_head, a, b: a if in_head else b,
        head_of(classifier),
        new,
        dict(classifier.variables),
    )
    return dataclasses.replace(
        classifier,
        variables=variables,
        forward=shapes.forward,
        classes=tuple(classes),
        origin=f"{classifier.origin}, new head",
    )


def head_of(classifier: Classifier) -> Variables:
    """Which variables belong to the head, the last layer: a tree of bools."""
    if classifier.definition is not None:
        return classifier.definition.head_of(classifier)
    classes = (*classifier.classes, "one more")
    more, _ = registry.skeleton(
        classifier.architecture, classes, classifier.input.size, classifier.options
    )
    # The head is what depends on the number of classes.
    return jax.tree.map(lambda a, b: a.shape != b.shape, dict(classifier.variables), more.variables)


def check_head(head: str) -> None:
    """Raises ValueError unless this is a way to initialize a head."""
    if head not in HEADS:
        raise ValueError(f"No head '{head}'. Known: {', '.join(HEADS)}.")
