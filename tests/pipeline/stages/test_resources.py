"""Pools fit what there is, what may come, and what there is to do."""

from __future__ import annotations

import pytest

from pipeline.errors import SettingError
from pipeline.on_ray.resources import ClusterShape, NodeKind, PoolOptions, plan_pool


def shape(*kinds: tuple[float, float, int]) -> ClusterShape:
    """Kinds of machines as (cores, GPUs, how many)."""
    return ClusterShape(kinds=tuple(NodeKind(num_cpus=c, num_gpus=g, number=n) for c, g, n in kinds))


def test_one_actor_a_gpu_with_its_share_of_the_cores() -> None:
    plan = plan_pool(shape((16, 2, 2), (4, 0, 1)))
    assert (plan.max_actors, plan.gpus_per_actor, plan.threads_per_actor, plan.device) == (4, 1, 8, "cuda")
    assert 2 * (plan.cpus_per_actor + plan.cpus_per_read) <= 16


def test_machines_that_differ_are_planned_for_the_one_with_fewest_cores_a_gpu() -> None:
    plan = plan_pool(shape((32, 8, 1), (8, 1, 2)))
    assert (plan.max_actors, plan.threads_per_actor) == (10, 4)


def test_a_gpu_may_hold_several_actors_and_leaves_cores_for_reads() -> None:
    plan = plan_pool(shape((2, 1, 3)), options=PoolOptions(gpus_per_actor=0.25))
    assert (plan.max_actors, plan.gpus_per_actor) == (12, 0.25)
    assert 4 * plan.cpus_per_actor + plan.cpus_per_read <= 2


def test_gpus_that_are_not_there_yet_count() -> None:
    plan = plan_pool(shape((2, 0, 1)), options=PoolOptions(max_gpus=8))
    assert (plan.max_actors, plan.device) == (8, "cuda")
    with pytest.raises(SettingError, match="--max-gpus"):
        plan_pool(shape((2, 0, 1)), device="cuda")


def test_without_gpus_one_actor_a_machine_and_a_place_for_reads() -> None:
    forced = plan_pool(shape((16, 2, 2)), device="cpu")
    assert (forced.max_actors, forced.gpus_per_actor, forced.device) == (2, 0, "cpu")
    laptop = plan_pool(shape((2, 0, 1)))
    assert (laptop.max_actors, laptop.threads_per_actor) == (1, 2)
    assert laptop.cpus_per_actor + laptop.cpus_per_read <= 2
    single = plan_pool(shape((1, 0, 1)))
    assert single.cpus_per_actor + single.cpus_per_read <= 1


def test_small_jobs_take_few_actors_and_every_actor_gets_several_blocks() -> None:
    few = plan_pool(shape((8, 8, 100)), num_photos=50)
    assert few.max_actors == 3
    for num_photos in (200, 20_000, 2_000_000):
        plan = plan_pool(shape((8, 8, 100)), num_photos=num_photos)
        assert num_photos / plan.block_photos >= 4 * plan.max_actors
    assert plan.block_photos == 16
    assert plan.max_actors == 800


def test_a_block_keeps_an_actor_busy_for_about_as_long_as_is_asked_for() -> None:
    gpu, laptop, server = (plan_pool(shape(one)) for one in ((8, 1, 4), (2, 0, 1), (16, 0, 1)))
    # Phones' photos of 12 megapixels and 3 MB, at the paper's 150 ms a megapixel: 1.8 s each.
    assert gpu.block_bytes(5.0, is_neural=True) // 3_000_000 in (2, 3)
    assert gpu.block_bytes(10.0, is_neural=True) == 2 * gpu.block_bytes(5.0, is_neural=True)
    # No core is without a photo, where the codec can have so many.
    assert server.block_bytes(5.0, is_neural=True) > 16 * 3_000_000 > laptop.block_bytes(5.0, is_neural=True)
    assert server.block_bytes(5.0, is_neural=False) == laptop.block_bytes(5.0, is_neural=False) < 2 * 3_000_000
    assert laptop.block_bytes(1e-9, is_neural=True) == 1 << 20


@pytest.mark.parametrize("options", [{"gpus_per_actor": 0.0}, {"gpus_per_actor": 1.5}, {"max_gpus": -1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        PoolOptions(**options)  # type: ignore[arg-type]
