"""Groups of photos side by side: what keeps a device busy while another group is being coded.

On a CPU every worker has cores of its own, since two photos on a core each are done sooner than one after the other on both.
On a GPU two workers have a CUDA stream each: while one codes symbols on the CPU or copies, the other's kernels run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Threads that work on groups of photos."""

    def __init__(self, device: torch.device, count: int | None = None, *, one_thread_each: bool = False) -> None:
        """Make the threads.

        Args:
            count: None for as many as torch has threads on a CPU, and two on a GPU.
            one_thread_each: never share out idle cores: kernels compiled for so many threads serve no other number.
        """
        self._device = device
        self.count = count or (2 if device.type == "cuda" else torch.get_num_threads())
        self._num_threads = 1 if one_thread_each else torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="codec")
        # One thread for whatever has all cores, from loading the model on: each thread that computes has a team of OpenMP
        # threads of its own, and two teams are more threads than there are cores.
        self._solo = ThreadPoolExecutor(1, thread_name_prefix="codec-solo")

    def run(
        self, shared: Sequence[Sequence[int]], alone: Sequence[Sequence[int]], work: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Results of all groups, in the order of the indices 0, 1, ... that the groups hold between them.

        The first exception that `work` raises is raised here.

        Args:
            shared: groups that may be worked on at once.
            alone: groups that need all the memory, one after the other.
        """
        if len(shared) == 1:
            shared, alone = (), (*shared, *alone)
        threads = max(1, self._num_threads // min(self.count, max(1, len(shared))))
        parts = list(self._pool.map(lambda group: self._run_one(work, group, threads), shared))
        parts += [self.solo(lambda group=group: work(group)) for group in alone]  # type: ignore[misc]
        results: dict[int, T] = {}
        for group, part in zip((*shared, *alone), parts, strict=True):
            results.update(zip(group, part, strict=True))
        return [results[i] for i in range(len(results))]

    def solo(self, work: Callable[[], T]) -> T:
        """`work` with all cores."""
        return self._solo.submit(self._with_threads, work, self._num_threads).result()

    def _run_one(self, work: Callable[[Sequence[int]], Sequence[T]], group: Sequence[int], threads: int) -> Sequence[T]:
        return self._with_threads(lambda: work(group), threads)

    def _with_threads(self, work: Callable[[], R], threads: int) -> R:
        torch.set_num_threads(threads)
        if self._device.type != "cuda":
            return work()
        stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(stream):
            result = work()
            stream.synchronize()
        return result
