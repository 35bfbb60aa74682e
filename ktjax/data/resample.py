"""Weighted sums of pixels, compiled by Numba: how resize.py matches Pillow bit for bit.

Pillow (libImaging/Resample.c) computes each value of a row as a weighted sum of the pixels within
the filter's support, in integers with 22 fractional bits, and rounds it to uint8; then it does the
same down the columns. Here both passes are weighted sums of whole rows, which vectorize: the first
on the transposed image. Pixels that a crop does not need are skipped.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_BITS = 22  # 32 minus 8 for a pixel, and 2 for sums outside its range
_HALF = np.int32(1 << (_BITS - 1))
_BLOCK = 64  # rows that are transposed together, and fit in the cache


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has Numba compile a function when it is first called, and cache the result for other runs.

    The function releases the GIL.
    """
    njit = functools.partial(numba.njit, nogil=True)
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # the cache is not writable: every process compiles it anew
        return njit()(function)


@_compiled
def weights(pixels, low, high, places, first, count, reach):
    """For `count` places along an axis: the first pixel, the number of pixels, integer weights."""
    low, high = np.float32(low), np.float32(high)  # Pillow's precision
    step = np.float64(high - low) / places
    coarser = max(step, 1.0)
    support = reach * coarser
    start = np.empty(count, np.int64)
    length = np.empty(count, np.int64)
    weight = np.zeros((count, math.ceil(support) * 2 + 1), np.int32)
    share = np.empty(weight.shape[1])
    for i in range(count):
        center = low + (first + i + 0.5) * step
        start[i] = max(0, int(center - support + 0.5))
        length[i] = min(pixels, int(center + support + 0.5)) - start[i]
        total = 0.0
        for j in range(length[i]):
            x = abs((start[i] + j - center + 0.5) * (1.0 / coarser))
            if reach == 1.0:
                share[j] = max(0.0, 1.0 - x)
            elif x < 1.0:
                share[j] = (1.5 * x - 2.5) * x * x + 1.0
            elif x < 2.0:
                share[j] = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
            else:
                share[j] = 0.0
            total += share[j]
        for j in range(length[i]):
            scaled = share[j] / total * (1 << _BITS)
            weight[i, j] = int(scaled + (0.5 if scaled >= 0.0 else -0.5))
    return start, length, weight


@_compiled
def _sum_rows(image_HxWx3, start_h, length_h, weight_hxT):
    """[h, W, 3]: every row is the weighted sum of `length` rows of the image from `start` on."""
    height, width, _ = image_HxWx3.shape
    image_HxM = image_HxWx3.reshape(height, width * 3)
    out_hxM = np.empty((len(start_h), width * 3), np.uint8)
    total_M = np.empty(width * 3, np.int32)
    for i in range(len(out_hxM)):
        total_M[:] = _HALF
        for j in range(length_h[i]):
            row_M, weight = image_HxM[start_h[i] + j], weight_hxT[i, j]
            for m in range(len(total_M)):
                total_M[m] += np.int32(row_M[m]) * weight
        for m in range(len(total_M)):
            out_hxM[i, m] = min(max(total_M[m] >> _BITS, 0), 255)
    return out_hxM.reshape(len(start_h), width, 3)


@_compiled
def resample(image_HxWx3, down_start, down_length, down, across_start, across_length, across):
    """Both passes; each axis is given by what `weights` returns for it."""
    top, bottom = down_start[0], down_start[-1] + down_length[-1]
    left, right = across_start[0], across_start[-1] + across_length[-1]
    columns = len(across)
    narrow = np.empty((bottom - top, columns, 3), np.uint8)
    for y in range(top, bottom, _BLOCK):
        block = min(_BLOCK, bottom - y)
        turned = np.empty((right - left, block, 3), np.uint8)
        for x in range(right - left):
            for i in range(block):
                for c in range(3):
                    turned[x, i, c] = image_HxWx3[y + i, left + x, c]
        summed = _sum_rows(turned, across_start - left, across_length, across)
        for i in range(block):
            for x in range(columns):
                for c in range(3):
                    narrow[y - top + i, x, c] = summed[x, i, c]
    return _sum_rows(narrow, down_start - top, down_length, down)
