"""Models whose classes are a data set's in another order, under other names, or among others.

Classes are matched by name, never by position, unless they have no names and the user asks for it.
ImageNet's have several names: synset (`n01440764`), number, words (`tench, Tinca tinca`).
"""

import collections
import dataclasses
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import imagenet, spelling
from ktjax.classifier import Classifier, Forward, Output, take
from ktjax.models import heads, registry, zero_shot
from ktjax.models.classes import check_classes, has_classes, is_nameless

_LOG = logging.getLogger(__name__)
_NAMED = 5  # classes in a message


def fitted(
    classifier: Classifier,
    classes: Sequence[str],
    data: str,
    *,
    trained: bool = False,
    by_position: bool = False,
) -> Classifier:
    """The classifier with the data set's classes in their order; changes are logged.

    A zero-shot classifier gets the names of the classes. A classifier with more classes keeps those
    of the data set: the softmax over their logits is renormalized.

    Args:
      classifier: its variables may be shapes.
      classes: the data set's.
      data: the data set's name.
      trained: it is a student, which must keep all its classes, and whose weights are exported.
      by_position: classes without names are the data set's, in the same order.

    Raises:
      ValueError: it lacks classes, or they cannot be identified; or a student has others too.
    """
    classifier = zero_shot.named(classifier, classes)
    if has_classes(classifier, classes):
        return classifier
    count = len(classifier.classes)
    if is_nameless(classifier.classes) and count == len(classes):
        if by_position:
            return dataclasses.replace(classifier, classes=tuple(classes))
        raise ValueError(
            f"{classifier.name} does not name its {count} classes: add label_names to its "
            "config.json (for your own module: give classes=NAMES), or set config.classes to "
            f"position if they are those of {data}, in order."
        )
    found_C = places(classifier.classes, classes)
    lacking = [name for name, place in zip(classes, found_C, strict=True) if place < 0]
    if len(lacking) == len(classes):
        try:
            check_classes(classifier, classes, data)
        except ValueError as error:
            raise ValueError(
                f"{error} To train a new last layer for these: ktjax --workdir=W "
                f"--config=pretrain:model={classifier.name},data={data},train=head, and then use "
                "W instead."
            ) from None
    if lacking:
        raise ValueError(
            f"{classifier.name} lacks {len(lacking):,} of the {len(classes):,} classes of {data}: "
            f"{_listed(lacking)}. config.classes=shared uses only those that all have."
        )
    if count > len(classes) and trained:
        raise ValueError(
            f"{classifier.name} has {count:,} classes, {len(classes):,} of them those of {data}: a "
            "student must have exactly the classes of the data. config.classes=shared drops the "
            "others; ktjax --workdir=W "
            f"--config=pretrain:model={classifier.name},data={data},train=head trains a new head."
        )
    if count > len(classes):
        _LOG.warning(
            "%s: of its %s classes the %s of %s are kept, and probabilities renormalized.",
            classifier.name,
            f"{count:,}",
            f"{len(classes):,}",
            data,
        )
    elif (found_C == np.arange(count)).all():
        _LOG.warning("%s: its classes are those of %s under other names.", classifier.name, data)
    else:
        _LOG.warning("%s: its classes are those of %s in another order.", classifier.name, data)
    return select(classifier, found_C, classes, trained=trained)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more


def places(theirs: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Where a model has each of these classes, by name: int [C], -1 if it lacks the class.

    By the exact name first, since `a` and `A` may both exist; then by the class's other names.
    """
    ours, others = list(map(spelling.composed, classes)), list(map(spelling.composed, theirs))
    found_C = _matched(others, ours)
    free = set(range(len(theirs))) - set(found_C.tolist())
    their_keys = [key if i in free else None for i, key in enumerate(_keys(others))]
    our_keys = [None if at >= 0 else key for at, key in zip(found_C, _keys(ours), strict=True)]
    return np.maximum(found_C, _matched(their_keys, our_keys))


def _matched(theirs: Sequence[str | None], ours: Sequence[str | None]) -> np.ndarray:
    """Where each is among theirs, int; -1 if there is none, or several."""
    once, counts = collections.Counter(ours), collections.Counter(theirs)
    at = {name: i for i, name in enumerate(theirs) if counts[name] == 1}
    known = (name is not None and once[name] == 1 for name in ours)
    return np.asarray([at.get(n, -1) if k else -1 for n, k in zip(ours, known, strict=True)], int)


def _keys(names: Sequence[str]) -> list[str]:
    """A canonical name for each class."""
    synsets = imagenet.synsets()
    plain = [_plain(name) for name in names]
    if len(names) == len(synsets) and sorted(plain) == sorted(map(str, range(len(synsets)))):
        return [synsets[int(name)] for name in plain]
    aliases, times = _aliases(), collections.Counter(plain)
    met: dict[str, int] = {}
    keys = []
    for name in plain:
        known = aliases.get(name, ())
        # Of two classes called `crane` the bird comes first, as in all lists.
        number = met[name] = met.get(name, -1) + 1
        keys.append(known[number] if times[name] == len(known) else name)
    return keys


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@functools.cache
def _aliases() -> Mapping[str, tuple[str, ...]]:
    """Name of an ImageNet-1k class -> the synsets that have it."""
    whole: dict[str, tuple[str, ...]] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for synset, text in zip(imagenet.synsets(), imagenet.words(), strict=True):
        whole[_plain(text)] = (*whole.get(_plain(text), ()), synset)
        for part in {_plain(part) for part in text.split(",")}:
            parts[part] = (*parts.get(part, ()), synset)
    alone = {name: synsets for name, synsets in parts.items() if len(synsets) == 1}
    return alone | whole | {synset: (synset,) for synset in imagenet.synsets()}


def select(
    classifier: Classifier, place_C: np.ndarray, classes: Sequence[str], *, trained: bool
) -> Classifier:
    """The classifier with only these of its classes, in this order, under other names.

    The last layer drops the others. If the last layer is unknown, the logits drop them, which is
    enough for a teacher.

    Args:
      classifier: its variables may be shapes.
      place_C: where it has each class.
      classes: their new names.
      trained: it is a student, whose weights are exported.

    Raises:
      ValueError: it is a student, and its last layer is unknown.
    """
    if len(place_C) == len(classifier.classes) and (place_C == np.arange(len(place_C))).all():
        return dataclasses.replace(classifier, classes=tuple(classes))
    if classifier.definition is not None:
        try:
            return classifier.definition.select(classifier, place_C, classes)
        except ValueError:
            if trained:
                raise
        forward = _Selected(classifier.forward, tuple(map(int, place_C)))
        return dataclasses.replace(classifier, forward=forward, classes=tuple(classes))
    size, options = classifier.input.size, dict(classifier.options)
    build = functools.partial(registry.skeleton, classifier.architecture)
    count = len(classifier.classes)
    more, _ = build((*classifier.classes, "one more"), size, options)
    forward = classifier.forward
    if len(classes) != count:
        forward = build(classes, size, options)[0].forward

    def chosen(in_head: bool, leaf: Any, larger: Any) -> Any:
        if not in_head:
            return leaf
        axis = next(i for i, n in enumerate(larger.shape) if n != leaf.shape[i])
        return take(leaf, place_C, axis)

    variables = jax.tree.map(
        chosen, heads.head_of(classifier), dict(classifier.variables), more.variables
    )
    return dataclasses.replace(
        classifier, variables=variables, forward=forward, classes=tuple(classes)
    )


@dataclasses.dataclass(frozen=True)
class _Selected:
    """A forward that returns some of the logits."""

    forward: Forward
    place_C: tuple[int, ...]

    def __call__(self, *args: Any, **options: Any) -> tuple[Output, Any]:
        output, stats = self.forward(*args, **options)
        return output._replace(logits=output.logits[:, jnp.asarray(self.place_C)]), stats
