"""One rANS stream -> symbols, in several calls, with every read held against the end of the stream."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.entropy.encoder import LOWER_BOUND, check_indexes
from pipeline.entropy.tables import CdfTables, Int32Array
from pipeline.errors import CorruptStreamError

_OK, _TOO_SHORT, _IMPOSSIBLE = 0, 1, 2


class RansDecoder:
    """Reads the symbols of one stream in the order in which they were encoded."""

    def __init__(self, stream: bytes, tables: CdfTables) -> None:
        """Start at the first symbol.

        Raises:
            CorruptStreamError: `stream` is too short to be one, or no whole number of words.
        """
        if len(stream) < 8 or len(stream) % 4:
            raise CorruptStreamError("the stream is cut short")
        self._words = np.frombuffer(stream, "<u4").astype(np.uint32, copy=False)
        self._tables = tables
        # State, and the next word.
        self._cursor = np.array([int(self._words[0]) | int(self._words[1]) << 32, 2], np.uint64)

    def decode(self, indexes: Int32Array) -> Int32Array:
        """The next symbols, one for each row of `indexes` (int32).

        Raises:
            CorruptStreamError: the stream ends before, or holds a value that no encoder writes.
            ValueError: a row that is not there.
        """
        indexes = np.ascontiguousarray(indexes, np.int32)
        check_indexes(indexes, self._tables)
        symbols = np.empty(len(indexes), np.int32)
        t = self._tables
        status = _decode(indexes, t.cdfs, t.starts, t.offsets, self._words, self._cursor, symbols)
        if status == _TOO_SHORT:
            raise CorruptStreamError("the stream ends before its last symbol")
        if status == _IMPOSSIBLE:
            raise CorruptStreamError("the stream holds a value that no encoder writes")
        return symbols

    def finish(self) -> None:
        """Check that the stream ends here.

        Raises:
            CorruptStreamError: something is left, or the state is not the one that an encoder starts from.
        """
        if int(self._cursor[1]) != len(self._words) or int(self._cursor[0]) != LOWER_BOUND:
            raise CorruptStreamError("the stream does not end with its last symbol")


@njit(nogil=True, cache=True)
def _decode(indexes, cdfs, starts, offsets, words, cursor, symbols):  # type: ignore[no-untyped-def]
    state = cursor[0]
    position = np.int64(cursor[1])
    num_words = len(words)
    for i in range(len(indexes)):
        row = indexes[i]
        start = starts[row]
        escape = starts[row + 1] - start - 2
        target = np.int64(state & np.uint64(0xFFFF))
        low, high = np.int64(0), np.int64(escape + 1)
        while high - low > 1:
            middle = (low + high) >> 1
            if cdfs[start + middle] <= target:
                low = middle
            else:
                high = middle
        first = np.uint64(cdfs[start + low])
        frequency = np.uint64(cdfs[start + low + 1]) - first
        state = frequency * (state >> np.uint64(16)) + (state & np.uint64(0xFFFF)) - first
        if state < np.uint64(LOWER_BOUND):
            if position >= num_words:
                return _TOO_SHORT
            state = (state << np.uint64(32)) | np.uint64(words[position])
            position += 1
        value = low
        if value == escape:
            # Nibble -1 is the number of nibbles that follow; a value of 32 bits needs at most 9.
            num_nibbles = 0
            raw = np.int64(0)
            j = -1
            while j < num_nibbles:
                nibble = np.int64(state & np.uint64(15))
                state >>= np.uint64(4)
                if state < np.uint64(LOWER_BOUND):
                    if position >= num_words:
                        return _TOO_SHORT
                    state = (state << np.uint64(32)) | np.uint64(words[position])
                    position += 1
                if j < 0:
                    num_nibbles = nibble  # type: ignore[assignment] # numba infers it
                    if num_nibbles > 9:
                        return _IMPOSSIBLE
                else:
                    raw |= nibble << (4 * j)
                j += 1
            value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + escape
        value += offsets[row]
        if value < -2147483648 or value > 2147483647:
            return _IMPOSSIBLE
        symbols[i] = value
    cursor[0] = state
    cursor[1] = np.uint64(position)
    return _OK
