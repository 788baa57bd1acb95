"""What every Ray Data job here shares: quiet settings, and its pool of actors."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import ray
import ray.data
from ray.data._internal.block_batching.iter_batches import BatchIterator
from ray.util.annotations import RayDeprecationWarning

from pipeline.on_ray.limits import StopCallback
from pipeline.on_ray.resources import DEFAULT_POOL, READ_AHEAD, TASKS_IN_FLIGHT, Market, PoolOptions, PoolPlan, plan_pool
from pipeline.on_ray.shape import read_shape
from pipeline.on_ray.work import TRIES_TOGETHER
from pipeline.openmp import worker_environment

CALLS_AT_ONCE = 2
"""In one actor: the second prepares its photos while the first has the codec."""
MARKET_LABEL = "ray.io/market-type"


def prepare(device: str, options: PoolOptions = DEFAULT_POOL, num_photos: int | None = None) -> PoolPlan:
    """Connect to Ray if nobody did, quieten Ray Data, and size the pool by what the cluster has and what there is to do.

    Raises:
        SettingError: the device is not there.
    """
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Left to itself Ray Data reads until its half of all object stores is full; the driver keeps notes of each block there.
    context.downstream_capacity_backpressure_ratio = READ_AHEAD
    # Every 5 s Ray Data would send an actor of its own notes of all blocks that were ever done, 0.4 KB each.
    BatchIterator.UPDATE_METRICS_INTERVAL_S = math.inf
    if StopCallback not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(StopCallback)
    # A block that failed does not end the job: what is missing at the end is done photo by photo, and told then.
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # `max_task_retries` (below) has no other door in 2.60.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)
    # What Ray Data waits for before it lets a pool grow again, in calls an actor; by default more than we let it hold.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = TASKS_IN_FLIGHT / CALLS_AT_ONCE
    # A pool keeps its size until its inputs are spent: who waits a moment for a block would else end, and load its model anew.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    return plan_pool(read_shape(), device=device, num_photos=num_photos, options=options)


def actor_options(plan: PoolPlan) -> dict[str, Any]:
    """Keyword arguments of `map_batches` for the actor pool."""
    return {
        "compute": ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=plan.max_actors,
            initial_size=plan.max_actors,
            max_tasks_in_flight_per_actor=plan.tasks_in_flight,
            max_concurrent_calls_per_actor=CALLS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        "num_gpus": plan.gpus_per_actor,
        "num_cpus": plan.cpus_per_actor,
        "batch_size": None,
        "batch_format": "pyarrow",
        # Ray would start an actor that died, and its block, for ever. Once more is for deaths from outside.
        "max_task_retries": TRIES_TOGETHER - 1,
        # Without it Ray limits the codec to as many threads as the actor has CPUs.
        "runtime_env": {"env_vars": worker_environment(plan.threads_per_actor)},
        **_placement(plan.market),
    }


def _placement(market: Market) -> dict[str, Any]:
    """Which machines Ray may choose; without a wish, no arguments."""
    match market:
        case Market.ANY:
            return {}
        case Market.SPOT_FIRST:
            return {
                "label_selector": {MARKET_LABEL: "spot"},
                "fallback_strategy": [{"label_selector": {MARKET_LABEL: "!spot"}}],
            }
        case _:
            return {"label_selector": {MARKET_LABEL: str(market)}}
