"""What machines a job has, when they came and went, and what they cost so far."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)
MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """A machine came or went."""

    at_s: float
    """Seconds since the watch began."""
    node: str
    joined: bool
    num_cpus: float
    num_gpus: float


@dataclass(slots=True)
class Watch:
    """The machines that are alive, looked at every few seconds."""

    events: list[NodeEvent] = field(default_factory=list)
    """The first `MAX_EVENTS`."""
    node_s: float = 0.0
    """Time of all machines together."""
    gpu_s: float = 0.0
    """Time of all GPUs together, busy or not."""
    most_gpus: int = 0
    _alive: dict[str, dict[str, float]] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.monotonic)
    _seen_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def look(self, nodes: list[dict[str, Any]]) -> None:
        """Take up what `ray.nodes()` says now; what was there since the last look counts until now."""
        now_s = self.elapsed_s
        if self._seen_s is not None:
            self.node_s += (now_s - self._seen_s) * len(self._alive)
            self.gpu_s += (now_s - self._seen_s) * self._gpus()
        self._seen_s = now_s
        alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
        for node in alive.keys() ^ self._alive.keys():
            resources = alive.get(node) or self._alive[node]
            event = NodeEvent(
                at_s=round(now_s, 2), node=node, joined=node in alive,
                num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0),
            )  # fmt: skip
            if len(self.events) < MAX_EVENTS:
                self.events.append(event)
            log.info("a machine %s", "came" if event.joined else "went", extra={"node": node, "stage": "cluster"})
        self._alive = alive
        self.most_gpus = max(self.most_gpus, int(self._gpus()))

    def cost(self, price_per_hour: float) -> float:
        """Money so far: so much an hour for each GPU or, where there was none, for each machine."""
        return (self.gpu_s if self.most_gpus else self.node_s) / 3600 * price_per_hour

    def _gpus(self) -> float:
        return sum(resources.get("GPU", 0.0) for resources in self._alive.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When a job should stop though there is more to do."""

    max_hours: float | None = None
    max_cost: float | None = None
    price_per_hour: float | None = None
    """Of a GPU, or of a machine where there are no GPUs."""

    def is_spent(self, watch: Watch) -> bool:
        """Whether the time or the money is used up."""
        if self.max_hours is not None and watch.elapsed_s >= 3600 * self.max_hours:
            return True
        return self.max_cost is not None and watch.cost(self.price_per_hour or 0.0) >= self.max_cost


_LAST_LOOK_S = 10.0


@contextmanager
def watched(
    interval_s: float = 2.0, nodes: Callable[[], list[dict[str, Any]]] | None = None, watch: Watch | None = None
) -> Iterator[Watch]:
    """Look at the machines every `interval_s` for the length of a `with` block. Ray must be connected.

    Args:
        nodes: says which machines there are; None for `ray.nodes`.
        watch: takes up what is seen, and counts time from when it was made; None for a new one.
    """
    import ray  # here: a job that has nothing to do is over before Ray is loaded

    watch, nodes, ended = watch or Watch(), nodes or ray.nodes, threading.Event()

    def run() -> None:
        while not ended.wait(interval_s):
            try:
                watch.look(nodes())
            except Exception as error:  # a head that does not answer now may do so at the next look
                log.warning("the cluster did not say what it has: %s", error, extra={"stage": "cluster"})

    watch.look(nodes())
    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
        watch.look(nodes())
    finally:
        ended.set()
        # Bounded: a signal to the whole process group may have ended the Ray that the last look still waits for.
        thread.join(timeout=_LAST_LOOK_S)
