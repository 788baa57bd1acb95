"""What did not come out of a pool: one item at a time, each in a process that nobody else uses.

Ray tells that a process ended, not over which photo, and its blocks fail together. Alone, whatever ends the process (a native
decoder that crashes, memory that runs out) is found out, and costs its neighbours nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import PhotoarkError
from pipeline.on_ray.limits import raise_if_over
from pipeline.on_ray.resources import PoolPlan
from pipeline.on_ray.work import TRIES_ALONE, TRIES_TOGETHER

log = logging.getLogger(__name__)
_LOOK_S = 0.2


def each_alone(
    worker: type, settings: object, plan: PoolPlan, tables: Mapping[str, Callable[[], pa.Table]]
) -> Generator[tuple[str, int, pa.Table | str], None, None]:
    """Give `worker` (made with `settings`) each of `tables` by itself.

    Args:
        tables: key -> what makes its table of one row, in a task.

    Yields:
        Key, which try at it this was (those in blocks come first), and what the worker made of its table, or why it did not.

    Raises:
        PhotoarkError: no worker can be started.
    """
    log.warning(
        "photos did not come out of their blocks, whose processes ended: each is done by itself",
        extra={"stage": "isolate", "num_photos": len(tables)},
    )
    lanes = _Lanes(worker, settings, plan, tables)
    try:
        lanes.start(min(plan.max_actors, len(tables)))
        for _ in tables:
            yield lanes.next()
    finally:
        lanes.close()


@dataclass(slots=True)
class _Item:
    key: str
    table: Callable[[], pa.Table]
    num_tries: int = 0


class _Lanes:
    """Actors, each with a thread that gives it one item after the other, and another actor when it has died.

    A lane takes an item once its actor is there: a cluster that has shrunk has no room for some, and these hold nothing up.
    """

    def __init__(self, worker: type, settings: object, plan: PoolPlan, tables: Mapping[str, Callable[[], pa.Table]]) -> None:
        self._make: Any = ray.remote(num_cpus=plan.cpus_per_actor, num_gpus=plan.gpus_per_actor, max_restarts=0)(worker)
        self._read = ray.remote(num_cpus=plan.cpus_per_read)(_call)
        self._settings = settings
        self._todo: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[str, int, pa.Table | str] | PhotoarkError] = queue.SimpleQueue()
        self._actors: list[Any] = []
        self._num_lanes = 0
        self._closed = False
        for key, table in tables.items():
            self._todo.put(_Item(key, table))

    def start(self, num_lanes: int) -> None:
        self._num_lanes = num_lanes
        for i in range(num_lanes):
            threading.Thread(target=self._run, name=f"alone-{i}", daemon=True).start()

    def next(self) -> tuple[str, int, pa.Table | str]:
        while True:
            try:
                found = self._done.get(timeout=_LOOK_S)
                break
            except queue.Empty:
                raise_if_over()
        if isinstance(found, PhotoarkError):
            raise found
        return found

    def close(self) -> None:
        self._closed = True
        for _ in range(self._num_lanes):
            self._todo.put(None)
        for actor in self._actors:
            ray.kill(actor)

    def _run(self) -> None:
        try:
            actor = self._actor()
            while (item := self._todo.get()) is not None:
                if not self._try(actor, item):
                    ray.kill(actor)  # it may be the read that ended, and the actor still hold its place
                    actor = self._actor()
        except PhotoarkError as error:
            self._done.put(error)

    def _try(self, actor: Any, item: _Item) -> bool:
        """Whether the actor lives on; an item that it died over goes back, until that has happened too often."""
        item.num_tries += 1
        attempt = TRIES_TOGETHER + item.num_tries
        try:
            self._done.put((item.key, attempt, ray.get(actor.__call__.remote(self._read.remote(item.table)))))
            return True
        except RayTaskError as error:
            cause = error.cause or error
            what = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no more is known'}"
            self._done.put((item.key, attempt, what))
            return True
        except RayError as error:
            log.warning(
                "the process that worked on this photo alone ended",
                extra={
                    "key": item.key, "stage": "isolate", "attempt": attempt,
                    "reason": type(error).__name__, "actor": actor._actor_id.hex(),
                },
            )  # fmt: skip
            if item.num_tries < TRIES_ALONE:
                self._todo.put(item)
            else:
                end = f"a crash, or no memory ({type(error).__name__})"
                what = f"working on it ended the process each of {TRIES_ALONE} times, by itself: {end}"
                self._done.put((item.key, attempt, what))
            return False

    def _actor(self) -> Any:
        actor = self._make.remote(self._settings)
        self._actors.append(actor)
        if self._closed:
            ray.kill(actor)
        try:
            ray.get(actor.__ray_ready__.remote())
        except RayError as error:
            raise PhotoarkError(f"no process can be started to work in: {str(error).splitlines()[0]}") from error
        return actor


def _call(make: Callable[[], pa.Table]) -> pa.Table:
    return make()
