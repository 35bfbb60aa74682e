"""The embedded data set: 100 characters of six scripts, drawn from the fonts that matplotlib ships.

It needs no download, so every claim of this project can be tried anywhere: 24x24 color images
of digits, Latin, Greek and Cyrillic letters and mathematical symbols, warped, textured, occluded,
blurred and noisy enough that small networks differ in what they know. The scripts are real semantic
groups, so areas of expertise (paper section 3) can be read off them.

Image `i` is a function of `(SEED, i)` alone, and its class is `i % 100`. Images are drawn when a
split is read, some 8,000 a second on one core; a split that was read whole is kept in
~/.cache/ktjax/glyphs (0.24 GB for all), which may be deleted. The splits are disjoint ranges of
`i`, balanced over the classes: `pretrain`, `tune` (the minival: hyperparameters are chosen there),
`accept` (only for decisions about exports) and `validation`, which is for reporting and adds fonts
that no other split has. Two more are for scarce labels: `unlabeled` hides its labels, and `few` has
ten images of each class.
"""

import functools
import hashlib
import io
import os
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from ktjax import paths
from ktjax.data.sources import Source

SIZE = 24
SEED = 2310_17653
# The numbers of the images of each split. New images get numbers after all others, so existing ones
# never change.
SPLITS = {
    "pretrain": (range(0, 16_000), range(36_000, 84_000)),
    "tune": (range(16_000, 20_000), range(84_000, 120_000)),
    "validation": (range(20_000, 36_000),),
    "accept": (range(120_000, 140_000),),
    "unlabeled": (range(140_000, 172_000),),
    "few": (range(172_000, 173_000),),
}
# The data sets made from them: name -> training split. The other splits are the same, and no model
# of the zoo has seen the training splits for scarce labels.
TRAIN = {"glyphs": "pretrain", "glyphs_unlabeled": "unlabeled", "glyphs_few": "few"}

# Characters that look alike across scripts (I O l o k, psi, pi, ...) are left out.
GROUPS = {
    "digit": "0123456789",
    "latin capital": "ABCDEFGHJKLMNPQRSTUVWXYZ",
    "latin small": "abdefghijmnqrt",
    "greek": "ΓΔΘΛΞΣΦΨΩαβγδεζηλμξω",
    "cyrillic": "БДЖИЛПЦЧШЩЪЫЭЮЯ",
    "mathematics": "+×÷=≠<±∞√∫∂∇∈∀∃≈→",
}
CHARACTERS = "".join(GROUPS.values())


def _name(character: str) -> str:
    """The common name of a character: "digit 0", "capital A", "small a", "Greek small gamma"."""
    if character.isdigit():
        return f"digit {character}"
    name = unicodedata.name(character).lower().replace("lamda", "lambda")
    script, letter, rest = name.partition(" letter ")
    if not letter:
        return name.replace("rightwards", "right")
    if script.startswith("latin"):
        return f"{script.removeprefix('latin ')} {character}"
    return f"{script.replace('greek', 'Greek').replace('cyrillic capital', 'Cyrillic')} {rest}"


CLASSES = tuple(map(_name, CHARACTERS))
CLASS_GROUPS = tuple(group for group, chars in GROUPS.items() for _ in chars)

TRAIN_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
)
UNSEEN_FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Oblique",
    "STIXGeneralBol",
    "cmtt10",
    "cmti10",
)
# Computer Modern has TeX's own encoding outside letters and digits; STIX Italic has few symbols.
_LATIN_ONLY = ("cmr10", "cmss10", "cmtt10", "cmti10")
_NO_MATHEMATICS = (*_LATIN_ONLY, "STIXGeneralItalic")

_CANVAS = 56  # side of the glyph masks that the images are sampled from
_AT_ONCE = 64  # images whose arrays fit in the CPU's cache


def _has(font: str, group: str) -> bool:
    if group in ("greek", "cyrillic"):
        return font not in _LATIN_ONLY
    return group != "mathematics" or font not in _NO_MATHEMATICS


@functools.cache
def _masks() -> np.ndarray:
    """Coverage of every character in every font: float32 [fonts, classes, canvas, canvas]."""
    fonts = TRAIN_FONTS + UNSEEN_FONTS
    masks = np.zeros((len(fonts), len(CHARACTERS), _CANVAS, _CANVAS), np.float32)
    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    for f, font in enumerate(fonts):
        face = ImageFont.truetype(
            os.path.join(folder, f"{font}.ttf"), 44, layout_engine=ImageFont.Layout.BASIC
        )
        for c, (char, group) in enumerate(zip(CHARACTERS, CLASS_GROUPS, strict=True)):
            if not _has(font, group):
                continue
            left, top, right, bottom = face.getbbox(char)
            canvas = Image.new("L", (_CANVAS, _CANVAS))
            corner = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
            ImageDraw.Draw(canvas).text(corner, char, fill=255, font=face)
            # The images sample the mask at 2.3 times its pixel pitch: blur against aliasing.
            canvas = canvas.filter(ImageFilter.GaussianBlur(0.9))
            masks[f, c] = np.asarray(canvas, np.float32) / 255
    return masks


def _sample(mask_B: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Samples masks, given by index, bilinearly, each at its own coordinates.

    Outside a mask its edge is repeated.
    """
    side = _CANVAS
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - left, y - top
    flat = _masks().reshape(-1)
    at = mask_B[:, None, None] * (side * side) + (top * side + left)

    def read(step: int) -> np.ndarray:
        return flat.take(at + step, mode="clip")  # skips the range check

    above = read(0) * (1 - fx) + read(1) * fx
    below = read(side) * (1 - fx) + read(side + 1) * fx
    return above * (1 - fy) + below * fy


def render(indices: np.ndarray, *, unseen_fonts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draws images by number.

    Args:
      indices: int [B], the numbers of the images; the class of image i is `i % 100`.
      unseen_fonts: also draw from the fonts kept for validation.

    Returns:
      uint8 images [B, 24, 24, 3] and int64 labels [B].
    """
    labels = np.asarray(indices) % len(CHARACTERS)
    fonts = TRAIN_FONTS + UNSEEN_FONTS if unseen_fonts else TRAIN_FONTS
    usable = {g: [f for f, font in enumerate(fonts) if _has(font, g)] for g in GROUPS}
    generators = [np.random.Generator(np.random.Philox(key=[SEED, i])) for i in indices]
    u = np.stack([g.random(40, dtype=np.float32) for g in generators])
    noise = np.stack([g.standard_normal((SIZE, SIZE, 3), dtype=np.float32) for g in generators])
    column = iter(np.split(u[:, :, None, None], u.shape[1], axis=1))

    def uniform(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * next(column))[:, 0]  # [B, 1, 1]

    pick = next(column)[:, 0, 0, 0]
    choices = [usable[CLASS_GROUPS[label]] for label in labels]
    font = [fonts_[int(p * len(fonts_))] for p, fonts_ in zip(pick, choices, strict=True)]
    mask = np.asarray(font) * len(CHARACTERS) + labels

    grid = np.linspace(-1, 1, SIZE, dtype=np.float32)
    x0, y0 = grid[None, None, :], grid[None, :, None]
    angle, shear = uniform(-0.3, 0.3), uniform(-0.3, 0.3)
    # Scales are mask over image: large values draw a small glyph.
    sx, sy = uniform(0.75, 1.2), uniform(0.75, 1.2)
    x = sx * (np.cos(angle) * x0 + (np.sin(angle) + shear) * y0) + uniform(-0.25, 0.25)
    y = sy * (np.cos(angle) * y0 - np.sin(angle) * x0) + uniform(-0.25, 0.25)
    wave_x = uniform(0, 0.09) * np.sin(uniform(2, 5) * y + uniform(0, 6.28))
    wave_y = uniform(0, 0.09) * np.sin(uniform(2, 5) * x + uniform(0, 6.28))
    half = (_CANVAS - 1) / 2
    glyph = _sample(mask, (x + wave_x + 1) * half, (y + wave_y + 1) * half)

    # A distractor: a stroke as light as the glyph, across the image.
    ax, ay = uniform(-1, 1), uniform(-1, 1)
    direction, length, width = uniform(0, 6.28), uniform(0.3, 1.2), uniform(0.02, 0.09)
    dx, dy = np.cos(direction), np.sin(direction)
    along = np.clip((x0 - ax) * dx + (y0 - ay) * dy, 0, length)
    distance = np.hypot(x0 - ax - along * dx, y0 - ay - along * dy)
    stroke = np.clip((width - distance) * SIZE / 2 + 0.5, 0, 1) * uniform(0.3, 1)
    light = np.maximum(glyph, stroke)[:, None]

    # The glyph is lighter than its background: with random polarity small ViTs barely learn.
    # Channels come before pixels, so that NumPy's inner loops are long.
    back = np.stack([uniform(0, 0.55) for _ in range(3)], axis=1)
    front = back + np.stack([uniform(0.2, 0.6) for _ in range(3)], axis=1)
    texture = uniform(0, 0.12) * np.sin(uniform(-9, 9) * x0 + uniform(-9, 9) * y0)
    image = back + (front - back) * light + texture[:, None]

    # Occlusion by a bar of the background's color.
    bar_angle, bar_at, bar_width = uniform(0, 3.14), uniform(-0.9, 0.9), uniform(0, 0.13)
    bar = np.abs(np.cos(bar_angle) * x0 + np.sin(bar_angle) * y0 - bar_at) < bar_width
    image = np.where(bar[:, None], back, image)

    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    blurred = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    image = image + uniform(0, 0.9)[:, None] * (blurred - image)
    image = np.moveaxis(image, 1, -1) + uniform(0.02, 0.1)[..., None] * noise
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8, order="C"), labels


def _kept(split: str, number_N: np.ndarray) -> Path:
    """The file that keeps the images of a split; another one if they would be drawn differently."""
    versions = (np.__version__, PIL.__version__, features.version("freetype2"))
    fonts = matplotlib.__version__  # which ships the fonts
    drawn_by = hashlib.sha256(Path(__file__).read_bytes())
    drawn_by.update(" ".join(map(str, (*versions, fonts))).encode())
    drawn_by.update(number_N.tobytes())
    return paths.cache() / "glyphs" / f"{split}-{drawn_by.hexdigest()[:16]}.npy"


def source(split: str) -> Source:
    """A split of SPLITS; images are drawn whenever they are read, unless all were kept."""
    number_N = np.concatenate([np.asarray(numbers) for numbers in SPLITS[split]])

    def draw(index_B: np.ndarray) -> np.ndarray:
        images = np.empty((len(index_B), SIZE, SIZE, 3), np.uint8)
        for start in range(0, len(index_B), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            number_B = number_N[index_B[part]]
            images[part] = render(number_B, unseen_fonts=split == "validation")[0]
        return images

    label_N = (number_N % len(CHARACTERS)).astype(np.int32)
    return Source(
        label_N=np.full_like(label_N, -1) if split == "unlabeled" else label_N,
        read=lambda i: _png(draw(np.array([i]))[0]),
        where=lambda i: f"glyphs/{split}[{i}]",
        draw=draw,
        kept=_kept(split, number_N),
    )


def _png(image_HxWx3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HxWx3).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()
