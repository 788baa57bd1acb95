"""What the driver of a job costs, looked at from within every few seconds: CPU time by thread, memory, Ray's object store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import ray

COMMIT_THREAD = "commit"
"""Of `pipeline.encode.committer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look."""

    at_s: float
    """Seconds since the watch began."""
    num_done: int
    driver_bytes: int
    """Memory that is the driver's alone (USS)."""
    store_bytes: int
    """Used of the object stores of all machines."""


@dataclass(slots=True)
class DriverWatch:
    """Samples, and the CPU time of each thread as it was last seen: threads that end take theirs with them."""

    samples: list[Sample] = field(default_factory=list)
    num_done: int = 0
    _cpu_s: dict[int, float] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.monotonic)
    _before_s: dict[int, float] | None = None
    """CPU time of each thread when the first rows came, and when that was."""
    _since_s: float = 0.0

    def note(self, num_done: int) -> None:
        """Tell how many rows there are; the first time, CPU time begins to count: what a job loads once is over."""
        self.num_done = num_done
        if self._before_s is None:
            self.look()
            self._before_s, self._since_s = dict(self._cpu_s), time.monotonic()

    def look(self) -> None:
        """Take a sample."""
        process = psutil.Process()
        self._names |= {thread.native_id or 0: thread.name for thread in threading.enumerate()}
        for thread in process.threads():
            self._cpu_s[thread.id] = thread.user_time + thread.system_time
        store = "object_store_memory"
        used = ray.cluster_resources().get(store, 0.0) - ray.available_resources().get(store, 0.0)
        sample = Sample(
            at_s=round(time.monotonic() - self._started_s, 2),
            num_done=self.num_done,
            driver_bytes=process.memory_full_info().uss,
            store_bytes=int(used),
        )
        self.samples.append(sample)

    def cpu_shares(self) -> dict[str, float]:
        """Of a core, since the first rows: the loop that takes rows in, commits, Ray Data's threads, and Ray's native ones."""
        found = dict.fromkeys(("rows", "commits", "ray_data", "ray"), 0.0)
        elapsed_s = max(time.monotonic() - self._since_s, 1e-9)
        for thread, cpu_s in self._cpu_s.items():
            name = self._names.get(thread)
            part = "ray" if name is None else {"MainThread": "rows", COMMIT_THREAD: "commits"}.get(name, "ray_data")
            found[part] += (cpu_s - (self._before_s or {}).get(thread, 0.0)) / elapsed_s
        return {part: round(share, 5) for part, share in found.items()}


@contextmanager
def watched_driver(interval_s: float = 1.0) -> Iterator[DriverWatch]:
    """Look now, every `interval_s` while the block runs, and at its end; inside of `cluster.connect.connected`."""
    watch, ended = DriverWatch(), threading.Event()

    def run() -> None:
        while not ended.wait(interval_s):
            watch.look()

    watch.look()
    thread = threading.Thread(target=run, name="driver-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        watch.look()
