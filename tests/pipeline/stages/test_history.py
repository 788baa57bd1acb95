"""A job's history adds up, and does not grow with the job."""

from __future__ import annotations

import pytest

from pipeline.encode.history import MAX_BINS, History
from pipeline.on_ray.work import BlockWork


def block(actor: str, start_s: float, codec_s: float) -> BlockWork:
    """Ten photos."""
    return BlockWork(
        node="n", actor=actor, codec_started_at=start_s, read_s=0.1, pixels_s=0.0, wait_s=0.0, codec_s=codec_s,
        num_photos=10, num_pixels=10_000_000,
    )  # fmt: skip


def test_busy_actors_are_busy_and_waiting_ones_are_not() -> None:
    history = History(started_at=0.0)
    for i in range(20):
        history.add(block("busy", i, 1.0))
        history.add(block("half", i, 0.5))
    assert sum(one.photos for one in history.bins) == pytest.approx(400)
    assert sum(one.codec_s for one in history.bins) == pytest.approx(30)
    assert history.actors["busy"].codec_s == pytest.approx(20)
    assert history.busy_ratio() == pytest.approx(30 / (20 + 19.5))
    assert history.steady_busy_ratio(2.0) == pytest.approx(0.75)
    assert history.stages_s["read"] == pytest.approx(4.0)


def test_bins_widen_and_nothing_is_lost() -> None:
    history = History(started_at=0.0)
    for i in range(20_000):
        history.add(block("a", i, 1.0))
    assert len(history.bins) <= MAX_BINS
    assert sum(one.photos for one in history.bins) == pytest.approx(200_000)
    assert history.steady_busy_ratio(100.0) == pytest.approx(1.0, abs=0.01)
