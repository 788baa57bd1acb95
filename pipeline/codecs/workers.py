"""Groups of photos side by side: what keeps a device busy while another group is being coded.

On a CPU every worker has cores of its own, since two photos on a core each are done sooner than one after the other on both.
On a GPU two workers have a CUDA stream each: while one codes symbols on the CPU or copies, the other's kernels run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

T = TypeVar("T")


class Workers:
    """Threads that work on groups of photos."""

    def __init__(self, device: torch.device, count: int | None = None) -> None:
        """Count: None for as many as torch has threads on a CPU, and two on a GPU."""
        self._device = device
        self._num_threads = torch.get_num_threads()
        self.count = count or (2 if device.type == "cuda" else self._num_threads)
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="codec")

    def run(
        self, shared: Sequence[Sequence[int]], alone: Sequence[Sequence[int]], work: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Results of all groups, in the order of the indices 0, 1, ... that the groups hold between them.

        The first exception that `work` raises is raised here.

        Args:
            shared: groups that may be worked on at once.
            alone: groups that need all the memory, one after the other.
        """
        threads = max(1, self._num_threads // min(self.count, max(1, len(shared))))
        parts = list(self._pool.map(lambda group: self._run_one(work, group, threads), shared))
        parts += [self._pool.submit(self._run_one, work, group, self._num_threads).result() for group in alone]
        results: dict[int, T] = {}
        for group, part in zip((*shared, *alone), parts, strict=True):
            results.update(zip(group, part, strict=True))
        return [results[i] for i in range(len(results))]

    def _run_one(self, work: Callable[[Sequence[int]], Sequence[T]], group: Sequence[int], threads: int) -> Sequence[T]:
        torch.set_num_threads(threads)
        with torch.inference_mode(), self._stream():
            return work(group)

    def _stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(torch.cuda.Stream(self._device)) if self._device.type == "cuda" else nullcontext()
