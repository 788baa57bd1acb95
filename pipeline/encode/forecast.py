"""What a job would take on a cluster of a given size: plain arithmetic over an estimate and what is assumed of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.archive.schema import SHARD_BYTES
from pipeline.encode.estimate import Estimate
from pipeline.on_ray.resources import PoolPlan

EFFICIENCY = 0.95
"""Of the ideal speed of a pool: the target; `infra/benchmarks/results/scaling*` has what was measured."""
START_S = 30.0
"""From the start of a job to its first committed shard, beside the loading of the model: the target."""
DRIVER_PHOTOS_PER_S = 700.0
"""What one driver gathers, writes and commits, roughly (`infra/README.md`, "How far one job scales"); more need several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Of one job on one cluster."""

    size: int
    """GPUs or, without them, machines."""
    num_actors: int
    photos_per_s: float
    hours: float
    size_hours: float
    """GPU-hours or machine-hours; those of the start are in it."""
    cost: float | None
    num_shards: int
    """At least; short commits make more of them."""
    limited_by_driver: bool


def forecast(
    estimate: Estimate, plan: PoolPlan, *, size: int, s_per_megapixel: float, price_per_hour: float | None = None
) -> Forecast:
    """What the job of `estimate` would come to.

    Args:
        size: GPUs or machines that are paid for.
        s_per_megapixel: of one actor alone.
        price_per_hour: of a GPU or machine.
    """
    megapixels = estimate.expected_megapixels
    photos_per_megapixel = estimate.num_todo / megapixels if megapixels else 0.0
    wanted = plan.max_actors * EFFICIENCY / s_per_megapixel * photos_per_megapixel if s_per_megapixel else 0.0
    photos_per_s = min(wanted, DRIVER_PHOTOS_PER_S)
    hours = (START_S + (estimate.num_todo / photos_per_s if photos_per_s else 0.0)) / 3600
    return Forecast(
        size=size,
        num_actors=plan.max_actors,
        photos_per_s=round(photos_per_s, 3),
        hours=round(hours, 4),
        size_hours=round(size * hours, 4),
        cost=None if price_per_hour is None else round(size * hours * price_per_hour, 2),
        num_shards=max(1, -(-estimate.expected_bytes // SHARD_BYTES)),
        limited_by_driver=wanted > DRIVER_PHOTOS_PER_S,
    )
