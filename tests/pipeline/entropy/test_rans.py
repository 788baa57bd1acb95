"""The rANS coder against compressai's, against itself, and against streams that no encoder wrote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.codecs.ditic.external  # noqa: F401 (makes compressai importable beside a CPU-only torch)
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.encoder import encode_symbols
from pipeline.entropy.tables import CdfTables
from pipeline.errors import CorruptStreamError


def random_tables(seed: int, num_rows: int = 12) -> tuple[CdfTables, tuple[list[list[int]], list[int], list[int]]]:
    """Tables, and the same in compressai's layout."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        frequencies = rng.integers(1, 500, rng.integers(2, 60))
        frequencies[0] += 65536 - frequencies.sum()
        rows.append(np.concatenate(([0], np.cumsum(frequencies))))
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((num_rows, lengths.max()), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    offsets = rng.integers(-30, 5, num_rows)
    return CdfTables.from_padded(padded, lengths, offsets), (padded.tolist(), lengths.tolist(), offsets.tolist())


def random_symbols(seed: int, size: int, num_rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    outliers = rng.integers(-(2**20), 2**20, size)
    symbols = np.where(rng.random(size) < 0.05, outliers, rng.integers(-40, 40, size))
    return symbols.astype(np.int32), rng.integers(0, num_rows, size).astype(np.int32)


# From 64 on: with a few symbols compressai's own coder writes outside its buffer.
@pytest.mark.parametrize("size", [64, 1000, 20_000])
def test_streams_equal_those_of_compressai(size: int) -> None:
    from compressai import ans

    tables, (cdfs, lengths, offsets) = random_tables(size)
    symbols, indexes = random_symbols(size, size)
    stream = encode_symbols(symbols, indexes, tables)
    reference = ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), cdfs, lengths, offsets)
    assert stream == reference
    decoder = RansDecoder(stream, tables)
    assert np.array_equal(decoder.decode(indexes), symbols)
    decoder.finish()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=60), st.integers(0, 5), st.integers(0, 60))
def test_any_int32_comes_back_in_any_number_of_calls(values: list[int], seed: int, cut: int) -> None:
    tables, _ = random_tables(seed)
    symbols = np.array(values, np.int32)
    indexes = np.random.default_rng(seed).integers(0, 12, len(values)).astype(np.int32)
    decoder = RansDecoder(encode_symbols(symbols, indexes, tables), tables)
    parts = [decoder.decode(indexes[:cut]), decoder.decode(indexes[cut:])]
    decoder.finish()
    assert np.array_equal(np.concatenate(parts), symbols)


def test_streams_coded_side_by_side_equal_those_coded_one_by_one() -> None:
    tables, _ = random_tables(1)
    coded = [random_symbols(i, 500 * i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        side_by_side = list(pool.map(lambda pair: encode_symbols(pair[0], pair[1], tables), coded))
    assert side_by_side == [encode_symbols(s, i, tables) for s, i in coded]


def test_hostile_streams_give_errors_and_nothing_else() -> None:
    tables, _ = random_tables(3)
    symbols, indexes = random_symbols(4, 400)
    stream = encode_symbols(symbols, indexes, tables)
    rng = np.random.default_rng(5)
    num_refused = 0
    for trial in range(3000):
        kind = trial % 3
        if kind == 0:
            hostile = stream[: int(rng.integers(len(stream)))]
        elif kind == 1:
            changed = bytearray(stream)
            changed[int(rng.integers(len(changed)))] ^= int(rng.integers(1, 256))
            hostile = bytes(changed)
        else:
            hostile = rng.integers(0, 256, int(rng.integers(0, 200)), dtype=np.uint8).tobytes()
        try:
            decoder = RansDecoder(hostile, tables)
            decoded = decoder.decode(indexes)
            decoder.finish()
        except CorruptStreamError:
            num_refused += 1
        else:
            assert decoded.shape == symbols.shape
    # Truncated and random ones always; of the changed ones nearly all miss the final state.
    assert num_refused > 2900


def test_rows_that_are_not_there_are_a_programming_error() -> None:
    tables, _ = random_tables(1)
    with pytest.raises(ValueError, match="rows must be"):
        encode_symbols(np.zeros(1, np.int32), np.array([12], np.int32), tables)
    with pytest.raises(ValueError, match="one length"):
        encode_symbols(np.zeros(2, np.int32), np.zeros(1, np.int32), tables)
    decoder = RansDecoder(encode_symbols(np.zeros(1, np.int32), np.zeros(1, np.int32), tables), tables)
    with pytest.raises(ValueError, match="rows must be"):
        decoder.decode(np.array([-1], np.int32))


@pytest.mark.parametrize("row", [[0, 65535], [0, 10, 10, 65536], [1, 5, 65536], [0, 5, 65535]])
def test_tables_that_are_no_distributions_are_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match=r"row"):
        CdfTables.from_padded(np.array([row]), np.array([len(row)]), np.array([0]))


def test_tables_survive_a_checkpoint_and_concatenate() -> None:
    a, _ = random_tables(1)
    b, _ = random_tables(2)
    both = CdfTables.from_arrays(a.concat(b).to_arrays())
    assert both.num_rows == 24
    symbols, indexes = random_symbols(9, 300)
    assert encode_symbols(symbols, indexes + 12, both) == encode_symbols(symbols, indexes, b)
