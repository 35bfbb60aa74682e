"""Encoded images -> uint8 [H, W, 3] of the batch's size, on the host.

simplejpeg decodes JPEGs to the same bits as Pillow, in two thirds of the time. Pillow decodes what
simplejpeg refuses (CMYK, damaged files), and other formats. Resizing matches Pillow up to 12
bit for bit too: the models were trained and are scored with it. EXIF orientation is applied only on
request: timm ignores it, and its models were trained and are scored that way. Pillow always applies
a TIFF's.
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

# A file that claims to be larger is an attack, or damaged. It is rejected before that much memory
# is allocated.
_MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
# Pillow detects formats by content, and passes some of the others to external programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_PADDING = threading.Lock()
HEAD = 32  # bytes that tell formats apart
CROP_MODES = ("center", "squash", "border")  # as classifier.CROP_MODES, without importing JAX


class DecodeError(ValueError):
    """An image does not decode. The message is the reason; the caller can name the image."""


def decode(encoded: bytes, *, upright: bool = False, pad: bool = False) -> np.ndarray:
    """A JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF as uint8 [H, W, 3]; alpha is dropped, as in timm.

    16-bit images keep their high byte. `upright` rotates the image as its EXIF says. `pad` fills
    the missing part of a truncated file, as Pillow does with LOAD_TRUNCATED_IMAGES.

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
    """The EXIF orientation of the decoded image, from 1 to 8; 1, upright, if there is none."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
            # Pillow itself turns a TIFF, and no other format, when it reads the pixels.
            return 1 if image.format == "TIFF" else orientation_of(image)
    except Exception:  # decoding the image reports what is wrong with it
        return 1


def orientation_of(image: Image.Image) -> int:
    """The same for an image that Pillow has read: until then, a TIFF's is the one in the file."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def turned(image_HxWx3: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image with this EXIF orientation upright."""
    if orientation >= 5:
        image_HxWx3 = image_HxWx3.swapaxes(0, 1)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image_HxWx3[:: -1 if down else 1, :: -1 if across else 1])


def of_pillow(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image: uint8 [H, W, 3]. 16-bit images keep their high byte.

    Raises:
      DecodeError: they are not all there, or of a kind that has no black and white.
    """
    try:
        image.load()  # Pillow reads a file when its pixels are needed
    except Exception as error:  # as in _by_pillow
        raise DecodeError(str(error).rstrip(".") or type(error).__name__) from error
    if image.mode.startswith("I;16"):
        # Pillow would clip values above 255. For 16-bit colors it keeps the high byte itself.
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DecodeError("its pixels have 32 bits, and it does not say which value is white")
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
    """The center of an image as uint8 [h, w, 3], as in timm's evaluation transform.

    The image is resized, then center-cropped: bit for bit as in timm with Pillow up to 12.

    Args:
      image_HxWx3: uint8.
      size: height and width of the result.
      crop_pct: above 0, at most 1.
      interpolation: nearest, bilinear or bicubic.
      crop_mode: `center` resizes the image to just cover `size / crop_pct`; `squash` to exactly
        that, whatever its aspect ratio; `border` to just fit inside it, and fills the rest.
      fill: the color of borders.

    Raises:
      ValueError: the interpolation or crop_mode is unknown, or crop_pct is out of range.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(
            f"crop_pct is {crop_pct}: it must be a share of the image, above 0 and at most 1."
        )
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
    if crop_mode == "center" and covered[0] == covered[1]:  # rounds differently from the code below
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

    A JPEG is decoded at a half, a quarter or an eighth of its size if the part still has at least
    twice as many pixels as the result along each side.

    Args:
      encoded: the image.
      size: height and width of the result.
      generator: draws the part.
      scale, ratio: see `draw_crop`.
      interpolation: nearest, bilinear or bicubic.
      upright: rotates the image as its EXIF says; a rotated one is decoded at full size.
      pad: see `decode`.

    Raises:
      DecodeError: with the reason.
      ValueError: the interpolation is unknown.
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
    if image.shape[:2] == (height, width):  # also if a damaged JPEG went to Pillow
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
    the bounds of `ratio`. A part that does not fit is redrawn, up to ten times; after that it is
    the largest centered part whose ratio is within the bounds.
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
    """Like `decode`, but a JPEG is decoded at 1 / `shrink` of its size, rounded up."""
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
    # Pillow's switch is process-wide. A thread that makes its first attempt meanwhile gets what it
    # would get here.
    with _PADDING:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _by_pillow(encoded)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _by_pillow(encoded: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(encoded), formats=_formats())
        return of_pillow(image)
    except PIL.UnidentifiedImageError as error:
        raise DecodeError("unknown format") from error
    # Parsers may raise anything on damaged files.
    except Exception as error:
        raise DecodeError(str(error).rstrip(".") or type(error).__name__) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of _FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
