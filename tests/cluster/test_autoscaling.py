"""The real autoscaler adds machines for a job and takes them away after it; each that came in time works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import assert_holds_each_once
from tests.cluster.machines import autoscaled

pytestmark = pytest.mark.cluster

NUM_PHOTOS = 80
S_PER_MEGAPIXEL = 6.0
IDLE_TIMEOUT_S = 9.0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_machines_come_work_and_go(version: str, photos: Callable[[int], Path], driver: Any, tmp_path: Path) -> None:
    source = photos(NUM_PHOTOS)
    with autoscaled(tmp_path, version=version, most=2, idle_timeout_s=IDLE_TIMEOUT_S) as cluster:
        request = {
            "source": str(source), "archive": str(tmp_path / "archive"), "address": cluster.address,
            "s_per_megapixel": S_PER_MEGAPIXEL, "max_gpus": 2,
        }  # fmt: skip
        found = driver(cluster.environment, **request).result()
        # Idle for one timeout, some periods of the autoscaler, and what a busy machine takes to end processes.
        cluster.wait_until_released(within_s=20 * IDLE_TIMEOUT_S)

    assert found["summary"]["num_failed"] == 0
    assert_holds_each_once(tmp_path / "archive", NUM_PHOTOS)
    machines = [event for event in found["events"] if event["num_gpus"]]
    worked = {actor["node"] for actor in found["history"]["actors"].values()}
    went = {event["node"] for event in machines if not event["joined"]}
    early = {event["node"] for event in machines if event["joined"] and event["at_s"] < found["elapsed_s"] / 3}
    assert worked <= {event["node"] for event in machines}
    assert early - went <= worked
    assert len(worked) > 1
