"""The fixed-point layers' inner loops on a CPU, each in one pass: the same integers as PyTorch's operations.

Maps are float32 holding integers, channels last: rows x channels, or B x h x w x channels.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@njit(nogil=True, cache=True)
def requantise(acc: Floats, bias: Floats, scale: Floats, limit: float) -> None:
    """acc, rows x channels: plus the channel's `bias`, times its `scale`, rounded down, cut to +-limit; in place."""
    low, high = np.float32(-limit), np.float32(limit)
    for i in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            acc[i, c] = min(max(np.floor((acc[i, c] + bias[c]) * scale[c]), low), high)


@njit(nogil=True, cache=True)
def look_up(values: Floats, scale: float, table: Floats, out: Floats) -> None:
    """out = table[32768 + values * scale, rounded half up and cut to +-32767]; flat."""
    factor, half = np.float32(scale), np.float32(0.5)
    low, high = np.float32(-32767), np.float32(32767)
    for i in range(values.size):
        index = min(max(np.floor(values[i] * factor + half), low), high)
        out[i] = table[np.int32(index) + 32768]


@njit(nogil=True, cache=True)
def depthwise3x3(x: Floats, weight: Floats, bias: Floats, scale: Floats, limit: float, out: Floats) -> None:
    """A 3 x 3 convolution of each channel with zeros around, requantised.

    Args:
        x: B x h x w x channels.
        weight: 9 x channels, row by row.
        out: as x.
    """
    batch, height, width, channels = x.shape
    low, high = np.float32(-limit), np.float32(limit)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                row = out[b, i, j]
                for c in range(channels):
                    row[c] = bias[c]
                for k in range(max(0, i - 1), min(height, i + 2)):
                    for l in range(max(0, j - 1), min(width, j + 2)):  # noqa: E741
                        tap = weight[3 * (k - i + 1) + l - j + 1]
                        source = x[b, k, l]
                        for c in range(channels):
                            row[c] += source[c] * tap[c]
                for c in range(channels):
                    row[c] = min(max(np.floor(row[c] * scale[c]), low), high)
