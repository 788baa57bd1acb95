"""Machines that vanish, or are taken away with notice, cost time and nothing else; the work goes where there is room."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.on_ray.pool import MARKET_LABEL
from tests.cluster.conftest import assert_holds_each_once
from tests.cluster.machines import machines

pytestmark = pytest.mark.cluster

NUM_PHOTOS = 96


def test_half_of_the_machines_vanish_and_two_jobs_lose_nothing(
    photos: Callable[[int], Path], driver: Any, tmp_path: Path
) -> None:
    source = photos(NUM_PHOTOS)
    with machines(tmp_path) as cluster:
        for name, market in (("a", "spot"), ("b", "spot"), ("c", "on-demand"), ("d", "on-demand")):
            cluster.add(name, labels={MARKET_LABEL: market})
        drivers = [
            driver(
                cluster.environment, source=str(source), archive=str(tmp_path / archive), address=cluster.address,
                s_per_megapixel=3.0, market=market,
            )
            for archive, market in (("one", "spot-first"), ("two", "any"))
        ]  # fmt: skip
        while not any(one.num_done() >= NUM_PHOTOS // 4 for one in drivers):
            assert all(one.process.poll() is None for one in drivers)
            time.sleep(0.2)
        cluster.lose("a")
        cluster.drain("b", within_s=2.0)
        time.sleep(2.0)
        cluster.lose("b")
        found = [one.result() for one in drivers]
    for archive, result in zip(("one", "two"), found, strict=True):
        assert result["summary"]["num_failed"] == 0, result["summary"]["failures"]
        assert_holds_each_once(tmp_path / archive, NUM_PHOTOS)
