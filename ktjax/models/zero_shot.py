"""Zero-shot classifiers, `zeroshot:NAME`: CLIP and SigLIP, for classes of any name.

Their image tower is a network like any other (networks/contrastive.py); the kernel of its last
layer holds the text tower's embeddings of the class names, computed once. They are loaded without
classes, and get those of the data set where other models' classes are matched with it
(`ktjax.models.fitted`).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import imagenet
from ktjax.classifier import Classifier, Variables
from ktjax.models import registry
from ktjax.models.checkpoints import (
    entries,
    hf_kinds,
    hub,
    layouts,
    processors,
    repositories,
    weights,
)
from ktjax.models.classes import is_nameless
from ktjax.models.networks import clip_text

PREFIX = "zeroshot:"  # before a folder, or a repository on the hub
TEMPLATES = (clip_text.TEMPLATE,)
# Entries of the weights file that belong to the text tower.
_TEXT = ("text_model.", "text_projection.")


@dataclasses.dataclass(frozen=True)
class Unnamed:
    """`definition` of a classifier that has no classes yet.

    Attributes:
      where: the folder or repository.
      templates: texts in which {} stands for the name of a class.
    """

    where: str
    templates: tuple[str, ...]
    drops = False  # options aside

    def named(self, classifier: Classifier, classes: Sequence[str]) -> Classifier:
        """The classifier for these classes; if its variables are shapes, nothing is computed.

        Raises:
          ValueError: the names are only numbers, or the text tower does not fit the image tower.
        """
        if classes and is_nameless(classes):
            raise ValueError(
                f"{classifier.name} classifies by the names of the classes, and '{classes[0]}' "
                "says nothing."
            )
        shapes, _ = registry.skeleton(
            classifier.architecture, classes, classifier.input.size, dict(classifier.options)
        )
        kernel_DxC = shapes.variables["params"]["head"]["kernel"]
        params = dict(classifier.variables["params"])
        if not isinstance(params["logit_scale"], jax.ShapeDtypeStruct):
            names = imagenet.in_words(classes)
            text_CxD = clip_text.embed_names(self.where, names, *self.templates)
            if text_CxD.shape != kernel_DxC.shape[::-1]:
                raise ValueError(
                    f"{classifier.name}: image embeddings have {kernel_DxC.shape[0]} dimensions, "
                    f"and text embeddings {text_CxD.shape[1]}."
                )
            kernel_DxC = jnp.asarray(text_CxD.T)
        return dataclasses.replace(
            classifier,
            forward=shapes.forward,
            variables={"params": params | {"head": {"kernel": kernel_DxC}}},
            classes=tuple(classes),
            definition=None,
        )

    def export(
        self, classifier: Classifier, folder: Path, *, format: str, facts: Mapping[str, Any]
    ) -> None:
        """Raises ValueError: there are no classes yet."""
        del folder, format, facts
        self._refuse(classifier)

    def replace_head(
        self, classifier: Classifier, classes: Sequence[str], *, head: str, seed: int
    ) -> Classifier:
        """Likewise."""
        del classes, head, seed
        self._refuse(classifier)

    def select(
        self, classifier: Classifier, place_C: np.ndarray, classes: Sequence[str]
    ) -> Classifier:
        """Likewise."""
        del place_C, classes
        self._refuse(classifier)

    def head_of(self, classifier: Classifier) -> Variables:
        """Likewise."""
        self._refuse(classifier)

    def _refuse(self, classifier: Classifier) -> NoReturn:
        raise ValueError(
            f"{classifier.name} has no classes of its own: name them with "
            "ktjax.load_model(NAME, classes=...)."
        )


def named(classifier: Classifier, classes: Sequence[str]) -> Classifier:
    """The classifier for these classes, if it has none yet; else as it is."""
    if not isinstance(classifier.definition, Unnamed):
        return classifier
    return classifier.definition.named(classifier, classes)


def locate(name: str) -> hub.Checkpoint:
    """The checkpoint of a name with PREFIX; raises as `load` does, but reads no weights."""
    where = _where(name)
    path = clip_text.folder_of(where, weights.CONFIG) / weights.CONFIG
    whole = clip_text.read_config(path)
    kind = next((k for k, v in hf_kinds.ZERO_SHOT.items() if v.model_type == whole.model_type), "")
    if not kind:
        raise ValueError(f"{path} is of a text tower only, and '{name}' needs an image tower too.")
    options, fixed = hf_kinds.ZERO_SHOT[kind].options, hf_kinds.ZERO_SHOT[kind].fixed
    vision = whole.vision_config.to_dict()
    for field, value in fixed.items():
        if vision[field] != value:
            raise ValueError(
                f"{path} has {field}={vision[field]!r}; ktjax supports only {value!r}."
            )
    if "projection_dim" in options:  # of both towers; the image tower's own may differ
        vision["projection_dim"] = whole.projection_dim
    folder = clip_text.folder_of(where, processors.PREPROCESSOR, *clip_text.WEIGHTS)
    seen = {"model_type": whole.model_type, "image_size": vision["image_size"]}
    preprocessor = folder / processors.PREPROCESSOR
    spec = processors.read(preprocessor, seen)
    weights.check_cfg(spec, str(preprocessor))
    config = {
        "format": weights.ZERO_SHOT,
        "architecture": kind,
        "num_classes": 0,
        "model_args": {option: vision[option] for option in options},
        "origin": f"pretrained {where}",
        "pretrained_cfg": spec,
    }
    return hub.Checkpoint(clip_text.weights_of(folder, where), config)


def blank(
    name: str,
    found: hub.Checkpoint,
    *,
    templates: Sequence[str] = TEMPLATES,
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """The classifier without classes, whose variables are shapes only."""
    spec = weights.input_spec(found.config)
    spec = spec if size is None else dataclasses.replace(spec, size=size)
    options = {**found.config["model_args"], **(options or {})}
    shapes, _ = registry.skeleton(found.config["architecture"], (), spec.size, options)
    return dataclasses.replace(
        shapes,
        name=name,
        input=spec,
        origin=found.config["origin"],
        definition=Unnamed(_where(name), tuple(templates)),
    )


def load(name: str, found: hub.Checkpoint, **asked: Any) -> Classifier:
    """The classifier without classes, with the weights of its image tower; arguments as `blank`'s.

    Raises:
      ValueError: entries missing, unexpected or misshapen; all of them are listed.
    """
    shapes = blank(name, found, **asked)
    _, module = registry.skeleton(shapes.architecture, (), shapes.input.size, dict(shapes.options))
    names = hf_kinds.ZERO_SHOT[shapes.architecture].names(**shapes.options)
    renames = {a: b if isinstance(b, layouts.Renamed) else layouts.Renamed((b,)) for a, b in names}
    head = jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(key, "key", None) == "head" for key in path),
        dict(shapes.variables),
    )
    return weights.fill(
        shapes,
        _as_ours(entries.read(found.path, ignored=_TEXT)),
        layout=layouts.transformers(renames),
        adapt=getattr(module, "adapt", None),
        made_for=weights.input_spec(found.config).size,
        where=found.path,
        head=head,
    )


def _where(name: str) -> str:
    where = name.removeprefix(PREFIX)
    return repositories.of(where) or os.path.expanduser(where)


def _as_ours(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries with the axes of ktjax's parameters, and queries separate from keys and values.

    Entries whose shapes are not transformers' stay as they are, and will not fit.
    """
    arrays = dict(found)
    for name, shape in (
        ("vision_model.embeddings.class_embedding", (1, 1, -1)),
        ("logit_scale", ()),
        ("logit_bias", ()),
    ):
        if name in arrays and (shape or arrays[name].size == 1):
            arrays[name] = arrays[name].reshape(shape)
    name = "vision_model.embeddings.position_embedding.weight"
    if name in arrays:
        arrays[name] = arrays[name][None]
    start = "vision_model.head.attention"
    for leaf in ("weight", "bias"):
        if f"{start}.in_proj_{leaf}" in arrays:
            array = arrays.pop(f"{start}.in_proj_{leaf}")
            q, kv = np.split(array, [len(array) // 3])
            arrays |= {f"{start}.q.{leaf}": q, f"{start}.kv.{leaf}": kv}
    return arrays
