"""What ktjax asks of a model: a `Classifier`, which prepares its own input on the device.

Student and teachers can therefore share one uint8 batch although their sizes and normalizations
differ. A Classifier computes in the dtype of the parameters it is given; its outputs are float32.
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
# How timm makes an image's proportions those of the input; data/decode.py does it.
CROP_MODES = ("center", "squash", "border")


class Output(NamedTuple):
    """What a model answers for a batch; both float32."""

    logits: jax.Array  # [B, C]
    features: jax.Array | None  # [B, D], what the head reads; None where only logits were kept


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input that a model was trained with, in timm's terms."""

    size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # for values from 0 to 1
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0  # share of the shorter side that is kept; the decoder crops
    crop_mode: str = "center"  # one of CROP_MODES

    @property
    def fill(self) -> tuple[int, int, int]:
        """The color of borders, in timm the mean."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def prepare(self, image_BxHxWx3: jax.Array) -> jax.Array:
        """Resizes (antialiased) and normalizes uint8 images: float32 [B, height, width, 3].

        Images of the model's own size are only normalized, which gives what timm's transform gives.
        Larger images have been resized once already, so they are resized twice in all; the filters
        are Pillow's, in floating point. tests/shared_batch_test.py measures what that costs.

        Raises:
          ValueError: the images are not uint8; normalizing them a second time would give nonsense.
            Or they are no batch.
        """
        if image_BxHxWx3.dtype != jnp.uint8:
            raise ValueError(
                f"A Classifier takes uint8 images and normalizes them itself, not "
                f"{image_BxHxWx3.dtype}."
            )
        if image_BxHxWx3.ndim != 4 or image_BxHxWx3.shape[-1] != 3:
            raise ValueError(
                f"A Classifier takes images [B, H, W, 3], not {list(image_BxHxWx3.shape)}: one "
                "image is image[None]. ktjax.predict takes images of any size, and paths."
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
    """An architecture that `ktjax.models.MODELS` has not: what a Classifier brings with it."""

    def export(
        self, classifier: "Classifier", folder: Path, *, format: str, facts: Mapping[str, Any]
    ) -> None:
        """Writes the classifier to a folder, with more `facts` in config.json."""

    def replace_head(
        self, classifier: "Classifier", classes: Sequence[str], *, head: str, seed: int
    ) -> "Classifier":
        """The classifier with a new last layer for other classes."""

    def select(
        self, classifier: "Classifier", place_C: np.ndarray, classes: Sequence[str]
    ) -> "Classifier":
        """The classifier with the classes at these places alone; ValueError where it cannot."""

    def head_of(self, classifier: "Classifier") -> Variables:
        """Which variables are the last layer's: a tree of bools."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An image classifier: its function, its weights, and what its input looks like.

    Attributes:
      name: what the user calls it.
      architecture: its entry in `ktjax.models.MODELS`, which an exported folder is read back with;
        or what it is called where `definition` says what it is.
      forward: the network, on images that are already resized and normalized.
      variables: `params` and, where the model has BatchNorm, `batch_stats`.
      input: size and normalization.
      classes: the names of the classes, in the order of the logits.
      origin: where the weights come from, in words.
      options: what the architecture was built with, by timm's names.
      definition: what the architecture is, unless it is in `ktjax.models.MODELS`.
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
          variables: `params` and `batch_stats`, in the floating dtype that is to be computed in.
          image_BxHxWx3: uint8 images. Of another size than the model's they are stretched to it;
            `ktjax.predict` resizes and crops them by the model's own transform.
          train: dropout and stochastic depth on, BatchNorm on the batch's own statistics.
          rngs: keys for dropout and stochastic depth, by name.
          freeze_stats: BatchNorm on its running statistics although `train`.

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

    The module's BatchNorm layers use the batch's statistics exactly where `batch_stats` is mutable.
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
    """Parts of an array along an axis, or what is known of them where it is a shape alone."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = (*leaf.shape[:axis], len(place_N), *leaf.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    return leaf.take(place_N, axis=axis)


def average(classifiers: Sequence[Classifier]) -> Classifier:
    """A uniform soup: the mean of all weights and BatchNorm statistics (paper section 5.3).

    Raises:
      ValueError: the classifiers are not all of one architecture.
    """
    first = classifiers[0]
    for other in classifiers[1:]:
        same = jax.tree.map(jnp.shape, other.variables) == jax.tree.map(jnp.shape, first.variables)
        if other.architecture != first.architecture or not same:
            widths = "" if other.architecture != first.architecture else ", of other widths"
            raise ValueError(
                f"A soup averages models of one architecture: {first.name} is "
                f"{first.architecture}, {other.name} is {other.architecture}{widths}."
            )

    def mean(*leaves: Any) -> Any:
        return jnp.mean(jnp.stack(leaves), axis=0)

    variables = jax.tree.map(mean, *(classifier.variables for classifier in classifiers))
    return dataclasses.replace(first, variables=variables)
