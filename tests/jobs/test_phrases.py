"""Counts, sizes and durations as summaries write them."""

from __future__ import annotations

import pytest

from jobs.phrases import count, duration, show, shrinkage, size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_499, "999 kB"),
        (999_500, "1.00 MB"), (9_996_000, "10.0 MB"), (123_456_789, "123 MB"), (2.5e12, "2.50 TB"), (2.5e15, "2,500 TB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


def test_plurals_times_and_ratios() -> None:
    assert (count(1, "shard"), count(0, "shard"), count(1200, "shard")) == ("1 shard", "0 shards", "1,200 shards")
    assert (count(1, "file is", "files are"), count(2, "file is", "files are")) == ("1 file is", "2 files are")
    assert (duration(0.44), duration(59.96), duration(3725)) == ("0.4 s", "1 min 0 s", "1 h 2 min")
    assert shrinkage(12_000_000, 1_200_000) == "12.0 MB became 1.20 MB, 10.0 times smaller"
    assert shrinkage(1000, 2500) == "1.00 kB became 2.50 kB, 2.5 times larger"
    assert (shrinkage(1000, 1001), shrinkage(0, 0)) == ("1.00 kB became 1.00 kB", "0 bytes became 0 bytes")


def test_facts_that_are_zero_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show((0, "row"), (1, "row"), "done", (2, "file is", "files are"))
    assert capsys.readouterr().out == "1 row\ndone\n2 files are\n"
