"""Statistics out of a Parquet footer, read without trusting a byte of it.

pyarrow aborts the process when it is asked for statistics of columns whose metadata contradicts itself, and no question about
it is safe to ask first. What is looked up and held against the rows is little, so it is parsed here: Thrift's compact protocol
(thrift-compact-protocol.md of Apache Thrift), and of parquet.thrift the way from the file to the bounds of a column.
"""

from __future__ import annotations

import struct
from typing import Any

from pipeline.errors import ArchiveDamagedError

_MAGIC = b"PAR1"
_MAX_DEPTH = 16
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
# Field numbers of parquet.thrift.
_FILE_ROW_GROUPS, _GROUP_COLUMNS, _CHUNK_METADATA = 4, 1, 3
_COLUMN_TYPE, _COLUMN_PATH, _COLUMN_STATISTICS = 1, 3, 12
_STATISTICS_MAX, _STATISTICS_MIN = 5, 6
_PHYSICAL_INT32, _PHYSICAL_INT64, _PHYSICAL_BYTES = 1, 2, 6

Bounds = dict[str, tuple[Any, Any]]
"""Path of a column -> least and greatest value, where the footer says both."""


def column_bounds(data: bytes) -> list[Bounds]:
    """Of each row group of a Parquet file, the bounds of those columns that hold text or integers.

    Raises:
        ArchiveDamagedError: the footer cannot be parsed, or is none of ours.
    """
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != _MAGIC or length > len(data) - 12:
        raise ArchiveDamagedError("the footer is damaged: it is not where the file says")
    try:
        file = _Reader(data[len(data) - 8 - length : -8]).struct()
        return [_group_bounds(group[_GROUP_COLUMNS]) for group in file[_FILE_ROW_GROUPS]]
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, struct.error) as error:
        raise ArchiveDamagedError(f"the footer is damaged: {type(error).__name__}: {error}") from error


def _group_bounds(columns: list[dict[int, Any]]) -> Bounds:
    bounds: Bounds = {}
    for chunk in columns:
        column = chunk[_CHUNK_METADATA]
        found = column.get(_COLUMN_STATISTICS, {})
        if _STATISTICS_MIN in found and _STATISTICS_MAX in found:
            path = b".".join(column[_COLUMN_PATH]).decode()
            least, greatest = (_value(column[_COLUMN_TYPE], found[name]) for name in (_STATISTICS_MIN, _STATISTICS_MAX))
            if least is not None:
                bounds[path] = least, greatest
    return bounds


def _value(physical_type: int, raw: bytes) -> Any:
    if physical_type == _PHYSICAL_BYTES:
        return raw.decode()
    if physical_type == _PHYSICAL_INT32:
        return struct.unpack("<i", raw)[0]
    if physical_type == _PHYSICAL_INT64:
        return struct.unpack("<q", raw)[0]
    return None


class _Reader:
    """Values of Thrift's compact protocol; a structure becomes field number -> value."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The structure that begins here.

        Raises:
            IndexError: the data ends before it.
            ValueError: it is impossible.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("structures in structures without end")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            # Of a field, unlike of an element, the kind is the value.
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return self._elements(head & 15, count, depth + 1)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._take(8)
        raise ValueError(f"a value of type {kind}, of which parquet.thrift has none")

    def _elements(self, kind: int, count: int, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("lists in lists without end")
        return [self._value(kind, depth) for _ in range(self._left(count))]

    def _left(self, count: int) -> int:
        """`count`, if so many values can follow: each takes a byte at least."""
        if count > len(self._data) - self._at:
            raise ValueError("a list is longer than what is left")
        return count

    def _take(self, count: int) -> bytes:
        self._left(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
