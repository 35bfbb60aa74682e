"""Writes zero_shot/: what transformers' CLIP and SigLIP say of images and texts, tiny ones.

CLIP is that of clip_text/ (make_clip_text.py); SigLIP has the weights of rule.py, and a tokenizer
of a few words. Needs torch, which the tests do not: python tests/goldens/make_zero_shot.py
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors import torch as safetensors_torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import rule  # noqa: E402

NAMES = ("cat", "tabby cat", "great grey owl", "hen")
TEMPLATES = ("a photo of a {}.", "the grey {}")
WORDS = ("a", "photo", "of", "the", "tabby", "cat", "hen", "great", "grey", "owl", ".")
SIGLIP = HERE / "zero_shot" / "siglip"


def write_siglip() -> None:
    """A config, an image processor and a tokenizer, as transformers writes them."""
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    config = transformers.SiglipConfig(
        text_config=dict(
            **small,
            vocab_size=len(WORDS) + 3,
            max_position_embeddings=12,
            projection_size=20,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=1,
        ),
        vision_config=dict(small, hidden_size=20, num_hidden_layers=1, image_size=12, patch_size=4),
    )
    config.architectures = ["SiglipModel"]
    config.save_pretrained(SIGLIP)
    size = {"height": 12, "width": 12}
    transformers.SiglipImageProcessor(size=size).save_pretrained(SIGLIP)
    vocab = {word: number for number, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=12,
    ).save_pretrained(SIGLIP)
    draw(transformers.SiglipModel(config), SIGLIP)


def draw(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Writes the model's weights, those of the rule, beside what is in the folder already."""
    with tempfile.TemporaryDirectory() as written:
        model.save_pretrained(written)
        path = Path(written) / "model.safetensors"
        with safe_open(path, "pt") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, value in entries.items():
            entries[name] = torch.from_numpy(rule.weight(name, tuple(value.shape)))
        # Not save_file, whose files only their owner can read.
        content = safetensors_torch.save(entries, {"format": "pt"})
        (folder / "model.safetensors").write_bytes(content)


def answers(kind: type[transformers.PreTrainedModel], folder: Path, size: int) -> dict:
    """Logits of images, by each template and by the mean of both."""
    model = kind.from_pretrained(folder).eval().double()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    padding = "max_length" if kind is transformers.SiglipModel else "longest"
    x = torch.from_numpy(rule.images(size).transpose(0, 3, 1, 2).copy()).double()
    found, means = {}, []
    with torch.no_grad():
        for template in TEMPLATES:
            tokens = tokenizer(
                [template.replace("{}", name) for name in NAMES],
                padding=padding,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            output = model(input_ids=tokens["input_ids"], pixel_values=x)
            found[template] = output.logits_per_image.numpy()
            means.append(output.text_embeds)
        text = sum(means) / len(means)
        text = text / text.norm(dim=-1, keepdim=True)
        logits = model.logit_scale.exp() * output.image_embeds @ text.T
        if hasattr(model, "logit_bias"):
            logits = logits + model.logit_bias
        found["mean"] = logits.numpy()
    return {name: logits.round(6).tolist() for name, logits in found.items()}


def main() -> None:
    """Writes the folder."""
    shutil.rmtree(SIGLIP, ignore_errors=True)
    SIGLIP.mkdir(parents=True)
    write_siglip()
    content = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "names": NAMES,
        "templates": TEMPLATES,
        "clip": answers(transformers.CLIPModel, HERE / "clip_text", 4),
        "siglip": answers(transformers.SiglipModel, SIGLIP, 12),
    }
    text = json.dumps(content) + "\n"
    (HERE / "zero_shot" / "expected.json").write_text(text, encoding="utf-8")
    for kind in ("clip", "siglip"):
        print(kind, np.array(content[kind]["mean"]).round(3).tolist())


if __name__ == "__main__":
    main()
