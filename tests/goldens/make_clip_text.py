"""Writes clip_text/: a tiny CLIP model in Hugging Face's format, and what transformers says of it.

Needs torch, which the tests do not: python tests/goldens/make_clip_text.py
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import numpy as safetensors_numpy
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, CLIPModel

FOLDER = Path(__file__).parent / "clip_text"
WORDS = ("a", "photo", "of", "the", "tabby", "cat", "hen", "great", "grey", "owl", "digit")
WORDS += ("cyrillic", "capital", "letter")
NAMES = (
    "cat",
    "tabby cat",
    "great grey owl",
    "Cyrillic capital letter Ж, ЖЕ",
    "digit 7",
    "C#",
    "mother's Ünïçödé 😀",
    "the great grey owl of the tabby cat, a capital letter of a great grey photo of the cat",
    "great grey owl " * 40,
    "<extra> hen",  # a token with a larger id than that of the end of the text
)
# What changes in text_config, for each of the expected embeddings.
VARIANTS = {"plain": {}, "gelu": {"hidden_act": "gelu"}, "eos_2": {"eos_token_id": 2}}


def write_tokenizer() -> tuple[int, int]:
    """vocab.json, merges.txt and their config; the ids of the end of the text and of all tokens."""
    # CLIP's order: bytes, bytes that end a word, merges, the specials.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = {}  # an ordered set
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for i in range(1, len(parts)):
            merges[f"{''.join(parts[:i])} {parts[i]}"] = None
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += dict.fromkeys(merge.replace(" ", "") for merge in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (FOLDER / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (FOLDER / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    specials = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    extra = {"content": "<extra>", "special": True, "normalized": False, "lstrip": False}
    extra |= {"rstrip": False, "single_word": False}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        **specials,
        "added_tokens_decoder": {str(len(tokens)): extra},
    }
    write_json("tokenizer_config.json", config)
    return vocab["<|endoftext|>"], len(tokens) + 1


def write_config(end_of_text: int, vocab_size: int) -> dict:
    """A config.json that leaves out what transformers has defaults for, as those of OpenAI do."""
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 16,
        "text_config": {
            "bos_token_id": end_of_text - 1,
            "eos_token_id": end_of_text,
            "hidden_size": 32,
            "intermediate_size": 40,
            "max_position_embeddings": 24,
            "model_type": "clip_text_model",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": vocab_size,
        },
        "text_config_dict": None,
        "vision_config": {
            "hidden_size": 8,
            "image_size": 4,
            "intermediate_size": 8,
            "model_type": "clip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 2,
        },
        "vision_config_dict": None,
    }
    write_json("config.json", config)
    return config


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that depend on their name and shape alone; none is 0, scales are near 1."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if "norm" in name and name.endswith("weight"):
        return (1 + 0.3 * normal).astype(np.float32)
    if len(shape) < 2:
        return (0.5 * normal).astype(np.float32)
    if "embedding" in name:
        return normal.astype(np.float32)
    return (2 * normal / shape[1] ** 0.5).astype(np.float32)


def make(config: dict) -> CLIPModel:
    """The model that transformers builds, with weights drawn, in float64."""
    torch.set_default_dtype(torch.float64)
    model = CLIPModel(transformers.CLIPConfig.from_dict(config)).eval()
    for name, parameter in model.named_parameters():
        parameter.data = torch.tensor(draw(name, tuple(parameter.shape))).double()
    return model


def write_json(name: str, content: dict) -> None:
    (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    config = write_config(*write_tokenizer())
    entries = {
        name: parameter.detach().numpy().astype(np.float32)
        for name, parameter in make(config).named_parameters()
    }
    # Checkpoints from before 2023 have these buffers too.
    for tower, length in (("text_model", 24), ("vision_model", 5)):
        entries[f"{tower}.embeddings.position_ids"] = np.arange(length)[None]
    # Not save_file, whose files only their owner can read.
    (FOLDER / "model.safetensors").write_bytes(safetensors_numpy.save(entries))

    tokens = AutoTokenizer.from_pretrained(FOLDER)(
        [f"a photo of a {name}." for name in NAMES],
        padding=True,
        truncation=True,
        max_length=24,
        return_tensors="pt",
    )
    expected = {}
    for variant, change in VARIANTS.items():
        changed = config | {"text_config": config["text_config"] | change}
        with torch.no_grad():
            output = make(changed).get_text_features(**tokens).pooler_output
        unit = output / output.norm(dim=-1, keepdim=True)
        expected[variant] = unit.numpy().round(9).tolist()  # the last bits differ between runs
    ids = tokens["input_ids"].tolist()
    content = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "names": NAMES,
        "ids": ids,
        "embeddings": expected,
    }
    (FOLDER / "expected.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
