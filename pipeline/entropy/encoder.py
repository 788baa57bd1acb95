"""Symbols -> one rANS stream.

A 64-bit state that emits 32-bit words (little-endian), 16-bit probabilities, and outliers in steps of 4 bits: the byte
layout of compressai's coder, so that streams can be compared with it. rANS is last in, first out: the encoder walks
backwards, the decoder forwards.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.entropy.tables import CdfTables, Int32Array

LOWER_BOUND = 1 << 31
"""The state never falls below it; also its value before the first symbol."""


def encode_symbols(symbols: Int32Array, indexes: Int32Array, tables: CdfTables) -> bytes:
    """Code `symbols[i]` under row `indexes[i]` of `tables`; the loop runs without the interpreter's lock.

    Args:
        symbols: n values, int32; values outside their row's range cost 4 bits a nibble.
        indexes: n rows of `tables`, int32.

    Raises:
        ValueError: unlike lengths, or a row that is not there.
    """
    symbols, indexes = np.ascontiguousarray(symbols, np.int32), np.ascontiguousarray(indexes, np.int32)
    if symbols.shape != indexes.shape or symbols.ndim != 1:
        raise ValueError("symbols and indexes must be vectors of one length")
    check_indexes(indexes, tables)
    # A symbol costs at most 16 bits, 4 for the number of nibbles and 9 nibbles: less than two words.
    words = np.empty(2 * len(symbols) + 2, np.uint32)
    first = _encode(symbols, indexes, tables.cdfs, tables.starts, tables.offsets, words)
    return words[first:].astype("<u4").tobytes()


def check_indexes(indexes: Int32Array, tables: CdfTables) -> None:
    """Raise ValueError unless every index is a row of `tables`."""
    if indexes.size and (int(indexes.min()) < 0 or int(indexes.max()) >= tables.num_rows):
        raise ValueError(f"CDF rows must be in 0..{tables.num_rows - 1}")


@njit(nogil=True, cache=True)
def _encode(symbols, indexes, cdfs, starts, offsets, words):  # type: ignore[no-untyped-def]
    """Fill `words` from its end; returns where the stream starts."""
    state = np.uint64(LOWER_BOUND)
    position = len(words)
    for i in range(len(symbols) - 1, -1, -1):
        row = indexes[i]
        start = starts[row]
        escape = starts[row + 1] - start - 2
        value = np.int64(symbols[i]) - np.int64(offsets[row])
        raw = np.int64(-1)
        if value < 0:
            raw = -2 * value - 1
            value = np.int64(escape)
        elif value >= escape:
            raw = 2 * (value - escape)
            value = np.int64(escape)
        if raw >= 0:
            num_nibbles = 0
            while (raw >> (4 * num_nibbles)) != 0:
                num_nibbles += 1
            # At most 9 nibbles, so their number always fits one nibble itself.
            for j in range(num_nibbles - 1, -2, -1):
                nibble = np.uint64((raw >> (4 * j)) & 15) if j >= 0 else np.uint64(num_nibbles)
                if state >= np.uint64(1 << 59):
                    position -= 1
                    words[position] = np.uint32(state & np.uint64(0xFFFFFFFF))
                    state >>= np.uint64(32)
                state = (state << np.uint64(4)) | nibble
        low = np.uint64(cdfs[start + value])
        frequency = np.uint64(cdfs[start + value + 1]) - low
        if state >= (frequency << np.uint64(47)):
            position -= 1
            words[position] = np.uint32(state & np.uint64(0xFFFFFFFF))
            state >>= np.uint64(32)
        state = ((state // frequency) << np.uint64(16)) + (state % frequency) + low
    words[position - 1] = np.uint32(state >> np.uint64(32))
    words[position - 2] = np.uint32(state & np.uint64(0xFFFFFFFF))
    return position - 2
