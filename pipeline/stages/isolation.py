"""What did not come out of a pool: one item at a time, each in a process that nobody else uses.

Ray tells that a process ended, not over which photo, and its blocks fail together. Alone, whatever ends the process (a native
decoder that crashes, memory that runs out) is found out, and costs its neighbours nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import PhotoarkError
from pipeline.stages.resources import PoolPlan

_MAX_TRIES = 2
"""The first end may have come from outside."""


def each_alone(
    worker: type, settings: object, plan: PoolPlan, tables: Mapping[str, Callable[[], pa.Table]]
) -> Iterator[tuple[str, pa.Table | str]]:
    """Give `worker` (made with `settings`) each of `tables` by itself.

    Args:
        tables: key -> what makes its table of one row, in a task.

    Yields:
        Key, and what the worker made of its table, or why it did not.

    Raises:
        PhotoarkError: no worker can be started.
    """
    with ThreadPoolExecutor(min(plan.max_actors, max(1, len(tables)))) as lanes:
        lane = _Lanes(worker, settings, plan)
        try:
            yield from zip(tables, lanes.map(lane.run, tables.values()), strict=True)
        finally:
            lane.close()


class _Lanes:
    """An actor a thread, and another when one has died."""

    def __init__(self, worker: type, settings: object, plan: PoolPlan) -> None:
        self._make: Any = ray.remote(num_cpus=plan.cpus_per_actor, num_gpus=plan.gpus_per_actor, max_restarts=0)(worker)
        self._read = ray.remote(num_cpus=plan.cpus_per_read)(_call)
        self._settings = settings
        self._here = threading.local()
        self._actors: list[Any] = []

    def run(self, table: Callable[[], pa.Table]) -> pa.Table | str:
        end = ""
        for _ in range(_MAX_TRIES):
            actor = self._actor()
            try:
                return ray.get(actor.__call__.remote(self._read.remote(table)))
            except RayTaskError as error:
                cause = error.cause or error
                return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no more is known'}"
            except RayError as error:
                self._here.actor = None
                end = type(error).__name__
        return f"working on it ended the process each of {_MAX_TRIES} times, by itself: a crash, or no memory ({end})"

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def _actor(self) -> Any:
        if getattr(self._here, "actor", None) is None:
            actor = self._make.remote(self._settings)
            self._actors.append(actor)
            try:
                ray.get(actor.__ray_ready__.remote())
            except RayError as error:
                raise PhotoarkError(f"no process can be started to work in: {str(error).splitlines()[0]}") from error
            self._here.actor = actor
        return self._here.actor


def _call(make: Callable[[], pa.Table]) -> pa.Table:
    return make()
