"""How the threads of torch's OpenMP wait for each other: settled when `pipeline` is imported, before torch is loaded.

torch brings GNU's libgomp, which reads these variables once, when it is loaded. By default a thread that waits at a barrier
spins for milliseconds. Beside another busy process it spins on the very core that the thread it waits for needs, at each of
the thousand small kernels that decoding a photo takes.
"""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
_SETTINGS = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables that say how threads wait; whoever set one of them has chosen."""


def wait_passively() -> None:
    """Let threads that wait sleep at once, in this process and in those that it starts, unless the user chose otherwise."""
    if not any(name in os.environ for name in _SETTINGS):
        os.environ[WAIT_POLICY] = "PASSIVE"


def worker_environment(num_threads: int) -> dict[str, str]:
    """Environment variables of a worker on any machine: as many threads, which wait as those of this process do."""
    number = str(num_threads)
    waiting = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return waiting | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
