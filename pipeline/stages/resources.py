"""How many actors, on what: one code path for GPUs and for CPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """Resources of the actor pool and of the tasks that feed it."""

    min_actors: int
    max_actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    """What Ray counts; how many threads the codec uses is `threads_per_actor`."""
    threads_per_actor: int
    cpus_per_read: float
    """Reading waits for the network most of its time, so several reads share a core."""
    device: str
    """cpu or cuda."""


def plan_pool(resources: Mapping[str, float], *, num_nodes: int, device: str = "auto") -> PoolPlan:
    """Pool for a cluster of `resources` (Ray's names: CPU, GPU).

    With GPUs, one actor a GPU. Without, one actor a node, whose codec uses all its cores; Ray is told of one core less, so
    that reads find a place.

    Raises:
        SettingError: `cuda` is asked for and the cluster has none.
    """
    num_gpus, num_cpus = int(resources.get("GPU", 0)), resources.get("CPU", 1)
    if device == "cuda" and not num_gpus:
        raise SettingError("--device cuda: the cluster has no GPU; use auto or cpu")
    if num_gpus and device != "cpu":
        return PoolPlan(
            min_actors=1, max_actors=num_gpus, gpus_per_actor=1, cpus_per_actor=1,
            threads_per_actor=max(1, int(num_cpus // num_gpus)), cpus_per_read=0.25, device="cuda",
        )  # fmt: skip
    cores = max(1, int(num_cpus // max(1, num_nodes)))
    return PoolPlan(
        min_actors=1, max_actors=max(1, num_nodes), gpus_per_actor=0, cpus_per_actor=max(0.5, cores - 1),
        threads_per_actor=cores, cpus_per_read=0.25, device="cpu",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """Resources of each worker of a training run, and of the tasks that feed it."""

    num_workers: int
    gpus_per_worker: int
    cpus_per_worker: float
    """What Ray counts; how many threads it uses is `threads_per_worker`."""
    cpus_per_stream: float
    """Of all tasks that feed one worker."""
    threads_per_worker: int


def plan_training(resources: Mapping[str, float], num_workers: int, *, device: str = "auto") -> TrainPlan:
    """Workers on a cluster of `resources`: one a GPU, or shares of the cores. At least half of those feed them.

    Raises:
        SettingError: there are fewer GPUs than workers.
    """
    num_gpus, share = int(resources.get("GPU", 0)), resources.get("CPU", 1) / num_workers
    use_gpus = device == "cuda" or (device == "auto" and num_gpus > 0)
    if use_gpus and num_gpus < num_workers:
        raise SettingError(f"{num_workers} workers need a GPU each, and the cluster has {num_gpus}: ask for fewer")
    cpus_per_worker = min(1.0, share / 2) if use_gpus else share / 2
    return TrainPlan(
        num_workers=num_workers, gpus_per_worker=int(use_gpus), cpus_per_worker=cpus_per_worker,
        cpus_per_stream=share - cpus_per_worker, threads_per_worker=max(1, int(share)),
    )  # fmt: skip


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
