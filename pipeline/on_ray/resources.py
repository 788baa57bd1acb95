"""How many actors, on what: one code path for GPUs and for CPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.errors import SettingError

MIN_PHOTOS_PER_ACTOR = 16
"""Fewer do not pay for the start of another actor."""
MAX_BLOCK_PHOTOS = 16
MIN_BLOCK_PHOTOS = 4
"""Smaller blocks would not fill a batch of the codec."""
TASKS_IN_FLIGHT = 3
"""Blocks that an actor holds: one in the codec, one whose pixels are decoded, one on its way. What it holds cannot go to an
actor that comes later, so no more."""
READ_AHEAD = 3.0
"""Bytes that are read before an actor can hold them, for each byte that actors hold."""
SOURCE_BYTES_PER_S = 800_000
"""JPEGs, a quarter of a byte a pixel, that a codec is through with in a second, for each photo that it has at once: 150 ms a
megapixel on a GPU, for the paper's model on an A100, where two are on their way; on a core, 400 ms for `ditic-small`, 200 for
`webp`."""
MIN_BLOCK_BYTES = 1 << 20
CORES_PER_GPU = 4.0
"""Of machines that are not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Machines that are alike."""

    num_cpus: float
    num_gpus: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """What a cluster has."""

    kinds: tuple[NodeKind, ...]

    @property
    def num_gpus(self) -> int:
        return int(sum(kind.num_gpus * kind.number for kind in self.kinds))


class Market(StrEnum):
    """Which machines actors may run on, by Ray's label `ray.io/market-type`."""

    ANY = "any"
    SPOT_FIRST = "spot-first"
    """On spot machines, and on others while those are full or gone."""
    SPOT = "spot"
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a user may say of the actor pool."""

    max_gpus: int | None = None
    """GPUs that the cluster may grow to: Ray's autoscaler does not tell. None: those that it has."""
    gpus_per_actor: float = 1.0
    """Less than one puts several small models on one GPU."""
    market: Market = Market.ANY

    def __post_init__(self) -> None:
        if not (0 < self.gpus_per_actor <= 1):
            raise SettingError(f"gpus_per_actor {self.gpus_per_actor} is not in (0, 1]")
        if self.max_gpus is not None and self.max_gpus < 0:
            raise SettingError(f"max_gpus {self.max_gpus} is negative")


DEFAULT_POOL = PoolOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """Resources of the actor pool and of the tasks that feed it."""

    max_actors: int
    """Asked for at once, so that an autoscaler knows the need from the start; those that there is no room for yet wait."""
    gpus_per_actor: float
    cpus_per_actor: float
    """What Ray counts; how many threads the codec uses is `threads_per_actor`."""
    threads_per_actor: int
    cpus_per_read: float
    """Reading waits for the network most of its time, so several reads share a core."""
    device: str
    """cpu or cuda."""
    market: Market = Market.ANY
    block_photos: int = MAX_BLOCK_PHOTOS
    """At most so many photos travel to an actor at once."""
    tasks_in_flight: int = TASKS_IN_FLIGHT

    def block_bytes(self, seconds: float, *, is_neural: bool) -> int:
        """Source bytes that keep an actor busy for about `seconds`, with a codec of the usual speed.

        Args:
            is_neural: such codecs have several photos at once: two on a GPU, else one a core.
        """
        at_once = 1 if not is_neural else 2 if self.device == "cuda" else self.threads_per_actor
        return max(MIN_BLOCK_BYTES, int(SOURCE_BYTES_PER_S * at_once * seconds))

    def in_flight_bytes(self, block_bytes: int) -> int:
        """Most source bytes that are in object stores for the actors of the whole pool, once these work."""
        return int(self.max_actors * self.tasks_in_flight * (1 + READ_AHEAD) * block_bytes)


def bound_read_ahead() -> None:
    """Make `READ_AHEAD` hold from the first byte on; call it before Ray Data is imported, which reads the setting then.

    Otherwise it holds only once half of Ray Data's share of the object stores is full.
    """
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")


def plan_pool(
    shape: ClusterShape,
    *,
    device: str = "auto",
    num_photos: int | None = None,
    options: PoolOptions = DEFAULT_POOL,
) -> PoolPlan:
    """Pool for a cluster.

    With GPUs, one actor a GPU, or several. Without, one actor a machine, whose codec uses all its cores; Ray is told of one
    core less, so that reads find a place. No more actors than `num_photos` keep busy, and smaller blocks where full ones would
    leave some actors without.

    Raises:
        SettingError: `cuda` is asked for and the cluster neither has a GPU nor is said to get one.
    """
    num_gpus = max(shape.num_gpus, options.max_gpus or 0)
    if device == "cuda" and not num_gpus:
        raise SettingError("--device cuda: the cluster has no GPU; use auto or cpu, or --max-gpus if it grows")
    if num_gpus and device != "cpu":
        cores = min((kind.num_cpus / kind.num_gpus for kind in shape.kinds if kind.num_gpus), default=CORES_PER_GPU)
        threads, most = int(cores * options.gpus_per_actor), int(num_gpus / options.gpus_per_actor)
        # Half of the cores beside a GPU at most: reads need the others.
        device, gpus, cpus = "cuda", options.gpus_per_actor, min(1.0, cores * options.gpus_per_actor / 2)
    else:
        machines = [kind for kind in shape.kinds if kind.num_cpus >= 1] or [NodeKind(num_cpus=1, num_gpus=0, number=1)]
        threads, most = int(min(kind.num_cpus for kind in machines)), sum(kind.number for kind in machines)
        device, gpus, cpus = "cpu", 0.0, max(0.5, threads - 1.0)
    num_actors = most if num_photos is None else min(most, max(1, num_photos // MIN_PHOTOS_PER_ACTOR))
    # Four blocks an actor at least, so that fast actors can take over from slow ones, and late ones find work.
    share = MAX_BLOCK_PHOTOS if num_photos is None or num_actors == 1 else num_photos // (4 * num_actors)
    return PoolPlan(
        max_actors=num_actors,
        gpus_per_actor=gpus,
        cpus_per_actor=cpus,
        threads_per_actor=max(1, threads),
        cpus_per_read=0.25,
        device=device,
        market=options.market,
        block_photos=min(MAX_BLOCK_PHOTOS, max(MIN_BLOCK_PHOTOS, share)),
    )


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


def largest_file_bytes(limit: int) -> int:
    """Bytes of the largest file that the driver on this machine can store, `limit` at most.

    On its way into a shard a file of 300 MB took 2.4 GB of the driver and 1.9 GB of workers.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # without the file, or with "max" in it, there is no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limit, memory // 16)
