"""Text towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023), for names of classes.

Reads what Hugging Face's transformers writes: config.json, model.safetensors and the tokenizer.
Parts have the same names as there.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ktjax import files
from ktjax.classifier import Variables
from ktjax.models.checkpoints import entries, weights
from ktjax.models.networks.norms import LayerNorm

ACTIVATIONS = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": nn.gelu,
}
TEMPLATE = "a photo of a {}."
_BATCH = 64

# These repositories' `main` is pickled; the commits are the Hub's own conversions of it.
_REVISIONS = {"openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef"}

# Flax module -> its name in the checkpoint; {} is the number of the layer.
_MODULES = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "position_embedding": "text_model.embeddings.position_embedding",
    "layers_{}/layer_norm1": "text_model.encoder.layers.{}.layer_norm1",
    "layers_{}/q_proj": "text_model.encoder.layers.{}.self_attn.q_proj",
    "layers_{}/k_proj": "text_model.encoder.layers.{}.self_attn.k_proj",
    "layers_{}/v_proj": "text_model.encoder.layers.{}.self_attn.v_proj",
    "layers_{}/out_proj": "text_model.encoder.layers.{}.self_attn.out_proj",
    "layers_{}/layer_norm2": "text_model.encoder.layers.{}.layer_norm2",
    "layers_{}/fc1": "text_model.encoder.layers.{}.mlp.fc1",
    "layers_{}/fc2": "text_model.encoder.layers.{}.mlp.fc2",
    "final_layer_norm": "text_model.final_layer_norm",
    "text_projection": "text_projection",
}
_SIGLIP = {"text_projection": "text_model.head"}  # if that differs
_LEAVES = {"embedding": "weight", "scale": "weight", "kernel": "weight", "bias": "bias"}
# Entries that belong to other parts, and a buffer in older files.
_IGNORED = (
    "vision_model.",
    "visual_projection.",
    "logit_scale",
    "logit_bias",
    "text_model.embeddings.position_ids",
)


class Layer(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut."""

    num_heads: int
    hidden: int
    activation: str
    epsilon: float
    causal: bool

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        width = x_BxLxD.shape[-1]
        heads = (*x_BxLxD.shape[:-1], self.num_heads, width // self.num_heads)
        y = LayerNorm(self.epsilon, name="layer_norm1")(x_BxLxD)
        q, k, v = (nn.Dense(width, name=f"{n}_proj")(y).reshape(heads) for n in "qkv")
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal).reshape(x_BxLxD.shape)
        x = x_BxLxD + nn.Dense(width, name="out_proj")(y)
        y = LayerNorm(self.epsilon, name="layer_norm2")(x)
        y = ACTIVATIONS[self.activation](nn.Dense(self.hidden, name="fc1")(y))
        return x + nn.Dense(width, name="fc2")(y)


class TextTower(nn.Module):
    """Token ids [B, L] -> embeddings [B, D], not yet of unit length.

    CLIP's tower is causal, and its output is that of the token that ends the text. SigLIP's, which
    has no `end_of_text`, is bidirectional, and its output is that of the last position: texts must
    be padded to `max_length`, as in its training.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    num_heads: int
    hidden: int
    projection: int
    activation: str
    epsilon: float
    end_of_text: int | None

    @nn.compact
    def __call__(self, id_BxL: jax.Array) -> jax.Array:
        position_L = jnp.arange(id_BxL.shape[1])
        x = nn.Embed(self.vocab_size, self.width, name="token_embedding")(id_BxL)
        x += nn.Embed(self.max_length, self.width, name="position_embedding")(position_L)[None]
        for i in range(self.depth):
            x = Layer(
                self.num_heads,
                self.hidden,
                self.activation,
                self.epsilon,
                causal=self.end_of_text is not None,
                name=f"layers_{i}",
            )(x)
        x = LayerNorm(self.epsilon, name="final_layer_norm")(x)
        if self.end_of_text is None:
            return nn.Dense(self.projection, name="text_projection")(x[:, -1])
        # Old configs say 2, wrongly; transformers then takes the largest id for the end.
        is_end_BxL = id_BxL if self.end_of_text == 2 else id_BxL == self.end_of_text
        end_B = is_end_BxL.argmax(axis=1)  # the first, for padding may be the same token
        x_BxD = jnp.take_along_axis(x, end_B[:, None, None], axis=1)[:, 0]
        return nn.Dense(self.projection, use_bias=False, name="text_projection")(x_BxD)


class TextModel(NamedTuple):
    """A tower with its weights, and the tokenizer (transformers') it was trained with."""

    tower: TextTower
    variables: Variables
    tokenizer: Any


def load(where: str) -> TextModel:
    """Reads the text tower of a CLIP or SigLIP model.

    Args:
      where: a folder, or the name of a Hugging Face repository (`openai/clip-vit-base-patch32`,
        `name@revision`), which is downloaded once; with HF_HUB_OFFLINE=1 it must be cached.

    Raises:
      ValueError: no such model, of another kind, weights other than safetensors, entries missing,
        unexpected or misshapen (all of them are listed), or no tokenizer.
    """
    # transformers takes 1.5 s to import: only done when texts are needed.
    from transformers import AutoTokenizer

    # The config comes first: other models are refused before gigabytes are downloaded.
    tower = _tower(folder_of(where, weights.CONFIG) / weights.CONFIG)
    folder = folder_of(where, *WEIGHTS, *_TOKENIZER)
    file = weights_of(folder, where)
    there = {path.name for path in folder.iterdir()}
    kinds = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"})
    if not any(kind <= there for kind in kinds):
        # transformers would go on with an empty vocabulary.
        raise ValueError(f"'{where}' has no tokenizer: tokenizer.json, or vocab.json, merges.txt.")
    variables = _fill(tower, file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:  # SigLIP's first tokenizer
        raise ValueError(
            f"The tokenizer of '{where}' needs sentencepiece: pip install sentencepiece."
        ) from error
    return TextModel(tower, variables, tokenizer)


WEIGHTS = (weights.WEIGHTS, entries.INDEX, "model-*.safetensors")  # patterns of names
_TOKENIZER = ("*token*.json", "vocab.json", "merges.txt", "spiece.model")


def weights_of(folder: Path, where: str) -> Path:
    """The file of a folder's weights, or the index of several; ValueError if it has neither."""
    file = entries.file_of(folder)
    if file is None:
        raise ValueError(
            f"'{where}' has no {weights.WEIGHTS}, and ktjax never unpickles others: name a "
            "revision that has it ('name@revision'), or a folder with a converted copy."
        )
    return file


def tokenize(model: TextModel, texts: Sequence[str]) -> np.ndarray:
    """Token ids, int32 [N, L]: cut at the tower's length, padded to the longest text, or SigLIP's
    to the tower's length.

    Raises:
      ValueError: the tokenizer and the tower do not belong together.
    """
    tower = model.tower
    siglip = tower.end_of_text is None
    id_NxL = model.tokenizer(
        list(texts),
        padding="max_length" if siglip else "longest",
        padding_side="right",  # to causal attention nothing after a token matters
        truncation=True,
        max_length=tower.max_length,
        return_tensors="np",
    )["input_ids"].astype(np.int32)
    if id_NxL.max() >= tower.vocab_size:
        raise ValueError(
            f"The tokenizer gives token {id_NxL.max()}, but the text tower has {tower.vocab_size}."
        )
    if tower.end_of_text not in (None, 2) and not (id_NxL == tower.end_of_text).any(axis=1).all():
        raise ValueError(f"The tokenizer ends texts without token {tower.end_of_text}.")
    return id_NxL


def embed_names(where: str, names: Sequence[str], *templates: str) -> np.ndarray:
    """Embeddings of class names.

    Args:
      where: what `load` takes.
      names: the names of the classes, whose underscores stand for spaces; truncated if they are too
        long for the tower.
      *templates: texts in which {} stands for the name; none: TEMPLATE. The embeddings of several
        are averaged.

    Returns:
      float32 [C, D], of unit length.

    Raises:
      ValueError: as `load` does, or no names, or no single {} in a template.
    """
    if not names:
        raise ValueError("There are no names to embed.")
    templates = templates or (TEMPLATE,)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"The template needs one {{}}, for the name, not '{template}'.")
    model = load(where)
    plain = [name.replace("_", " ") for name in names]
    texts = [template.replace("{}", name) for template in templates for name in plain]
    embedding_NxD = _unit(_embed(model, tokenize(model, texts)))
    return _unit(embedding_NxD.reshape(len(templates), len(names), -1).mean(axis=0))


def _unit(embedding_NxD: np.ndarray) -> np.ndarray:
    return embedding_NxD / np.linalg.norm(embedding_NxD, axis=-1, keepdims=True)


def _embed(model: TextModel, id_NxL: np.ndarray) -> np.ndarray:
    """The tower on any number of texts, in batches of one size."""
    size = min(_BATCH, len(id_NxL))
    apply = jax.jit(model.tower.apply)
    parts = []
    # Unless told otherwise, accelerators multiply in less than float32 where they can.
    with jax.default_matmul_precision("float32"):
        for start in range(0, len(id_NxL), size):
            id_BxL = id_NxL[start : start + size]
            filled = np.pad(id_BxL, ((0, size - len(id_BxL)), (0, 0)), mode="edge")
            parts.append(np.asarray(apply(model.variables, filled))[: len(id_BxL)])
    return np.concatenate(parts)


def folder_of(where: str, *patterns: str) -> Path:
    """The folder, or the snapshot of the repository with the files of these patterns."""
    import huggingface_hub

    if os.path.isdir(where):
        return Path(where)
    name, _, revision = where.partition("@")
    revision = revision or _REVISIONS.get(name)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns)
            )
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"No CLIP model '{where}', a folder or repository: {reason}") from error


def read_config(path: Path) -> Any:
    """transformers' config of a whole model or of a text tower; it knows what absent fields mean.

    Raises:
      ValueError: it is of another kind of model.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    kinds = {
        "clip": transformers.CLIPConfig,
        "clip_text_model": transformers.CLIPTextConfig,
        "siglip": transformers.SiglipConfig,
        "siglip_text_model": transformers.SiglipTextConfig,
    }
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {weights.CONFIG}.")
    config = files.read_object(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{path} is not of a CLIP or SigLIP model: its model_type is {kind!r}.")
    try:
        return kinds[kind].from_dict(config)
    except StrictDataclassError as error:
        raise ValueError(f"{path} is not a CLIP config: {' '.join(str(error).split())}") from error


def _tower(path: Path) -> TextTower:
    """The tower that config.json describes."""
    whole = read_config(path)
    text = getattr(whole, "text_config", whole)
    if text.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"{path} needs hidden_act '{text.hidden_act}'; ktjax supports {', '.join(ACTIVATIONS)}."
        )
    siglip = text.model_type == "siglip_text_model"
    return TextTower(
        vocab_size=text.vocab_size,
        max_length=text.max_position_embeddings,
        width=text.hidden_size,
        depth=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        hidden=text.intermediate_size,
        # CLIP's is that of both towers; text_config may say another.
        projection=text.projection_size if siglip else whole.projection_dim,
        activation=text.hidden_act,
        epsilon=text.layer_norm_eps,
        end_of_text=None if siglip else text.eos_token_id,
    )


def _fill(tower: TextTower, path: Path) -> Variables:
    """The tower's variables, float32, from the checkpoint; ValueError lists what does not fit."""
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    named = _MODULES if tower.end_of_text is not None else _MODULES | _SIGLIP
    modules = {a.format(i): b.format(i) for i in range(tower.depth) for a, b in named.items()}
    wanted, path_of = {}, {}
    for flat, leaf in traverse_util.flatten_dict(shapes["params"]).items():
        entry = f"{modules['/'.join(flat[:-1])]}.{_LEAVES[flat[-1]]}"
        path_of[entry] = flat
        # torch keeps a linear layer's weights as [out, in], Flax as [in, out].
        wanted[entry] = leaf.shape[::-1] if flat[-1] == "kernel" else leaf.shape
    found = entries.read(path, ignored=_IGNORED)
    entries.check_fit(path, found, wanted, by="config")
    flat = {
        path_of[k]: jnp.asarray((v.T if path_of[k][-1] == "kernel" else v).astype(np.float32))
        for k, v in found.items()
    }
    return {"params": traverse_util.unflatten_dict(flat)}
