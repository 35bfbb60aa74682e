"""Encoded images -> uint8 [H, W, 3] of the size that a batch wants, on the host.

simplejpeg decodes JPEGs to the same bits as Pillow, in two thirds of the time. Pillow decodes what
simplejpeg refuses (CMYK, damaged files), and other formats. Resizing has Pillow's bits too: the
models were trained and are scored with them. An orientation in EXIF is applied only where that is
asked for: timm does not, and its models were trained and are scored without.
"""

import functools
import io
import math
import threading
from collections.abc import Sequence

import numpy as np
import PIL
import simplejpeg
from PIL import ExifTags, Image, ImageFile

from ktjax.data import resize

# A file that claims to be larger is an attack, or damaged. It is refused before that much memory is
# allocated for it.
_MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
# Of a file of any name Pillow looks at the content, and hands some kinds to external programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_PADDING = threading.Lock()
HEAD = 32  # bytes that tell formats apart
CROP_MODES = ("center", "squash", "border")  # classifier.CROP_MODES, which would import JAX


class DecodeError(ValueError):
    """An image does not decode. The message is the reason; whoever read the image can name it."""


def decode(encoded: bytes, *, upright: bool = False, pad: bool = False) -> np.ndarray:
    """A JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF as uint8 [H, W, 3]; alpha is dropped, as by timm.

    16-bit images keep their higher byte. An `upright` image is turned as its EXIF says. With `pad`
    what lacks of a file that was cut off is filled as Pillow does with LOAD_TRUNCATED_IMAGES.

    Raises:
      DecodeError: with the reason.
    """
    image_HxWx3 = _decode(encoded, shrink=1, pad=pad)
    return turned(image_HxWx3, orientation(encoded)) if upright else image_HxWx3


def is_image(head: bytes) -> bool:
    """Whether a file that begins with these HEAD bytes is of one of the formats above."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    return (
        head.startswith(starts)
        or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
        or (head[:2] == b"BM" and head[6:10] == bytes(4) and head[15:18] == bytes(3))
    )


def orientation(encoded: bytes) -> int:
    """How EXIF says that an image lies, from 1 to 8; 1, upright, where it says nothing."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
            return orientation_of(image)
    except Exception:  # whoever decodes the image says what is wrong with it
        return 1


def orientation_of(image: Image.Image) -> int:
    """The same of an image that Pillow has opened."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def turned(image_HxWx3: np.ndarray, orientation: int) -> np.ndarray:
    """An image that lies as `orientation` says, upright."""
    if orientation >= 5:
        image_HxWx3 = image_HxWx3.swapaxes(0, 1)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image_HxWx3[:: -1 if down else 1, :: -1 if across else 1])


def of_pillow(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image: uint8 [H, W, 3]. Of 16 bits the higher byte is kept."""
    if image.mode.startswith("I;16"):
        # Pillow would cut off what is above 255. Of 16-bit colors it keeps the higher byte itself.
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DecodeError("its pixels have 32 bits, and which of them are white is not said")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def eval_crop(
    image_HxWx3: np.ndarray,
    *,
    size: tuple[int, int],
    crop_pct: float,
    interpolation: str,
    crop_mode: str = "center",
    fill: tuple[int, int, int] = (0, 0, 0),
) -> np.ndarray:
    """The center of an image as uint8 [h, w, 3], bit for bit as timm's transform for evaluation.

    The image is resized, then its center is cut out.

    Args:
      image_HxWx3: uint8.
      size: height and width of the result.
      crop_pct: above 0, at most 1.
      interpolation: nearest, bilinear or bicubic.
      crop_mode: `center`: the image is resized until it just covers `size / crop_pct`; `squash`:
        to just that, whatever becomes of its proportions; `border`: until it just fits in there,
        and what lacks is filled.
      fill: the color of borders.

    Raises:
      ValueError: another interpolation or crop_mode, or a crop_pct out of range.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct is {crop_pct}: it is a share of the image, above 0, at most 1.")
    grid = _grid(image_HxWx3.shape[:2], [math.floor(side / crop_pct) for side in size], crop_mode)
    kept = [min(side, crop) for side, crop in zip(grid, size, strict=True)]
    top, left = (round((side - crop) / 2) for side, crop in zip(grid, kept, strict=True))
    image = resize.resize(image_HxWx3, grid, crop=(top, left, *kept), interpolation=interpolation)
    if image.shape[:2] == tuple(size):
        return image
    framed = np.full((*size, 3), fill, np.uint8)
    top, left = ((side - crop) // 2 for side, crop in zip(size, kept, strict=True))
    framed[top : top + kept[0], left : left + kept[1]] = image
    return framed


def _grid(shape: Sequence[int], covered: Sequence[int], crop_mode: str) -> tuple[int, int]:
    """The height and width that timm resizes an image to, for `size / crop_pct`."""
    if crop_mode not in CROP_MODES:
        raise ValueError(f"No crop_mode '{crop_mode}'. Known: {', '.join(CROP_MODES)}.")
    height, width = shape
    if crop_mode == "squash":
        return covered[0], covered[1]
    if crop_mode == "center" and covered[0] == covered[1]:  # rounds otherwise than what follows
        longer = int(covered[0] * max(height, width) / min(height, width))
        return (covered[0], longer) if height <= width else (longer, covered[0])
    fitting = max if crop_mode == "border" else min
    ratio = fitting(height / covered[0], width / covered[1])
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def random_resized_crop(
    encoded: bytes,
    *,
    size: tuple[int, int],
    generator: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str,
    upright: bool = False,
    pad: bool = False,
) -> np.ndarray:
    """A random part of an image, resized to uint8 [h, w, 3].

    A JPEG is decoded at a half, a quarter or an eighth of its size where the part would still have
    twice as many pixels as the result along each side.

    Args:
      encoded: the image.
      size: height and width of the result.
      generator: draws the part.
      scale, ratio: see `draw_crop`.
      interpolation: nearest, bilinear or bicubic.
      upright: the image is turned as its EXIF says; one that is turned is decoded whole.
      pad: as `decode` has it.

    Raises:
      DecodeError: with the reason.
      ValueError: another interpolation.
    """
    turn = orientation(encoded) if upright else 1
    shape = _jpeg_shape(encoded) if turn == 1 else None
    image = turned(decode(encoded, pad=pad), turn) if shape is None else None
    height, width = image.shape[:2] if shape is None else shape
    top, left, rows, columns = draw_crop(
        height, width, generator=generator, scale=scale, ratio=ratio
    )
    shrink = 1
    if image is None:
        spare = min(rows / size[0], columns / size[1]) / 2
        shrink = max(s for s in (1, 2, 4, 8) if s <= max(1, spare))
        image = _decode(encoded, shrink=shrink, pad=pad)
    if image.shape[:2] == (height, width):  # also where a damaged JPEG went to Pillow
        image, box = image[top : top + rows, left : left + columns], None
    else:
        box = tuple(at / shrink for at in (top, left, top + rows, left + columns))
    return resize.resize(image, size, box=box, interpolation=interpolation)


def draw_crop(
    height: int,
    width: int,
    *,
    generator: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of an image, drawn as torchvision draws its crops.

    Its area is uniform between the two shares of `scale`, the logarithm of width / height between
    those of `ratio`; what does not fit is drawn again, up to ten times. Then it is the largest
    centered part whose ratio is within the bounds.
    """
    low, high = (math.log(bound) for bound in ratio)
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(low, high))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(generator.integers(height - rows + 1))
            left = int(generator.integers(width - columns + 1))
            return top, left, rows, columns
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _jpeg_shape(encoded: bytes) -> tuple[int, int] | None:
    """Height and width; None: simplejpeg cannot decode it."""
    if not encoded.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return None if space == "CMYK" or height * width > _MAX_PIXELS else (height, width)


def _decode(encoded: bytes, *, shrink: int, pad: bool) -> np.ndarray:
    """Like `decode`, but a JPEG is decoded at a `shrink`-th of its size, rounded up."""
    shape = _jpeg_shape(encoded)
    if shape is not None:
        least = [math.ceil(side / shrink) for side in shape]
        try:
            return simplejpeg.decode_jpeg(
                encoded, min_height=least[0], min_width=least[1], min_factor=shrink
            )
        except ValueError:  # damaged: Pillow shows what can be shown
            pass
    if not encoded:
        raise DecodeError("it is empty")
    try:
        return _by_pillow(encoded)
    except DecodeError:
        if not pad:
            raise
    # Pillow has this as a switch of the whole process. A thread that decodes the first time
    # meanwhile gets what it would get here.
    with _PADDING:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _by_pillow(encoded)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _by_pillow(encoded: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(encoded), formats=_formats())
        image.load()
        return of_pillow(image)
    except PIL.UnidentifiedImageError as error:
        raise DecodeError("of no known format") from error
    # The parsers of damaged files raise whatever they stumble over.
    except Exception as error:
        raise DecodeError(str(error).rstrip(".") or type(error).__name__) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
