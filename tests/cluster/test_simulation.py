"""The model says what plain arithmetic says where that can tell, and waits where something is full."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.bench.simulation import Costs, Setup, simulate

COSTS = Costs(photo_s=0.4, row_s=0.001, commit_row_s=1e-4, commit_s=0.2, commit_per_shard_s=1e-4)


def test_few_gpus_never_wait() -> None:
    found = simulate(COSTS, Setup(num_gpus=20))
    assert found.efficiency > 0.97
    assert found.photos_per_s == pytest.approx(20 / 0.4, rel=0.03)
    assert found.driver_busy == pytest.approx(20 / 0.4 * (COSTS.row_s + COSTS.commit_row_s), rel=0.1)
    # 250 rows in five seconds.
    assert found.commit_busy == pytest.approx((COSTS.commit_s + 250 * COSTS.commit_row_s) / 5, rel=0.2)


def test_a_driver_gathers_no_more_than_it_can_and_several_share() -> None:
    full = simulate(COSTS, Setup(num_gpus=1000))
    assert full.photos_per_s == pytest.approx(1 / (COSTS.row_s + COSTS.commit_row_s), rel=0.01)
    assert full.driver_busy > 0.98
    shared = simulate(COSTS, Setup(num_gpus=1000, num_drivers=10))
    assert shared.efficiency > 0.97


def test_a_commit_that_waits_for_the_store_holds_up_no_rows() -> None:
    slow = simulate(replace(COSTS, commit_s=30.0), Setup(num_gpus=100))
    assert slow.commit_busy > 0.9
    assert slow.efficiency > 0.97
    # Until more rows wait than go into a shard.
    full = simulate(replace(COSTS, commit_s=30.0), Setup(num_gpus=100, shard_rows=1000))
    assert full.efficiency < 0.2


def test_a_log_of_many_shards_makes_commits_long() -> None:
    often = simulate(COSTS, Setup(num_gpus=30, known_rows=10**8))
    seldom = simulate(COSTS, Setup(num_gpus=30, known_rows=10**8, commit_interval_s=120))
    assert often.commit_busy > 0.25 > 0.05 > seldom.commit_busy
    alone = simulate(COSTS, Setup(num_gpus=300, known_rows=10**9))
    shared = simulate(COSTS, Setup(num_gpus=300, known_rows=10**9, num_drivers=10))
    assert alone.efficiency < 0.9 < 0.97 < shared.efficiency
