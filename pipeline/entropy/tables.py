"""Cumulative distribution tables: one row a distribution, integers of 16-bit precision, never computed where they are used.

Row i covers the values offset[i] ... offset[i] + n - 3 with n - 2 symbols, and one symbol more, the last, that escapes to
values outside (compressai's convention). Its n entries rise strictly from 0 to 65536.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRECISION = 16
"""Bits of the probabilities."""

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CdfTables:
    """Rows of unlike length, laid end to end."""

    cdfs: Int32Array
    """Entries of all rows."""
    starts: Int32Array
    """Where each row starts in `cdfs`; one entry more marks the end of the last."""
    offsets: Int32Array
    """Value of each row's first symbol."""

    def __post_init__(self) -> None:
        starts, cdfs = self.starts, self.cdfs
        if len(starts) != len(self.offsets) + 1 or starts[0] != 0 or starts[-1] != len(cdfs):
            raise ValueError("starts must delimit one row an offset, from 0 to the number of entries")
        if (np.diff(starts) < 3).any():
            raise ValueError("every row needs a symbol and the escape: three entries at least")
        rises = np.diff(cdfs)
        rises[starts[1:-1] - 1] = 1  # from one row's end to the next one's start
        if (rises <= 0).any() or (cdfs[starts[:-1]] != 0).any() or (cdfs[starts[1:] - 1] != 1 << PRECISION).any():
            raise ValueError("every row must rise strictly from 0 to 65536")

    @property
    def num_rows(self) -> int:
        return len(self.offsets)

    @property
    def least_bits(self) -> float:
        """What a symbol takes at least: a stream that claims more symbols than its bits have room for lies."""
        # From one row's end to the next one's start the entries fall.
        return PRECISION - math.log2(int(np.diff(self.cdfs).max()))

    @classmethod
    def from_padded(cls, cdf: NDArray[np.integer], lengths: NDArray[np.integer], offsets: NDArray[np.integer]) -> CdfTables:
        """Of compressai's `_quantized_cdf` (rows x longest), `_cdf_length` and `_offset`."""
        rows = [row[:length] for row, length in zip(cdf, lengths, strict=True)]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        return cls(cdfs=np.concatenate(rows).astype(np.int32), starts=starts.astype(np.int32), offsets=offsets.astype(np.int32))

    def concat(self, other: CdfTables) -> CdfTables:
        """The rows of both; those of `other` are numbered on."""
        return CdfTables(
            cdfs=np.concatenate((self.cdfs, other.cdfs)),
            starts=np.concatenate((self.starts, other.starts[1:] + self.starts[-1])),
            offsets=np.concatenate((self.offsets, other.offsets)),
        )

    def to_arrays(self) -> dict[str, Int32Array]:
        """For a checkpoint."""
        return {"cdfs": self.cdfs, "starts": self.starts, "offsets": self.offsets}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Int32Array]) -> CdfTables:
        """Inverse of `to_arrays`."""
        return cls(**{name: np.ascontiguousarray(arrays[name], dtype=np.int32) for name in ("cdfs", "starts", "offsets")})
