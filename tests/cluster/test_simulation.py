"""The model says what plain arithmetic says where that can tell, and waits where something is full."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.simulation import Costs, Setup, simulate

COSTS = Costs(photo_s=0.4, row_s=0.001, commit_s=0.2, commit_per_known_row_s=1e-7)


def test_few_gpus_never_wait() -> None:
    found = simulate(COSTS, Setup(num_gpus=20))
    assert found.efficiency > 0.97
    assert found.photos_per_s == pytest.approx(20 / 0.4, rel=0.03)
    assert found.driver_busy == pytest.approx(20 / 0.4 * 0.001 + 0.2 / 5, rel=0.2)


def test_a_driver_gathers_no_more_than_it_can_and_several_share() -> None:
    full = simulate(COSTS, Setup(num_gpus=1000))
    assert full.photos_per_s < 1 / COSTS.row_s
    assert full.driver_busy > 0.99
    shared = simulate(COSTS, Setup(num_gpus=1000, num_drivers=10))
    assert shared.efficiency > 0.97


def test_a_large_archive_wants_fewer_commits() -> None:
    often = simulate(COSTS, Setup(num_gpus=300, known_rows=10**8))
    seldom = simulate(COSTS, Setup(num_gpus=300, known_rows=10**8, commit_interval_s=120))
    assert often.commit_busy > 0.6 > 0.2 > seldom.commit_busy
    free = simulate(replace(COSTS, commit_per_known_row_s=0.0), Setup(num_gpus=300, known_rows=10**8))
    assert free.efficiency > 0.97 > often.efficiency
