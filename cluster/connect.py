"""Start Ray on this machine, or join one that runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.stages.resources import available_cores

_OBJECT_STORE_BYTES = 2 << 30


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect for the length of a `with` block; a Ray that was started here is stopped at its end.

    Args:
        address: of a running cluster, such as `auto` or `ray://host:10001`; None starts one on this machine, unless the
            process runs inside a Ray job, which it then joins.
    """
    inside_a_job = bool(os.environ.get("RAY_ADDRESS"))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address or inside_a_job:
        options["address"] = address or os.environ["RAY_ADDRESS"]
    else:
        # Ray would take 30% of the memory for its object store; what travels here is small and bounded. The dashboard
        # stays off: it would listen on a port that nobody asked for.
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": min(_OBJECT_STORE_BYTES, _memory_bytes() // 4),
        }
    # Ray's C++ core prints to the terminal of the driver what concerns nobody who archives photos; errors still raise.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _quiet_stderr():  # it announces even that setting
        ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
