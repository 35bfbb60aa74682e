"""The model interface of ktjax: a `Classifier`, which prepares its own input on the device.

Student and teachers can therefore share one uint8 batch even if their input sizes and
normalizations differ. A Classifier computes in the dtype of the parameters it is given; its outputs
are float32.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Variables = Mapping[str, Any]
# How timm fits an image to the input's aspect ratio; implemented in data/decode.py.
CROP_MODES = ("center", "squash", "border")


class Output(NamedTuple):
    """A model's output for a batch; both float32."""

    logits: jax.Array  # [B, C]
    features: jax.Array | None  # [B, D], the head's input; None if only logits were kept


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input a model was trained with, in timm's terms."""

    size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # for values in [0, 1]
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0  # fraction of the shorter side that is kept; the decoder crops
    crop_mode: str = "center"  # one of CROP_MODES

    @property
    def fill(self) -> tuple[int, int, int]:
        """The color of borders: the mean, as in timm."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def prepare(self, image_BxHxWx3: jax.Array) -> jax.Array:
        """Resizes (antialiased) and normalizes uint8 images: float32 [B, height, width, 3].

        Images of the model's own size are only normalized, which matches timm's transform. Images
        of another size were already resized once, so they are resized twice in all; the filters are
        Pillow's, in floating point. tests/shared_batch_test.py measures what that costs.

        Raises:
          ValueError: the images are not uint8 (normalizing them twice would give nonsense), or not
            a batch.
        """
        if image_BxHxWx3.dtype != jnp.uint8:
            raise ValueError(
                f"A Classifier takes uint8 images and normalizes them itself, not "
                f"{image_BxHxWx3.dtype}."
            )
        if image_BxHxWx3.ndim != 4 or image_BxHxWx3.shape[-1] != 3:
            raise ValueError(
                f"A Classifier takes images [B, H, W, 3], not {list(image_BxHxWx3.shape)}: pass a "
                "single image as image[None]. ktjax.predict takes images of any size, and paths."
            )
        x = image_BxHxWx3.astype(jnp.float32) / 255
        if x.shape[1:3] != self.size:
            shape = (x.shape[0], *self.size, 3)
            x = jax.image.resize(x, shape, self.interpolation, antialias=True)
        mean, std = (jnp.asarray(v, x.dtype)[None, None, None] for v in (self.mean, self.std))
        return (x - mean) / std


# forward(variables, x_BxHxWx3, *, train, rngs, freeze_stats) -> (Output, batch_stats)
Forward = Callable[..., tuple[Output, Any]]


class Definition(Protocol):
    """An architecture that is not in `ktjax.models.MODELS`; its Classifier carries this along."""

    @property
    def drops(self) -> bool:
        """Whether it answers differently in training, BatchNorm aside: by dropout, for example."""

    def export(
        self, classifier: "Classifier", folder: Path, *, format: str, facts: Mapping[str, Any]
    ) -> None:
        """Writes the classifier to a folder, with additional `facts` in config.json."""

    def replace_head(
        self, classifier: "Classifier", classes: Sequence[str], *, head: str, seed: int
    ) -> "Classifier":
        """The classifier with a new last layer for other classes."""

    def select(
        self, classifier: "Classifier", place_C: np.ndarray, classes: Sequence[str]
    ) -> "Classifier":
        """The classifier with only the classes at these places; ValueError if it cannot."""

    def head_of(self, classifier: "Classifier") -> Variables:
        """Which variables belong to the last layer: a tree of bools."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An image classifier: its function, its weights, and its input format.

    Attributes:
      name: the user's name for it.
      architecture: its entry in `ktjax.models.MODELS`, used to read an exported folder back; or
        just a name if there is a `definition`.
      forward: the network, on images that are already resized and normalized.
      variables: `params` and, where the model has BatchNorm, `batch_stats`.
      input: size and normalization.
      classes: the names of the classes, in the order of the logits.
      origin: where the weights come from, in words.
      options: the architecture's options, by timm's names.
      definition: the architecture, unless it is in `ktjax.models.MODELS`.
    """

    name: str
    architecture: str
    forward: Forward = dataclasses.field(repr=False)
    variables: Variables = dataclasses.field(repr=False)
    input: InputSpec
    classes: tuple[str, ...] = dataclasses.field(repr=False)  # there may be thousands
    origin: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    definition: Definition | None = dataclasses.field(default=None, repr=False)

    def apply(
        self,
        variables: Variables,
        image_BxHxWx3: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        freeze_stats: bool = False,
    ) -> tuple[Output, Any]:
        """Classifies uint8 images.

        Args:
          variables: `params` and `batch_stats`, in the floating dtype to compute in.
          image_BxHxWx3: uint8 images. If they are not the model's size they are stretched to it;
            `ktjax.predict` resizes and crops them by the model's own transform.
          train: enables dropout and stochastic depth, and BatchNorm uses the batch's statistics.
          rngs: keys for dropout and stochastic depth, by name.
          freeze_stats: BatchNorm uses its running statistics even with `train`.

        Returns:
          The Output in float32, and `batch_stats` after the batch (unchanged when not training).
        """
        dtype = jax.tree.leaves(variables["params"])[0].dtype
        x = self.input.prepare(image_BxHxWx3).astype(dtype)
        output, stats = self.forward(
            variables, x, train=train, rngs=rngs, freeze_stats=freeze_stats
        )
        return jax.tree.map(lambda a: a.astype(jnp.float32), output), stats

    def num_parameters(self) -> int:
        """How many numbers `params` holds."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))


def linen_forward(module: nn.Module) -> Forward:
    """The `forward` of a Linen module called as `module(x, train=...) -> Output`.

    The module's BatchNorm layers use the batch's statistics exactly when `batch_stats` is mutable.
    """

    def forward(variables, x, *, train, rngs, freeze_stats):
        stats = variables.get("batch_stats", {})
        if not train or freeze_stats or not stats:
            return module.apply(variables, x, train=train, rngs=rngs), stats
        output, updates = module.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return output, updates["batch_stats"]

    return forward


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """The tree with its floating-point leaves in `dtype`."""

    def leaf(a):
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(leaf, tree)


def take(leaf: Any, place_N: np.ndarray, axis: int) -> Any:
    """Selects places of an array along an axis; a ShapeDtypeStruct gives the resulting shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = (*leaf.shape[:axis], len(place_N), *leaf.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    return leaf.take(place_N, axis=axis)


def average(classifiers: Sequence[Classifier]) -> Classifier:
    """A uniform soup: the mean of all weights and BatchNorm statistics (paper section 5.3).

    Raises:
      ValueError: the classifiers do not all have the same architecture.
    """
    first = classifiers[0]
    for other in classifiers[1:]:
        same = jax.tree.map(jnp.shape, other.variables) == jax.tree.map(jnp.shape, first.variables)
        if other.architecture != first.architecture or not same:
            widths = "" if other.architecture != first.architecture else " with different widths"
            raise ValueError(
                f"A soup needs models of the same architecture: {first.name} is "
                f"{first.architecture}, {other.name} is {other.architecture}{widths}."
            )

    def mean(*leaves: Any) -> Any:
        return jnp.mean(jnp.stack(leaves), axis=0)

    variables = jax.tree.map(mean, *(classifier.variables for classifier in classifiers))
    return dataclasses.replace(first, variables=variables)
