"""Where a cluster of any size would wait: actors, one queue, and drivers that gather and commit, in simulated time (SimPy).

    actors (blocks of photos) ──► queue ──► driver's loop: take rows in ──► its other thread: commit them every few seconds

Both threads share a core, as Python's do, but for the time in which a commit waits for the store.

What each step costs is measured elsewhere (`photoark bench scaling`) and handed in. The object store is no process of its own:
how many requests it would have to answer is counted.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

_WARM_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Measured costs, in seconds."""

    photo_s: float
    """Of one photo on one GPU."""
    row_s: float
    """Of one row in the driver, Ray's scheduling included, until its commit."""
    commit_row_s: float
    """Of one row in a commit: written into a shard."""
    commit_s: float
    """Of one commit, whatever its rows: most of it, waiting for the store."""
    commit_per_shard_s: float
    """What a commit takes more for each shard that the log names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One cluster and one job."""

    num_gpus: int
    num_drivers: int = 1
    """Each with its own part of the keys and an archive, or a part of one, of its own."""
    commit_interval_s: float = 5.0
    known_rows: int = 0
    """Rows in the archive at the start, over all drivers, in merged shards."""
    shard_rows: int = 8000
    """Of a merged shard; no more rows wait for a commit."""
    block_photos: int = 16
    blocks_in_flight: int = 3
    """That an actor may have finished or begun before the driver takes one: then it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of some simulated minutes."""

    photos_per_s: float
    efficiency: float
    """Against GPUs that never wait."""
    driver_busy: float
    """Of its core: rows taken in and written."""
    commit_busy: float
    """The part of the time in which a commit goes on."""
    gets_per_s: float
    puts_per_s: float
    """Requests to the source's store, and to the archive's (a shard and a line of the log a commit)."""


def simulate(costs: Costs, setup: Setup, *, seconds: float = 600.0, seed: int = 0) -> Outcome:
    """Run one driver with its share of the GPUs for `seconds`, once all are at work; the others are like it."""
    chance = random.Random(seed)
    environment = simpy.Environment()
    share = max(1, round(setup.num_gpus / setup.num_drivers))
    queue: Any = simpy.Store(environment, capacity=share * setup.blocks_in_flight)
    driver = _Driver(environment, queue, costs, setup)
    for _ in range(share):
        environment.process(_actor(environment, queue, costs, setup, chance))
    environment.process(driver.take_in())
    environment.process(driver.commit())
    environment.run(until=_WARM_S)
    driver.forget()
    environment.run(until=_WARM_S + seconds)
    photos_per_s = driver.rows / seconds * setup.num_gpus / share
    return Outcome(
        photos_per_s=photos_per_s,
        efficiency=min(1.0, photos_per_s * costs.photo_s / setup.num_gpus),
        driver_busy=driver.core_s / seconds,
        commit_busy=driver.commit_s / seconds,
        gets_per_s=photos_per_s,
        puts_per_s=2 * driver.commits / seconds * setup.num_gpus / share,
    )


def _actor(
    environment: simpy.Environment, queue: Any, costs: Costs, setup: Setup, chance: random.Random
) -> Generator[simpy.Event, Any, None]:
    # Not all at once: a block is at a random point when we begin to look.
    yield environment.timeout(chance.random() * setup.block_photos * costs.photo_s)
    while True:
        # Sizes differ, and so do blocks.
        yield environment.timeout(setup.block_photos * costs.photo_s * chance.uniform(0.5, 1.5))
        yield queue.put(setup.block_photos)


class _Driver:
    def __init__(self, environment: simpy.Environment, queue: Any, costs: Costs, setup: Setup) -> None:
        self._environment, self._queue, self._costs, self._setup = environment, queue, costs, setup
        self._core = simpy.Resource(environment)
        self._gathered: Any = simpy.Container(environment, capacity=setup.shard_rows)
        self.forget()

    def forget(self) -> None:
        """Count anew."""
        self.rows = self.commits = 0
        self.core_s = self.commit_s = 0.0

    def take_in(self) -> Generator[simpy.Event, Any, None]:
        while True:
            block = yield self._queue.get()
            yield from self._compute(block * self._costs.row_s)
            yield self._gathered.put(block)
            self.rows += block

    def commit(self) -> Generator[simpy.Event, Any, None]:
        shards = self._setup.known_rows / self._setup.num_drivers / self._setup.shard_rows
        while True:
            begun_s = self._environment.now
            if rows := self._gathered.level:
                yield self._gathered.get(rows)
                yield from self._compute(rows * self._costs.commit_row_s)
                yield self._environment.timeout(self._costs.commit_s + shards * self._costs.commit_per_shard_s)
                self.commit_s += self._environment.now - begun_s
                shards, self.commits = shards + 1, self.commits + 1
            left_s = begun_s + self._setup.commit_interval_s - self._environment.now
            # A shard's worth is committed before its time.
            while left_s > 0 and self._gathered.level < self._setup.shard_rows - self._setup.block_photos:
                step_s = min(left_s, 0.1)
                left_s -= step_s
                yield self._environment.timeout(step_s)

    def _compute(self, took_s: float) -> Generator[simpy.Event, Any, None]:
        with self._core.request() as turn:
            yield turn
            self.core_s += took_s
            yield self._environment.timeout(took_s)
