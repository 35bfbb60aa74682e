"""Antialiased resizing of uint8 images on the host, as Pillow in a quarter of its time.

It has the bits of Pillow up to 12. The sums themselves are in resample.py.

Rows always come first. Pillow 13 begins with the columns for some sizes. That rounds some values
differently from all earlier versions, with which the models were trained and scored.
"""

import difflib

import numpy as np
from PIL import Image

# By timm's names: how far a filter reaches on either side, in pixels of the coarser grid.
_REACH = {"bilinear": 1.0, "bicubic": 2.0}
INTERPOLATIONS = ("nearest", *_REACH)


def resize(
    image_HxWx3: np.ndarray,
    size: tuple[int, int],
    *,
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
    crop: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Resizes an image to a grid of another size, or to a part of that grid.

    Args:
      image_HxWx3: uint8.
      size: height and width of the grid.
      interpolation: nearest, bilinear or bicubic.
      box: top, left, bottom and right of the part that the grid covers, in pixels of the image;
        None: all of it. Filters also read pixels beyond it.
      crop: top, left, height and width of the part of the grid to return; None: all of it.

    Returns:
      uint8 [h, w, 3], of the height and width of `crop`, or else of `size`.

    Raises:
      ValueError: the interpolation is unknown.
    """
    if interpolation not in INTERPOLATIONS:
        near = difflib.get_close_matches(interpolation, INTERPOLATIONS, n=1, cutoff=0.4)
        raise ValueError(
            f"No interpolation '{interpolation}'. Known: {', '.join(near or INTERPOLATIONS)}."
        )
    height, width, _ = image_HxWx3.shape
    top, left, bottom, right = box or (0, 0, height, width)
    first_row, first_column, rows, columns = crop or (0, 0, *size)
    if size == (height, width) and box is None:
        return image_HxWx3[first_row : first_row + rows, first_column : first_column + columns]
    if interpolation == "nearest":
        resized = Image.fromarray(image_HxWx3).resize(
            size[::-1], Image.Resampling.NEAREST, (left, top, right, bottom)
        )
        return np.asarray(resized)[
            first_row : first_row + rows, first_column : first_column + columns
        ]
    # Numba takes a fifth of a second to import: only done when needed.
    from ktjax.data import resample

    reach = _REACH[interpolation]
    axes = (
        (height, float(top), float(bottom), size[0], first_row, rows, reach),
        (width, float(left), float(right), size[1], first_column, columns, reach),
    )
    down, across = (resample.weights(*axis) for axis in axes)
    return resample.resample(np.ascontiguousarray(image_HxWx3), *down, *across)
